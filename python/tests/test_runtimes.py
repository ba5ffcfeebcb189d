"""The client on other event loops and over TLS."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import uvloop
from clients import Connect, both
from servers import Peer, Serve, answer_all
from ssegateway import Gateway, Gone, Unavailable
from ssegateway.aio import AsyncGateway
from ssegateway.pytest_plugin import LiveGateway

PATIENCE_SECONDS = 60

ON_GEVENT = """
from gevent import monkey
monkey.patch_all()
import gevent, socket, sys
from ssegateway import Gateway, Unavailable

client = Gateway(sys.argv[1])
sends = [gevent.spawn(client.send, group="news", data="x") for _ in range(20)]
gevent.joinall(sends, raise_error=True)
assert all(send.value.id for send in sends)

silent = socket.create_server(("127.0.0.1", 0))
client = Gateway(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout=0.2)
waiting, ticking = gevent.spawn(client.send, "token", "x"), gevent.spawn(gevent.sleep, 0)
gevent.joinall([ticking], raise_error=True)
assert not waiting.dead, "the other greenlets had to wait"
try:
    waiting.get()
except Unavailable as error:
    print(error)
"""


STREAM_ON_GEVENT = """
from gevent import monkey
monkey.patch_all()
import gevent, sys
from ssegateway import Gateway, Gone

client = Gateway(sys.argv[1])

def work():
    try:
        with client.stream("run", end=True) as out:
            out.send("token")
            started.set()
            stopped = gevent.event.Event()
            out.on_stop(stopped.set)
            stopped.wait()
            out.send("more")
    except Gone:
        return "told"

import gevent.event
started = gevent.event.Event()
worker = gevent.spawn(work)
started.wait()
client.send(group="run", end=True)
print(worker.get())
"""


def test_a_stream_in_a_greenlet_is_told(ssegateway: LiveGateway) -> None:
    command = [sys.executable, "-c", STREAM_ON_GEVENT, ssegateway.url]
    result = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    assert result.stdout == "told\n", result.stderr


def test_a_greenlet_that_waits_for_an_answer_blocks_no_other(ssegateway: LiveGateway) -> None:
    command = [sys.executable, "-c", ON_GEVENT, ssegateway.url]
    result = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    assert "timed out" in result.stdout, result.stderr


def test_tasks_of_uvloop_survive_a_restart_of_the_gateway(ssegateway: LiveGateway) -> None:
    client = AsyncGateway(ssegateway.url)

    async def send_all() -> None:
        for _ in range(2):
            sent = await asyncio.gather(*[client.send(group="news", data="x") for _ in range(20)])
            assert all(result.id for result in sent)
            ssegateway.restart()
        await client.aclose()

    uvloop.run(send_all())


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    file = tmp_path / "certificate.pem"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "-", *names]
    file.write_bytes(subprocess.run(command, check=True, capture_output=True).stdout)
    return file


@both
def test_a_gateway_behind_tls_must_have_a_known_certificate(
    serve: Serve, connect: Connect, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    def answer_over_tls(peer: Peer) -> None:
        with context.wrap_socket(peer.sock, server_side=True) as sock:
            answer_all(Peer(sock))

    server = serve(answer_over_tls, answer_over_tls)
    url = server.url.replace("http:", "https:")
    with pytest.raises(Unavailable, match="CERTIFICATE_VERIFY_FAILED"):
        connect(url).send("token", "x")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    client = connect(url)
    assert client.send("token", "x")
    assert client.send("token", "x" * 1_000_000)
    assert server.accepted == 2


def test_a_stream_over_tls_is_told(serve: Serve, certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    body = b'{"error":"Group has ended","line":1}'

    def end_the_group(peer: Peer) -> None:
        with context.wrap_socket(peer.sock, server_side=True) as sock:
            received = b""
            while b"first" not in received:
                received += sock.recv(65536)
            sock.sendall(b"HTTP/1.1 410 Gone\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            sock.recv(1)

    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    client = Gateway(serve(end_the_group).url.replace("http:", "https:"))
    stopped = threading.Event()
    with pytest.raises(Gone), client.stream("run") as out:
        out.on_stop(stopped.set)
        out.send("first")
        assert stopped.wait(PATIENCE_SECONDS)
        out.send("second")
