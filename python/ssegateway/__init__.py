"""SSEGateway for Python backends: reading callbacks, sending to streams.

    gateway = Gateway()                                       # where and how: from the environment
    call = gateway.callback(request.body, request.headers)    # in the route that CALLBACK_URL names
    return accept(groups=[f"user:{user.id}"])                 # its answer: the stream opens, in this group
    gateway.send(group="user:42", data="Hello")               # to every page of that user, from anywhere

Standard library only. `ssegateway.aio` is the same for asyncio.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, overload

from ._base import (
    ABSENT,
    BaseGateway,
    Callback,
    Connection,
    Event,
    GatewayError,
    Gone,
    Group,
    Headers,
    Sent,
    Unavailable,
    accept,
    decline,
)
from ._feed import EventFeed, LineFeed, target
from ._http import Answer, BadAnswer, LostConnection
from ._sockets import Pool
from ._stream import FeedConnection, Stream, pipe

__all__ = [
    "Callback",
    "Connection",
    "Event",
    "Gateway",
    "GatewayError",
    "Gone",
    "Group",
    "Headers",
    "Sent",
    "Stream",
    "Unavailable",
    "accept",
    "decline",
]


class Gateway(BaseGateway):
    """One object serves all threads and keeps its connections open between calls."""

    def _open(self) -> None:
        self._pool = Pool(self._address, self.timeout)

    @overload
    def send(
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
    def send(
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
    def send(
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

    def send(
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

        `json` is any JSON value in place of `data`: the page reads it with `JSON.parse(event.data)`.
        With a token: False if the stream has ended, so forget its token. With groups: a `Sent`. `close` closes the streams
        behind the event, `end` ends the group for good. A `transient` event is not kept for clients that are away. Raises
        `Gone` if the groups have ended.
        """
        request, is_repeatable = self._send(
            token, data, json, name, id, retry, close, events, group, groups, end, transient
        )
        return self._sent(self._call(request, is_repeatable), token is not None)

    def stream(
        self,
        group: str | None = None,
        *,
        token: str | None = None,
        end: bool = False,
        will: Event | str | None = None,
        restart: Event | str | None = None,
        reconnect_seconds: float = 30,
    ) -> Stream:
        """A streaming send, for a `with` statement: cheap, in order, and told at once when nobody wants the rest.

        With `end` the group ends with the block; if that raises or its process dies, after the last `will` (by default an
        event "interrupted"). When the gateway drains, the stream goes on at the next one, for which it waits up to
        `reconnect_seconds`, behind the last event that was read. If the gateway is lost otherwise, that raises `Unavailable`.
        A gateway that keeps its history in memory has lost that in either case: with `restart` the stream begins anew,
        with this event and all that it has sent (at most 4 MiB, else `Unavailable`).
        """
        feed = LineFeed(self, target(group, token, end), will, restart)
        return Stream(FeedConnection(feed, self._address, self.timeout, reconnect_seconds))

    def pipe(
        self,
        group: str,
        chunks: Iterable[bytes],
        response: object = None,
        *,
        end: bool = False,
        restart: Event | str | None = None,
        reconnect_seconds: float = 30,
    ) -> None:
        """Sends somebody else's event stream to a group as it comes: `gateway.pipe(group, answer.iter_content(None), answer)`.

        `response`: the one that the chunks come from (of httpx, requests, urllib3 or http.client); its connection is shut
        down as soon as the group has ended, which raises `Gone`. Without it that is seen with the next chunk. The other
        arguments are those of `stream`.
        """
        feed = EventFeed(self, target(group, None, end), restart)
        pipe(FeedConnection(feed, self._address, self.timeout, reconnect_seconds), chunks, response)

    def join(self, token: str, *groups: str, leave: Iterable[str] = ()) -> bool:
        """Adds a stream to groups until it ends, after removing it from those in `leave`. False: it has ended."""
        return self._is_open(self._call(self._membership(token, join=groups, leave=leave)))

    def leave(self, token: str, *groups: str) -> bool:
        """Removes a stream from groups. False: it has ended."""
        return self._is_open(self._call(self._membership(token, leave=groups)))

    def group(self, name: str) -> Group:
        """The number of streams in a group, its newest cursor, and whether it has ended."""
        return self._group(self._call(self._get_group(name)))

    def cursor(self, default: str = ABSENT) -> str | None:
        """The current cursor; None without history.

        Read it before the data that a page is rendered from, and put it into the URL of the page's stream as
        `last_event_id`: then the page misses nothing in between. `default` is returned, and the reason logged, if the gateway
        is unavailable: with one that no gateway gives, such as "unknown", the stream then begins with a `gap`.
        """
        try:
            return self._cursor(self._call(self._get("/internal/cursor")))
        except Unavailable as error:
            return self._cursor_without(default, error)

    def connections(self, limit: int = 1000, *, group: str | None = None) -> Iterator[Connection]:
        """All open streams, or those in a group, requested in pages of `limit`."""
        after = None
        while True:
            page, after = self._page(self._call(self._get_connections(limit, after, group)))
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
