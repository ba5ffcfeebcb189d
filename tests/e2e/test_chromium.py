"""A page in Chromium with EventSource: its events, and the disconnect when it leaves."""

import pytest


def test_it_sees_events(ssegateway, page):
    source = page.connect(f"{ssegateway.url}/news", "greeting")
    source.wait_for(["open"])
    token = ssegateway.wait_for(lambda call: call.url == "/news").token

    ssegateway.send(token, "Hello")
    ssegateway.send(token, "Hello, Ann", name="greeting", id="7")
    ssegateway.send(token, "two\nlines\r\nand a third\n", name="greeting")
    ssegateway.send(token, "Grüße, 世界 \U0001f389 \u2028 <b>&amp;", id="ä")
    ssegateway.send(token, "")
    ssegateway.send(token, "nobody listens for this name", name="other")
    ssegateway.send(token, "the last one")
    source.wait_for(
        ["open"],
        ["message", "Hello", ""],
        ["greeting", "Hello, Ann", "7"],
        ["greeting", "two\nlines\nand a third\n", "7"],
        ["message", "Grüße, 世界 \U0001f389 \u2028 <b>&amp;", "ä"],
        ["message", "", "ä"],
        ["message", "the last one", "ä"],
    )


def test_it_sees_the_event_that_the_backend_answers_with(ssegateway, page):
    ssegateway.answer = {"event": {"name": "greeting", "data": "Welcome"}}
    page.connect(f"{ssegateway.url}/news", "greeting").wait_for(["open"], ["greeting", "Welcome", ""])


def leave_by_closing_the_stream(page, source):
    source.close()


def leave_by_closing_the_page(page, source):
    page.close()


@pytest.mark.parametrize("leave", [leave_by_closing_the_stream, leave_by_closing_the_page])
def test_its_leaving_is_noticed(ssegateway, page, leave):
    source = page.connect(f"{ssegateway.url}/news")
    source.wait_for(["open"])
    leave(page, source)
    assert ssegateway.wait_for(lambda call: call.action == "disconnect").reason == "client_closed"
