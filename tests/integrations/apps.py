"""An example application in processes of its own, and its users."""

from __future__ import annotations

import atexit
import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Mapping
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlencode

from ssegateway.pytest_plugin import LiveGateway, Stream

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES, PACKAGE = ROOT / "examples", ROOT / "python"
# With threads: a connection that a browser opens in advance would occupy a worker without.
GUNICORN = ["gunicorn", "--no-control-socket", "--bind=fd://{fd}", "--workers=2", "--threads=4", "--graceful-timeout=1"]
SERVERS = {
    "flask": (EXAMPLES, [*GUNICORN, "flask_app:app"]),
    "django": (EXAMPLES / "django_site", [*GUNICORN, "chat.wsgi"]),
    "fastapi": (EXAMPLES, ["uvicorn", "--fd={fd}", "--workers=2", "fastapi_app:app"]),
}
USERS = ("ann", "bob")
PASSWORD = "a long password"
CREATE_USERS = f"""
from django.contrib.auth.models import User
for name in {USERS}: User.objects.create_user(name, password="{PASSWORD}")
"""
PATIENCE_SECONDS = 60
TOKENS = {"CALLBACK_TOKEN": "from-the-gateway", "INTERNAL_TOKEN": "from-the-application"}
# Django compares this cookie with this header; otherwise only its form matters.
CSRF_TOKEN = "csrf" * 8


class Answer(NamedTuple):
    status: int
    cookies: list[str]
    body: str


class Page(NamedTuple):
    messages: list[str]
    events: str  # path and query of its stream


@cache
def _django_database() -> str:
    """The database of the Django application, with its users. Slow, so it is made once and copied."""
    path = os.path.join(tempfile.mkdtemp(), "messages.db")
    atexit.register(shutil.rmtree, os.path.dirname(path))
    environment = {**os.environ, "SECRET_KEY": "secret", "DATABASE": path, "PYTHONPATH": str(PACKAGE)}
    for arguments in (["migrate"], ["shell", "--command", CREATE_USERS]):
        command = [sys.executable, "manage.py", *arguments]
        subprocess.run(command, check=True, cwd=SERVERS["django"][0], env=environment, stdout=subprocess.DEVNULL)
    return path


class App:
    def __init__(self, kind: str, listener: socket.socket, gateway: LiveGateway, directory: Path) -> None:
        self.kind, self.gateway = kind, gateway
        self._listener = listener
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self._directory, command = SERVERS[kind]
        self._command = [argument.format(fd=listener.fileno()) for argument in command]
        self._command[0] = os.path.join(sysconfig.get_path("scripts"), self._command[0])
        self._environment = {
            **os.environ,
            **TOKENS,
            "GATEWAY_URL": gateway.client.url,
            "EVENTS_URL": f"{gateway.url}/events",
            "SECRET_KEY": "secret of the tests, long enough",
            "DATABASE": str(directory / "messages.db"),
            "PYTHONPATH": str(PACKAGE),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        self._log = directory / "app.log"
        if kind == "django":
            shutil.copy(_django_database(), self._environment["DATABASE"])
        self.start()

    def start(self) -> None:
        # It inherits a listening socket: no port to guess, and nothing to wait for.
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                env=self._environment,
                cwd=self._directory,
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
            return Answer(answer.status, answer.headers.get_all("Set-Cookie", []), answer.read().decode())

    def user(self, name: str) -> User:
        return User(self, name)


class User:
    """A signed-in browser: the application and the gateway get the same cookies."""

    def __init__(self, app: App, name: str) -> None:
        self.app = app
        self.headers = {"Cookie": f"csrftoken={CSRF_TOKEN}", "X-CSRFToken": CSRF_TOKEN}
        credentials = {"username": name, "password": PASSWORD} if app.kind == "django" else {"user": name}
        answer = self._post("/login", 303 if app.kind == "fastapi" else 302, **credentials)
        cookies = dict(cookie.partition(";")[0].split("=", 1) for cookie in answer.cookies)
        self.headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in cookies.items())
        self.headers["X-CSRFToken"] = cookies.get("csrftoken", "")

    def say(self, to: str, text: str) -> None:
        self._post("/messages", 200, to=to, text=text)

    def page(self) -> Page:
        answer = self.app.request("GET", "/", headers=self.headers)
        assert answer.status == 200
        url = re.search(r'new EventSource\("(http[^"]+)"', answer.body)
        assert url
        messages = re.findall(r'<li id="message-(\d+)">(.*)</li>', answer.body)
        return Page([text for _, text in messages], url[1].removeprefix(self.app.gateway.url))

    def open(self, page: Page, last_event_id: str = "") -> Stream:
        """The stream of a page."""
        headers = {**self.headers, **({"Last-Event-ID": last_event_id} if last_event_id else {})}
        stream = self.app.gateway.open(page.events, headers, PATIENCE_SECONDS)
        assert stream.status == 200
        return stream

    def _post(self, path: str, status: int, **form: str) -> Answer:
        headers = {"Content-Type": "application/x-www-form-urlencoded", **self.headers}
        answer = self.app.request("POST", path, urlencode(form), headers)
        assert answer.status == status
        return answer


def next_message(stream: Stream) -> str:
    event = stream.event()
    assert event and event.name == "message", event
    message = json.loads(event.data)
    return f"{message['sender']}: {message['text']}"
