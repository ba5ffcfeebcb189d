"""HTTP/1.1 for a client of the gateway: an incremental parser of answers, without I/O, and helpers for sockets."""

from __future__ import annotations

import re
import select
import socket
import sys
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from asyncio.trsock import TransportSocket
    from ssl import SSLContext

__all__ = ["Address", "Answer", "Answers", "BadAnswer", "LostConnection", "connect", "is_ended"]

IS_LINUX = sys.platform == "linux"
IPPROTO_TCP, TCP_INFO = socket.IPPROTO_TCP, getattr(socket, "TCP_INFO", 0)
TCP_ESTABLISHED = 1  # tcp(7), in the first byte of TCP_INFO
HEAD_BYTES_MAX = 64 * 1024
STATUS_LINE = re.compile(rb"HTTP/1\.([01]) (\d{3})(?: |\r|$)")
FIELD = re.compile(rb"\r\n([^\s:]+):[ \t]*([^\r\n]*)")
KEEP_ALIVE_TIMEOUT = re.compile(rb"timeout=(\d+)")


class BadAnswer(Exception):
    """Not HTTP/1.1."""


class LostConnection(Exception):
    """The connection ended before the request was answered."""

    def __init__(self, cause: object, *, is_unprocessed: bool) -> None:
        super().__init__(cause)
        self.is_unprocessed = is_unprocessed  # the gateway cannot have received the whole request


class Answer(NamedTuple):
    status: int
    body: bytes


# Without the function in Python that a NamedTuple has for it.
new_tuple = tuple.__new__


class Address:
    """The address of a gateway, and its value of `Host`."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https", "http+unix") or not parts.hostname or parts.path or parts.query:
            shapes = "http://127.0.0.1:3000 or http+unix://%2Frun%2Fssegateway.sock"
            raise ValueError(f"GATEWAY_URL must be like {shapes}, not {url!r}")
        self.host, self.netloc = parts.hostname, parts.netloc.rpartition("@")[2]
        self.socket_path = None
        if parts.scheme == "http+unix":
            self.socket_path = unquote(self.netloc)
            self.host = self.netloc = "localhost"
        self.port = (None if self.socket_path else parts.port) or (443 if parts.scheme == "https" else 80)
        self.tls = _tls() if parts.scheme == "https" else None


def _tls() -> SSLContext:
    import ssl  # slow to import and rarely needed

    return ssl.create_default_context()


def is_ended(sock: socket.socket | TransportSocket) -> bool:
    """Whether the peer has closed this idle connection."""
    if IS_LINUX and sock.proto == IPPROTO_TCP:  # cheaper than poll(), and does not release the GIL
        return sock.getsockopt(IPPROTO_TCP, TCP_INFO, 1)[0] != TCP_ESTABLISHED
    if hasattr(select, "poll"):  # works for any number of descriptors
        poll = select.poll()
        poll.register(sock.fileno(), select.POLLIN)
        return bool(poll.poll(0))
    return bool(select.select([sock.fileno()], [], [], 0)[0])


class Answers:
    """The answers on one connection, in order."""

    def __init__(self) -> None:
        self.closes = False  # the last answer is the last on its connection
        self.idle_seconds = float("inf")  # how long the gateway certainly keeps an idle connection
        self._buffer = b""
        # The last head and its meaning: on a kept-alive connection most heads are identical.
        self._head = b""
        self._status = 0
        self._length: int | None = 0
        self._is_chunked = False
        # With its blank line, and with the body of its length: -1 if answers with this head need a closer look.
        self._whole_head, self._whole_bytes = b"", -1

    @property
    def is_empty(self) -> bool:
        """No bytes beyond the answers that `next` has returned."""
        return not self._buffer

    def feed(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data

    def only(self, data: bytes) -> Answer | None:
        """The answer that this data is, if there is nothing else and its head is the last one: so it usually is."""
        if len(data) != self._whole_bytes or self._buffer or not data.startswith(self._whole_head):
            return None
        return new_tuple(Answer, (self._status, data[len(self._whole_head) :]))

    def next(self) -> Answer | None:
        """The next complete answer."""
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head, start = self._buffer[:end], end + 4
            if head != self._head:
                self._read_head(head)
            if 100 <= self._status < 200:
                self._buffer = self._buffer[start:]
                continue
            if self._is_chunked:
                return self._next_chunked(start)
            if self._length is None or len(self._buffer) < start + self._length:
                return None
            body = self._buffer[start : start + self._length]
            self._buffer = self._buffer[start + self._length :]
            return Answer(self._status, body)
        if len(self._buffer) > HEAD_BYTES_MAX:
            raise BadAnswer("the head of the answer is too long")
        return None

    def end(self) -> Answer | None:
        """The answer that the end of the connection completes, if any."""
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0 or self._is_chunked or self._length is not None:
            return None
        body, self._buffer = self._buffer[end + 4 :], b""
        return Answer(self._status, body)

    def _read_head(self, head: bytes) -> None:
        line = STATUS_LINE.match(head)
        if not line:
            raise BadAnswer(f"no answer of HTTP/1.1: {head[:100]!r}")
        fields = {name.lower(): value for name, value in FIELD.findall(head)}
        self._head, self._status = head, int(line[2])
        self._is_chunked = fields.get(b"transfer-encoding", b"").lower().endswith(b"chunked")
        length = fields.get(b"content-length")
        if length is not None and not length.isdigit():
            raise BadAnswer(f"no length: {length!r}")
        has_body = self._status not in (204, 304)
        self._length = (None if length is None else int(length)) if has_body else 0
        connection = fields.get(b"connection", b"").lower()
        self.closes = b"close" in connection or (line[1] == b"0" and b"keep-alive" not in connection)
        self.closes = self.closes or (self._length is None and not self._is_chunked)
        if seconds := KEEP_ALIVE_TIMEOUT.search(fields.get(b"keep-alive", b"")):
            keep_alive = float(seconds[1])
            self.idle_seconds = keep_alive - min(1, keep_alive / 2)
        self._whole_head, self._whole_bytes = head + b"\r\n\r\n", -1
        if self._length is not None and self._status >= 200 and not (self._is_chunked or self.closes):
            self._whole_bytes = len(self._whole_head) + self._length

    def _next_chunked(self, start: int) -> Answer | None:
        chunks: list[bytes] = []
        while (end := self._buffer.find(b"\r\n", start)) >= 0:
            size_text = self._buffer[start:end].partition(b";")[0].strip()
            try:
                size = int(size_text, 16)
            except ValueError:
                raise BadAnswer(f"no size of a chunk: {size_text!r}") from None
            start = end + 2
            if size == 0:
                trailer_end = end if self._buffer.startswith(b"\r\n", start) else self._buffer.find(b"\r\n\r\n", start)
                if trailer_end < 0 or len(self._buffer) < trailer_end + 4:
                    return None
                self._buffer = self._buffer[trailer_end + 4 :]
                return Answer(self._status, b"".join(chunks))
            if len(self._buffer) < start + size + 2:
                return None
            chunks.append(self._buffer[start : start + size])
            start += size + 2
        return None


def connect(address: Address, timeout: float) -> socket.socket:
    """Connects, without Nagle's delay."""
    if address.socket_path:
        return _connect_unix(address.socket_path, timeout)
    sock = socket.create_connection((address.host, address.port), timeout)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return address.tls.wrap_socket(sock, server_hostname=address.host) if address.tls else sock
    except BaseException:
        sock.close()
        raise


def _connect_unix(path: str, timeout: float) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.settimeout(timeout)
        sock.connect(path)
        return sock
    except BaseException:
        sock.close()
        raise
