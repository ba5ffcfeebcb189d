"""For schemathesis: the bodies of feeds, and the token of a stream that is open."""

import os
from typing import Any

import schemathesis


@schemathesis.serializer("application/x-ndjson", "text/event-stream")
def text(context: schemathesis.SerializationContext, value: str) -> bytes:
    return value.encode(errors="replace")


@schemathesis.hook
def filter_case(context: schemathesis.HookContext, case: schemathesis.Case[Any]) -> bool:
    """A feed is text; everything else in its place would only be other text."""
    return case.media_type in (None, "application/json") or isinstance(case.body, str)


@schemathesis.hook
def before_call(context: schemathesis.HookContext, case: schemathesis.Case[Any], arguments: dict[str, object]) -> None:
    """Requests with a token of some length are for the open stream, unless they close it."""
    body = case.body
    if isinstance(body, dict) and not body.get("close"):
        token = body.get("token")
        if isinstance(token, str) and len(token) > 1:
            body["token"] = os.environ["TOKEN"]
