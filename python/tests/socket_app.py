"""An application that neither has nor needs a port: it sends from within its callbacks, over the gateway's socket."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from ssegateway import Gateway, accept
from ssegateway.aio import AsyncGateway

gateway = Gateway()
async_gateway = AsyncGateway()


def wsgi(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
    call = gateway.callback(body, {})
    if call.action == "connect":
        gateway.send(call.token, f"hello from {environ['HTTP_HOST']}")
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(accept(groups=["all"])).encode()]


async def asgi(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    if scope["type"] != "http":
        return
    body = b""
    while (message := await receive())["type"] == "http.request":
        body += message["body"]
        if not message.get("more_body"):
            break
    call = async_gateway.callback(body, {})
    if call.action == "connect":
        await async_gateway.send(call.token, f"hello from {dict(scope['headers'])[b'host'].decode()}")
    answer = json.dumps(accept(groups=["all"])).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})
