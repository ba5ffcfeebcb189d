"""The connection for asyncio: all tasks share it, and requests are pipelined."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import cast

from ._http import Address, Answer, Answers, BadAnswer, LostConnection, is_ended

__all__ = ["Pipeline"]


class Connection(asyncio.Protocol):
    """One connection to the gateway."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.is_usable = True
        self.closed: asyncio.Future[None] = loop.create_future()
        self._loop = loop
        self._answers = Answers()
        # Written requests without an answer, with their deadlines.
        self._unanswered: deque[tuple[float, asyncio.Future[Answer]]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._used_at = loop.time()
        self._room: asyncio.Future[None] | None = None  # while the transport is full

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._sock = transport.get_extra_info("socket")

    def is_good(self) -> bool:
        """Whether the gateway has not closed it and will not do so before the next request arrives."""
        if not self.is_usable:
            return False
        if self._unanswered:
            return True
        if self._loop.time() >= self._used_at + self._answers.idle_seconds:
            return False
        # The event loop may not have seen the end yet.
        return not is_ended(self._sock)

    async def exchange(self, request: bytes, deadline: float) -> Answer:
        while self._room:
            await asyncio.shield(self._room)
        if not self.is_usable:
            raise LostConnection("closed", is_unprocessed=True)
        answer: asyncio.Future[Answer] = self._loop.create_future()
        self._unanswered.append((deadline, answer))
        if not self._timer:
            self._timer = self._loop.call_at(deadline, self._check_deadline)
        self.transport.write(request)
        return await answer

    def data_received(self, data: bytes) -> None:
        try:
            if answer := self._answers.only(data):
                return self._settle(answer)
            self._answers.feed(data)
            while answer := self._answers.next():
                self._settle(answer)
        except BadAnswer as error:
            self._fail(error)

    def _settle(self, answer: Answer) -> None:
        if not self._unanswered:
            raise BadAnswer("an answer without a request")
        _, future = self._unanswered.popleft()
        if not future.done():  # the task may have been cancelled
            future.set_result(answer)
        self._used_at = self._loop.time()
        if self._answers.closes:
            # RFC 9112 section 9.6: requests after this one are not processed.
            self._fail(LostConnection("closed", is_unprocessed=True))

    def _check_deadline(self) -> None:
        self._timer = None
        if not self._unanswered:
            return
        deadline = self._unanswered[0][0]
        if deadline <= self._loop.time():
            self._fail(TimeoutError("timed out"))
        else:
            self._timer = self._loop.call_at(deadline, self._check_deadline)

    def pause_writing(self) -> None:
        self._room = self._loop.create_future()

    def resume_writing(self) -> None:
        if self._room:
            self._room.set_result(None)
            self._room = None

    def connection_lost(self, error: Exception | None) -> None:
        if self._unanswered and (answer := self._answers.end()):
            self._settle(answer)
        self._fail(LostConnection(error or "closed without an answer", is_unprocessed=False))
        if not self.closed.done():
            self.closed.set_result(None)

    def _fail(self, error: Exception) -> None:
        """Aborts the connection; all unanswered requests fail."""
        self.is_usable = False
        if self._timer:
            self._timer.cancel()
            self._timer = None
        while self._unanswered:
            _, future = self._unanswered.popleft()
            if not future.done():
                future.set_exception(error)
        self.resume_writing()
        self.transport.abort()


class Pipeline:
    """The current connection; the next call replaces a lost one."""

    def __init__(self, address: Address, timeout: float) -> None:
        self._address = address
        self._timeout = timeout
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connection: Connection | None = None
        self._connecting: asyncio.Task[Connection] | None = None

    async def call(self, request: bytes, *, is_repeatable: bool) -> Answer:
        """The answer to a request. Raises LostConnection, OSError or BadAnswer."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._forget()
            self._loop = loop
        deadline = loop.time() + self._timeout
        while True:
            connection = self._connection
            is_kept = connection is not None and connection.is_good()
            if connection is None or not is_kept:
                connection = await self._connect(loop)
            try:
                return await connection.exchange(request, deadline)
            except LostConnection as error:
                # The gateway may have closed the kept-alive connection just before the request arrived.
                is_unprocessed = error.is_unprocessed and loop.time() < deadline
                if not (is_unprocessed or (is_kept and is_repeatable)):
                    raise

    async def close(self) -> None:
        connection = self._connection
        if connection and self._loop is asyncio.get_running_loop():
            connection.transport.close()
            await asyncio.shield(connection.closed)
        self._forget()

    async def _connect(self, loop: asyncio.AbstractEventLoop) -> Connection:
        if not self._connecting:
            self._connecting = loop.create_task(self._open(loop))
        # Other tasks may need it when this one is cancelled.
        return await asyncio.shield(self._connecting)

    async def _open(self, loop: asyncio.AbstractEventLoop) -> Connection:
        try:
            if self._connection and self._connection.is_usable:
                self._connection.transport.close()
            try:
                connection = await asyncio.wait_for(self._create(loop), self._timeout)
            except asyncio.TimeoutError:
                raise TimeoutError("no connection in time") from None
            self._connection = connection
            return connection
        finally:
            self._connecting = None

    async def _create(self, loop: asyncio.AbstractEventLoop) -> Connection:
        address = self._address
        if address.socket_path:
            _, connection = await loop.create_unix_connection(lambda: Connection(loop), address.socket_path)
        else:
            _, connection = await loop.create_connection(
                lambda: Connection(loop), address.host, address.port, ssl=address.tls
            )
        return connection

    def _forget(self) -> None:
        if self._connection:
            with suppress(RuntimeError):  # the event loop is closed
                self._connection.transport.abort()
        self._connection = self._connecting = None
