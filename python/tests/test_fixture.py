"""The pytest fixture, used as in another project."""

import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from ssegateway import Callback
from ssegateway.pytest_plugin import Answer, LiveGateway

pytest_plugins = ["pytester"]


def test_the_log_is_shown_where_a_test_fails(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        def test_good(ssegateway):
            assert ssegateway.open("/good").status == 200

        def test_bad(ssegateway):
            ssegateway.answer = 403
            assert ssegateway.open("/bad").status == 200
        """
    )
    result = pytester.runpytest_subprocess("-p", "ssegateway.pytest_plugin")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["--- log of the gateway", "*started version=*", "*connect rejected*"])
    result.stdout.no_fnmatch_line("*stream opened*")


def test_a_binary_that_is_not_there_is_said(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSEGATEWAY", "/nowhere/ssegateway")
    pytester.makepyfile("def test_it(ssegateway): pass")
    result = pytester.runpytest_subprocess("-p", "ssegateway.pytest_plugin")
    result.stdout.fnmatch_lines(["*no ssegateway on the PATH: install it, or set the variable SSEGATEWAY to the binary"])


def test_a_gateway_that_does_not_start_says_why() -> None:
    with pytest.raises(AssertionError, match='HEARTBEAT|MAX_STREAMS="many"'):
        LiveGateway({"MAX_STREAMS": "many"})


def test_many_at_once_do_not_fight_for_ports() -> None:
    gateways = [LiveGateway() for _ in range(20)]
    # Other programs do not get their ports meanwhile, even during a restart.
    gateways[0].stop()
    others = [socket.create_server(("127.0.0.1", 0)) for _ in range(200)]
    gateways[0].start()
    for gateway in gateways:
        assert gateway.open("/").status == 200
        gateway.close()
    for other in others:
        other.close()


def test_a_function_decides(ssegateway: LiveGateway) -> None:
    def answer(call: Callback) -> Answer:
        return {"event": {"data": call.path}} if call.path != "/secret" else 403

    ssegateway.answer = answer
    assert ssegateway.open("/open").event() == ("message", "/open", "")
    assert ssegateway.open("/secret").status == 403


def test_an_application_decides(ssegateway: LiveGateway) -> None:
    class Application(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            call = ssegateway.client.callback(self.rfile.read(int(self.headers["Content-Length"])), self.headers)
            self.send_response(302 if self.path != "/callback?key=1" or call.path == "/login" else 200)
            self.end_headers()
            self.wfile.write(b'{"event":{"data":"from the application"}}')

    application = HTTPServer(("127.0.0.1", 0), Application)
    thread = threading.Thread(target=application.serve_forever, args=[0.01])
    thread.start()
    ssegateway.answer = f"http://127.0.0.1:{application.server_port}/callback?key=1"
    assert ssegateway.open("/news").event() == ("message", "from the application", "")
    assert ssegateway.open("/login").status == 302
    assert [call.path for call in ssegateway.callbacks if call.action == "connect"] == ["/news", "/login"]

    application.shutdown()
    thread.join()
    application.server_close()
    assert ssegateway.open("/news").status == 502


def test_a_callback_that_does_not_come_is_an_error_that_shows_what_came(ssegateway: LiveGateway) -> None:
    ssegateway.open("/came")
    with pytest.raises(AssertionError, match="no such callback within 0.1 s, but .*url='/came'"):
        ssegateway.wait_for(lambda call: call.path == "/other", timeout=0.1)


@pytest.mark.parametrize("ssegateway_environment", [{"HEARTBEAT_INTERVAL_SECONDS": "1"}])
def test_an_event_that_does_not_come_is_an_error(ssegateway: LiveGateway) -> None:
    with pytest.raises(TimeoutError):
        ssegateway.open("/", timeout=0.1).event()
    with pytest.raises(TimeoutError):  # heartbeats do not count
        ssegateway.open("/", timeout=1.5).event()
