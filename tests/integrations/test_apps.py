"""The example applications, tested from outside: like a browser, and through their own routes."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from apps import PATIENCE_SECONDS, SERVERS, TOKENS, App, next_message
from ssegateway.pytest_plugin import LiveGateway


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        yield listener


@pytest.fixture
def ssegateway_environment(listener: socket.socket) -> dict[str, str]:
    host, port = listener.getsockname()
    return {**TOKENS, "START_CALLBACK": "on", "CALLBACK_URL": f"http://{host}:{port}/callback"}


@pytest.fixture(params=SERVERS)
def app(
    request: pytest.FixtureRequest, listener: socket.socket, ssegateway: LiveGateway, tmp_path: Path
) -> Iterator[App]:
    app = App(request.param, listener, ssegateway, tmp_path)
    yield app
    ssegateway.close()  # first, since it notifies the application of the streams that end
    app.stop()
    print(f"--- log of the application\n{app.log()}---")


def test_nobody_gets_a_stream_without_a_session(app: App) -> None:
    assert app.gateway.open("/events", timeout=PATIENCE_SECONDS).status == 401
    assert app.gateway.open("/events", {"Cookie": "session=forged; sessionid=forged"}).status == 401


def test_only_the_gateway_calls_back(app: App) -> None:
    client = {"url": "/events", "headers": {"cookie": app.user("ann").headers["Cookie"]}}
    token = "6c0c52d7-a862-4e0f-8b04-fc6ea76f35f8"
    call = json.dumps({"action": "connect", "token": token, "request": client})
    for headers in ({}, {"Authorization": "Bearer guessed"}):
        assert app.request("POST", "/callback", call, headers).status >= 400
    assert app.request("POST", "/callback", call, {"Authorization": f"Bearer {TOKENS['CALLBACK_TOKEN']}"}).status == 200


def test_a_message_reaches_all_pages_of_both_users(app: App) -> None:
    ann, bob = app.user("ann"), app.user("bob")
    streams = [user.open(user.page()) for user in (ann, ann, bob)]
    bob.say(to="ann", text="hello\nthere")
    assert [next_message(stream) for stream in streams] == ["bob: hello\nthere"] * 3
    ann.say(to="ann", text="a note")
    ann.say(to="bob", text="oh, hello")
    assert next_message(streams[0]) == "ann: a note"
    assert next_message(streams[2]) == "ann: oh, hello"  # and not the note


def test_a_page_shows_earlier_messages_and_misses_none_behind_them(app: App) -> None:
    ann, bob = app.user("ann"), app.user("bob")
    bob.say(to="ann", text="one <b>")
    page = ann.page()
    assert page.messages == ["bob: one &lt;b&gt;"]
    bob.say(to="ann", text="two")  # before the page opens its stream
    stream = ann.open(page)
    assert next_message(stream) == "bob: two"


def test_a_page_that_was_away_gets_what_it_missed(app: App) -> None:
    ann, bob = app.user("ann"), app.user("bob")
    page = ann.page()
    stream = ann.open(page)
    bob.say(to="ann", text="one")
    event = stream.event()
    assert event
    stream.close()
    for text in ("two", "three"):
        bob.say(to="ann", text=text)
    stream = ann.open(page, last_event_id=event.id)
    assert [next_message(stream) for _ in range(2)] == ["bob: two", "bob: three"]


def test_a_page_hears_of_a_gap_when_the_gateway_has_crashed(app: App) -> None:
    ann, bob = app.user("ann"), app.user("bob")
    page = ann.page()
    ann.open(page)
    app.gateway.process.kill()  # without a drain
    app.gateway.process.wait()
    app.gateway.start()
    event = ann.open(page).event()
    assert event and event.name == "gap"
    bob.say(to="ann", text="hello")
    page = ann.page()
    assert page.messages == ["bob: hello"]
    stream = ann.open(page)
    bob.say(to="ann", text="again")
    assert next_message(stream) == "bob: again"


def test_pages_and_messages_do_without_the_gateway(app: App) -> None:
    ann, bob = app.user("ann"), app.user("bob")
    app.gateway.stop()
    bob.say(to="ann", text="hello")
    page = ann.page()
    assert page.messages == ["bob: hello"]
    bob.say(to="ann", text="are you there?")
    app.gateway.start()
    event = ann.open(page).event()
    assert event and event.name == "gap"
    assert ann.page().messages == ["bob: hello", "bob: are you there?"]


def test_streams_survive_a_restart_of_the_application(app: App) -> None:
    ann, bob = app.user("ann"), app.user("bob")
    stream = ann.open(ann.page())
    app.stop()
    app.start()
    bob.say(to="ann", text="still there?")
    assert next_message(stream) == "bob: still there?"
