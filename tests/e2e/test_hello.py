"""The README's first example: two windows show what one `curl` sends to a group."""

import importlib.util
import pathlib
import threading
from http.server import ThreadingHTTPServer

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def backend(ssegateway):
    spec = importlib.util.spec_from_file_location("hello", ROOT / "examples/hello.py")
    hello = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hello)
    assert "http://127.0.0.1:3000/" in hello.PAGE
    hello.PAGE = hello.PAGE.replace("http://127.0.0.1:3000", ssegateway.url)
    with ThreadingHTTPServer(("127.0.0.1", 0), hello.Backend) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_two_windows_show_one_send(ssegateway, backend, open_page):
    ssegateway.answer = f"{backend}/callback"
    pages = [open_page(backend), open_page(backend)]
    for _ in pages:
        ssegateway.wait_for(lambda call: call.action == "connect" and call.url == "/news")
    for page in pages:
        page.wait_until("events.readyState === EventSource.OPEN")
    assert ssegateway.send(group="news", data="It works").reached
    for page in pages:
        page.wait_until("document.body.textContent.includes('It works')")
