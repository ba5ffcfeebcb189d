"""A pytest fixture that runs the real gateway: `def test_it(ssegateway): ...`

The binary is the one that the environment variable SSEGATEWAY names, else `ssegateway` from the PATH.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, Union
from urllib.parse import quote, urlsplit

import pytest

from . import Callback, Gateway

# The answer to a callback: a dict accepts, such as {"event": {"name": ..., "data": ...}} or {}; a status rejects.
Answer = Union[dict[str, Any], int]


class Event(NamedTuple):
    name: str
    data: str
    id: str


class Stream:
    """A client's stream: `status`, `headers`, and its events one by one."""

    def __init__(self, gateway_url: str, path: str, headers: Mapping[str, str], timeout: float) -> None:
        self._timeout = timeout
        self._connection = http.client.HTTPConnection(urlsplit(gateway_url).netloc, timeout=timeout)
        self._connection.request("GET", path, headers=dict(headers))
        self._response = self._connection.getresponse()
        self.status, self.headers = self._response.status, self._response.headers

    def line(self) -> str | None:
        """The next line, unchanged; None once the gateway has ended the stream."""
        line = self._response.readline()
        return line.decode().removesuffix("\n") if line else None

    def event(self) -> Event | None:
        """The next event; None once the gateway has ended the stream."""
        name, data, last_id = "message", [], ""
        deadline = time.monotonic() + self._timeout
        while (line := self.line()) is not None:
            field, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if field == "event":
                name = value
            elif field == "id":
                last_id = value
            elif field == "data":
                data.append(value)
            elif not line and data:
                return Event(name, "\n".join(data), last_id)
            if time.monotonic() > deadline:
                raise TimeoutError("nothing but heartbeats")
        return None

    def close(self) -> None:
        self._response.close()
        self._connection.close()


class LiveGateway:
    """The gateway in a process of its own on a free port, and a backend for it that records its callbacks.

    `answer` is what the backend answers: an Answer, a function from Callback to Answer, or the callback URL of your
    application, which then decides.
    """

    answer: Answer | Callable[[Callback], Answer] | str = {}

    def __init__(self, environment: Mapping[str, str] = {}) -> None:
        self._binary = _find_binary()
        # Bound, so that the port is reserved; not listening, so that SO_REUSEADDR lets the gateway listen on it.
        self._port = socket.socket()
        self._port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._port.bind(("127.0.0.1", 0))
        port = self._port.getsockname()[1]
        if sys.platform != "linux":  # where that option does not go so far
            self._port.close()
        self._backend = _backend(self)
        self._log = tempfile.TemporaryFile()
        self.callbacks: list[Callback] = []
        self._called = threading.Condition()
        self._streams: list[Stream] = []
        self.environment = {
            "LISTEN_ADDRESS": "127.0.0.1",
            "PORT": str(port),
            "CALLBACK_URL": f"http://127.0.0.1:{self._backend.server_port}/callback",
            "LOG_LEVEL": "debug",
            **environment,
        }
        self.url = f"http://127.0.0.1:{self.environment['PORT']}"
        internal_url = f"http://127.0.0.1:{self.environment.get('INTERNAL_PORT', self.environment['PORT'])}"
        if path := self.environment.get("INTERNAL_SOCKET"):
            internal_url = f"http+unix://{quote(path, safe='')}"
        self.client = Gateway(
            internal_url,
            internal_token=self.environment.get("INTERNAL_TOKEN"),
            callback_token=self.environment.get("CALLBACK_TOKEN"),
        )
        self.send = self.client.send
        try:
            self.start()
        except AssertionError:
            self.close()
            raise

    def start(self) -> None:
        self.process = subprocess.Popen(
            [self._binary], env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=self._log
        )
        deadline = time.monotonic() + 10
        while not self._is_ready():
            alive = self.process.poll() is None and time.monotonic() < deadline
            assert alive, f"the gateway does not get ready:\n{self.log()}"
            time.sleep(0.01)

    def _is_ready(self) -> bool:
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=5)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except ConnectionError:
            return False
        finally:
            connection.close()

    def stop(self) -> int:
        """Drains it and returns its exit status; by then its disconnect callbacks have been made."""
        self.process.terminate()
        try:
            return self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def restart(self) -> None:
        """A new process without streams, on the same port."""
        self.stop()
        self.start()

    def close(self) -> None:
        """Ends everything, and prints the gateway's log, which pytest shows if a test has failed."""
        if self._log.closed:
            return
        for stream in self._streams:
            stream.close()
        self.client.close()
        self.stop()
        self._backend.shutdown()
        self._backend.server_close()
        self._port.close()
        print(f"--- log of the gateway\n{self.log()}---")
        self._log.close()

    def log(self) -> str:
        return os.pread(self._log.fileno(), os.fstat(self._log.fileno()).st_size, 0).decode(errors="replace")

    def open(self, path: str, headers: Mapping[str, str] = {}, timeout: float = 5) -> Stream:
        """Connects a client; returns the stream, or the rejection: see its `status`."""
        self._streams.append(Stream(self.url, path, headers, timeout))
        return self._streams[-1]

    def wait_for(self, wanted: Callable[[Callback], bool], timeout: float = 5) -> Callback:
        """The first callback that meets the condition; waits until there is one."""
        with self._called:
            found = self._called.wait_for(lambda: next(filter(wanted, self.callbacks), None), timeout)
            assert found, f"no such callback within {timeout} s, but {self.callbacks}"
            return found

    def _decide(self, body: bytes, headers: Message) -> tuple[int, bytes]:
        call, answer = self.client.callback(body, headers), self.answer
        if isinstance(answer, str):
            decision = _ask(answer, body, dict(headers))
        else:
            decided = answer(call) if callable(answer) else answer
            decision = (decided, b"") if isinstance(decided, int) else (200, json.dumps(decided).encode())
        with self._called:
            self.callbacks.append(call)
            self._called.notify_all()
        return decision


def _find_binary() -> str:
    # The programs of a virtual environment can be used without activating it.
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)])
    binary = shutil.which(os.environ.get("SSEGATEWAY", "ssegateway"), path=path)
    assert binary, "no ssegateway on the PATH: install it, or set the variable SSEGATEWAY to the binary"
    return binary


def _ask(url: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
    """Passes a callback on to an application. An unreachable one means 502, as behind any proxy."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=30)
    try:
        connection.request("POST", parts._replace(scheme="", netloc="").geturl(), body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except OSError:
        return 502, b""
    finally:
        connection.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024


def _backend(gateway: LiveGateway) -> ThreadingHTTPServer:
    class Backend(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status, answer = gateway._decide(body, self.headers)
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    server = _Server(("127.0.0.1", 0), Backend)
    threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
    return server


@pytest.fixture
def ssegateway_environment() -> dict[str, str]:
    """Additional variables for the gateway; override this in a test module or in conftest.py."""
    return {}


@pytest.fixture
def ssegateway(ssegateway_environment: dict[str, str]) -> Iterator[LiveGateway]:
    """The real gateway, running, with a backend whose answers the test decides."""
    gateway = LiveGateway(ssegateway_environment)
    yield gateway
    gateway.close()
