"""The same for asyncio: `await gateway.send(token, "Hello")`."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable
from typing import Any, overload

from ._aio_stream import AsyncFeedConnection, AsyncStream, pipe
from ._base import ABSENT, BaseGateway, Connection, Event, Group, Sent, Unavailable
from ._feed import EventFeed, LineFeed, target
from ._http import Answer, BadAnswer, LostConnection
from ._pipeline import Pipeline

__all__ = ["AsyncGateway", "AsyncStream"]


class AsyncGateway(BaseGateway):
    """One object serves all tasks of an event loop. They share one connection, so sends arrive in the order of the calls."""

    def _open(self) -> None:
        self._pipeline = Pipeline(self._address, self.timeout)

    @overload
    async def send(
        self,
        token: str,
        data: str | None = None,
        *,
        json: Any = ABSENT,
        name: str | None = None,
        id: str | int | None = None,
        retry: int | None = None,
        close: bool = False,
        events: Iterable[Event | str] | None = None,
    ) -> bool: ...

    @overload
    async def send(
        self,
        *,
        group: str,
        data: str | None = None,
        json: Any = ABSENT,
        name: str | None = None,
        id: str | int | None = None,
        retry: int | None = None,
        close: bool = False,
        events: Iterable[Event | str] | None = None,
        end: bool = False,
        transient: bool = False,
    ) -> Sent: ...

    @overload
    async def send(
        self,
        *,
        groups: Iterable[str],
        data: str | None = None,
        json: Any = ABSENT,
        name: str | None = None,
        id: str | int | None = None,
        retry: int | None = None,
        close: bool = False,
        events: Iterable[Event | str] | None = None,
        transient: bool = False,
    ) -> Sent: ...

    async def send(
        self,
        token: str | None = None,
        data: str | None = None,
        *,
        json: Any = ABSENT,
        name: str | None = None,
        id: str | int | None = None,
        retry: int | None = None,
        close: bool = False,
        events: Iterable[Event | str] | None = None,
        group: str | None = None,
        groups: Iterable[str] | None = None,
        end: bool = False,
        transient: bool = False,
    ) -> bool | Sent:
        """Sends one or more events to a stream, to a group, or to all streams in any of several groups.

        With a token: False if the stream has ended, so forget its token. With groups: a `Sent`. `close` closes the streams
        behind the event, `end` ends the group for good. A `transient` event is not kept for clients that are away. Raises
        `Gone` if the groups have ended.
        """
        request, is_repeatable = self._send(
            token, data, json, name, id, retry, close, events, group, groups, end, transient
        )
        return self._sent(await self._call(request, is_repeatable), token is not None)

    def stream(
        self,
        group: str | None = None,
        *,
        token: str | None = None,
        end: bool = False,
        will: Event | str | None = None,
        restart: Event | str | None = None,
        reconnect_seconds: float = 30,
    ) -> AsyncStream:
        """A streaming send, for an `async with` statement. See `Gateway.stream`.

        When no send can succeed any more, the block is cancelled wherever it waits, and the statement raises `Gone` or
        `Unavailable`.
        """
        feed = LineFeed(self, target(group, token, end), will, restart)
        return AsyncStream(AsyncFeedConnection(feed, self._address, self.timeout, reconnect_seconds))

    async def pipe(
        self,
        group: str,
        chunks: AsyncIterable[bytes],
        *,
        end: bool = False,
        restart: Event | str | None = None,
        reconnect_seconds: float = 30,
    ) -> None:
        """Sends somebody else's event stream to a group as it comes: `await gateway.pipe(group, answer.aiter_bytes())`.

        Raises `Gone` as soon as the group has ended. The other arguments are those of `stream`.
        """
        feed = EventFeed(self, target(group, None, end), restart)
        await pipe(AsyncFeedConnection(feed, self._address, self.timeout, reconnect_seconds), chunks)

    async def join(self, token: str, *groups: str, leave: Iterable[str] = ()) -> bool:
        """Adds a stream to groups until it ends, after removing it from those in `leave`. False: it has ended."""
        return self._is_open(await self._call(self._membership(token, join=groups, leave=leave)))

    async def leave(self, token: str, *groups: str) -> bool:
        """Removes a stream from groups. False: it has ended."""
        return self._is_open(await self._call(self._membership(token, leave=groups)))

    async def group(self, name: str) -> Group:
        """The number of streams in a group, its newest cursor, and whether it has ended."""
        return self._group(await self._call(self._get_group(name)))

    async def cursor(self, default: str = ABSENT) -> str | None:
        """The current cursor; None without history. See `Gateway.cursor`."""
        try:
            return self._cursor(await self._call(self._get("/internal/cursor")))
        except Unavailable as error:
            return self._cursor_without(default, error)

    async def connections(self, limit: int = 1000, *, group: str | None = None) -> AsyncIterator[Connection]:
        """All open streams, or those in a group, requested in pages of `limit`."""
        after = None
        while True:
            page, after = self._page(await self._call(self._get_connections(limit, after, group)))
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
