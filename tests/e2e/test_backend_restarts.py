"""examples/backend.py is down at the moment when a page in Chromium reconnects."""

import pathlib
import sys

import pytest
from programs import reserve_port

BACKEND = pathlib.Path(__file__).parents[2] / "examples/backend.py"


@pytest.fixture
def port():
    with reserve_port() as reserved:
        yield reserved.getsockname()[1]


@pytest.fixture
def ssegateway_environment(port, connect_failure):
    return {
        "CALLBACK_URL": f"http://127.0.0.1:{port}/callback",
        "CONNECT_FAILURE": connect_failure,
        "RECONNECT_DELAY_MILLISECONDS": "100",
        "CORS_ORIGINS": "*",
    }


@pytest.fixture
def start_backend(start, port, ssegateway):
    def start_backend():
        backend = start(sys.executable, BACKEND, env={"PORT": str(port), "GATEWAY_URL": ssegateway.url})
        backend.read_until("\n")
        return backend

    return start_backend


def count(what):
    return f"seen.filter(([, name]) => name === '{what}').length"


def come_back_to_no_backend(ssegateway, page, start_backend):
    backend = start_backend()
    source = page.connect(f"{ssegateway.url}/events?user=ann", "welcome")
    page.wait_until(f"{count('welcome')} === 1")
    backend.end()
    [stream] = ssegateway.client.connections()
    assert ssegateway.send(stream.token, close=True)
    return source


@pytest.mark.parametrize("connect_failure", ["retry"])
def test_with_connect_failure_retry_the_page_survives_it(ssegateway, page, start_backend):
    come_back_to_no_backend(ssegateway, page, start_backend)
    page.wait_until(f"{count('open')} >= 3")  # each time with a stream that only tells it to reconnect
    assert page.run(f"return {count('welcome')}") == 1
    start_backend()
    page.wait_until(f"{count('welcome')} === 2")


@pytest.mark.parametrize("connect_failure", ["status"])
def test_without_it_the_page_gives_up(ssegateway, page, start_backend):
    source = come_back_to_no_backend(ssegateway, page, start_backend)
    page.wait_until(f"{count('error')} === 2")
    assert [entry for entry in source.seen() if entry[0] == "error"] == [["error", "CONNECTING"], ["error", "CLOSED"]]
