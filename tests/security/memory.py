#!/usr/bin/env python3
"""How much memory one peer can pin, per state (docs/security.md).

Starts a fresh gateway for each state, brings a number of peers into it, and prints what VmRSS grew by, per peer, and
what was left of it ten seconds after all peers had gone. Needs Python 3 and a release build; loopback only; 3 minutes.

usage: memory.py [path of the gateway's binary]
"""

import http.server
import json
import os
import pathlib
import queue
import socket
import subprocess
import sys
import threading
import time

KIB = 1024
MIB = 1024 * KIB
# As many as fit into MAX_HEADER_BYTES of the bytes that expand most in JSON.
LARGE_GET = b"GET /x HTTP/1.1\r\nHost: h\r\nX: " + b'"' * 16_200 + b"\r\n\r\n"


class Backend(http.server.ThreadingHTTPServer):
    """Answers connects and disconnects, or holds them; queues the tokens of connects."""

    request_queue_size = 1024
    daemon_threads = True

    def __init__(self, hold=()):
        self.hold, self.tokens, self.released = hold, queue.Queue(), threading.Event()
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        call = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if call["action"] == "connect":
            self.server.tokens.put(call["token"])
        if call["action"] in self.server.hold:
            self.server.released.wait(120)
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass

    def handle(self):
        try:
            super().handle()
        except OSError:
            pass


class Gateway:
    def __init__(self, binary, backend, **variables):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        url = f"http://127.0.0.1:{backend.server_port}/"
        environment = {"PORT": str(self.port), "LISTEN_ADDRESS": "127.0.0.1", "LOG_LEVEL": "off", "CALLBACK_URL": url,
                       "REQUEST_TIMEOUT_SECONDS": "60", "CALLBACK_TIMEOUT_SECONDS": "60", "CONNECT_QUEUE_SECONDS": "60",
                       "CLIENT_TIMEOUT_SECONDS": "60", **variables}
        self.process = subprocess.Popen([binary], env=environment)
        for _ in range(200):
            try:
                self.connect().close()
                break
            except OSError:
                time.sleep(0.02)
        # Warm-up: the first cost of everything, callbacks included, is not a peer's.
        self.probe()
        self.base = self.settled()

    def connect(self, data=b"", receive_buffer=None):
        client = socket.socket()
        if receive_buffer:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client.connect(("127.0.0.1", self.port))
        client.sendall(data)
        return client

    def probe(self):
        with self.connect(b"GET /healthz HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n") as client:
            while client.recv(4096):
                pass

    def rss(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) * KIB for line in status.splitlines() if line.startswith("VmRSS:"))

    def settled(self):
        """The resident set once it is stable."""
        last = None
        while last != (last := self.rss()):
            time.sleep(0.5)
        return last

    def send(self, token, data):
        """One event; the status of the answer."""
        body = b'{"token":"%s","event":{"data":"%s"}}' % (token.encode(), data)
        head = b"POST /internal/send HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
        with self.connect(head + body) as client:
            return int(client.recv(4096)[9:12])


# The event that expands most: each of its line breaks is two bytes of JSON and seven of a frame.
def line_breaks(count):
    return b"\\n" * count


MOST_LINE_BREAKS = (MIB - 100) // 2


def idle(gateway, backend):
    return [gateway.connect() for _ in range(2000)]


def partial_head(gateway, backend):
    peers = [gateway.connect(b"GET /x HTTP/1.1\r\nHost: h\r\nX: ") for _ in range(500)]
    for peer in peers:
        peer.sendall(b"x" * 16_300)
    return peers


def partial_body(gateway, backend):
    head = b"POST /internal/send HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % MIB
    return [gateway.connect(head + b"x" * (MIB - 1)) for _ in range(100)]


def partial_chunked_body(gateway, backend):
    head = b"POST /internal/send HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    return [gateway.connect(head + b"1\r\nx\r\n" * (MIB - 1)) for _ in range(20)]


def unauthorized_body(gateway, backend):
    return partial_body(gateway, backend)


def unread_answers(gateway, backend):
    peers = [gateway.connect(receive_buffer=4096) for _ in range(50)]
    requests = b"A / HTTP/1.1\r\nHost:\r\n\r\n" * 3000
    for peer in peers:
        peer.settimeout(0.2)
        try:
            for _ in range(200):
                peer.sendall(requests)
        except TimeoutError:
            pass
    return peers


def open_streams(gateway, backend):
    peers = [gateway.connect(LARGE_GET) for _ in range(500)]
    for peer in peers:
        assert peer.recv(12) == b"HTTP/1.1 200"
    return peers


def small_streams(gateway, backend):
    peers = [gateway.connect(b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n") for _ in range(2000)]
    for peer in peers:
        assert peer.recv(12) == b"HTTP/1.1 200"
    return peers


def connects_in_flight(gateway, backend):
    peers = [gateway.connect(LARGE_GET) for _ in range(100)]
    for _ in peers:
        backend.tokens.get(timeout=20)
    return peers


def connects_queued(gateway, backend):
    return [gateway.connect(LARGE_GET) for _ in range(500)]


def disconnects_waiting(gateway, backend):
    peers = open_streams(gateway, backend)
    for peer in peers:
        peer.close()
    return peers


def held_events(gateway, backend):
    peers = [gateway.connect(b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n") for _ in range(20)]
    for _ in peers:
        token = backend.tokens.get(timeout=20)
        # As much as the limit allows, and then one event of the largest size.
        assert gateway.send(token, b"x" * (MIB - 100)) == 200
        assert gateway.send(token, line_breaks(MOST_LINE_BREAKS)) == 200
    return peers


def unread_streams(gateway, backend):
    def fresh():
        peer = gateway.connect(b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n", receive_buffer=4096)
        return peer, backend.tokens.get(timeout=20)

    # Events that the kernel and MAX_PENDING_BYTES hold together.
    event = b"x" * 60_000
    _, token = fresh()
    count = 0
    while gateway.send(token, event) == 200:
        count += 1
    peers = []
    for _ in range(20):
        peer, token = fresh()
        for _ in range(count - 2):
            assert gateway.send(token, event) == 200
        assert gateway.send(token, line_breaks(MOST_LINE_BREAKS)) == 200
        peers.append(peer)
    return peers


def closed_connections(gateway, backend):
    for _ in range(20_000):
        gateway.connect().close()
    return [None] * 20_000


STATES = [
    ("connection that says nothing", idle, {}, ()),
    ("head, all but its end", partial_head, {}, ()),
    ("body of a send, all but its end", partial_body, {}, ()),
    ("the same in chunks of one byte", partial_chunked_body, {}, ()),
    ("the same without the `INTERNAL_TOKEN` it needs", unauthorized_body, {"INTERNAL_TOKEN": "secret"}, ()),
    ("answers to pipelined requests, unread", unread_answers, {}, ()),
    ("open stream, small request", small_streams, {"CALLBACK_CONCURRENCY": "4"}, ()),
    ("open stream, largest request", open_streams, {"CALLBACK_CONCURRENCY": "4"}, ()),
    ("connect in flight, largest request", connects_in_flight, {}, ("connect",)),
    ("connect queued, largest request", connects_queued, {"CALLBACK_CONCURRENCY": "1"}, ("connect",)),
    ("disconnect waiting, largest request", disconnects_waiting, {"CALLBACK_CONCURRENCY": "4"}, ("disconnect",)),
    ("events held during the connect", held_events, {}, ("connect",)),
    ("events of an open stream, unread", unread_streams, {}, ()),
    ("connection closed a moment ago", closed_connections, {}, ()),
]


def main():
    binary = sys.argv[1] if len(sys.argv) > 1 else "target/release/ssegateway"
    print("| State | Peers | Each | Left after they have gone, in total |\n|---|---|---|---|")
    for name, enter, variables, hold in STATES:
        backend = Backend(hold)
        gateway = Gateway(binary, backend, **variables)
        try:
            peers = enter(gateway, backend)
            grown = gateway.settled() - gateway.base
            for peer in filter(None, peers):
                peer.close()
            backend.released.set()
            time.sleep(10)
            left = gateway.settled() - gateway.base
            print(f"| {name} | {len(peers)} | {grown / len(peers) / KIB:.2f} KiB | {left / MIB:.1f} MiB |", flush=True)
        finally:
            gateway.process.kill()
            gateway.process.wait()
            backend.shutdown()
            backend.server_close()


if __name__ == "__main__":
    main()
