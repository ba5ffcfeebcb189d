"""A model's vendor that sends some chunks and then says nothing, and the clients that people read it with."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import openai
import requests

PATIENCE_SECONDS = 60


def chunk(text: str) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    fields = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "m", "choices": [choice]}
    return f"data: {json.dumps(fields)}\n\n".encode()


class Vendor:
    """`left` is set when its client has closed or shut down the connection."""

    def __init__(self, texts: list[str]) -> None:
        self.clients = ExitStack()
        self.left = threading.Event()
        vendor = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                for data in map(chunk, texts):
                    self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
                self.connection.settimeout(PATIENCE_SECONDS)
                with suppress(ConnectionError):
                    self.connection.recv(1)
                vendor.left.set()
                self.close_connection = True

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=[0.01], daemon=True).start()
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        self.clients.close()
        self._server.shutdown()
        self._server.server_close()


# Each returns the chunks, and the response where they do not lead to it.
Read = Callable[[Vendor], tuple[Iterator[object], object]]


def by_openai(vendor: Vendor) -> tuple[Iterator[object], object]:
    client = vendor.clients.enter_context(openai.OpenAI(base_url=vendor.url, api_key="none", max_retries=0))
    answer = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "?"}], stream=True)
    return answer, None


def by_requests(vendor: Vendor) -> tuple[Iterator[object], object]:
    session = vendor.clients.enter_context(requests.Session())
    answer = session.post(vendor.url, data=b"{}", stream=True, timeout=PATIENCE_SECONDS)
    vendor.clients.enter_context(closing(answer))
    return answer.iter_content(None), answer


def by_httpx(vendor: Vendor) -> tuple[Iterator[object], object]:
    client = vendor.clients.enter_context(httpx.Client(timeout=PATIENCE_SECONDS))
    answer = client.send(client.build_request("POST", vendor.url, content=b"{}"), stream=True)
    return answer.iter_bytes(), answer


def by_http_client(vendor: Vendor) -> tuple[Iterator[object], object]:
    connection = http.client.HTTPConnection("127.0.0.1", vendor.port, timeout=PATIENCE_SECONDS)
    vendor.clients.enter_context(closing(connection))
    connection.request("POST", "/", b"{}")
    answer = connection.getresponse()
    return iter(lambda: answer.read1(1000), b""), answer
