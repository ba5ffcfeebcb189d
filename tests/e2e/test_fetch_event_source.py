"""The npm package @microsoft/fetch-event-source, in Chromium: for pages that need a custom header."""

import pytest

AUTHORIZATION = {"headers": {"Authorization": "Bearer 5"}}


@pytest.fixture
def page(open_page, site):
    page = open_page(f"{site.origin}/fetch.html")
    page.wait_until("window.connect")
    return page


def test_it_sends_its_header_and_reads_events_until_the_end(ssegateway, page):
    source = page.connect(f"{ssegateway.url}/news", **AUTHORIZATION)
    call = ssegateway.wait_for(lambda call: call.url == "/news")
    assert call.headers["authorization"] == "Bearer 5"

    ssegateway.send(call.token, "two\nlines", name="greeting", id="7")
    ssegateway.send(call.token, "Grüße, 世界")
    source.wait_for(["open", 200], ["greeting", "two\nlines", "7"], ["message", "Grüße, 世界", ""])
    ssegateway.send(call.token, close=True)
    source.wait_for(["open", 200], ["greeting", "two\nlines", "7"], ["message", "Grüße, 世界", ""], ["end"])


def test_it_comes_back_with_the_last_id(ssegateway, page):
    page.connect(f"{ssegateway.url}/news", again=True, **AUTHORIZATION)
    token = ssegateway.wait_for(lambda call: call.url == "/news").token
    ssegateway.send(token, "Hello", id="7", retry=10, close=True)
    call = ssegateway.wait_for(lambda call: call.headers.get("last-event-id") == "7")
    assert call.headers["authorization"] == "Bearer 5"


def test_its_leaving_is_noticed(ssegateway, page):
    source = page.connect(f"{ssegateway.url}/news", **AUTHORIZATION)
    source.wait_for(["open", 200])
    source.close()
    assert ssegateway.wait_for(lambda call: call.action == "disconnect").reason == "client_closed"


def test_it_may_read_why_it_was_turned_away(ssegateway, page):
    ssegateway.answer = 403
    page.connect(f"{ssegateway.url}/news", **AUTHORIZATION).wait_for(["open", 403], ["error", "refused"])
