"""Shared by the deployment tests: namespaces of their own, a backend on port 8000, and a client."""
import http.client, http.server, json, os, pathlib, queue, re, subprocess, sys, threading, time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
PATIENCE = 30  # seconds to wait for a condition
TOKEN = {"Authorization": "Bearer s3cret"}  # INTERNAL_TOKEN

callbacks = queue.Queue()


def isolate(*namespaces):
    """Continues in new namespaces: the machine is not changed, and every port is free."""
    if os.geteuid() != 0:
        sys.exit(f"{sys.argv[0]}: needs root, for namespaces")
    if sys.argv[-1] != "--isolated":
        again = [sys.executable, "-B", *sys.argv, "--isolated"]
        os.execvp("unshare", ["unshare", "--net", "--mount", *namespaces, *again])
    sys.argv.pop()
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


class Backend(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        call = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        callbacks.put({**call, "detail": self.headers["SSEGateway-Detail"]})
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


def start_backend():
    """Accepts every stream; `callbacks` has its callbacks."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 8000), Backend)
    threading.Thread(target=server.serve_forever, daemon=True).start()


def eventually(what, condition):
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < PATIENCE, f"never happened: {what}"
        time.sleep(0.02)


def get(path):
    client = http.client.HTTPConnection("127.0.0.1", 3000, timeout=PATIENCE)
    client.request("GET", path)
    return client.getresponse()


def send(**message):
    """Sends through the internal port; the status of the answer."""
    client = http.client.HTTPConnection("127.0.0.1", 3001, timeout=PATIENCE)
    client.request("POST", "/internal/send", json.dumps(message), TOKEN)
    return client.getresponse().status


def metrics():
    client = http.client.HTTPConnection("127.0.0.1", 3001, timeout=PATIENCE)
    client.request("GET", "/internal/metrics", headers=TOKEN)
    return client.getresponse().read().decode()


class Stream:
    """A stream that has had an event."""

    def __init__(self):
        self.answer = get("/news")
        connect = callbacks.get(timeout=PATIENCE)
        assert connect["action"] == "connect" and self.answer.status == 200, (connect, self.answer.status)
        assert send(token=connect["token"], event={"data": "hello"}) == 200
        assert self.answer.readline() == b"data: hello\n"

    def assert_ended(self):
        """The gateway has exited: the stream was closed cleanly, and the backend was notified in time."""
        rest = self.answer.read()  # IncompleteRead, if the last chunk is missing
        assert re.fullmatch(rb"\nretry: \d+\n\n", rest), rest
        disconnect = callbacks.get_nowait()
        assert (disconnect["reason"], disconnect["detail"]) == ("server_closed", "shutdown"), disconnect


def timed(action):
    began = time.monotonic()
    action()
    return time.monotonic() - began
