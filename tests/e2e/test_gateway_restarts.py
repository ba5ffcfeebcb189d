"""The gateway is down behind a proxy at the moment when a page in Chromium reconnects.

The proxy answers in its place. An error would be the end of the page's EventSource, so the files of examples/proxies
have the proxy answer as the gateway does with CONNECT_FAILURE=retry.
"""

import pytest

# Instead of the 6 s of a drain.
pytestmark = pytest.mark.parametrize("ssegateway_environment", [{"RECONNECT_DELAY_MILLISECONDS": "10"}])

LINES = {
    "nginx": "error_page 502 504 = @later;",
    "haproxy": "http-after-response set-status 200 if { res.hdr(Content-Type) text/event-stream }",
    "caddy": "respond @events",
}


@pytest.fixture
def reconnect_without_gateway(ssegateway, open_page, start_proxy):
    def reconnect_without_gateway(name, changes={}):
        page = open_page(f"{start_proxy(name, changes).url}/page.html")
        source = page.connect("/events/news")
        token = ssegateway.wait_for(lambda call: call.url == "/events/news").token
        ssegateway.send(token, "before", id="7", retry=10)
        source.wait_for(["open"], ["message", "before", "7"])
        ssegateway.stop()
        return page, source

    return reconnect_without_gateway


@pytest.mark.parametrize("name", LINES)
def test_the_page_survives_it(ssegateway, reconnect_without_gateway, name):
    page, _source = reconnect_without_gateway(name)
    page.wait_until("seen.filter(([, what]) => what === 'open').length >= 3")
    ssegateway.start()
    token = ssegateway.wait_for(lambda call: call.headers.get("last-event-id") == "7").token
    ssegateway.send(token, "after", id="8")
    page.wait_until("seen.some(([, , data]) => data === 'after')")


@pytest.mark.parametrize("name, line", LINES.items())
def test_without_its_line_the_page_gives_up(reconnect_without_gateway, name, line):
    _page, source = reconnect_without_gateway(name, {line: f"# {line}"})
    source.wait_for(["open"], ["message", "before", "7"], ["error", "CONNECTING"], ["error", "CLOSED"])
