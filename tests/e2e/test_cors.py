"""A page of another origin, in Chromium: only listed origins may read a stream."""

import json

import pytest


@pytest.fixture
def ssegateway_environment(site):
    return {"CORS_ORIGINS": site.origin}


def test_a_page_on_the_list_gets_events_and_sends_its_cookies(ssegateway, open_page, site):
    page = open_page(f"{site.origin}/page.html")
    page.run("document.cookie = 'session=5'")
    source = page.connect(f"{ssegateway.url}/news", withCredentials=True)
    source.wait_for(["open"])
    call = ssegateway.wait_for(lambda call: call.url == "/news")
    assert call.cookies == {"session": "5"}
    ssegateway.send(call.token, "Hello")
    source.wait_for(["open"], ["message", "Hello", ""])


def test_any_other_page_is_refused_for_good(ssegateway, open_page, site):
    page = open_page(f"{site.other_origin}/page.html")
    page.connect(f"{ssegateway.url}/news").wait_for(["error", "CLOSED"])
    assert "blocked by CORS policy" in page.log()
    assert ssegateway.wait_for(lambda call: call.action == "disconnect").reason == "client_closed"


def test_no_page_may_send(ssegateway, open_page, site):
    page = open_page(f"{site.origin}/page.html")
    source = page.connect(f"{ssegateway.url}/news")
    source.wait_for(["open"])
    token = ssegateway.wait_for(lambda call: call.url == "/news").token
    forge = """
        fetch(arguments[0], { method: "POST", mode: "no-cors", body: arguments[1] })
          .finally(() => { document.title = "answered"; });
    """
    page.run(forge, f"{ssegateway.url}/internal/send", json.dumps({"token": token, "event": {"data": "forged"}}))
    page.wait_until("document.title === 'answered'")
    ssegateway.send(token, "genuine")
    source.wait_for(["open"], ["message", "genuine", ""])
