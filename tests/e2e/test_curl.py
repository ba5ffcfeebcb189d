"""curl: a stream in a terminal."""

import pytest


@pytest.mark.parametrize("version", ["--http1.1", "--http1.0"])
def test_it_prints_events_as_they_come_until_the_end(ssegateway, start, version):
    curl = start("curl", "-sN", version, f"{ssegateway.url}/news")
    token = ssegateway.wait_for(lambda call: call.url == "/news").token

    ssegateway.send(token, "two\nlines", name="greeting", id="7")
    assert curl.read_until("\n\n") == "event: greeting\nid: 7\ndata: two\ndata: lines\n\n"
    ssegateway.send(token, "without a name")
    assert curl.read_until("\n\n") == "data: without a name\n\n"

    ssegateway.send(token, close=True)
    assert curl.wait() == 0
    assert ssegateway.wait_for(lambda call: call.action == "disconnect").reason == "server_closed"


@pytest.mark.parametrize("version", ["--http1.1", "--http1.0"])
def test_its_end_is_noticed(ssegateway, start, version):
    curl = start("curl", "-sN", version, f"{ssegateway.url}/news")
    token = ssegateway.wait_for(lambda call: call.url == "/news").token
    ssegateway.send(token, "Hello")
    curl.read_until("Hello")

    curl.end()
    assert ssegateway.wait_for(lambda call: call.action == "disconnect").reason == "client_closed"


def test_it_comes_back_with_the_last_id(ssegateway, start):
    start("curl", "-sN", "-H", "Last-Event-ID: 7", f"{ssegateway.url}/news")
    assert ssegateway.wait_for(lambda call: call.url == "/news").headers["last-event-id"] == "7"


def test_it_is_told_that_it_was_turned_away(ssegateway, start):
    ssegateway.answer = 403
    curl = start("curl", "-sN", "--fail-with-body", f"{ssegateway.url}/news")
    assert curl.wait() == 22
    assert curl.output() == '{"error":"Backend returned 403"}'
