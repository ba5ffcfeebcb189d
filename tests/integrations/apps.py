"""An example application in processes of its own, and its users."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sysconfig
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

from ssegateway.pytest_plugin import LiveGateway, Stream

EXAMPLES = Path(__file__).parents[2] / "examples"
GUNICORN = ["gunicorn", "--no-control-socket", "--bind=fd://{fd}"]
SERVERS = {
    "flask": [*GUNICORN, "--workers=2", "flask_app:app"],
    "flask with one worker": [*GUNICORN, "--workers=1", "flask_app:app"],
    "django": [*GUNICORN, "--workers=2", "django_app:application"],
    "django with one worker": [*GUNICORN, "--workers=1", "django_app:application"],
    "fastapi": ["uvicorn", "--fd={fd}", "fastapi_app:app"],
}
PATIENCE_SECONDS = 20
TOKENS = {"CALLBACK_TOKEN": "from-the-gateway", "INTERNAL_TOKEN": "from-the-application"}
# Django compares this cookie with this header; otherwise only its form matters.
CSRF_TOKEN = "csrf" * 8


def eventually(what: str, condition: Callable[[], Any]) -> None:
    """For state that only the application can report."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.01)


class Answer(NamedTuple):
    status: int
    cookies: list[str]
    body: bytes


class App:
    def __init__(self, command: list[str], listener: socket.socket, gateway: LiveGateway, directory: Path) -> None:
        self.gateway = gateway
        self._listener = listener
        self._command = [argument.format(fd=listener.fileno()) for argument in command]
        self._command[0] = os.path.join(sysconfig.get_path("scripts"), self._command[0])
        self._environment = {
            **os.environ,
            **TOKENS,
            "GATEWAY_URL": gateway.client.url,
            "SECRET_KEY": "secret of the tests, long enough",
            "DATABASE": str(directory / "streams.db"),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        self._log = directory / "app.log"
        self.start()

    def start(self) -> None:
        # It inherits a listening socket: no port to guess, and nothing to wait for.
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                env=self._environment,
                cwd=EXAMPLES,
                pass_fds=[self._listener.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(PATIENCE_SECONDS)
        finally:
            self._process.kill()

    def log(self) -> str:
        return self._log.read_text()

    def request(self, method: str, path: str, body: str = "", headers: Mapping[str, str] = {}) -> Answer:
        host, port = self._listener.getsockname()
        with closing(http.client.HTTPConnection(host, port, timeout=PATIENCE_SECONDS)) as connection:
            connection.request(method, path, body, dict(headers))
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers.get_all("Set-Cookie", []), answer.read())

    def online(self) -> list[str]:
        return sorted(json.loads(self.request("GET", "/users").body))

    def user(self, name: str) -> User:
        return User(self, name)


class User:
    """A signed-in browser: the application and the gateway get the same cookies."""

    def __init__(self, app: App, name: str) -> None:
        self.app = app
        self.headers = {"Cookie": f"csrftoken={CSRF_TOKEN}", "X-CSRFToken": CSRF_TOKEN}
        for cookie in self._post("/users", user=name).cookies:
            self.headers["Cookie"] += f"; {cookie.partition(';')[0]}"

    def say(self, to: str, text: str) -> None:
        self._post("/messages", to=to, text=text)

    def open(self) -> Stream:
        stream = self.app.gateway.open("/events", self.headers, PATIENCE_SECONDS)
        assert stream.status == 200
        welcome = stream.event()
        assert welcome and welcome.name == "welcome"
        return stream

    def _post(self, path: str, **form: str) -> Answer:
        headers = {"Content-Type": "application/x-www-form-urlencoded", **self.headers}
        answer = self.app.request("POST", path, urlencode(form), headers)
        assert answer.status == 200
        return answer
