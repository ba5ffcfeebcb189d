"""A stream ends, and Chromium reconnects."""

import pytest


def connected(ssegateway, url, last_id=None):
    """The token of the connect to this URL, with this Last-Event-ID."""
    return ssegateway.wait_for(lambda call: call.url == url and call.headers.get("last-event-id") == last_id).token


def test_with_the_id_that_it_saw_last(ssegateway, page):
    source = page.connect(f"{ssegateway.url}/news")
    source.wait_for(["open"])
    token = connected(ssegateway, "/news")
    ssegateway.send(token, "first", id="7", retry=10)
    ssegateway.send(token, "without an id")
    ssegateway.send(token, close=True)

    again = connected(ssegateway, "/news", last_id="7")
    ssegateway.send(again, "what it missed", id="8", close=True)
    connected(ssegateway, "/news", last_id="8")
    end = ["error", "CONNECTING"]
    source.wait_for(
        ["open"], ["message", "first", "7"], ["message", "without an id", "7"], end,
        ["open"], ["message", "what it missed", "8"], end, ["open"],
    )  # fmt: skip


def test_after_the_delay_that_it_was_given(ssegateway, page):
    """Of two streams that end together, the one with a short `retry` reconnects before the other, for which Chromium
    uses its default of three seconds."""
    by_default, with_retry = page.connect(f"{ssegateway.url}/by_default"), page.connect(f"{ssegateway.url}/with_retry")
    for source in (by_default, with_retry):
        source.wait_for(["open"])
    ssegateway.send(connected(ssegateway, "/by_default"), "Hello", close=True)
    ssegateway.send(connected(ssegateway, "/with_retry"), "Hello", retry=10, close=True)

    back = [["open"], ["message", "Hello", ""], ["error", "CONNECTING"], ["open"]]
    by_default.wait_for(*back)
    with_retry.wait_for(*back)
    assert [number for number, what, *_ in page.seen() if what == "open"] == [0, 1, 1, 0]


@pytest.mark.parametrize(
    "ssegateway_environment", [{"CORS_ORIGINS": "*", "RECONNECT_DELAY_MILLISECONDS": "10"}]  # not the 6 s of a drain
)
def test_after_a_restart_of_the_gateway(ssegateway, page):
    source = page.connect(f"{ssegateway.url}/news")
    source.wait_for(["open"])
    token = connected(ssegateway, "/news")
    ssegateway.send(token, "before", id="7", retry=10)
    source.wait_for(["open"], ["message", "before", "7"])

    ssegateway.restart()
    assert ssegateway.wait_for(lambda call: call.action == "disconnect").detail == "shutdown"
    ssegateway.send(connected(ssegateway, "/news", last_id="7"), "after")
    page.wait_until("seen.some(([, name, data]) => name === 'message' && data === 'after')")
