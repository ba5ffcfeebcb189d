"""`make demo`: its page in Chromium, and its buttons."""

import os
import pathlib
import re
import signal

import pytest


@pytest.fixture
def demo(start):
    return start(pathlib.Path(os.environ["SSEGATEWAY"]).parent / "examples/demo")


@pytest.fixture
def url(demo):
    return re.search(r"http://127\.0\.0\.1:\d+/", demo.read_until("ends the demo."))[0]


@pytest.fixture
def page(open_page, url):
    page = open_page(url)
    page.wait_until(text("#state") + " === 'Live'")
    return page


def text(selector):
    return f"document.querySelector('{selector}').textContent"


def lists(where, *words):
    """An expression: whether an entry of the given list on the page contains all these words."""
    holds = " && ".join(f"entry.textContent.includes({word!r})" for word in words)
    return f"[...document.querySelectorAll('#{where} li')].some(entry => {holds})"


def test_events_arrive_by_themselves(page, installed):
    page.wait_until(lists("events", "message", "tick ", ", without a name"))
    page.wait_until(lists("events", "weather", "°C, and this is its second line"))
    page.wait_until(text("#p99") + ".endsWith(' ms')")
    page.screenshot(installed / "demo.png")


def test_the_backend_sends_what_the_page_asks_for(page):
    page.run("document.querySelector('#data').value = 'Grüße'; document.querySelector('#send button').click()")
    page.wait_until(lists("events", "greeting", "Grüße", "id "))


def test_the_page_comes_back_when_the_backend_has_closed_its_stream(page, installed):
    page.wait_until(lists("events", "tick "))
    page.run("document.querySelector('#close').click()")
    page.wait_until(lists("events", "The backend closed the stream."))
    page.wait_until(lists("callbacks", "disconnect", "reason server_closed", "(this page)"))
    page.wait_until(lists("events", "The browser reconnected by itself and sent Last-Event-ID "))
    page.wait_until(lists("callbacks", "connect", "Last-Event-ID ", "(this page)"))
    page.screenshot(installed / "demo-reconnected.png")


def test_a_second_page_is_seen_to_come_and_go(page, open_page, url):
    second = open_page(url)
    page.wait_until(text("#open") + " === '2'")
    second.close()
    page.wait_until(lists("callbacks", "disconnect", "reason client_closed"))
    page.wait_until(text("#open") + " === '1'")


def test_control_c_ends_it(page, demo):
    assert demo.end(signal.SIGINT) == 0
