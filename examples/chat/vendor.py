"""A model that speaks the protocol of OpenAI and costs nothing: python vendor.py PORT [TOKENS_PER_SECOND]"""
import json
import re
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ANSWER = """You asked: “{question}”

This answer comes word by word from a model that is none. Reload the page in the middle: nothing is lost, because the \
answer belongs to its group and not to your connection. Open a second tab: it shows the same words. Press Stop: the \
worker is told while it waits, and the model's connection is closed at once.

Now kill the worker with kill -9. The gateway sees its connection break, sends the last will, and this page says so. Or \
deploy the backend: the answer goes on, because the stream is the gateway's and not the backend's. Come back after the \
end: the answer is here.
"""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")  # so that a broken answer does not look like a complete one
        self.end_headers()
        try:
            for token in re.findall(r"\S+\s*", ANSWER.format(question=asked["messages"][-1]["content"])):
                choice = {"index": 0, "delta": {"content": token}, "finish_reason": None}
                chunk = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "fake", "choices": [choice]}
                self.send(f"data: {json.dumps(chunk)}\n\n")
                time.sleep(1 / self.server.tokens_per_second)
            self.send("data: [DONE]\n\n")
            self.send("")
        except ConnectionError:
            print("the client has left", flush=True)

    def send(self, text):
        data = text.encode()
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
    server.daemon_threads = True
    server.tokens_per_second = float(sys.argv[2]) if len(sys.argv) > 2 else 12
    server.serve_forever()
