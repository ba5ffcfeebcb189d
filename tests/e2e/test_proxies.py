"""A client on HTTP/2 and TLS, a proxy with its file of examples/proxies, and the gateway behind it."""

import json

import pytest


@pytest.fixture(params=["nginx", "haproxy", "caddy"])
def name(request):
    return request.param


@pytest.fixture
def curl(start):
    """Starts a curl that requests a path from a proxy."""

    def curl(proxy, path, *arguments):
        return start("curl", "-sN", "--http2", "--cacert", proxy.certificate, *arguments, proxy.url + path)

    return curl


def exchange(ssegateway, client, url):
    """Waits until the client gets an event, so the stream is open end to end; returns its token."""
    token = ssegateway.wait_for(lambda call: call.url == url).token
    assert ssegateway.send(token, "Hello")
    client.read_until("data: Hello\n\n")
    return token


def disconnected(ssegateway):
    return ssegateway.wait_for(lambda call: call.action == "disconnect").reason


NO_HEARTBEATS = pytest.mark.parametrize("ssegateway_environment", [{"HEARTBEAT_INTERVAL_SECONDS": "3600"}])
HEARTBEATS = pytest.mark.parametrize("ssegateway_environment", [{"HEARTBEAT_INTERVAL_SECONDS": "1"}])


@NO_HEARTBEATS
def test_each_event_passes_at_once(ssegateway, start_proxy, curl, name):
    client = curl(start_proxy(name), "/events/news?user=ann", "--include")
    token = exchange(ssegateway, client, "/events/news?user=ann")
    for number in range(20):
        ssegateway.send(token, f"{number}\nand its second line", name="news", id="7")
        assert client.read_until("\n\n") == f"event: news\nid: 7\ndata: {number}\ndata: and its second line\n\n"
    ssegateway.send(token, close=True)
    assert client.wait() == 0
    assert client.output().startswith("HTTP/2 200")


@NO_HEARTBEATS
def test_a_client_that_leaves_is_noticed_at_once(ssegateway, start_proxy, curl, name):
    client = curl(start_proxy(name), "/events/news")
    exchange(ssegateway, client, "/events/news")
    client.end()
    assert disconnected(ssegateway) == "client_closed"


def test_a_rejection_passes(ssegateway, start_proxy, curl, name):
    ssegateway.answer = 403
    client = curl(start_proxy(name), "/events/news", "--fail-with-body")
    assert client.wait() == 22
    assert client.output() == '{"error":"Backend returned 403"}'


def test_the_address_is_the_one_that_the_proxy_sees(ssegateway, start_proxy, curl, name):
    curl(start_proxy(name), "/events/news", "-H", "X-Forwarded-For: 192.0.2.1", "-H", "Last-Event-ID: 7")
    headers = ssegateway.wait_for(lambda call: call.url == "/events/news").headers
    assert headers["x-forwarded-for"] == "127.0.0.1"
    assert headers["last-event-id"] == "7"


WAYS_TO_SEND = """
    /internal/send            //internal/send                 /internal/send?/events/      /internal/send/../../events/
    /events/../internal/send  /events//../../internal/send    /events/%2e%2e/internal/send /events/..%2finternal/send
""".split()


def test_the_internal_paths_are_closed(ssegateway, start_proxy, curl, name):
    proxy = start_proxy(name)
    client = curl(proxy, "/events/news")
    token = exchange(ssegateway, client, "/events/news")
    forged = json.dumps({"token": token, "event": {"data": "forged"}})
    for way in WAYS_TO_SEND:
        sender = curl(proxy, way, "--path-as-is", "--data", forged, "--write-out", " %{http_code}")
        assert sender.wait() == 0
        assert sender.output()[-3:] in ("400", "404", "405"), way
    for path in ("/internal/metrics", "/internal/connections"):
        reader = curl(proxy, path, "--write-out", " %{http_code}")
        assert reader.wait() == 0
        assert reader.output() == "no such page 404"
    assert ssegateway.send(token, "genuine")
    assert client.read_until("\n\n") == "data: genuine\n\n"


# Caddy has no such timeout.
IDLE_TIMEOUT = {
    "nginx": {"proxy_read_timeout 60s": "proxy_read_timeout 3s"},
    "haproxy": {"timeout server  60s": "timeout server  3s"},
}
with_idle_timeout = pytest.mark.parametrize("name", IDLE_TIMEOUT)


@HEARTBEATS
@with_idle_timeout
def test_heartbeats_hold_a_stream_beyond_the_idle_timeout(ssegateway, start_proxy, curl, name):
    client = curl(start_proxy(name, IDLE_TIMEOUT[name]), "/events/news")
    exchange(ssegateway, client, "/events/news")
    for _second in range(5):
        assert client.read_until("\n\n") == ": heartbeat\n\n"
    exchange(ssegateway, client, "/events/news")


@NO_HEARTBEATS
@with_idle_timeout
def test_without_heartbeats_the_proxy_cuts_it(ssegateway, start_proxy, curl, name):
    client = curl(start_proxy(name, IDLE_TIMEOUT[name]), "/events/news")
    exchange(ssegateway, client, "/events/news")
    client.wait()
    assert disconnected(ssegateway) == "client_closed"
