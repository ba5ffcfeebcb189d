"""The same for asyncio, on httpx: `await gateway.send(token, "Hello")`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import cached_property

import httpx

from . import BaseGateway, Connection, GatewayError

__all__ = ["AsyncGateway"]


class AsyncGateway(BaseGateway):
    """One object serves all tasks of an event loop and keeps its connections open between calls."""

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
        message = self._message(token, close, name=name, data=data, id=id, retry=retry)
        return self._is_open(*await self._call("POST", "/internal/send", message))

    async def connections(self, limit: int = 1000) -> AsyncIterator[Connection]:
        """All open streams, requested in pages of `limit`."""
        after = None
        while True:
            page, after = self._page(*await self._call("GET", self._connections_path(limit, after)))
            for connection in page:
                yield connection
            if not after:
                return

    async def aclose(self) -> None:
        await self._client.aclose()

    @cached_property
    def _client(self) -> httpx.AsyncClient:
        # Proxies in the environment are for external hosts.
        return httpx.AsyncClient(base_url=self.url, headers=self._headers, timeout=self.timeout, trust_env=False)

    async def _call(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        try:
            answer = await self._client.request(method, path, content=body)
        except httpx.TransportError as error:
            raise GatewayError(f"no answer from the gateway at {self.url}: {error!r}") from error
        return answer.status_code, answer.content
