"""Chromium opens at most six connections per host. With HTTP/2 at the proxy one of them carries all streams."""

import pytest
from programs import wait_until


@pytest.fixture
def connect_twelve(ssegateway, start_proxy, open_page):
    """Opens a page behind a proxy, checks its protocol, and lets it open twelve streams."""

    def connect_twelve(proxy, protocol):
        page = open_page(f"{proxy.url}/page.html")
        assert page.run("return performance.getEntriesByType('navigation')[0].nextHopProtocol") == protocol
        return page, [page.connect(f"/events/{number}") for number in range(12)]

    return connect_twelve


def open_streams(ssegateway):
    connects = [call.token for call in ssegateway.callbacks if call.action == "connect"]
    ended = [call.token for call in ssegateway.callbacks if call.action == "disconnect"]
    return [token for token in connects if token not in ended]


@pytest.mark.parametrize("name", ["nginx", "haproxy", "caddy"])
def test_over_http2_twelve_streams_open(ssegateway, start_proxy, connect_twelve, name):
    page, sources = connect_twelve(start_proxy(name), "h2")
    wait_until(lambda: len(open_streams(ssegateway)) == 12, page.log)
    for token in open_streams(ssegateway):
        ssegateway.send(token, "Hello")
    for source in sources:
        source.wait_for(["open"], ["message", "Hello", ""])


WITHOUT_HTTP2 = {
    "nginx": {"ssl http2;": "ssl;"},
    "haproxy": {"alpn h2,http/1.1": "alpn http/1.1"},
    "caddy": {"admin off\n": "admin off\n\tservers {\n\t\tprotocols h1\n\t}\n"},
}


@pytest.mark.parametrize("name", ["nginx", "haproxy", "caddy"])
def test_over_http1_the_seventh_waits_until_one_closes(ssegateway, start_proxy, connect_twelve, name):
    page, sources = connect_twelve(start_proxy(name, WITHOUT_HTTP2[name]), "http/1.1")
    page.wait_until("sources.filter(source => source.readyState === EventSource.OPEN).length === 6")
    for token in open_streams(ssegateway):
        ssegateway.send(token, "Hello")
    page.wait_until("seen.filter(([, what]) => what === 'message').length === 6")
    assert [source.state() for source in sources] == [1] * 6 + [0] * 6

    sources[0].close()
    sources[6].wait_for(["open"])
    assert [source.state() for source in sources] == [2] + [1] * 6 + [0] * 5
