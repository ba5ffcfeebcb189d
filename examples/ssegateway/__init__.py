"""What a Python backend needs to work with SSEGateway: reading callbacks, sending to streams.

    gateway = Gateway()                                       # where and how: from the environment
    call = gateway.callback(request.body, request.headers)    # in the route that CALLBACK_URL names
    gateway.send(call.token, "Hello", name="greeting")        # False: the stream has ended, forget its token

Standard library only. `ssegateway.aio` is the same for asyncio, on httpx.
"""

from __future__ import annotations

import hmac
import http.client
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol
from urllib.parse import parse_qsl, urlencode, urlsplit

__all__ = ["Callback", "Connection", "Gateway", "GatewayError"]


class GatewayError(Exception):
    """The gateway cannot be reached, or refuses a request and says why."""


class Headers(Protocol):
    """Headers as every framework has them: found by name, in whichever case."""

    def get(self, name: str, /) -> str | None: ...


@dataclass(frozen=True)
class Callback:
    """What the gateway asks (`connect`) or tells (`disconnect`)."""

    action: Literal["connect", "disconnect"]
    token: str
    url: str  # path and query, as the client sent them
    headers: dict[str, str]  # the client's, their names in lower case
    reason: str | None = None  # of a disconnect: client_closed, server_closed or error
    detail: str | None = None  # more about it, such as slow_consumer
    instance: str | None = None  # of the gateway: once it differs, all streams of the one before are gone

    @property
    def path(self) -> str:
        return urlsplit(self.url).path

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self.url).query, keep_blank_values=True))

    @property
    def cookies(self) -> dict[str, str]:
        pairs = (pair.partition("=") for pair in self.headers.get("cookie", "").split(";"))
        return {name.strip(): value.strip() for name, equals, value in pairs if equals}


@dataclass(frozen=True)
class Connection:
    """A stream that the gateway holds."""

    token: str
    url: str
    opened_at: Any
    pending_bytes: int


class Dialect:
    """What is said to the gateway and understood of it; what carries it is for subclasses to add."""

    def __init__(
        self,
        url: str | None = None,
        *,
        internal_token: str | None = None,
        callback_token: str | None = None,
        timeout: float = 5,
    ) -> None:
        """What is not given comes from GATEWAY_URL, INTERNAL_TOKEN and CALLBACK_TOKEN in the environment."""
        self.url = (url or os.environ.get("GATEWAY_URL") or "http://127.0.0.1:3000").rstrip("/")
        self.timeout = timeout
        self._callback_token = callback_token or os.environ.get("CALLBACK_TOKEN")
        internal_token = internal_token or os.environ.get("INTERNAL_TOKEN")
        self._headers = {"Content-Type": "application/json"}
        if internal_token:
            self._headers["Authorization"] = f"Bearer {internal_token}"

    def callback(self, body: bytes | str, headers: Headers) -> Callback:
        """Reads a callback. Raises PermissionError without the right CALLBACK_TOKEN, ValueError for nonsense."""
        if self._callback_token:
            given = (headers.get("Authorization") or "").encode()
            if not hmac.compare_digest(given, f"Bearer {self._callback_token}".encode()):
                raise PermissionError("not called by the gateway: CALLBACK_TOKEN differs")
        try:
            call = json.loads(body)
            request = call["request"]
            return Callback(
                call["action"],
                call["token"],
                request["url"],
                request["headers"],
                call.get("reason"),
                headers.get("SSEGateway-Detail"),
                headers.get("SSEGateway-Instance"),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError("not a callback of the gateway") from error

    @staticmethod
    def _message(
        token: str, data: str | None, name: str | None, id: str | None, retry: int | None, close: bool
    ) -> bytes:
        message: dict[str, Any] = {"token": token}
        if data is not None:
            event = {"name": name, "data": data, "id": id, "retry": retry}
            message["event"] = {field: value for field, value in event.items() if value is not None}
        if close:
            message["close"] = True
        return json.dumps(message).encode()

    @staticmethod
    def _is_delivered(status: int, body: bytes) -> bool:
        if status == 200:
            return True
        if status in (404, 500):  # ended already, or by this: too slow a client
            return False
        raise GatewayError(f"the gateway answered {status}: {body.decode(errors='replace')}")

    @staticmethod
    def _page(status: int, body: bytes) -> tuple[list[Connection], str | None]:
        if status != 200:
            raise GatewayError(f"the gateway answered {status}: {body.decode(errors='replace')}")
        page = json.loads(body)
        fields = ("token", "url", "opened_at", "pending_bytes")
        return [Connection(*(entry[field] for field in fields)) for entry in page["connections"]], page["next"]


class Gateway(Dialect):
    """A gateway to send to. To be shared by all threads; its connections are kept open between calls."""

    _idle: list[http.client.HTTPConnection]
    _pid = 0

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
        """Sends an event, or closes the stream, or both. False: the stream has ended, forget its token."""
        return self._is_delivered(*self._call("POST", "/internal/send", self._message(token, data, name, id, retry, close)))

    def connections(self, limit: int = 1000) -> Iterator[Connection]:
        """All open streams, asked for page by page: those of a backend that has lost its map in a restart."""
        after: str | None = ""
        while after is not None:
            query = urlencode({"limit": limit, **({"after": after} if after else {})})
            page, after = self._page(*self._call("GET", f"/internal/connections?{query}"))
            yield from page

    def _call(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        while True:
            connection, reused = self._take()
            try:
                connection.request(method, path, body, self._headers)
                answer = connection.getresponse()
                result = answer.status, answer.read()
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                # An idle connection may have been closed by now; that shows before any byte of an answer.
                if not (reused and isinstance(error, ConnectionError)):
                    raise GatewayError(f"no answer from the gateway at {self.url}: {error!r}") from error
            else:
                self._idle.append(connection)
                return result

    def _take(self) -> tuple[http.client.HTTPConnection, bool]:
        if self._pid != os.getpid():  # a fork must not share the sockets of its parent
            self._idle, self._pid = [], os.getpid()
        try:
            return self._idle.pop(), True
        except IndexError:
            url = urlsplit(self.url)
            connection = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
            return connection(url.netloc, timeout=self.timeout), False
