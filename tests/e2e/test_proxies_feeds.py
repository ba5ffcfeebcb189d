"""Streaming sends through proxies: what each passes on at once, and what not.

Some of these tests wait a little for what must not come. A slow machine cannot make them fail.
"""

import socket
import ssl
import time

import pytest

A_LITTLE = 0.5  # seconds

# The route to the gateway serves sends as well.
ROUTES = {
    "nginx": {"location /events/ {": "location ~ ^/(events|internal)/ {"},
    "haproxy": {"path_beg /events/": "path_beg /events/ /internal/"},
    "caddy": {"handle /events/* {": "@gateway path /events/* /internal/*\n\thandle @gateway {"},
}
UNBUFFERED = {"proxy_buffering off;": "proxy_buffering off; proxy_request_buffering off;"}


class Worker:
    """The sender of a streaming send over HTTP/1.1 and TLS."""

    def __init__(self, proxy, query):
        context = ssl.create_default_context(cafile=proxy.certificate)
        plain = socket.create_connection(("127.0.0.1", proxy.port), timeout=60)
        self.socket = context.wrap_socket(plain, server_hostname="localhost")
        self.socket.sendall(
            f"POST /internal/send?{query} HTTP/1.1\r\nHost: localhost\r\n"
            "Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        )

    def line(self, data):
        line = f'{{"event":{{"data":"{data}"}}}}\n'
        self.socket.sendall(f"{len(line):x}\r\n{line}\r\n".encode())

    def finish(self):
        self.socket.sendall(b"0\r\n\r\n")

    def answer(self):
        """The answer, as far as it comes in one piece."""
        return self.socket.recv(65536).decode()

    def is_told(self):
        self.socket.settimeout(A_LITTLE)
        try:
            return bool(self.answer())
        except TimeoutError:
            return False


@pytest.fixture
def start_worker(ssegateway, start_proxy):
    """A stream in the group `run`, directly from the gateway, and a worker behind a proxy."""
    workers = []

    def start_worker(name, query, changes):
        ssegateway.answer = {"groups": ["run"]}
        stream = ssegateway.open("/events/run")
        workers.append(Worker(start_proxy(name, {**ROUTES[name], **changes}), query))
        return workers[-1], stream

    yield start_worker
    for worker in workers:
        worker.socket.close()


SETTINGS = {"nginx": UNBUFFERED, "haproxy": {}, "caddy": {}}


@pytest.mark.parametrize("name", SETTINGS)
def test_each_line_passes_at_once(start_worker, name):
    worker, stream = start_worker(name, "group=run", SETTINGS[name])
    for number in range(20):
        worker.line(number)
        assert stream.event().data == str(number)
    worker.finish()
    assert '{"status":"ok","accepted":20}' in worker.answer()


@pytest.mark.parametrize("name", SETTINGS)
def test_a_dead_worker_leaves_its_last_will(start_worker, name):
    worker, stream = start_worker(name, "group=run&end=true", SETTINGS[name])
    worker.line("last")
    assert stream.event().data == "last"
    worker.socket.close()
    assert stream.event().name == "interrupted"


@pytest.mark.parametrize("name", ["nginx", "haproxy"])
def test_a_worker_that_waits_is_told_at_once(ssegateway, start_worker, name):
    worker, stream = start_worker(name, "group=run", SETTINGS[name])
    worker.line("1")
    assert stream.event().data == "1"
    ssegateway.send(group="run", end=True)
    answer = worker.answer()
    assert answer.startswith("HTTP/1.1 410 ") and answer.endswith('{"error":"Group has ended","line":1}')


def test_caddy_tells_a_worker_only_at_the_end_of_its_body(ssegateway, start_worker):
    worker, stream = start_worker("caddy", "group=run", {})
    worker.line("1")
    assert stream.event().data == "1"
    ssegateway.send(group="run", end=True)
    assert not worker.is_told()
    worker.finish()
    assert worker.is_told()


def test_nginx_that_buffers_requests_holds_them_back(start_worker):
    worker, stream = start_worker("nginx", "group=run&end=true", {})
    worker.line("1")
    assert not worker.is_told()
    worker.finish()
    assert '{"status":"ok","accepted":1}' in worker.answer()
    assert stream.event().data == "1"
