"""Both kinds of clients with one interface, for tests of both."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from ssegateway import Connection, Gateway
from ssegateway.aio import AsyncGateway

Connect = Callable[..., Gateway]


class BlockingAsyncGateway:
    """An AsyncGateway with the interface of a Gateway, for tests of both."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._gateway = AsyncGateway(*args, **kwargs)

    def __getattr__(self, method: str) -> Callable[..., Any]:
        call = getattr(self._gateway, method)
        return lambda *args, **kwargs: self._loop.run_until_complete(call(*args, **kwargs))

    def connections(self, **kwargs: Any) -> Iterator[Connection]:
        async def collect() -> list[Connection]:
            return [connection async for connection in self._gateway.connections(**kwargs)]

        return iter(self._loop.run_until_complete(collect()))

    def close(self) -> None:
        self._loop.run_until_complete(self._gateway.aclose())
        self._loop.close()


both = pytest.mark.parametrize("connect", [Gateway, BlockingAsyncGateway], indirect=True)
