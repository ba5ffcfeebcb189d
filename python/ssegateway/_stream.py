"""Streaming sends of a thread. Another thread waits for the gateway's answer, which may come at any time."""

from __future__ import annotations

import select
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from time import monotonic
from types import TracebackType
from typing import Any, Generic, TypeVar

from ._base import ABSENT, GatewayError
from ._feed import LAST_CHUNK, RETRY_SECONDS, EventFeed, Feed, LineFeed
from ._http import Address, Answer, BadAnswer, LostConnection
from ._interrupt import find_socket, no_socket, shut_down
from ._sockets import Connection

__all__ = ["FeedConnection", "Stream", "pipe"]

T = TypeVar("T")
AnyFeed = TypeVar("AnyFeed", bound=Feed)


class FeedConnection(Generic[AnyFeed]):
    """A feed on a connection: the user's thread writes, the watcher reads and, after a restart of the gateway, reconnects."""

    def __init__(self, feed: AnyFeed, address: Address, timeout: float, reconnect_seconds: float) -> None:
        self.feed = feed
        self._address = address
        self._timeout = timeout
        self._reconnect_seconds = reconnect_seconds
        self._lock = threading.Lock()  # held as long as it takes to reconnect
        self._callbacks: list[Callable[[], object]] = []
        self._callbacks_lock = threading.Lock()
        self._error: GatewayError | None = None
        self._is_over = False
        self._finished_at: float | None = None  # when the last chunk was sent
        self._is_abandoned = threading.Event()

    @property
    def error(self) -> GatewayError | None:
        """Why no send can succeed any more."""
        return self._error

    def open(self) -> None:
        """Connects. Raises Unavailable."""
        try:
            self._connect()
        except OSError as error:
            raise self.feed.unreachable(error) from error
        self._watcher = threading.Thread(target=self._watch, name="ssegateway-stream", daemon=True)
        self._watcher.start()

    def send(self, *parts: Any) -> None:
        """Sends the chunk that the feed makes of these. Raises the error that ended it, perhaps that of an earlier send."""
        with self._lock:
            if self._is_over:
                raise self._error or RuntimeError("this stream is over")
            piece = self.feed.add(*parts)
            try:
                self._sendall(piece)
            except (BlockingIOError, TimeoutError):
                raise self._give_up() from None
            except OSError:
                pass  # the watcher sees why

    def finish(self) -> None:
        """The end of the body. Raises the error that the gateway's answer means."""
        with self._lock, suppress(OSError):
            if not self._is_over:
                self._finished_at = monotonic()
                self._connection.sock.sendall(LAST_CHUNK)
        while self._watcher.is_alive():
            self._watcher.join(self._timeout)
            with self._lock:
                is_late = self._finished_at is not None and monotonic() > self._finished_at + self._timeout
                if is_late and not self._is_over:
                    self._give_up()
        self._connection.close()
        if self._error:
            raise self._error

    def break_off(self) -> None:
        """Leaves without the end of the body."""
        self._is_abandoned.set()
        with self._lock:
            self._is_over = True
            self._connection.break_off()
        self._watcher.join()
        self._connection.close()

    def add_callback(self, callback: Callable[[], object]) -> None:
        with self._callbacks_lock:
            if not self._error:
                self._callbacks.append(callback)
                return
        callback()

    def remove_callback(self, callback: Callable[[], object]) -> None:
        with self._callbacks_lock, suppress(ValueError):
            self._callbacks.remove(callback)

    def _connect(self) -> None:
        connection = Connection(self._address, self._timeout)
        try:
            connection.start_streaming(self._timeout)
            if self._finished_at is not None:
                self._finished_at = monotonic()
            connection.sock.sendall(self.feed.head + self.feed.body() + (LAST_CHUNK if self._finished_at else b""))
        except BaseException:
            connection.close()
            raise
        self._connection, self._connected_at = connection, monotonic()
        self._sendall = connection.sock.sendall

    def _watch(self) -> None:
        deadline = None
        while True:
            answer = self._read_answer()
            with self._lock:
                if self._is_over:
                    break
                if deadline is None or monotonic() > self._connected_at + RETRY_SECONDS[1]:
                    deadline = monotonic() + self._reconnect_seconds
                error, goes_on = self.feed.judge(answer)
                if goes_on and self._reconnect(deadline):
                    continue
                self._end(error)
                break
        if self._error:
            with self._callbacks_lock:
                callbacks, self._callbacks = self._callbacks, []
            for callback in callbacks:
                callback()

    def _read_answer(self) -> Answer | Exception:
        readable = select.poll()
        readable.register(self._connection.sock, select.POLLIN)
        try:
            while True:
                readable.poll()
                with self._lock:
                    answer = self._connection.received()
                if answer:
                    return answer
        except (OSError, BadAnswer, LostConnection) as error:
            return error

    def _reconnect(self, deadline: float) -> bool:
        """Connects anew, as soon as a gateway listens."""
        wait, longest = RETRY_SECONDS
        self._connection.close()
        while monotonic() < deadline and not self._is_abandoned.wait(wait):
            with suppress(OSError):
                self._connect()
                return True
            wait = min(2 * wait, longest)
        return False

    def _give_up(self) -> GatewayError:
        """The gateway has taken too long."""
        error = self.feed.silent(self._timeout)
        self._end(error)
        self._connection.break_off()
        return error

    def _end(self, error: GatewayError | None) -> None:
        self._is_over, self._error = True, error


class Stream:
    """`with gateway.stream("run:1", end=True) as out:` sends to one group as a model answers.

    If the block raises, or its process dies, the group gets the last will and ends.
    """

    def __init__(self, feed: FeedConnection[LineFeed]) -> None:
        self._feed = feed

    def __enter__(self) -> Stream:
        self._feed.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self._feed.finish()
        else:
            self._feed.break_off()

    def send(
        self,
        data: str | None = None,
        *,
        json: Any = ABSENT,
        name: str | None = None,
        retry: int | None = None,
        transient: bool = False,
    ) -> None:
        """Sends an event without waiting for an answer; threads may share the stream. `json`: any value, in place of `data`.

        Raises `Gone` once the group has ended, `Unavailable` if the gateway is lost or reads nothing for `timeout` seconds.
        """
        self._feed.send(data, json, name, retry, transient)

    @property
    def stopped(self) -> bool:
        """No send can succeed any more: the group has ended, or the gateway is lost."""
        return self._feed.error is not None

    def on_stop(self, callback: Callable[[], object]) -> None:
        """Calls this, in another thread, once `stopped` is true: to wake what the block is waiting for."""
        self._feed.add_callback(callback)

    def watch(self, chunks: Iterable[T], response: object = None) -> Iterator[T]:
        """The chunks of a model's answer. Raises `Gone` within milliseconds, even while the model says nothing.

        To do so it shuts down the connection to the model, which also stops that. Where `chunks` is not the stream of a
        vendor's SDK, give the `response` that they come from (of httpx, requests, urllib3 or http.client). TypeError: its
        socket cannot be found.
        """
        sock = find_socket(source := chunks if response is None else response)
        if not sock:
            raise no_socket(source)
        return watched(self._feed, chunks, lambda: shut_down(sock))


def watched(feed: FeedConnection[AnyFeed], chunks: Iterable[T], interrupt: Callable[[], object]) -> Iterator[T]:
    feed.add_callback(interrupt)
    try:
        for piece in chunks:
            if feed.error:
                break
            yield piece
    except Exception as error:
        if feed.error:
            raise feed.error from error
        raise
    finally:
        feed.remove_callback(interrupt)
    if feed.error:
        raise feed.error


def pipe(feed: FeedConnection[EventFeed], chunks: Iterable[bytes], response: object) -> None:
    """Sends the chunks; where the socket that they come from is known, the end of the group wakes who waits for it."""
    if sock := find_socket(chunks if response is None else response):
        chunks = watched(feed, chunks, lambda: shut_down(sock))
    elif response is not None:
        raise no_socket(response)
    feed.open()
    try:
        for data in chunks:
            if data:
                feed.send(data)
    except BaseException:
        feed.break_off()
        raise
    feed.finish()
