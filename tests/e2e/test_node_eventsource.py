"""The npm package eventsource, in Node.js."""

import json
import pathlib
import time

import pytest
from ssegateway import accept

SCRIPT = pathlib.Path(__file__).parent / "eventsource.mjs"


@pytest.fixture
def connect(ssegateway, start, installed):
    """Starts a client of a path; returns a function that waits for its next event."""

    def connect(path, *names):
        url = ssegateway.url + path
        with SCRIPT.open() as script:
            node = start("node", "--input-type=module", "-", url, *names, stdin=script, cwd=installed)
        return node, lambda: json.loads(node.read_until("\n"))

    return connect


def test_it_sees_events_and_comes_back_with_the_last_id(ssegateway, connect):
    _node, next_seen = connect("/news", "greeting")
    assert next_seen() == ["open"]
    token = ssegateway.wait_for(lambda call: call.url == "/news").token
    ssegateway.send(token, "two\nlines", name="greeting", id="7", retry=10)
    assert next_seen() == ["greeting", "two\nlines", "7"]
    ssegateway.send(token, "Grüße, 世界", id="8")
    assert next_seen() == ["message", "Grüße, 世界", "8"]

    ssegateway.send(token, close=True)
    assert next_seen() == ["error", "CONNECTING"]
    assert next_seen() == ["open"]
    ssegateway.wait_for(lambda call: call.headers.get("last-event-id") == "8")


def test_its_end_is_noticed(ssegateway, connect):
    node, next_seen = connect("/news")
    assert next_seen() == ["open"]
    node.end()
    assert ssegateway.wait_for(lambda call: call.action == "disconnect").reason == "client_closed"


def test_it_gives_up_when_it_was_turned_away(ssegateway, connect):
    ssegateway.answer = 403
    _node, next_seen = connect("/news")
    assert next_seen() == ["error", "CLOSED", 403]


@pytest.mark.parametrize("ssegateway_environment", [{"HEARTBEAT_INTERVAL_SECONDS": "1"}])
def test_blocks_of_an_id_alone_do_not_count(ssegateway, connect):
    """It remembers the ids of events only, unlike browsers. So its stream should begin with one."""
    ssegateway.answer = accept("hello", groups=["news"])
    _node, next_seen = connect("/news")
    assert next_seen() == ["open"]
    _, _, first = next_seen()
    ssegateway.send(group="other", data="moves the position of all streams")
    time.sleep(1.5)  # a heartbeat has brought it
    ssegateway.send(ssegateway.callbacks[0].token, close=True)
    assert next_seen() == ["error", "CONNECTING"]
    ssegateway.wait_for(lambda call: call.headers.get("last-event-id") == first, 60)
