"""End-to-end tests of an application: flask_app.py and the real gateway, and this as the browser."""

import importlib
import json
import threading

import pytest
from werkzeug.serving import make_server


@pytest.fixture
def app(ssegateway, monkeypatch, tmp_path):
    monkeypatch.setenv("GATEWAY_URL", ssegateway.url)
    monkeypatch.setenv("SECRET_KEY", "secret")
    monkeypatch.setenv("DATABASE", str(tmp_path / "messages.db"))
    app = importlib.reload(importlib.import_module("flask_app")).app
    server = make_server("127.0.0.1", 0, app)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    ssegateway.answer = f"http://127.0.0.1:{server.port}/callback"
    yield app
    server.shutdown()


def test_a_message_reaches_its_addressee(ssegateway, app):
    ann = app.test_client()
    ann.post("/login", data={"user": "ann"})
    stream = ssegateway.open("/events", {"Cookie": f"session={ann.get_cookie('session').value}"})
    assert stream.status == 200
    ann.post("/messages", data={"to": "ann", "text": "hello"})
    assert json.loads(stream.event().data) == {"id": 1, "sender": "ann", "text": "hello"}
