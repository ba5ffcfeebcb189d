"""Gateway and application without a port between them: real gunicorn and uvicorn on a Unix socket, and sends over another."""

from __future__ import annotations

import os
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from clients import Connect, both
from servers import PATIENCE_SECONDS
from ssegateway import Unavailable
from ssegateway.pytest_plugin import LiveGateway

SERVERS = {
    "gunicorn": ["gunicorn", "--no-control-socket", "--bind=unix:{path}", "--threads=4", "socket_app:wsgi"],
    "uvicorn": ["uvicorn", "--uds={path}", "socket_app:asgi"],
}


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as path:  # short: a socket's path has at most 107 bytes
        yield Path(path)


@pytest.fixture
def ssegateway_environment(directory: Path) -> dict[str, str]:
    return {
        "CALLBACK_URL": f"http+unix://{quote(str(directory / 'app.sock'), safe='')}/callback",
        "INTERNAL_SOCKET": str(directory / "gateway.sock"),
    }


@pytest.mark.parametrize("server", SERVERS)
def test_nothing_but_files_between_gateway_and_application(
    ssegateway: LiveGateway, directory: Path, server: str
) -> None:
    command = [argument.format(path=directory / "app.sock") for argument in SERVERS[server]]
    command[0] = os.path.join(sysconfig.get_path("scripts"), command[0])
    environment = {
        **os.environ,
        "GATEWAY_URL": ssegateway.client.url,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), str(Path(__file__).parent)]),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (directory / "app.sock").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        streams = []
        for _ in range(3):
            streams.append(ssegateway.open("/events", timeout=PATIENCE_SECONDS))
            assert streams[-1].status == 200
            event = streams[-1].event()
            assert event and event.data == "hello from localhost"
        assert ssegateway.send(group="all", data="hello, all").reached
        for stream in streams:
            event = stream.event()
            assert event and event.data == "hello, all"
        assert ssegateway.stop() == 0
        assert not (directory / "gateway.sock").exists()
    finally:
        process.terminate()
        process.wait(PATIENCE_SECONDS)


@both
def test_a_connection_to_a_socket_is_kept_and_replaced(ssegateway: LiveGateway, connect: Connect) -> None:
    client = connect(ssegateway.client.url)
    assert not client.send("no such token")
    assert client.group("all").streams == 0
    ssegateway.restart()  # the idle connection has ended
    assert not client.send("no such token")
    ssegateway.stop()
    with pytest.raises(Unavailable, match="http\\+unix://"):
        client.send("no such token")
