"""The smallest backend: one page, and everyone who has it open is in the group "news".

    python3 examples/hello.py
    CALLBACK_URL=http://127.0.0.1:8000/callback CORS_ORIGINS=http://127.0.0.1:8000 ssegateway
    curl http://127.0.0.1:3000/internal/send -d '{"group":"news","event":{"data":"It works"}}'
"""

# hello.py
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PAGE = """<!doctype html><title>News</title><ul></ul><script>
const events = new EventSource("http://127.0.0.1:3000/news")
events.onmessage = event => document.querySelector("ul").append(event.data, document.createElement("br"))
</script>"""


class Backend(BaseHTTPRequestHandler):
    def do_GET(self):  # the page
        self.answer("text/html", PAGE)

    def do_POST(self):  # the gateway asks whether to accept a stream, and tells when it has ended
        print(self.rfile.read(int(self.headers["Content-Length"])).decode(), flush=True)
        self.answer("application/json", json.dumps({"groups": ["news"]}))

    def answer(self, content_type, body):
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *args):
        pass


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", 8000), Backend).serve_forever()
