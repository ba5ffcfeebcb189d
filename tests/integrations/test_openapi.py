"""docs/openapi.yaml is what the gateway does: requests made from it get the answers that it describes, and no others."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sysconfig
import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import jsonschema_rs
import pytest
import schemathesis
from ssegateway import Callback
from ssegateway.pytest_plugin import Answer, LiveGateway

DOCUMENT = Path(__file__).parents[2] / "docs" / "openapi.yaml"
OPENAPI = Path(__file__).parent / "openapi"


@pytest.fixture
def ssegateway_environment() -> dict[str, str]:
    return {"INTERNAL_TOKEN": "secret", "START_CALLBACK": "on", "POST_STREAMS": "on"}


@pytest.fixture
def recorded(ssegateway: LiveGateway) -> Iterator[list[tuple[str, str | None]]]:
    """Bodies of callbacks as they come, with the detail of the disconnects."""
    bodies: list[tuple[str, str | None]] = []

    class Backend(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            bodies.append((body, self.headers["SSEGateway-Detail"]))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Backend) as server:
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        ssegateway.answer = f"http://127.0.0.1:{server.server_port}/"
        yield bodies
        server.shutdown()


def test_the_gateway_answers_as_documented(ssegateway: LiveGateway, tmp_path: Path) -> None:
    def answer(call: Callback) -> Answer:
        if call.action == "start":
            return {}  # the gateway may not have asked before
        return {"groups": ["news"]} if call.path == "/news" else 404

    ssegateway.answer = answer
    ssegateway.open("/news")
    token = ssegateway.wait_for(lambda call: call.path == "/news").token
    program = f"{sysconfig.get_path('scripts')}/schemathesis"
    command = [program, "--config-file", str(OPENAPI / "schemathesis.toml"), "run", str(DOCUMENT)]
    result = subprocess.run(
        [*command, "--url", ssegateway.url, "--header", "Authorization: Bearer secret", "--no-color"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(OPENAPI), "TOKEN": token},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_gateway_asks_as_documented(ssegateway: LiveGateway, recorded: list[tuple[str, str | None]]) -> None:
    ssegateway.stop()
    recorded.clear()
    ssegateway.start()
    ssegateway.open("/news?user=ann", {"Cookie": "session=1"}).close()
    address = ssegateway.url.removeprefix("http://")
    with closing(http.client.HTTPConnection(address, timeout=20)) as connection:
        connection.request("POST", "/ask", "a question")
        asked = connection.getresponse()  # its stream stays open for as long as it is kept
        assert asked.status == 200
        ssegateway.wait_for(lambda call: call.reason == "client_closed", 20)
        ssegateway.stop()
    document = schemathesis.openapi.from_path(DOCUMENT).raw_schema
    calls = []
    for text, detail in recorded:
        body = json.loads(text)
        request = document["webhooks"][body["action"]]["post"]["requestBody"]
        schema = request["content"]["application/json"]["schema"]
        jsonschema_rs.validate({**schema, "components": document["components"]}, body)
        calls.append((body["action"], body.get("reason"), detail))
    accepted = [("connect", None, None)] * 2
    ended = [("disconnect", "client_closed", None), ("disconnect", "server_closed", "shutdown")]
    assert sorted(calls, key=str) == [*accepted, *ended, ("start", None, None)]
