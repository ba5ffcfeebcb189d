"""Streaming sends of a task, which is cancelled when the gateway's answer comes early."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Callable
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any, Generic, TypeVar

from ._base import ABSENT, GatewayError
from ._feed import LAST_CHUNK, RETRY_SECONDS, EventFeed, Feed, LineFeed
from ._http import Address, Answer, Answers, BadAnswer, LostConnection

__all__ = ["AsyncFeedConnection", "AsyncStream", "pipe"]

AnyFeed = TypeVar("AnyFeed", bound=Feed)
READ_BYTES = 64 * 1024
UNSENT_BYTES_MAX = 64 * 1024  # from which on a send waits until the gateway has read


class AsyncFeedConnection(Generic[AnyFeed]):
    """A feed on a connection. The block that it is entered for is cancelled when no send can succeed any more."""

    def __init__(self, feed: AnyFeed, address: Address, timeout: float, reconnect_seconds: float) -> None:
        self.feed = feed
        self._address = address
        self._timeout = timeout
        self._reconnect_seconds = reconnect_seconds
        self._connected = asyncio.Event()
        self._error: GatewayError | None = None
        self._is_finished = False

    async def __aenter__(self) -> AsyncFeedConnection[AnyFeed]:
        try:
            await self._connect()
        except OSError as error:
            raise self.feed.unreachable(error) from error
        self._block: asyncio.Task[object] | None = asyncio.current_task()
        self._cancellations = self._block.cancelling() if self._block and hasattr(self._block, "cancelling") else 0
        self._has_cancelled = False
        self._watcher = asyncio.get_running_loop().create_task(self._watch())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        block, self._block = self._block, None
        is_stopped = False
        if self._has_cancelled and block:
            # As asyncio.timeout does. Python 3.10 cannot tell whether somebody else has cancelled the task, too.
            others = block.uncancel() - self._cancellations if hasattr(block, "uncancel") else 0
            is_stopped = others <= 0 and kind is asyncio.CancelledError
        try:
            if kind is None:
                await self._finish()
        finally:
            self._watcher.cancel()
            self._writer.transport.abort()
            await asyncio.sleep(0)  # closes it
        if is_stopped and self._error:
            raise self._error from error

    async def send(self, add: Callable[[], bytes]) -> None:
        """Sends the chunk that `add` returns."""
        if self._error:
            raise self._error
        if not self._connected.is_set():
            add()  # the next connection begins with it
            await self._connected.wait()
            if self._error:
                raise self._error
            return
        writer = self._writer
        writer.write(add())
        if writer.transport.get_write_buffer_size() > UNSENT_BYTES_MAX:
            try:
                with suppress(ConnectionError):  # the watcher sees why
                    await asyncio.wait_for(writer.drain(), self._timeout)
            except asyncio.TimeoutError:
                raise self.feed.silent(self._timeout) from None

    async def _finish(self) -> None:
        self._is_finished = True
        if self._connected.is_set() and not self._error:
            self._writer.write(LAST_CHUNK)
        while not self._watcher.done():
            done, _ = await asyncio.wait([self._watcher], timeout=self._timeout)
            if self._connected.is_set() and not done:
                raise self.feed.silent(self._timeout)
        if self._error:
            raise self._error

    async def _connect(self) -> None:
        address = self._address
        if address.socket_path:
            connecting = asyncio.open_unix_connection(address.socket_path)
        else:
            connecting = asyncio.open_connection(address.host, address.port, ssl=address.tls)
        try:
            self._reader, self._writer = await asyncio.wait_for(connecting, self._timeout)
        except asyncio.TimeoutError:
            raise TimeoutError("no connection in time") from None
        self._writer.write(self.feed.head + self.feed.body() + (LAST_CHUNK if self._is_finished else b""))
        self._connected.set()

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        deadline = None
        while True:
            connected_at = loop.time()
            answer = await self._read_answer()
            if deadline is None or loop.time() > connected_at + RETRY_SECONDS[1]:
                deadline = loop.time() + self._reconnect_seconds
            error, goes_on = self.feed.judge(answer)
            if not (goes_on and await self._reconnect(deadline)):
                return self._end(error)

    async def _read_answer(self) -> Answer | Exception:
        answers = Answers()
        try:
            while data := await self._reader.read(READ_BYTES):
                answers.feed(data)
                if answer := answers.next():
                    return answer
        except (OSError, BadAnswer) as error:
            return error
        return answers.end() or LostConnection("closed without an answer", is_unprocessed=False)

    async def _reconnect(self, deadline: float) -> bool:
        """Connects anew, as soon as a gateway listens."""
        self._connected.clear()
        self._writer.transport.abort()
        wait, longest = RETRY_SECONDS
        while asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(wait)
            with suppress(OSError):
                await self._connect()
                return True
            wait = min(2 * wait, longest)
        return False

    def _end(self, error: GatewayError | None) -> None:
        self._error = error
        self._connected.set()
        if error and self._block:
            self._has_cancelled = True
            self._block.cancel()


class AsyncStream:
    """`async with gateway.stream("run:1", end=True) as out:` sends to one group as a model answers.

    Once nobody wants the rest, the block is cancelled wherever it waits, and the statement raises `Gone`. If the block
    raises, or its process dies, the group gets the last will and ends.
    """

    def __init__(self, feed: AsyncFeedConnection[LineFeed]) -> None:
        self._feed = feed

    async def __aenter__(self) -> AsyncStream:
        await self._feed.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._feed.__aexit__(kind, error, traceback)

    async def send(
        self,
        data: str | None = None,
        *,
        json: Any = ABSENT,
        name: str | None = None,
        retry: int | None = None,
        transient: bool = False,
    ) -> None:
        """Sends an event without waiting for an answer; tasks may share the stream. Raises what `Stream.send` raises."""
        await self._feed.send(lambda: self._feed.feed.add(data, json, name, retry, transient))


async def pipe(feed: AsyncFeedConnection[EventFeed], chunks: AsyncIterable[bytes]) -> None:
    async with feed:
        async for data in chunks:
            if data:
                await feed.send(partial(feed.feed.add, data))
