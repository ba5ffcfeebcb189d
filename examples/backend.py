"""A complete SSEGateway backend on Python's standard library: one process, one thread.

    python3 examples/backend.py
    CALLBACK_URL=http://127.0.0.1:8000/callback ssegateway
    curl -N 'http://127.0.0.1:3000/events?user=ann'     # a second one with the same user replaces the first

Environment: PORT (8000), HOST (127.0.0.1), GATEWAY_URL (http://127.0.0.1:3000).
"""
import collections, contextlib, http.client, http.server, json, os, time
from urllib.parse import parse_qs, urlsplit

HOST, PORT = os.environ.get("HOST", "127.0.0.1"), int(os.environ.get("PORT", "8000"))
GATEWAY = urlsplit(os.environ.get("GATEWAY_URL", "http://127.0.0.1:3000"))
gateway = http.client.HTTPConnection(GATEWAY.hostname, GATEWAY.port or 80, timeout=5)  # kept open between sends
streams = {}  # token -> user, for every stream that is open
due = collections.deque()  # tokens that have not been sent the current tick


def send(token, **message):
    """Sends to one stream: event={"name": ..., "data": ...}, close=True, or both."""
    body = json.dumps({"token": token, **message})
    for _attempt in range(2):  # the idle connection may have been closed: retry once on a new one
        try:
            gateway.request("POST", "/internal/send", body, {"Content-Type": "application/json"})
            with gateway.getresponse() as answer:
                answer.read()
                if answer.status == 404:  # the stream has ended
                    streams.pop(token, None)
                return
        except (OSError, http.client.HTTPException):
            gateway.close()


class Backend(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 5  # seconds; a silent peer must not block the only thread

    def do_POST(self):
        call = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status, answer = self.callback(call) if self.path == "/callback" else (404, {})
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")  # an idle connection would block the only thread
        self.end_headers()
        self.wfile.write(body)

    def callback(self, call):
        if call["action"] == "start":  # the gateway has been restarted (START_CALLBACK=on)
            streams.clear()
            return 200, {}
        token, url = call["token"], urlsplit(call["request"]["url"])
        if call["action"] == "disconnect":
            streams.pop(token, None)
            return 200, {}
        if url.path == "/forbidden":
            return 403, {}  # any status other than 2xx rejects the client with that status
        user = parse_qs(url.query).get("user", [None])[0]
        for old in [t for t, u in streams.items() if user and u == user]:  # one stream per user: close the older one
            send(old, event={"name": "replaced", "data": "You opened another stream."}, close=True)
        streams[token] = user
        send(token, event={"name": "early", "data": "Sent before this callback was answered."})
        return 200, {"event": {"name": "welcome", "data": json.dumps({"user": user, "streams": len(streams)})}}


class Server(http.server.HTTPServer):
    request_queue_size = 4096  # callbacks that queue while the only thread is busy
    timeout, next_tick = 0, time.monotonic() + 1

    def handle_timeout(self):  # no callback is pending: send one tick, then check again
        if due:
            send(due.popleft(), event={"data": time.strftime("tick %H:%M:%S")})
        elif time.monotonic() >= self.next_tick:
            self.next_tick = time.monotonic() + 1
            due.extend(streams)
        self.timeout = 0 if due else max(0, self.next_tick - time.monotonic())


with Server((HOST, PORT), Backend) as server, contextlib.suppress(KeyboardInterrupt):
    print(f"backend on http://{HOST}:{server.server_port}/callback", flush=True)
    while True:
        server.handle_request()
