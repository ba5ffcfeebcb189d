"""Groups and replay with the real gateway, by both clients and the answers of `accept`."""

from __future__ import annotations

import http.client
from contextlib import closing
from typing import Any

import pytest
from clients import Connect, both
from ssegateway import Callback, Event, Gateway, GatewayError, Gone, Group, Sent, Unavailable, accept, decline
from ssegateway.pytest_plugin import LiveGateway, Stream

PATIENCE_SECONDS = 60


def groups_of_the_query(call: Callback) -> dict[str, Any]:
    return accept(groups=call.query.get("in", "").split())


def open_stream(gateway: LiveGateway, path: str = "/?in=news", last_event_id: str = "") -> Stream:
    headers = {"Last-Event-ID": last_event_id} if last_event_id else {}
    return gateway.open(path, headers, PATIENCE_SECONDS)


@both
def test_one_send_reaches_everyone_in_a_group(ssegateway: LiveGateway, connect: Connect) -> None:
    ssegateway.answer = groups_of_the_query
    members, stranger = [open_stream(ssegateway) for _ in range(3)], open_stream(ssegateway, "/?in=other")
    client = connect(ssegateway.url)
    sent = client.send(group="news", data="zwölf\nBoxkämpfer", name="pangram", retry=2500)
    assert isinstance(sent, Sent) and sent and sent.reached and sent.id
    for member in members:
        assert member.event() == ("pangram", "zwölf\nBoxkämpfer", sent.id)
    assert not client.send(group="nobody", data="x")

    assert client.send(groups=["news", "other", "news"], data="to all")
    for stream in [*members, stranger]:
        event = stream.event()
        assert event and event.data == "to all"


@both
def test_several_events_are_one_send(ssegateway: LiveGateway, connect: Connect) -> None:
    ssegateway.answer = groups_of_the_query
    stream = open_stream(ssegateway)
    events: list[str | Event] = ["one", {"name": "second", "data": "two"}]
    client = connect(ssegateway.url)
    sent = client.send(group="news", events=events)
    token = ssegateway.wait_for(lambda call: call.action == "connect").token
    assert client.send(token, events=["three", "four"]) is True
    received = [event for _ in range(4) if (event := stream.event())]
    assert [event[:2] for event in received] == [
        ("message", "one"),
        ("second", "two"),
        ("message", "three"),
        ("message", "four"),
    ]
    assert received[1].id == sent.id


@both
def test_a_client_that_comes_back_misses_nothing(ssegateway: LiveGateway, connect: Connect) -> None:
    ssegateway.answer = groups_of_the_query
    client = connect(ssegateway.url)
    stream = open_stream(ssegateway)
    seen = client.send(group="news", data="seen")
    assert stream.event() == ("message", "seen", seen.id)
    stream.close()
    missed = client.send(group="news", data="missed")
    assert client.send(group="news", data="typing", transient=True).id is None
    assert seen.id
    back = open_stream(ssegateway, last_event_id=seen.id)
    assert back.event() == ("message", "missed", missed.id)
    live = client.send(group="news", data="live")
    assert back.event() == ("message", "live", live.id)


@both
def test_a_page_misses_nothing_behind_its_cursor(ssegateway: LiveGateway, connect: Connect) -> None:
    client = connect(ssegateway.url)
    client.send(group="news", data="in the page")
    cursor = client.cursor()
    assert cursor
    later = client.send(group="news", data="behind it")
    ssegateway.answer = groups_of_the_query
    assert open_stream(ssegateway, f"/?in=news&last_event_id={cursor}").event() == ("message", "behind it", later.id)
    ssegateway.answer = accept({"name": "hello", "data": "Ann"}, groups=["news"], since=cursor)
    since = open_stream(ssegateway)
    assert [event.data for _ in range(2) if (event := since.event())] == ["Ann", "behind it"]
    ssegateway.answer = accept("hello", groups=["news"], since="start")
    start = open_stream(ssegateway)
    assert [event.data for _ in range(3) if (event := start.event())] == ["hello", "in the page", "behind it"]


@both
def test_a_default_stands_in_for_the_cursor_where_there_is_no_answer(
    ssegateway: LiveGateway, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    ssegateway.answer = groups_of_the_query
    client = connect(ssegateway.url)
    assert client.cursor("unknown") == ssegateway.client.cursor()
    ssegateway.stop()
    assert client.cursor("unknown") == "unknown"
    assert "no answer from the gateway" in caplog.text
    with pytest.raises(Unavailable):
        client.cursor()
    ssegateway.start()
    stream = open_stream(ssegateway, "/?in=news&last_event_id=unknown")
    assert (event := stream.event()) and event.name == "gap"


@both
@pytest.mark.parametrize("ssegateway_environment", [{"HISTORY_SECONDS": "0"}])
def test_without_history_nothing_has_a_cursor(ssegateway: LiveGateway, connect: Connect) -> None:
    ssegateway.answer = groups_of_the_query
    stream = open_stream(ssegateway)
    client = connect(ssegateway.url)
    assert client.cursor() is None
    assert client.send(group="news", data="hello", id=7) == Sent(None, True)
    assert stream.event() == ("message", "hello", "7")


@both
def test_a_group_that_has_ended_is_gone(ssegateway: LiveGateway, connect: Connect) -> None:
    ssegateway.answer = groups_of_the_query
    stream = open_stream(ssegateway)
    client = connect(ssegateway.url)
    last = client.send(group="news", data="the last", end=True)
    assert stream.event() == ("message", "the last", last.id)
    assert stream.event() is None
    for target in ({"group": "news"}, {"groups": ["news"]}):
        with pytest.raises(Gone) as raised:
            client.send(data="too late", **target)
        assert raised.value.status == 410
    assert client.group("news").ended
    assert open_stream(ssegateway).status == 204


@both
def test_a_group_is_closed(ssegateway: LiveGateway, connect: Connect) -> None:
    ssegateway.answer = groups_of_the_query
    streams = [open_stream(ssegateway) for _ in range(2)]
    client = connect(ssegateway.url)
    closing = client.send(group="news", data="reload", close=True)
    for stream in streams:
        assert stream.event() == ("message", "reload", closing.id)
        assert stream.event() is None
    assert not client.group("news").ended


@both
def test_streams_join_and_leave(ssegateway: LiveGateway, connect: Connect) -> None:
    stream = open_stream(ssegateway, "/")
    token = ssegateway.wait_for(lambda call: call.action == "connect").token
    client = connect(ssegateway.url)
    assert client.join(token, "room/1 ä+&", "room 2")
    assert client.group("room/1 ä+&").streams == client.group("room 2").streams == 1
    (listed,) = client.connections(group="room 2")
    assert (listed.token, sorted(listed.groups)) == (token, ["room 2", "room/1 ä+&"])
    assert client.join(token, "room 3", leave=["room 2"])
    assert not client.send(group="room 2", data="nobody")
    assert client.leave(token, "room 3")
    assert client.send(group="room/1 ä+&", data="still here")
    event = stream.event()
    assert event and event.data == "still here"
    assert client.send(token, close=True)
    assert not client.join(token, "late") and not client.leave(token, "late")


@both
def test_a_report_of_a_group(ssegateway: LiveGateway, connect: Connect) -> None:
    ssegateway.answer = groups_of_the_query
    client = connect(ssegateway.url)
    assert client.group("news") == Group("news", 0, None, False)
    _streams = [open_stream(ssegateway) for _ in range(2)]
    sent = client.send(group="news", data="x")
    assert client.group("news") == Group("news", 2, sent.id, False)
    assert list(client.connections(group="nobody")) == []


@both
def test_a_client_attaches_only_where_there_is_something(ssegateway: LiveGateway, connect: Connect) -> None:
    ssegateway.answer = accept(groups=["run:1"], since="start", attach=True)
    assert open_stream(ssegateway).status == 204
    client = connect(ssegateway.url)
    client.send(group="run:1", data="token")
    stream = open_stream(ssegateway)
    event = stream.event()
    assert event and event.data == "token"


@both
def test_bad_sends_to_groups_are_refused(ssegateway: LiveGateway, connect: Connect) -> None:
    client: Any = connect(ssegateway.url)
    for arguments in ({}, {"token": "t", "group": "news"}, {"group": "news", "groups": ["news"]}):
        with pytest.raises(TypeError, match="exactly one of token, group and groups"):
            client.send(data="x", **arguments)
    refused: list[tuple[dict[str, Any], str]] = [
        ({"group": "", "data": "x"}, "group must be a name"),
        ({"groups": [], "data": "x"}, "groups must be an array"),
        ({"group": "news", "events": []}, "events must be an array"),
        ({"group": "news", "events": ["good", {"name": "bad"}]}, r"events\[1\].data"),
        ({"group": "news", "data": "x", "id": "mine"}, "the gateway's in a group"),
        ({"token": "t", "data": "x", "end": True}, "end needs a group"),
    ]
    for arguments, reason in refused:
        with pytest.raises(GatewayError, match=reason) as raised:
            client.send(**arguments)
        assert raised.value.status == 400


def test_one_string_is_not_several_names() -> None:
    with pytest.raises(TypeError, match="groups must be several names"):
        accept(groups="news")
    with pytest.raises(TypeError, match="groups must be several names"):
        Gateway().send(groups="news", data="x")


@pytest.mark.parametrize("ssegateway_environment", [{"POST_STREAMS": "on"}])
def test_a_backend_shapes_the_response(ssegateway: LiveGateway) -> None:
    ssegateway.answer = accept(events=["one", {"data": "two"}], headers={"X-Run": "7", "Set-Cookie": ["a=1"]}, expires_in=1)
    stream = ssegateway.open("/")
    assert (stream.headers["X-Run"], stream.headers["Set-Cookie"]) == ("7", "a=1")
    assert [stream.event(), stream.event(), stream.event()] == [("message", "one", ""), ("message", "two", ""), None]
    ssegateway.answer = decline()
    connection = http.client.HTTPConnection(ssegateway.url.removeprefix("http://"), timeout=PATIENCE_SECONDS)
    with closing(connection):
        connection.request("POST", "/chat", "Grüße".encode())
        assert connection.getresponse().status == 204
    call = ssegateway.wait_for(lambda call: call.url == "/chat")
    assert (call.method, call.body) == ("POST", "Grüße")
    assert ssegateway.wait_for(lambda call: call.url == "/").method == "GET"


def test_answers_hold_only_what_is_given() -> None:
    assert accept() == {}
    assert accept("hello") == {"event": {"data": "hello"}}
    assert accept(groups=["a", "b"], attach=True) == {"groups": ["a", "b"], "attach": True}
