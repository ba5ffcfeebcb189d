"""The demo's backend: who may have a stream, into which groups, and what is sent to them."""
import collections, http.server, json, pathlib, re, socket, sys, threading, time
from ssegateway import Gateway, GatewayError, accept

gateway = Gateway()  # GATEWAY_URL
streams, history = set(), collections.deque(maxlen=30)  # only to show them


def callback(call):
    (streams.add if call.action == "connect" else streams.discard)(call.token)
    page = {"user": "nobody", "page": "", **call.query}
    seen = call.headers.get("last-event-id") or call.query.get("last_event_id")
    entry = {"at": time.time() * 1000, "action": call.action, "token": call.token[:8], "page": page["page"]}
    entry |= {"user": page["user"], "fact": f"reason {call.reason}" if call.reason else seen and f"has seen {seen}"}
    history.append(entry)
    send(group="everyone", name="callback", json={"open": len(streams), "entry": entry}, transient=True)
    if call.action == "disconnect":
        return {}
    welcome = json.dumps({"open": len(streams), "history": [*history]})
    groups = ["everyone", f"user:{page['user']}", f"page:{page['page']}"]
    return accept({"name": "welcome", "data": welcome, "retry": 1500}, groups=groups)


def send(**event):
    try:
        return {"reached": gateway.send(**event).reached}
    except (GatewayError, TypeError) as error:
        return {"error": str(error)}


def tick():
    for pulse in range(1, 10**9):
        time.sleep(0.1)
        send(group="everyone", name="pulse", json={"sent": time.time() * 1000}, transient=True)  # for the plot
        if pulse % 20 == 0:
            send(group="everyone", data=f"tick {pulse // 20}, to everyone")


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers["Content-Type"] != "application/json":  # pages of other sites can post nothing but that
            self.answer(415, b"{}")
        elif self.path == "/callback":
            self.answer(200, json.dumps(callback(gateway.callback(body, self.headers))).encode())
        else:  # the page's buttons, which may send to any group: this is a demo
            self.answer(200, json.dumps(send(**json.loads(body))).encode())

    def do_GET(self):
        here, path = pathlib.Path(__file__), self.path.partition("?")[0]
        files = {"/": here.with_name("index.html"), "/backend": here}
        if re.fullmatch(r"/(docs/[a-z-]+|README)\.md", path):
            files[path] = here.parents[2] / path[1:]
        text = files[path].read_bytes() if path in files else b"There is nothing here."
        text = text.replace(b"{{GATEWAY}}", gateway.url.rpartition(":")[2].encode()) if path == "/" else text
        self.answer(200 if path in files else 404, text, "text/html" if path == "/" else "text/plain")

    def answer(self, status, body, content_type="application/json"):
        self.send_response(status)
        self.send_header("Content-Type", f"{content_type}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


if __name__ == "__main__":
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler, bind_and_activate=False)
    server.socket = socket.socket(fileno=1)  # `make demo` has opened it, in place of the standard output
    for work in (tick, server.serve_forever):
        threading.Thread(target=work, daemon=True).start()
    sys.stdin.read()  # until the demo has ended, however that came
