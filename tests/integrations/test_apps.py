"""The example applications, tested from outside: like a browser, and through their own routes."""

import json
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from apps import PATIENCE_SECONDS, SERVERS, TOKENS, App, eventually
from ssegateway.pytest_plugin import LiveGateway


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        yield listener


@pytest.fixture
def ssegateway_environment(listener: socket.socket) -> dict[str, str]:
    host, port = listener.getsockname()
    return {**TOKENS, "CALLBACK_URL": f"http://{host}:{port}/callback"}


@pytest.fixture(params=SERVERS)
def app(
    request: pytest.FixtureRequest, listener: socket.socket, ssegateway: LiveGateway, tmp_path: Path
) -> Iterator[App]:
    app = App(SERVERS[request.param], listener, ssegateway, tmp_path)
    yield app
    ssegateway.close()  # first, since it notifies the application of the streams that end
    app.stop()
    print(f"--- log of the application\n{app.log()}---")


def test_nobody_gets_a_stream_without_a_session(app: App) -> None:
    assert app.gateway.open("/events").status == 401
    assert app.gateway.open("/events", {"Cookie": "session=forged; sessionid=forged"}).status == 401
    assert app.online() == []


def test_nobody_but_the_gateway_calls_back(app: App) -> None:
    ann = app.user("ann")
    client = {"url": "/events", "headers": {"cookie": ann.headers["Cookie"]}}
    token = "6c0c52d7-a862-4e0f-8b04-fc6ea76f35f8"
    call = json.dumps({"action": "connect", "token": token, "request": client})
    for headers in ({}, {"Authorization": "Bearer guessed"}):
        assert app.request("POST", "/callback", call, headers).status >= 400
    assert app.online() == []


def test_a_message_reaches_all_streams_of_its_addressee_and_no_other(app: App) -> None:
    ann, bob = app.user("ann"), app.user("bob")
    streams_of_ann, stream_of_bob = [ann.open(), ann.open()], bob.open()
    # Often enough to reach each worker.
    assert [app.online() for _ in range(10)] == [["ann", "bob"]] * 10

    bob.say(to="ann", text="hello\nthere")
    for stream in streams_of_ann:
        assert stream.event() == ("message", "bob: hello\nthere", "")
    ann.say(to="bob", text="oh, hello")
    assert stream_of_bob.event() == ("message", "ann: oh, hello", "")  # and not the message to ann


def test_who_leaves_is_forgotten(app: App) -> None:
    ann, bob = app.user("ann"), app.user("bob")
    first, second, _stream_of_bob = ann.open(), ann.open(), bob.open()
    first.close()
    bob.say(to="ann", text="hello")
    assert second.event() == ("message", "bob: hello", "")
    second.close()
    eventually("ann is gone", lambda: app.online() == ["bob"])


def test_a_stream_is_closed_from_within_the_callback_of_another(app: App) -> None:
    ann = app.user("ann")
    streams = [ann.open() for _ in range(5)]
    for replaced in streams[:2]:
        assert replaced.event() == ("replaced", "Three pages are enough.", "")
        assert replaced.event() is None
    ann.say(to="ann", text="hello")
    for stream in streams[2:]:
        assert stream.event() == ("message", "ann: hello", "")


def test_a_drained_gateway_leaves_nobody_online(app: App) -> None:
    streams = [app.user(name).open() for name in ("ann", "bob")]
    assert app.gateway.stop() == 0
    assert [stream.event() for stream in streams] == [None, None]
    assert app.online() == []


def test_streams_of_a_gateway_that_crashed_are_forgotten(app: App) -> None:
    ann, bob = app.user("ann"), app.user("bob")
    _lost = ann.open()
    app.gateway.process.kill()  # without a drain
    app.gateway.restart()
    _stream = bob.open()
    assert app.online() == ["bob"]


def test_a_retried_connect_opens_no_second_stream(app: App) -> None:
    ann, bob = app.user("ann"), app.user("bob")
    stream = ann.open()
    internal = {"Authorization": f"Bearer {TOKENS['INTERNAL_TOKEN']}"}
    listing = urllib.request.Request(f"{app.gateway.client.url}/internal/connections", headers=internal)
    with urllib.request.urlopen(listing) as answer:
        listed = json.load(answer)
    client = {"url": "/events", "headers": {"cookie": ann.headers["Cookie"]}}
    call = json.dumps({"action": "connect", "token": listed["connections"][0]["token"], "request": client})
    headers = {"Authorization": f"Bearer {TOKENS['CALLBACK_TOKEN']}", "SSEGateway-Instance": listed["instance"]}
    assert app.request("POST", "/callback", call, headers).status == 200
    for text in ("once", "only"):
        bob.say(to="ann", text=text)
        assert stream.event() == ("message", f"bob: {text}", "")


@pytest.mark.parametrize("app", ["flask", "django"], indirect=True)
def test_streams_that_ended_while_the_application_was_down_are_forgotten(app: App, listener: socket.socket) -> None:
    ann, bob = app.user("ann"), app.user("bob")
    stream_of_ann, stream_of_bob = ann.open(), bob.open()
    app.stop()
    stream_of_ann.close()
    listener.settimeout(PATIENCE_SECONDS)
    with listener.accept()[0] as callback:  # and it is lost
        received = b""
        while b'"disconnect"' not in received:
            received += callback.recv(4096)
    app.start()
    assert app.online() == ["bob"]
    ann.say(to="bob", text="hello")
    assert stream_of_bob.event() == ("message", "ann: hello", "")


@pytest.mark.parametrize("app", ["fastapi"], indirect=True)
def test_an_application_that_forgot_whose_the_streams_are_ends_them(app: App) -> None:
    stream = app.user("ann").open()
    app.stop()
    app.start()
    assert stream.event() is None
    assert app.online() == []
