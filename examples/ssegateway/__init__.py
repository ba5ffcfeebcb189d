"""SSEGateway for Python backends: reading callbacks, sending to streams.

    gateway = Gateway()                                       # where and how: from the environment
    call = gateway.callback(request.body, request.headers)    # in the route that CALLBACK_URL names
    gateway.send(call.token, "Hello", name="greeting")        # False: the stream has ended, forget its token

Standard library only. `ssegateway.aio` is the same for asyncio.
"""

from __future__ import annotations

from collections.abc import Iterator

from ._base import BaseGateway, Callback, Connection, GatewayError, Headers, Unavailable
from ._http import Answer, BadAnswer, LostConnection
from ._sockets import Pool

__all__ = ["Callback", "Connection", "Gateway", "GatewayError", "Headers", "Unavailable"]


class Gateway(BaseGateway):
    """One object serves all threads and keeps its connections open between calls."""

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
        self._pool = Pool(self._address, timeout)

    def send(
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
        return self._is_open(self._call(request, is_repeatable))

    def connections(self, limit: int = 1000) -> Iterator[Connection]:
        """All open streams, requested in pages of `limit`."""
        after = None
        while True:
            page, after = self._page(self._call(self._get_connections(limit, after)))
            yield from page
            if not after:
                return

    def close(self) -> None:
        """Closes all kept-alive connections; a later call opens new ones."""
        self._pool.close()

    def _call(self, request: bytes, is_repeatable: bool = True) -> Answer:
        try:
            return self._pool.call(request, is_repeatable=is_repeatable)
        except (OSError, BadAnswer, LostConnection) as error:
            raise self._no_answer(error) from error
