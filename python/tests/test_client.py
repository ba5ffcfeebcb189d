"""The client with the real gateway: its requests, its handling of answers, its connections."""

import json
import os
import select
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from clients import Connect, both
from ssegateway import Callback, Gateway, GatewayError
from ssegateway.aio import AsyncGateway
from ssegateway.pytest_plugin import LiveGateway, Stream

PATIENCE_SECONDS = 60


def open_stream(gateway: LiveGateway, path: str = "/") -> tuple[Stream, str]:
    stream = gateway.open(path, timeout=PATIENCE_SECONDS)
    return stream, gateway.wait_for(lambda call: call.url == path, PATIENCE_SECONDS).token


@both
def test_every_field_of_an_event_arrives(ssegateway: LiveGateway, connect: Connect) -> None:
    stream, token = open_stream(ssegateway)
    assert connect(ssegateway.url).send(token, "zwölf\nBoxkämpfer", name="pangram", id="7", retry=2500)
    frame = ["event: pangram", "id: 7", "retry: 2500", "data: zwölf", "data: Boxkämpfer", ""]
    assert [stream.line() for _ in frame] == frame


@both
def test_an_empty_event_is_an_event(ssegateway: LiveGateway, connect: Connect) -> None:
    stream, token = open_stream(ssegateway)
    assert connect(ssegateway.url).send(token, "")
    assert stream.event() == ("message", "", "")


@both
def test_a_stream_that_was_closed_is_gone(ssegateway: LiveGateway, connect: Connect) -> None:
    stream, token = open_stream(ssegateway)
    client = connect(ssegateway.url)
    assert client.send(token)
    assert client.send(token, "goodbye", close=True)
    assert stream.event() == ("message", "goodbye", "")
    assert stream.event() is None
    assert not client.send(token)


@both
def test_what_the_gateway_objects_to_is_said(ssegateway: LiveGateway, connect: Connect) -> None:
    _stream, token = open_stream(ssegateway)
    with pytest.raises(GatewayError, match="event.name must not contain line breaks"):
        connect(ssegateway.url).send(token, "x", name="two\nlines")
    with pytest.raises(GatewayError, match="event.data is required"):
        connect(ssegateway.url).send(token, name="nothing")


@pytest.mark.parametrize(
    "url", ["127.0.0.1:3000", "gateway", "ftp://gateway", "http://", "http://gateway/path", "http+unix:///s"]
)
@pytest.mark.parametrize("kind", [Gateway, AsyncGateway])
def test_what_is_no_address_of_a_gateway_is_refused_at_once(kind: Connect, url: str) -> None:
    with pytest.raises(ValueError, match="GATEWAY_URL must be like http://127.0.0.1:3000 or "):
        kind(url)


@both
def test_no_gateway_is_an_error_and_not_the_end_of_a_stream(ssegateway: LiveGateway, connect: Connect) -> None:
    _stream, token = open_stream(ssegateway)
    client = connect(ssegateway.url)
    assert client.send(token)
    ssegateway.stop()
    with pytest.raises(GatewayError, match="no answer from the gateway at http://127.0.0.1:"):
        client.send(token, "x")


@both
def test_the_wrong_port_is_an_error_and_not_the_end_of_a_stream(connect: Connect) -> None:
    with socket.socket() as port:
        # Bound, so that the port is reserved; not listening, so that SO_REUSEADDR lets the gateway listen on it.
        port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        port.bind(("127.0.0.1", 0))
        with closing(LiveGateway({"INTERNAL_PORT": str(port.getsockname()[1])})) as gateway:
            stream, token = open_stream(gateway)
            with pytest.raises(GatewayError, match="404"):
                connect(gateway.url).send(token, "to the port of the streams")
            assert gateway.send(token, "to INTERNAL_PORT")
            assert stream.event() == ("message", "to INTERNAL_PORT", "")


@both
def test_a_gateway_that_came_back_is_found_again(ssegateway: LiveGateway, connect: Connect) -> None:
    _stream, token = open_stream(ssegateway)
    client = connect(ssegateway.url)
    assert client.send(token)
    ssegateway.restart()
    assert not client.send(token)


@both
@pytest.mark.parametrize("ssegateway_environment", [{"INTERNAL_TOKEN": "secret"}])
def test_the_internal_token_is_shown(
    ssegateway: LiveGateway, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream, token = open_stream(ssegateway)
    with pytest.raises(GatewayError, match="401"):
        connect(ssegateway.url).send(token, "without")
    monkeypatch.setenv("INTERNAL_TOKEN", "secret")
    monkeypatch.setenv("GATEWAY_URL", ssegateway.url)
    assert connect().send(token, "from the environment")
    assert connect(ssegateway.url + "/", internal_token="secret").send(token, "given")
    assert [stream.event(), stream.event()] == [("message", "from the environment", ""), ("message", "given", "")]


@both
def test_all_connections_are_listed_page_by_page(ssegateway: LiveGateway, connect: Connect) -> None:
    client = connect(ssegateway.url)
    assert list(client.connections()) == []
    opened = [open_stream(ssegateway, f"/{number}") for number in range(5)]
    for limit in (1, 2, 5, 1000):
        listed = list(client.connections(limit=limit))
        assert {connection.token: connection.url for connection in listed} == {
            token: f"/{number}" for number, (_, token) in enumerate(opened)
        }
        assert len(listed) == len(opened)
        assert {connection.pending_bytes for connection in listed} == {0}


@pytest.mark.parametrize("ssegateway_environment", [{"KEEPALIVE_TIMEOUT_SECONDS": "1"}])
def test_an_idle_connection_that_was_closed_is_replaced(ssegateway: LiveGateway, connect: Connect) -> None:
    stream, token = open_stream(ssegateway)
    client = connect(ssegateway.url)
    assert client.send(token, "one")
    (idle,) = client._pool.idle
    assert select.select([idle.sock], [], [], PATIENCE_SECONDS)[0], "closed by the gateway"
    assert client.send(token, "two")
    assert [stream.event(), stream.event()] == [("message", "one", ""), ("message", "two", "")]


def test_a_connection_serves_many_sends_and_all_threads(ssegateway: LiveGateway, connect: Connect) -> None:
    stream, token = open_stream(ssegateway)
    client = connect(ssegateway.url)

    def send_all(thread: int) -> None:
        for number in range(100):
            assert client.send(token, f"{thread} {number}")

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(send_all, range(4)))
    received = [stream.event() for _ in range(400)]
    for thread in range(4):  # each one's in order
        mine = [event.data for event in received if event and event.data.startswith(f"{thread} ")]
        assert mine == [f"{thread} {number}" for number in range(100)]
    assert len(client._pool.idle) <= 4


def test_a_child_process_gets_connections_of_its_own(ssegateway: LiveGateway, connect: Connect) -> None:
    stream, token = open_stream(ssegateway)
    client = connect(ssegateway.url)
    assert client.send(token, "first")
    (parents,) = client._pool.idle
    if (child := os.fork()) == 0:
        os._exit(0 if client.send(token, "child") and parents not in client._pool.idle else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert client.send(token, "parent")
    assert [event.data for _ in range(3) if (event := stream.event())] == ["first", "child", "parent"]
    assert client._pool.idle == [parents]


def test_a_process_may_end_without_close(ssegateway: LiveGateway) -> None:
    script = "import sys\nfrom ssegateway import Gateway\nclient = Gateway(sys.argv[1])\nclient.send(group='news', data='x')"
    command = [sys.executable, "-W", "error", "-c", script, ssegateway.url]
    assert subprocess.run(command, check=True, stderr=subprocess.PIPE, text=True, timeout=PATIENCE_SECONDS).stderr == ""


def test_a_callback_is_read(ssegateway: LiveGateway) -> None:
    headers = {"Cookie": "session=a=b; theme=dark; odd", "X-Two": "2"}
    ssegateway.open("//shop/%2e?user=ann&empty=&user=bob", headers).close()
    connect = ssegateway.wait_for(lambda call: call.action == "connect")
    assert (connect.path, connect.query) == ("//shop/%2e", {"user": "bob", "empty": ""})
    assert connect.cookies == {"session": "a=b", "theme": "dark"}
    assert connect.headers["x-two"] == "2"
    assert connect.reason is None and connect.detail is None and connect.instance

    disconnect = ssegateway.wait_for(lambda call: call.action == "disconnect")
    assert (disconnect.token, disconnect.url) == (connect.token, connect.url)
    assert (disconnect.reason, disconnect.instance) == ("client_closed", connect.instance)


def test_a_start_is_about_no_stream() -> None:
    headers = {"SSEGateway-Instance": "7"}
    for action in ("start", "unknown"):
        call = Gateway().callback(f'{{"action":"{action}"}}', headers)
        assert (call.action, call.token, call.url, call.headers, call.instance) == (action, "", "", {}, "7")


def test_a_callback_has_to_carry_the_token() -> None:
    body = b'{"action":"connect","token":"t","request":{"url":"/","headers":{}}}'
    client = Gateway(callback_token="secret")
    assert client.callback(body, {"Authorization": "Bearer secret"}) == Callback("connect", "t", "/", {})
    for headers in ({}, {"Authorization": "Bearer gu\xe9ssed"}, {"Authorization": "secret"}):
        with pytest.raises(PermissionError):
            client.callback(body, headers)


@pytest.mark.parametrize("body", ["", "{", "null", "[]", "{}", '{"action":"connect"}', '{"action":"connect","token":"t","request":[]}'])
def test_nonsense_is_no_callback(body: str) -> None:
    with pytest.raises(ValueError):
        Gateway().callback(body, {})


@both
def test_any_json_value_may_be_data(ssegateway: LiveGateway, connect: Connect) -> None:
    stream = ssegateway.open("/events")
    token = ssegateway.wait_for(lambda call: call.action == "connect").token
    client = connect(ssegateway.client.url)
    values = [{"unread": 3, "text": "caf\u00e9\n"}, [1, 2.5], None, 0, "text"]
    for value in values:
        assert client.send(token, json=value, name="news")
    received = [stream.event() for _ in values]
    assert [json.loads(event.data) for event in received if event] == values
    with pytest.raises(TypeError, match="exclude"):
        client.send(token, "data", json=1)
