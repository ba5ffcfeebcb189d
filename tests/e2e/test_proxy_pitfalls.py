"""The purpose of some lines of examples/proxies: the symptoms without them, which the README describes.

Most of these tests wait a little for what must not come. A slow machine cannot make them fail.
"""

import time

import pytest

A_LITTLE = 0.5  # seconds


@pytest.fixture
def connect(ssegateway, start_proxy, open_page):
    """Lets a page open a stream through a proxy with a changed file; returns the stream and its token."""

    def connect(name, changes):
        page = open_page(f"{start_proxy(name, changes).url}/page.html")
        source = page.connect("/events/news")
        return source, ssegateway.wait_for(lambda call: call.url == "/events/news").token

    return connect


def test_nginx_on_http2_withholds_the_opening_until_there_is_data(ssegateway, connect):
    source, token = connect("nginx", {})
    time.sleep(A_LITTLE)
    assert source.seen() == []
    ssegateway.send(token, "Hello")
    source.wait_for(["open"], ["message", "Hello", ""])


@pytest.mark.parametrize("ssegateway_environment", [{"RECONNECT_DELAY_MILLISECONDS": "3000"}, {"OPENING_COMMENT": "on"}])
def test_nginx_on_http2_does_not_where_each_stream_opens_with_data(connect):
    source, _token = connect("nginx", {})
    source.wait_for(["open"])


# As where another proxy between nginx and the gateway has dropped the gateway's X-Accel-Buffering.
BUFFERING = {"proxy_buffering off;": "proxy_ignore_headers X-Accel-Buffering;"}
WITHHOLDING = {
    "buffering on HTTP/1.1": {**BUFFERING, "ssl http2;": "ssl;"},
    "buffering and compressing on HTTP/2": {**BUFFERING, "gzip off;": "gzip on; gzip_types text/event-stream;"},
}


@pytest.mark.parametrize("changes", WITHHOLDING.values(), ids=WITHHOLDING)
def test_nginx_that_buffers_withholds_events(ssegateway, connect, changes):
    source, token = connect("nginx", changes)
    for number in range(10):
        ssegateway.send(token, f"event {number}")
    time.sleep(A_LITTLE)
    assert source.seen() == []
    ssegateway.send(token, close=True)
    source.wait_for(["open"], *(["message", f"event {number}", ""] for number in range(10)), ["error", "CONNECTING"])


PADDED = {"OPENING_COMMENT": "on", "PADDING_BYTES": "8192", "HEARTBEAT_INTERVAL_SECONDS": "1"}


@pytest.mark.parametrize("ssegateway_environment", [PADDED])
def test_padded_heartbeats_pass_through_nginx_that_buffers_and_push_events_out(ssegateway, connect):
    source, token = connect("nginx", WITHHOLDING["buffering on HTTP/1.1"])
    source.wait_for(["open"])
    ssegateway.send(token, "Hello")
    source.wait_for(["open"], ["message", "Hello", ""])


def test_caddy_that_compresses_withholds_events(ssegateway, connect):
    source, token = connect("caddy", {"handle /events/* {": "handle /events/* {\n\t\tencode gzip"})
    time.sleep(A_LITTLE)
    assert source.seen() == []
    ssegateway.send(token, "so long that it is worth compressing " * 20)
    ssegateway.send(token, "Hello")
    source.wait_for(["open"])
    time.sleep(A_LITTLE)
    source.wait_for(["open"])


def test_a_path_that_leads_to_the_application_is_no_stream(start_proxy, open_page):
    page = open_page(f"{start_proxy('nginx').url}/page.html")
    page.connect("/page.html?events").wait_for(["error", "CLOSED"])
    assert 'MIME type ("text/html")' in page.log()


@pytest.mark.parametrize("ssegateway_environment", [{"HEARTBEAT_INTERVAL_SECONDS": "3600"}])
def test_haproxy_without_abortonclose_notices_late_that_a_client_has_gone(ssegateway, start_proxy, start):
    proxy = start_proxy("haproxy", {"    option abortonclose": "    #"})
    client = start("curl", "-sN", "--cacert", proxy.certificate, f"{proxy.url}/events/news")
    token = ssegateway.wait_for(lambda call: call.url == "/events/news").token
    ssegateway.send(token, "Hello")
    client.read_until("Hello")
    client.end()
    time.sleep(A_LITTLE)
    assert ssegateway.send(token, "to nobody")
