"""Requests to the gateway, its answers and its callbacks, without I/O."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hmac import compare_digest
from json.encoder import encode_basestring_ascii as quote
from typing import Any, Literal, NamedTuple, Protocol, TypedDict
from urllib.parse import parse_qsl, quote as percent_encode, urlencode

from ._http import Address, Answer, new_tuple

LOG = logging.getLogger("ssegateway")

# An argument that was not given, where None means null.
ABSENT: Any = object()

# The stream has ended, or ends now because its client is too slow. Any other 404 means a wrong port or path.
ENDED = {(404, b'{"error":"Token not found"}'), (500, b'{"error":"Write failed: connection closed"}')}


# The usual answer to a send to groups: a fraction of the time of json.loads.
SENT = re.compile(rb'\{"status":"ok"(?:,"id":"([0-9a-z.]+)")?,"reached":(true|false)\}')


class GatewayError(Exception):
    """The gateway is unreachable, or refuses a request; the message has the reason."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status  # None: there was no answer


class Unavailable(GatewayError):
    """No answer, or 503: try again later. A request without an answer may have taken effect."""


class Gone(GatewayError):
    """The group has ended (410), or the stream of a streaming send (404); stop sending to it."""


class Headers(Protocol):
    """Headers as in every framework: a look-up by name that ignores case."""

    def get(self, name: str, /) -> str | None: ...


class Event(TypedDict, total=False):
    """The fields of an event. `data` is required, and may have several lines."""

    data: str
    name: str
    id: str | int
    retry: int  # milliseconds


class Sent(NamedTuple):
    """The result of a send to groups; true if a stream was in one of them."""

    id: str | None  # the cursor of the (last) event; None if it is not kept for replay
    reached: bool

    def __bool__(self) -> bool:
        return self.reached


class Group(NamedTuple):
    """The state of a group."""

    name: str
    streams: int
    cursor: str | None  # of the newest event kept
    ended: bool


@dataclass(frozen=True)
class Callback:
    """A callback of the gateway: a question (`connect`), or a notification (`disconnect`; `start`, which is about no stream
    and has only its `instance`). Answer an unknown action as a notification.
    """

    action: Literal["connect", "disconnect", "start"]
    token: str
    url: str  # path and query, as the client sent them
    headers: dict[str, str]  # the client's, with names in lower case
    reason: str | None = None  # of a disconnect: client_closed, server_closed or error
    detail: str | None = None  # more about it, such as slow_consumer
    instance: str | None = None  # of the gateway: once it differs, all streams of the one before are gone
    method: str = "GET"  # or POST, with POST_STREAMS=on
    body: str | None = None  # of a POST, in its connect

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
    groups: tuple[str, ...] = ()


def accept(
    event: Event | str | None = None,
    *,
    events: Iterable[Event | str] | None = None,
    groups: Iterable[str] = (),
    since: str | None = None,
    attach: bool = False,
    headers: Mapping[str, str | list[str]] | None = None,
    expires_in: int | None = None,
) -> dict[str, Any]:
    """The answer to a connect callback that opens the stream. (Any status other than 2xx rejects it.)

    The stream begins with `event`, or `events`. Then it receives the events of its `groups`: a client that reconnects those that it has
    missed, a new one those after `since`, which is a cursor or "start" (all that are kept). With `attach` the stream opens
    only if one of its groups has events or streams; otherwise the client gets 204, and does not reconnect. `headers` are
    added to the response. After `expires_in` seconds the stream ends, and its client comes back to be asked about again.
    """
    answer: dict[str, Any] = {}
    if event is not None:
        answer["event"] = _event(event)
    if events is not None:
        answer["events"] = [_event(event) for event in events]
    if names := _names(groups):
        answer["groups"] = names
    if since is not None:
        answer["since"] = since
    if attach:
        answer["attach"] = True
    if headers is not None:
        answer["headers"] = dict(headers)
    if expires_in is not None:
        answer["expires_in"] = expires_in
    return answer


def decline() -> dict[str, Any]:
    """The answer to a connect callback for 204: there is no stream, and the client does not reconnect."""
    return {"status": 204}


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

        `url`: http://127.0.0.1:3000 or, where the gateway has an INTERNAL_SOCKET, http+unix://%2Frun%2Fssegateway.sock.
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
        json_fields = f"{fields}Content-Type: application/json\r\nContent-Length: "
        self._get_fields = f" HTTP/1.1\r\n{fields}\r\n"
        self.stream_fields = fields  # of the head of a streaming send
        self._send_head = f"POST /internal/send HTTP/1.1\r\n{json_fields}"
        self._groups_head = f"POST /internal/groups HTTP/1.1\r\n{json_fields}"
        self._open()

    def _open(self) -> None:
        """Prepares the connections; nothing is connected yet."""
        raise NotImplementedError

    def callback(self, body: bytes | str, headers: Headers) -> Callback:
        """Reads a callback. PermissionError if it does not carry CALLBACK_TOKEN, ValueError if it is not a callback."""
        given = headers.get("Authorization") or ""
        if self._callback_token and not compare_digest(given.encode(), f"Bearer {self._callback_token}".encode()):
            raise PermissionError("a callback without the right CALLBACK_TOKEN")
        try:
            call = json.loads(body)
            if call["action"] not in ("connect", "disconnect"):  # about no stream
                call = {"token": "", "request": {"url": "", "headers": {}}, **call}
            action, token, request = call["action"], call["token"], call["request"]
            url, client_headers, reason = request["url"], request["headers"], call.get("reason")
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError("not a callback of the gateway") from error
        detail, instance = headers.get("SSEGateway-Detail"), headers.get("SSEGateway-Instance")
        method, posted = request.get("method", "GET"), request.get("body")
        return Callback(action, token, url, client_headers, reason, detail, instance, method, posted)

    def _send(
        self,
        token: str | None,
        data: str | None,
        value: Any,
        name: str | None,
        id: str | int | None,
        retry: int | None,
        close: bool,
        events: Iterable[Event | str] | None,
        group: str | None,
        groups: Iterable[str] | None,
        end: bool,
        transient: bool,
    ) -> tuple[bytes, bool]:
        """The request, and whether it may be repeated if the first attempt got no answer."""
        if (token is not None) + (group is not None) + (groups is not None) != 1:
            raise TypeError("a send needs exactly one of token, group and groups")
        if value is not ABSENT:
            if data is not None:
                raise TypeError("data and json exclude each other")
            data = json.dumps(value)
        # Faster than json.dumps of nested dictionaries.
        if token is not None:
            body = f'{{"token":{quote(token)}'
        elif group is not None:
            body = f'{{"group":{quote(group)}'
        else:
            body = f'{{"groups":{json.dumps(_names(groups or ()))}'
        is_repeatable = not end
        if name is not None or id is not None or retry is not None:
            event = {"name": name, "data": data, "id": id, "retry": retry}
            body += f',"event":{json.dumps({field: value for field, value in event.items() if value is not None})}'
            is_repeatable = False
        elif data is not None:
            body += f',"event":{{"data":{quote(data)}}}'
            is_repeatable = False
        if events is not None:
            body += f',"events":{json.dumps([_event(event) for event in events])}'
            is_repeatable = False
        if close:
            body += ',"close":true'
        if end:
            body += ',"end":true'
        if transient:
            body += ',"transient":true'
        # ASCII, so the length in characters is that in bytes.
        return f"{self._send_head}{len(body) + 1}\r\n\r\n{body}}}".encode("ascii"), is_repeatable

    def _membership(self, token: str, **changes: Iterable[str]) -> bytes:
        body = json.dumps({"token": token, **{change: _names(groups) for change, groups in changes.items()}})
        return f"{self._groups_head}{len(body)}\r\n\r\n{body}".encode("ascii")

    def _get(self, path: str) -> bytes:
        return f"GET {path}{self._get_fields}".encode("ascii")

    def _get_connections(self, limit: int, after: str | None, group: str | None) -> bytes:
        query: dict[str, str | int] = {"limit": limit}
        if after:
            query["after"] = after
        if group is not None:
            query["group"] = group
        return self._get("/internal/connections?" + urlencode(query, quote_via=percent_encode))

    def _get_group(self, name: str) -> bytes:
        return self._get(f"/internal/groups?group={percent_encode(name, safe='')}")

    def _sent(self, answer: Answer, is_token: bool) -> bool | Sent:
        if is_token:
            return self._is_open(answer)
        if answer.status == 200 and (usual := SENT.fullmatch(answer.body)):
            id, reached = usual.groups()
            return new_tuple(Sent, (id and id.decode(), reached == b"true"))
        fields = self._fields(answer)
        return Sent(fields.get("id"), fields["reached"])

    def _is_open(self, answer: Answer) -> bool:
        if answer.status == 200:
            return True
        if answer in ENDED:
            return False
        raise self._refusal(answer)

    def _page(self, answer: Answer) -> tuple[list[Connection], str | None]:
        page = self._fields(answer)
        return [
            Connection(
                entry["token"], entry["url"], entry["opened_at"], entry["pending_bytes"], tuple(entry.get("groups", ()))
            )
            for entry in page["connections"]
        ], page["next"]

    def _group(self, answer: Answer) -> Group:
        fields = self._fields(answer)
        return Group(fields["group"], fields["streams"], fields["cursor"], fields["ended"])

    def _cursor(self, answer: Answer) -> str | None:
        cursor: str | None = self._fields(answer)["cursor"]
        return cursor

    def _cursor_without(self, default: str, error: Unavailable) -> str:
        """What stands in for the cursor where there is no answer; or the error."""
        if default is ABSENT:
            raise error
        LOG.warning("%s", error)
        return default

    def _fields(self, answer: Answer) -> dict[str, Any]:
        if answer.status != 200:
            raise self._refusal(answer)
        fields: dict[str, Any] = json.loads(answer.body)
        return fields

    def _refusal(self, answer: Answer) -> GatewayError:
        kind = {410: Gone, 503: Unavailable}.get(answer.status, GatewayError)
        return kind(f"the gateway answered {answer.status}: {answer.body.decode(errors='replace')}", answer.status)

    def _no_answer(self, error: Exception) -> Unavailable:
        return Unavailable(f"no answer from the gateway at {self.url}: {error!r}")


def _event(event: Event | str) -> Event:
    return {"data": event} if isinstance(event, str) else event


def _names(groups: Iterable[str]) -> list[str]:
    if isinstance(groups, str):
        raise TypeError("groups must be several names, not a string")
    return list(groups)
