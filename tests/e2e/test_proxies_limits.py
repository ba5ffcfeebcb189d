"""The limits of examples/proxies: one address floods, and clients at other addresses are unaffected."""

import re
import threading
import urllib.request

import pytest
from programs import PATIENCE, wait_until

FLOOD = 1200  # connects
SLOW = 0.5  # seconds that the backend takes for a connect of the flood
PARALLEL_MAX = 100  # of one curl; beyond a proxy's limit of HTTP/2 streams per connection it would spin

NO_LIMITS = {
    "nginx": {"limit_conn streams 300;": "", "limit_req zone=connects burst=350 delay=50;": ""},
    "haproxy": {"http-request track-sc0 src,ipmask(32,64)": ""},
    "caddy": {},
}


@pytest.fixture
def curl(start):
    """Starts a curl at an address that requests a path; the status of each answer is in its output."""

    def curl(proxy, address, path, *arguments):
        source = ("-4", "--interface", address, "--cacert", proxy.certificate)
        status = ("--write-out", "%{stderr}%{http_code}\n")
        return start("curl", "-sN", "--http2", *source, *status, *arguments, proxy.url + path)

    return curl


@pytest.fixture
def connect_many(curl):
    def connect_many(proxy, path, count):
        parallel = ("--parallel", "--parallel-max", str(PARALLEL_MAX))
        return curl(proxy, "127.0.0.1", f"{path}?[1-{count}]", *parallel)

    return connect_many


@pytest.fixture
def flood(ssegateway, connect_many):
    """Floods from one address to a path that is slow, or hangs until the test has ended."""
    ended = threading.Event()

    def answer(call):
        if call.path == "/events/slow":
            ended.wait(SLOW)
        if call.path == "/events/hanging":
            ended.wait(4 * PATIENCE)
        return {}

    def flood(proxy, path="/events/slow"):
        return [connect_many(proxy, path, PARALLEL_MAX) for _ in range(FLOOD // PARALLEL_MAX)]

    ssegateway.answer = answer
    yield flood
    ended.set()


def wait_for_answers(clients, text, count):
    def answers():
        return sum(client.output().count(f"{text}\n") for client in clients)

    wait_until(lambda: answers() >= count, lambda: f"{answers()} times {text}")
    return answers()


def expect_stream(ssegateway, curl, proxy, address, path):
    client = curl(proxy, address, path)
    ssegateway.send(ssegateway.wait_for(lambda call: call.url == path).token, "Hello")
    client.read_until("data: Hello\n\n")


def callbacks_waiting(ssegateway):
    with urllib.request.urlopen(f"{ssegateway.url}/internal/metrics") as metrics:
        return int(re.search(rb'^ssegateway_callbacks_waiting{action="connect"} (\d+)$', metrics.read(), re.M)[1])


@pytest.mark.parametrize("name", ["nginx", "haproxy"])
def test_a_flood_is_refused_and_others_connect_at_once(ssegateway, start_proxy, curl, flood, name):
    proxy = start_proxy(name)
    clients = flood(proxy)
    for number in range(2, 8):
        expect_stream(ssegateway, curl, proxy, f"127.0.0.{number}", f"/events/news?{number}")
    wait_for_answers(clients, 429, 100)
    expect_stream(ssegateway, curl, proxy, "127.0.0.2", "/events/news?afterwards")


@pytest.mark.parametrize("name", NO_LIMITS)
def test_without_limits_callbacks_that_hang_keep_out_no_other_path(ssegateway, start_proxy, curl, flood, name):
    proxy = start_proxy(name, NO_LIMITS[name])
    clients = flood(proxy, "/events/hanging")
    wait_until(lambda: callbacks_waiting(ssegateway) >= 100, ssegateway.log)
    expect_stream(ssegateway, curl, proxy, "127.0.0.2", "/events/news")
    assert "504" not in "".join(client.output() for client in clients)


FEW_STREAMS = {"nginx": {"streams 300": "streams 20"}, "haproxy": {"gt 300": "gt 20"}}


@pytest.mark.parametrize("name", FEW_STREAMS)
def test_an_address_holds_no_more_streams_than_its_limit(ssegateway, start_proxy, curl, connect_many, name):
    proxy = start_proxy(name, FEW_STREAMS[name])
    client = connect_many(proxy, "/events/news", 30)
    assert wait_for_answers([client], 429, 10) == 10
    wait_until(lambda: len(list(ssegateway.client.connections())) == 20, ssegateway.log)
    expect_stream(ssegateway, curl, proxy, "127.0.0.2", "/events/news")


def test_nginx_lets_reconnecting_pages_wait_their_turn(ssegateway, start_proxy, connect_many):
    client = connect_many(start_proxy("nginx", {"delay=50": "delay=5"}), "/events/news", 25)
    wait_until(lambda: len(list(ssegateway.client.connections())) == 25, client.output)


def test_haproxy_tells_reconnecting_pages_to_come_back(ssegateway, start_proxy, connect_many):
    client = connect_many(start_proxy("haproxy", {"ge 100": "ge 20"}), "/events/news", 25)
    assert wait_for_answers([client], 200, 5) == 5
    assert client.output().count("retry: 10000\n") == 5
