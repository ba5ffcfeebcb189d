"""Tests against the real gateway: pytest -p ssegateway.pytest_plugin examples/test_example.py"""

import pytest
from ssegateway import Callback
from ssegateway.pytest_plugin import Answer, LiveGateway


def test_an_event_reaches_the_client(ssegateway: LiveGateway) -> None:
    ssegateway.answer = {"event": {"name": "welcome", "data": "Ann"}}
    stream = ssegateway.open("/news?user=ann")
    assert stream.event() == ("welcome", "Ann", "")

    token = ssegateway.wait_for(lambda call: call.query["user"] == "ann").token
    assert ssegateway.send(token, "two\nlines", name="news", id="7")
    assert stream.event() == ("news", "two\nlines", "7")

    stream.close()
    assert ssegateway.wait_for(lambda call: call.action == "disconnect").reason == "client_closed"
    assert not ssegateway.send(token, "too late")


def test_who_has_no_cookie_is_rejected(ssegateway: LiveGateway) -> None:
    def answer(call: Callback) -> Answer:
        return {} if "session" in call.cookies else 401

    ssegateway.answer = answer
    assert ssegateway.open("/news").status == 401
    assert ssegateway.open("/news", {"Cookie": "session=1"}).status == 200


@pytest.mark.parametrize("ssegateway_environment", [{"RECONNECT_DELAY_MILLISECONDS": "2000"}])
def test_a_restart_ends_the_streams(ssegateway: LiveGateway) -> None:
    stream = ssegateway.open("/news")
    ssegateway.restart()
    assert stream.event() is None
    assert ssegateway.wait_for(lambda call: call.action == "disconnect").detail == "shutdown"
    assert ssegateway.open("/news").status == 200
