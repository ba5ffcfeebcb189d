"""Requests to the gateway, its answers and its callbacks, without I/O."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from hmac import compare_digest
from json.encoder import encode_basestring_ascii as quote
from typing import Any, Literal, Protocol
from urllib.parse import parse_qsl, urlencode

from ._http import Address, Answer

__all__ = ["BaseGateway", "Callback", "Connection", "GatewayError", "Headers", "Unavailable"]


# The stream has ended, or ends now because its client is too slow. Any other 404 means a wrong port or path.
ENDED = {(404, b'{"error":"Token not found"}'), (500, b'{"error":"Write failed: connection closed"}')}


class GatewayError(Exception):
    """The gateway is unreachable, or refuses a request; the message has the reason."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status  # None: there was no answer


class Unavailable(GatewayError):
    """No answer, or 503: try again later. A request without an answer may have taken effect."""


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
        """Arguments that are not given come from GATEWAY_URL, INTERNAL_TOKEN and CALLBACK_TOKEN in the environment.

        `timeout`: the maximum duration of a call, in seconds.
        """
        self.url = (url or os.environ.get("GATEWAY_URL") or "http://127.0.0.1:3000").rstrip("/")
        self._address = Address(self.url)
        self.timeout = timeout
        self._callback_token = callback_token or os.environ.get("CALLBACK_TOKEN")
        fields = f"Host: {self._address.netloc}\r\n"
        if internal_token := internal_token or os.environ.get("INTERNAL_TOKEN"):
            fields += f"Authorization: Bearer {internal_token}\r\n"
        if fields.count("\n") > 2 or not fields.isascii():
            raise ValueError("INTERNAL_TOKEN must be one line of ASCII")
        self._get_fields = f" HTTP/1.1\r\n{fields}\r\n"
        json_fields = f"{fields}Content-Type: application/json\r\nContent-Length: "
        self._send_head = f"POST /internal/send HTTP/1.1\r\n{json_fields}"

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

    def _send(
        self, token: str, data: str | None, name: str | None, id: str | None, retry: int | None, close: bool
    ) -> tuple[bytes, bool]:
        """The request, and whether it may be repeated if the first attempt got no answer."""
        # Faster than json.dumps of nested dictionaries.
        body = f'{{"token":{quote(token)}'
        is_repeatable = False
        if name is not None or id is not None or retry is not None:
            event = {"name": name, "data": data, "id": id, "retry": retry}
            body += f',"event":{json.dumps({field: value for field, value in event.items() if value is not None})}'
        elif data is not None:
            body += f',"event":{{"data":{quote(data)}}}'
        else:
            is_repeatable = True
        if close:
            body += ',"close":true'
        # ASCII, so the length in characters is that in bytes.
        return f"{self._send_head}{len(body) + 1}\r\n\r\n{body}}}".encode("ascii"), is_repeatable

    def _get(self, path: str) -> bytes:
        return f"GET {path}{self._get_fields}".encode("ascii")

    def _get_connections(self, limit: int, after: str | None) -> bytes:
        return self._get("/internal/connections?" + urlencode({"limit": limit} | ({"after": after} if after else {})))

    def _is_open(self, answer: Answer) -> bool:
        if answer.status == 200:
            return True
        if answer in ENDED:
            return False
        raise self._refusal(answer)

    def _page(self, answer: Answer) -> tuple[list[Connection], str | None]:
        page = self._fields(answer)
        fields = ("token", "url", "opened_at", "pending_bytes")
        return [Connection(*map(entry.__getitem__, fields)) for entry in page["connections"]], page["next"]

    def _fields(self, answer: Answer) -> dict[str, Any]:
        if answer.status != 200:
            raise self._refusal(answer)
        fields: dict[str, Any] = json.loads(answer.body)
        return fields

    def _refusal(self, answer: Answer) -> GatewayError:
        kind = Unavailable if answer.status == 503 else GatewayError
        return kind(f"the gateway answered {answer.status}: {answer.body.decode(errors='replace')}", answer.status)

    def _no_answer(self, error: Exception) -> Unavailable:
        return Unavailable(f"no answer from the gateway at {self.url}: {error!r}")
