"""SSEGateway for Python backends: reading callbacks, sending to streams.

    gateway = Gateway()                                       # where and how: from the environment
    call = gateway.callback(request.body, request.headers)    # in the route that CALLBACK_URL names
    gateway.send(call.token, "Hello", name="greeting")        # False: the stream has ended, forget its token

Standard library only. `ssegateway.aio` is the same for asyncio, on httpx.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from hmac import compare_digest
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any, Literal, Protocol
from urllib.parse import parse_qsl, urlencode, urlsplit

__all__ = ["Callback", "Connection", "Gateway", "GatewayError"]


# The stream has ended, or ends now because its client is too slow. Any other 404 means a wrong port or path.
ENDED = {(404, b'{"error":"Token not found"}'), (500, b'{"error":"Write failed: connection closed"}')}


class GatewayError(Exception):
    """The gateway is unreachable, or refuses a request; the message has the reason."""


class Headers(Protocol):
    """Headers as in every framework: a look-up by name that ignores case."""

    def get(self, name: str, /) -> str | None: ...


@dataclass(frozen=True)
class Callback:
    """A callback of the gateway: a question (`connect`) or a notification (`disconnect`)."""

    action: Literal["connect", "disconnect"]
    token: str
    url: str  # path and query, as the client sent them
    headers: dict[str, str]  # the client's, with names in lower case
    reason: str | None = None  # of a disconnect: client_closed, server_closed or error
    detail: str | None = None  # more about it, such as slow_consumer
    instance: str | None = None  # of the gateway: once it differs, all streams of the one before are gone

    @property
    def path(self) -> str:
        """Neither decoded nor normalised."""
        return self.url.partition("?")[0]

    @property
    def query(self) -> dict[str, str]:
        """The last value of each name."""
        return dict(parse_qsl(self.url.partition("?")[2], keep_blank_values=True))

    @property
    def cookies(self) -> dict[str, str]:
        pairs = (pair.partition("=") for pair in self.headers.get("cookie", "").split(";"))
        return {name.strip(): value.strip() for name, equals, value in pairs if equals}


@dataclass(frozen=True)
class Connection:
    """A stream that the gateway holds."""

    token: str
    url: str
    opened_at: str  # RFC 3339
    pending_bytes: int


class BaseGateway:
    """The requests to the gateway and the meaning of its answers; `Gateway` and `AsyncGateway` do the I/O."""

    def __init__(
        self,
        url: str | None = None,
        *,
        internal_token: str | None = None,
        callback_token: str | None = None,
        timeout: float = 5,
    ) -> None:
        """Arguments that are not given come from GATEWAY_URL, INTERNAL_TOKEN and CALLBACK_TOKEN in the environment."""
        self.url = (url or os.environ.get("GATEWAY_URL") or "http://127.0.0.1:3000").rstrip("/")
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path or parts.query:
            raise ValueError(f"GATEWAY_URL must be like http://127.0.0.1:3000, not {self.url!r}")
        self.timeout = timeout
        self._callback_token = callback_token or os.environ.get("CALLBACK_TOKEN")
        self._headers = {"Content-Type": "application/json"}
        if internal_token := internal_token or os.environ.get("INTERNAL_TOKEN"):
            self._headers["Authorization"] = f"Bearer {internal_token}"

    def callback(self, body: bytes | str, headers: Headers) -> Callback:
        """Reads a callback. PermissionError if it does not carry CALLBACK_TOKEN, ValueError if it is not a callback."""
        given = headers.get("Authorization") or ""
        if self._callback_token and not compare_digest(given.encode(), f"Bearer {self._callback_token}".encode()):
            raise PermissionError("a callback without the right CALLBACK_TOKEN")
        try:
            call = json.loads(body)
            action, token, request = call["action"], call["token"], call["request"]
            url, client_headers, reason = request["url"], request["headers"], call.get("reason")
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError("not a callback of the gateway") from error
        detail, instance = headers.get("SSEGateway-Detail"), headers.get("SSEGateway-Instance")
        return Callback(action, token, url, client_headers, reason, detail, instance)

    def _message(self, token: str, close: bool, **event: str | int | None) -> bytes:
        message: dict[str, Any] = {"token": token}
        if event := {field: value for field, value in event.items() if value is not None}:
            message["event"] = event
        if close:
            message["close"] = True
        return json.dumps(message).encode()

    def _is_open(self, status: int, body: bytes) -> bool:
        if (status, body) in ENDED:
            return False
        self._expect_ok(status, body)
        return True

    def _connections_path(self, limit: int, after: str | None) -> str:
        return "/internal/connections?" + urlencode({"limit": limit} | ({"after": after} if after else {}))

    def _page(self, status: int, body: bytes) -> tuple[list[Connection], str | None]:
        self._expect_ok(status, body)
        page = json.loads(body)
        fields = ("token", "url", "opened_at", "pending_bytes")
        return [Connection(*map(entry.__getitem__, fields)) for entry in page["connections"]], page["next"]

    def _expect_ok(self, status: int, body: bytes) -> None:
        if status != 200:
            raise GatewayError(f"the gateway answered {status}: {body.decode(errors='replace')}")


class Gateway(BaseGateway):
    """One object serves all threads and keeps its connections open between calls."""

    _idle: list[HTTPConnection]
    _pid = 0  # of the process that opened them: after a fork the child must not share them

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
        message = self._message(token, close, name=name, data=data, id=id, retry=retry)
        return self._is_open(*self._call("POST", "/internal/send", message))

    def connections(self, limit: int = 1000) -> Iterator[Connection]:
        """All open streams, requested in pages of `limit`."""
        after = None
        while True:
            page, after = self._page(*self._call("GET", self._connections_path(limit, after)))
            yield from page
            if not after:
                return

    def close(self) -> None:
        """Closes all kept-alive connections; a later call opens new ones."""
        while not (taken := self._take())[1]:
            taken[0].close()

    def _call(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        while True:
            connection, is_fresh = self._take()
            try:
                connection.request(method, path, body, self._headers)
                answer = connection.getresponse()
                result = answer.status, answer.read()
            except (OSError, HTTPException) as error:
                connection.close()
                # The gateway closes idle connections: retry once on another one.
                if is_fresh or not isinstance(error, ConnectionError):
                    raise GatewayError(f"no answer from the gateway at {self.url}: {error!r}") from error
            else:
                self._idle.append(connection)
                return result

    def _take(self) -> tuple[HTTPConnection, bool]:
        if self._pid != os.getpid():
            self._idle, self._pid = [], os.getpid()
        try:
            return self._idle.pop(), False
        except IndexError:
            parts = urlsplit(self.url)
            kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
            return kind(parts.netloc, timeout=self.timeout), True
