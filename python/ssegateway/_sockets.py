"""Connections for threads: each carries one request at a time and is kept for the next."""

from __future__ import annotations

import _socket
import errno
import os
import socket
import struct
import weakref
from contextlib import suppress
from time import monotonic

from ._http import IS_LINUX, Address, Answer, Answers, LostConnection, connect, is_ended

__all__ = ["Pool"]

# Nearly all answers are smaller; the rest of a larger one is read in larger pieces.
FIRST_BYTES, MORE_BYTES = 4 * 1024, 256 * 1024
SSL_ERROR_WANT_READ = 2  # of the module ssl, which is slow to import
WOULD_BLOCK = (errno.EAGAIN, errno.EWOULDBLOCK, SSL_ERROR_WANT_READ)


class Connection:
    """One connection to the gateway."""

    def __init__(self, address: Address, timeout: float) -> None:
        self._used_at = monotonic()
        self.sock = connect(address, timeout)
        self.is_reusable = True
        self._answers = Answers()
        # The kernel's timeouts save a poll() before each call. They do not apply to gevent's sockets, and TLS may read
        # and write several times in a call.
        self._has_kernel_timeouts = IS_LINUX and not address.tls and isinstance(self.sock, _socket.socket)
        if self._has_kernel_timeouts:
            self.sock.settimeout(None)
        self._timeout = 0.0
        self._sendall, self._recv = self.sock.sendall, self.sock.recv

    def is_good(self) -> bool:
        """Whether the gateway has not closed it and will not do so before the next request arrives."""
        now = monotonic()
        if now >= self._used_at + self._answers.idle_seconds:
            return False
        self._used_at = now
        return not is_ended(self.sock)

    def exchange(self, request: bytes, timeout: float) -> Answer:
        """The answer to a request; `timeout` in seconds."""
        if timeout != self._timeout:
            self._set_timeout(timeout)
        try:
            try:
                self._sendall(request)
            except ConnectionError as error:
                # The gateway may have answered before it had the whole request, with a 413 for example.
                return self._early_answer(error)
            try:
                data = self._recv(FIRST_BYTES)
            except ConnectionError as error:
                raise LostConnection(error, is_unprocessed=False) from error
            return self._answers.only(data) or self._read_on(data, self._used_at + timeout)
        except BlockingIOError:
            raise TimeoutError("timed out") from None

    def _read_on(self, data: bytes, deadline: float) -> Answer:
        """The answer that begins with this data."""
        while data:
            self._answers.feed(data)
            if answer := self._answers.next():
                self.is_reusable = not self._answers.closes and self._answers.is_empty
                return answer
            if (left := deadline - monotonic()) <= 0:
                raise TimeoutError("timed out")
            self._set_timeout(left)
            try:
                data = self.sock.recv(MORE_BYTES)
            except ConnectionError as error:
                raise LostConnection(error, is_unprocessed=False) from error
        if answer := self._answers.end():
            self.is_reusable = False
            return answer
        raise LostConnection("closed without an answer", is_unprocessed=False)

    def start_streaming(self, timeout: float) -> None:
        """From now on one thread writes and another calls `received`, one at a time; `timeout` of a write in seconds."""
        self._set_timeout(timeout)

    def received(self) -> Answer | None:
        """The answer, if it has come. Raises LostConnection."""
        timeout = self.sock.gettimeout()
        self.sock.settimeout(0)
        try:
            while data := self.sock.recv(FIRST_BYTES):
                self._answers.feed(data)
                if answer := self._answers.next():
                    return answer
        except OSError as error:
            if error.errno in WOULD_BLOCK:
                return None
            raise
        finally:
            self.sock.settimeout(timeout)
        if answer := self._answers.end():
            return answer
        raise LostConnection("closed without an answer", is_unprocessed=False)

    def break_off(self) -> None:
        """Ends the connection; a thread that waits for it wakes up."""
        with suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)

    def _early_answer(self, error: ConnectionError) -> Answer:
        self.is_reusable = False
        try:
            while data := self.sock.recv(FIRST_BYTES):
                self._answers.feed(data)
                if answer := self._answers.next():
                    return answer
        except OSError:
            pass
        raise LostConnection(error, is_unprocessed=True) from error

    def _set_timeout(self, seconds: float) -> None:
        self._timeout = seconds = max(seconds, 0.001)
        if self._has_kernel_timeouts:
            whole, part = divmod(int(seconds * 1_000_000), 1_000_000)
            timeval = struct.pack("@ll", whole, part)
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeval)
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeval)
        else:
            self.sock.settimeout(seconds)

    def close(self) -> None:
        self.sock.close()


def _close(connections: list[Connection]) -> None:
    with suppress(IndexError):  # none is left
        while True:
            connections.pop().close()


class Pool:
    """The idle connections, as many as there have been concurrent calls."""

    def __init__(self, address: Address, timeout: float) -> None:
        self.idle: list[Connection] = []
        # An application has no reason to call close() at its end, and would get a ResourceWarning.
        weakref.finalize(self, _close, self.idle)
        self._address = address
        self._timeout = timeout
        self._pid = os.getpid()  # after a fork the child must not share them

    def call(self, request: bytes, *, is_repeatable: bool) -> Answer:
        """The answer to a request. Raises LostConnection, OSError or BadAnswer."""
        while True:
            kept = self._take()
            connection = kept or Connection(self._address, self._timeout)
            try:
                answer = connection.exchange(request, self._timeout)
            except LostConnection as error:
                connection.close()
                # The gateway may have closed the kept-alive connection just before the request arrived.
                if kept and (is_repeatable or error.is_unprocessed):
                    continue
                raise
            except BaseException:
                connection.close()
                raise
            if connection.is_reusable:
                self.idle.append(connection)
            else:
                connection.close()
            return answer

    def close(self) -> None:
        _close(self.idle)

    def _take(self) -> Connection | None:
        if self._pid != os.getpid():
            _close(self.idle)  # this process's ends of them alone
            self._pid = os.getpid()
        while True:
            try:
                connection = self.idle.pop()
            except IndexError:
                return None
            if connection.is_good():
                return connection
            connection.close()

