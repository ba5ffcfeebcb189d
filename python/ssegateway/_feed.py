"""Streaming sends (docs/protocol.md, section 14) without I/O: their bytes, what to repeat, and the meaning of answers."""

from __future__ import annotations

import json
import re
from collections import deque
from json.encoder import encode_basestring_ascii as quote
from typing import Any
from urllib.parse import quote as percent_encode

from ._base import ABSENT, BaseGateway, Event, GatewayError, Gone, Unavailable, _event
from ._http import Answer

__all__ = ["LAST_CHUNK", "RETRY_SECONDS", "EventFeed", "Feed", "LineFeed", "target"]

# What is kept in case the gateway restarts: far more than the sockets of both sides hold.
KEPT_BYTES_MAX = 4 * 1024 * 1024
RETRY_SECONDS = 0.05, 1.0  # the first wait between attempts to connect, and the longest
LAST_CHUNK = b"0\r\n\r\n"
LINE = re.compile(rb"([^\r\n]*)(?:\r\n|\n|\r)")


def target(group: str | None, token: str | None, end: bool) -> str:
    """The query that names the group or the stream of a feed."""
    if (group is None) == (token is None):
        raise TypeError("a streaming send needs either a group or a token")
    if end and group is None:
        raise TypeError("only a group can end")
    name = percent_encode(token or group or "", safe="")
    return f"?{'group' if token is None else 'token'}={name}{'&end=true' if end else ''}"


class Feed:
    """A streaming send, over several connections if the gateway restarts. A piece is what is sent at once."""

    content_type = ""

    def __init__(self, gateway: BaseGateway, query: str, restart: bytes) -> None:
        self.unreachable = gateway._no_answer
        self._gateway = gateway
        self.head = (
            f"POST /internal/send{query} HTTP/1.1\r\n{gateway.stream_fields}"
            f"Content-Type: {self.content_type}\r\nTransfer-Encoding: chunked\r\n\r\n"
        ).encode("ascii")
        self.pieces = 0
        self._opening = b""
        self._restart = chunk(restart) if restart else b""
        self._is_restarted = False
        self._kept: deque[bytes] = deque()
        self._kept_bytes = 0
        self._forgotten = 0  # pieces that are not kept any more

    def keep(self, piece: bytes) -> bytes:
        self.pieces += 1
        self._kept.append(piece)
        self._kept_bytes += len(piece)
        while self._kept_bytes > KEPT_BYTES_MAX:
            self._forget_first()
        return piece

    def add(self, *parts: Any) -> bytes:
        """The chunk of one send, which is kept."""
        raise NotImplementedError

    def judge(self, answer: Answer | Exception) -> tuple[GatewayError | None, bool]:
        """The error that an answer, or a connection without one, means; whether to go on with `body` on a new connection."""
        if isinstance(answer, Exception):
            lost = Unavailable(
                f"the connection to the gateway at {self._gateway.url} was lost, {answer!r}: "
                f"the last of {self.pieces} sends may not have been executed"
            )
            return lost, self._restarts()
        if answer.status == 200:
            errors = json.loads(answer.body).get("errors")
            return (_rejected(errors) if errors else None), False
        refusal = self._gateway._refusal(answer)
        try:
            fields = json.loads(answer.body)
            error, line = fields["error"], fields.get("line", 0)
        except (ValueError, KeyError, TypeError):
            return refusal, False
        if answer.status == 404 and error == "Token not found":
            return Gone(str(refusal), answer.status), False
        if answer.status == 503 and error == "Shutting down":
            return refusal, self._restarts() if self._restart else self._continues(line)
        return refusal, False

    def body(self) -> bytes:
        """The beginning of the body on each connection."""
        return b"".join([self._opening, self._restart if self._is_restarted else b"", *self._kept])

    def silent(self, seconds: float) -> Unavailable:
        """The error of a gateway that reads nothing, or does not answer the end of the body."""
        return Unavailable(f"the gateway at {self._gateway.url} has not reacted for {seconds} s")

    def _restarts(self) -> bool:
        self._is_restarted = bool(self._restart and not self._forgotten)
        return self._is_restarted

    def _continues(self, executed: int) -> bool:
        """Forgets what the gateway has executed: `executed` lines or events of the last body. False: the rest is not kept."""
        raise NotImplementedError

    def _forget_first(self) -> None:
        self._kept_bytes -= len(self._kept.popleft())
        self._forgotten += 1


class LineFeed(Feed):
    """A line of JSON per send."""

    content_type = "application/x-ndjson"

    def __init__(
        self, gateway: BaseGateway, query: str, will: Event | str | None, restart: Event | str | None
    ) -> None:
        super().__init__(gateway, query, b"" if restart is None else _line({"event": _event(restart)}))
        if will is not None:
            self._opening = chunk(_line({"will": _event(will)}))
        self._before = 0  # pieces that were executed on earlier connections

    def add(self, data: str | None, value: Any, name: str | None, retry: int | None, transient: bool) -> bytes:
        """The chunk of one send: of `data`, or of `value` as JSON."""
        if (data is None) == (value is ABSENT):
            raise TypeError("a send needs either data or json")
        if data is None:
            data = json.dumps(value)
        if name is None and retry is None:
            event = f'{{"data":{quote(data)}}}'
        else:
            fields = {"name": name, "data": data, "retry": retry}
            event = json.dumps({field: value for field, value in fields.items() if value is not None})
        line = f'{{"event":{event},"transient":true}}\n' if transient else f'{{"event":{event}}}\n'
        return self.keep(f"{len(line):x}\r\n{line}\r\n".encode("ascii"))

    def _continues(self, executed: int) -> bool:
        self._before += max(0, executed - bool(self._opening))
        if self._before < self._forgotten:
            return False
        while self._forgotten < self._before:
            self._forget_first()
        return True


class EventFeed(Feed):
    """Somebody else's event stream."""

    content_type = "text/event-stream"

    def __init__(self, gateway: BaseGateway, query: str, restart: Event | str | None) -> None:
        super().__init__(gateway, query, b"" if restart is None else _block(_event(restart)))

    def add(self, data: bytes) -> bytes:
        return self.keep(chunk(data))

    def _continues(self, executed: int) -> bool:
        if self._forgotten:
            return False  # where an event begins is known only from the start
        rest = _behind(b"".join(piece.partition(b"\r\n")[2][:-2] for piece in self._kept), executed)
        self._kept = deque([chunk(rest)] if rest else [])
        self._kept_bytes = len(rest)
        return True


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _line(fields: object) -> bytes:
    return json.dumps(fields).encode("ascii") + b"\n"


def _block(event: Event) -> bytes:
    name = f"event: {event['name']}\n" if "name" in event else ""
    data = "".join(f"data: {line}\n" for line in event["data"].split("\n"))
    return f"{name}{data}\n".encode()


def _behind(stream: bytes, events: int) -> bytes:
    """What follows the first events of an event stream, as WHATWG HTML, section 9.2.6, counts them."""
    position, has_data = 0, False
    if not events:
        return stream
    for line in LINE.finditer(stream.removeprefix(b"\xef\xbb\xbf")):
        if not line[1]:
            events -= has_data
            position, has_data = line.end(), False
            if not events:
                break
        has_data = has_data or line[1].partition(b":")[0] == b"data"
    return stream.removeprefix(b"\xef\xbb\xbf")[position:]


def _rejected(errors: list[dict[str, object]]) -> GatewayError:
    kind = Gone if all(error["status"] in (404, 410) for error in errors) else GatewayError
    return kind(f"the gateway did not execute all sends: {json.dumps(errors)}", 200)
