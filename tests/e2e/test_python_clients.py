"""httpx-sse, and sseclient-py on requests."""

import contextlib
import threading

import httpx
import httpx_sse
import pytest
import requests
import sseclient
from programs import PATIENCE
from ssegateway import accept


@contextlib.contextmanager
def with_httpx_sse(url, headers):
    with httpx.Client(timeout=PATIENCE) as client, httpx_sse.connect_sse(client, "GET", url, headers=headers) as source:
        yield source.iter_sse()


@contextlib.contextmanager
def with_sseclient_py(url, headers):
    headers = {"Accept": "text/event-stream", **headers}
    with requests.get(url, headers=headers, stream=True, timeout=PATIENCE) as response:
        yield sseclient.SSEClient(response).events()


@pytest.fixture(params=[with_httpx_sse, with_sseclient_py])
def connect(request, ssegateway):
    """Connects to a path; yields the events as name, data and id."""

    @contextlib.contextmanager
    def connect(path, headers={}):
        with request.param(ssegateway.url + path, headers) as events:
            yield ((event.event, event.data, event.id) for event in events)

    return connect


def test_it_reads_events_until_the_end(ssegateway, connect):
    with connect("/news") as events:
        token = ssegateway.wait_for(lambda call: call.url == "/news").token
        ssegateway.send(token, "two\nlines", name="greeting", id="7")
        assert next(events) == ("greeting", "two\nlines", "7")
        ssegateway.send(token, "Grüße, 世界", id="8")
        assert next(events) == ("message", "Grüße, 世界", "8")

        ssegateway.send(token, close=True)
        assert next(events, "the end") == "the end"


def test_its_leaving_is_noticed(ssegateway, connect):
    with connect("/news") as events:
        token = ssegateway.wait_for(lambda call: call.url == "/news").token
        ssegateway.send(token, "Hello", id="8")
        next(events)
    assert ssegateway.wait_for(lambda call: call.action == "disconnect").reason == "client_closed"


def test_it_comes_back_with_the_last_id(ssegateway, connect):
    ssegateway.answer = {"event": {"id": "7", "data": "Hello"}, "close": True}
    with connect("/news") as events:
        [(_name, _data, last_id)] = events
    with connect("/news?again", {"Last-Event-ID": last_id}):
        assert ssegateway.wait_for(lambda call: call.url == "/news?again").headers["last-event-id"] == "7"


@pytest.mark.parametrize("ssegateway_environment", [{"HEARTBEAT_INTERVAL_SECONDS": "1"}])
def test_blocks_of_an_id_alone(request, ssegateway, connect):
    """Resumable streams have them. httpx-sse shows an event without data for each, to be skipped by `if event.data`."""
    ssegateway.answer = accept(groups=["news"])
    with connect("/news") as events:
        ssegateway.wait_for(lambda call: call.url == "/news")
        threading.Timer(1.5, ssegateway.send, kwargs={"group": "news", "data": "Hello"}).start()
        seen = [next(events)]
        while seen[-1][1] != "Hello":
            seen.append(next(events))
    is_httpx = "httpx" in request.node.name
    assert all(event[:2] == ("message", "") for event in seen[:-1]) and (len(seen) > 1) == is_httpx
