"""A tab in Chromium whose connection is cut again and again while events are sent, and what else groups mean for it."""

import contextlib
import random
import time

import pytest
from programs import wait_until
from relay import Relay
from ssegateway import accept

EVENTS_PER_CUT = 50
WATCH = """
window.numbers = [];
window.gaps = 0;
const source = new EventSource(arguments[0]);
source.onmessage = event => numbers.push(Number(event.data));
source.addEventListener("gap", () => gaps++);
"""


@pytest.fixture
def ssegateway_environment():
    return {"CORS_ORIGINS": "*", "RECONNECT_DELAY_MILLISECONDS": "1", "LOG_LEVEL": "warn"}


@contextlib.contextmanager
def relayed(port):
    with contextlib.closing(Relay(port)) as relay:
        yield relay


def send_and_cut(ssegateway, relay, page, cuts):
    """Each event is seen once and in order."""
    chance = random.Random(7)
    connected = relay.accepted
    with ssegateway.client.stream("news") as out:
        for cut in range(cuts):
            for number in range(EVENTS_PER_CUT):
                out.send(str(cut * EVENTS_PER_CUT + number))
            wait_until(lambda: relay.accepted >= connected + cut, page.log)
            time.sleep(chance.random() * 0.05)
            relay.cut()
    page.wait_until(f"numbers.length >= {cuts * EVENTS_PER_CUT}")
    assert page.run("return numbers") == list(range(cuts * EVENTS_PER_CUT))
    assert page.run("return gaps") == 0


def test_a_tab_that_is_cut_200_times_misses_nothing(ssegateway, page):
    ssegateway.answer = accept(groups=["news"], since="start")
    with relayed(int(ssegateway.environment["PORT"])) as relay:
        page.run(WATCH, f"{relay.url}/")
        wait_until(lambda: relay.accepted, page.log)
        send_and_cut(ssegateway, relay, page, 200)


@pytest.mark.parametrize("name", ["nginx", "haproxy", "caddy"])
def test_nor_does_one_behind_a_proxy(ssegateway, start_proxy, open_page, name):
    """Cut fewer times than their limits on connects allow at once."""
    ssegateway.answer = accept(groups=["news"], since="start")
    with relayed(start_proxy(name).port) as relay:
        page = open_page(f"{relay.url.replace('http://127.0.0.1', 'https://localhost')}/page.html")
        page.run(WATCH, "/events/news")
        ssegateway.wait_for(lambda call: call.action == "connect")
        send_and_cut(ssegateway, relay, page, 20)


def test_a_tab_stays_away_once_its_groups_have_ended(ssegateway, page):
    ssegateway.answer = accept(groups=["news"])
    source = page.connect(f"{ssegateway.url}/")
    source.wait_for(["open"])
    sent = ssegateway.send(group="news", data="the last", end=True)
    source.wait_for(["open"], ["message", "the last", sent.id], ["error", "CONNECTING"], ["error", "CLOSED"])


def test_a_restart_of_the_gateway_is_a_gap(ssegateway, page):
    ssegateway.answer = accept(groups=["news"])
    source = page.connect(f"{ssegateway.url}/", "gap")
    source.wait_for(["open"])
    ssegateway.restart()
    wait_until(lambda: [entry[0] for entry in source.seen()][-2:] == ["open", "gap"], page.log)
    cursor = ssegateway.client.cursor()
    assert source.seen()[-1] == ["gap", "", cursor]
    sent = ssegateway.send(group="news", data="goes on")
    wait_until(lambda: source.seen()[-1] == ["message", "goes on", sent.id], page.log)
