"""A stream ends, and Chromium comes back."""


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


def test_after_the_delay_that_it_was_told(ssegateway, page):
    """Of two streams that end together the one that was told `retry` is back before the other, for which Chromium
    takes its own three seconds."""
    untold, told = page.connect(f"{ssegateway.url}/untold"), page.connect(f"{ssegateway.url}/told")
    for source in (untold, told):
        source.wait_for(["open"])
    ssegateway.send(connected(ssegateway, "/untold"), "Hello", close=True)
    ssegateway.send(connected(ssegateway, "/told"), "Hello", retry=10, close=True)

    back = [["open"], ["message", "Hello", ""], ["error", "CONNECTING"], ["open"]]
    untold.wait_for(*back)
    told.wait_for(*back)
    assert [number for number, what, *_ in page.seen() if what == "open"] == [0, 1, 1, 0]


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
