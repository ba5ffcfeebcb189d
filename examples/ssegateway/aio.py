"""The same for asyncio: `await gateway.send(token, "Hello")`."""

from __future__ import annotations

from collections.abc import AsyncIterator

from ._base import BaseGateway, Connection
from ._http import Answer, BadAnswer, LostConnection
from ._pipeline import Pipeline

__all__ = ["AsyncGateway"]


class AsyncGateway(BaseGateway):
    """One object serves all tasks of an event loop. They share one connection, so sends arrive in the order of the calls."""

    def __init__(
        self,
        url: str | None = None,
        *,
        internal_token: str | None = None,
        callback_token: str | None = None,
        timeout: float = 5,
    ) -> None:
        """Arguments that are not given come from GATEWAY_URL, INTERNAL_TOKEN and CALLBACK_TOKEN in the environment.

        `timeout`: the maximum duration of a call, in seconds.
        """
        super().__init__(url, internal_token=internal_token, callback_token=callback_token, timeout=timeout)
        self._pipeline = Pipeline(self._address, timeout)

    async def send(
        self,
        token: str,
        data: str | None = None,
        *,
        name: str | None = None,
        id: str | None = None,
        retry: int | None = None,
        close: bool = False,
    ) -> bool:
        """Sends an event, closes the stream, or both. False: the stream has ended, so forget its token."""
        request, is_repeatable = self._send(token, data, name, id, retry, close)
        return self._is_open(await self._call(request, is_repeatable))

    async def connections(self, limit: int = 1000) -> AsyncIterator[Connection]:
        """All open streams, requested in pages of `limit`."""
        after = None
        while True:
            page, after = self._page(await self._call(self._get_connections(limit, after)))
            for connection in page:
                yield connection
            if not after:
                return

    async def aclose(self) -> None:
        """Closes the connection; a later call opens a new one."""
        await self._pipeline.close()

    async def _call(self, request: bytes, is_repeatable: bool = True) -> Answer:
        try:
            return await self._pipeline.call(request, is_repeatable=is_repeatable)
        except (OSError, BadAnswer, LostConnection) as error:
            raise self._no_answer(error) from error
