#!/usr/bin/env python3
"""Request smuggling through real front ends (docs/security.md).

Sends every case of smuggling.txt to nginx and to HAProxy, as strict as they come and as lax as they can be configured,
with a gateway behind them and connections to it kept alive and shared, and after each case a victim's request on another
connection. Fails if the gateway made a connect callback for a request that the front end's own log does not hold, or if
a victim got anything but its own stream. Needs nginx and haproxy; loopback only.

usage: front_ends.py [path of the gateway's binary]
"""

import collections
import http.server
import json
import os
import pathlib
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "e2e"))

from programs import reserve_port

NGINX = """
daemon off; master_process off; pid {dir}/nginx.pid; error_log {dir}/error.log;
events {{ worker_connections 512; }}
http {{
    log_format line '$request';
    access_log {dir}/front.log line;
    client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/f; uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;
    upstream gateway {{ server 127.0.0.1:{gateway}; keepalive 8; }}
    server {{
        listen 127.0.0.1:{front};
        {lax}
        location / {{
            proxy_pass http://gateway;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $host;
            proxy_buffering off;
            # A retried request would look like a smuggled one.
            proxy_next_upstream off;
        }}
    }}
}}
"""

HAPROXY = """
global
    log stdout format raw local0
defaults
    mode http
    log global
    log-format "%r"
    timeout client 3s
    timeout server 3s
    timeout connect 3s
    retries 0
    {lax}
frontend front
    bind 127.0.0.1:{front}
    {front_lax}
    default_backend gateway
backend gateway
    http-reuse always
    {back_lax}
    server gateway 127.0.0.1:{gateway}
"""

SETUPS = {
    "nginx": ("nginx", {"lax": ""}),
    "nginx, lax": ("nginx", {"lax": "ignore_invalid_headers off; underscores_in_headers on; merge_slashes off; proxy_request_buffering off;"}),
    "HAProxy": ("haproxy", {"lax": "", "front_lax": "", "back_lax": ""}),
    "HAProxy, lax": ("haproxy", {"lax": "", "front_lax": "option accept-invalid-http-request", "back_lax": "option accept-invalid-http-response"}),
}


def corpus():
    """Yields (name, expected answers, bytes)."""
    name, expected, data = None, None, b""
    for line in (HERE / "smuggling.txt").read_text().splitlines():
        if line.startswith("    "):
            data += re.sub(rb"\\(x[0-9a-f]{2}|.)", unescape, line[4:].encode())
        elif line and not line.startswith("#"):
            if name:
                yield name, expected, data
            name, _, expected = line.rpartition(": ")
            data = b""
    yield name, expected, data


def unescape(match):
    code = match[1]
    plain = {b"r": b"\r", b"n": b"\n", b"t": b"\t", b"0": b"\0"}
    return bytes.fromhex(code[1:].decode()) if len(code) == 3 else plain.get(code, code)


class Backend(http.server.BaseHTTPRequestHandler):
    """Accepts every stream and closes it at once; records the targets of the connects."""

    protocol_version = "HTTP/1.1"
    connects = []

    def do_POST(self):
        call = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if call["action"] == "connect":
            self.connects.append(call["request"]["url"])
        body = b'{"close":true}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def await_port(port):
    for _ in range(500):
        try:
            return socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.02)
    raise SystemExit(f"nothing listens on {port}")


def exchange(port, data, idle):
    """Reads until the peer closes or is silent for `idle` seconds."""
    received = b""
    with socket.create_connection(("127.0.0.1", port)) as client:
        try:
            client.sendall(data)
            while select.select([client], [], [], idle)[0]:
                piece = client.recv(65536)
                if not piece:
                    break
                received += piece
        except OSError:
            pass
    return received


def path_of(target):
    """Front ends may reduce an absolute target to its path."""
    return re.sub(r"^https?://[^/?]*", "", target, flags=re.IGNORECASE)


def run(name, kind, options, gateway, directory):
    reserved = reserve_port()
    front = reserved.getsockname()[1]
    template = {"nginx": NGINX, "haproxy": HAPROXY}[kind]
    config = directory / f"{kind}.conf"
    config.write_text(template.format(dir=directory, front=front, gateway=gateway, **options))
    log = directory / "front.log"
    log.write_text("")
    command = ["nginx", "-p", str(directory), "-c", str(config)] if kind == "nginx" else ["haproxy", "-db", "-f", str(config)]
    program = shutil.which(command[0]) or f"/usr/sbin/{command[0]}"
    output = open(log if kind == "haproxy" else os.devnull, "ab")
    process = subprocess.Popen([program, *command[1:]], stdout=output, stderr=subprocess.DEVNULL)
    failures = []
    statuses = collections.Counter()
    cases = list(corpus())
    try:
        await_port(front)
        Backend.connects.clear()
        for number, (case, _, data) in enumerate(cases):
            # Of the same length, so that the lengths in the corpus stay correct.
            mine = data.replace(b"/smuggled", b"/s%07d" % number)
            answer = exchange(front, mine, 0.15)
            statuses[answer[9:12].decode() if answer.startswith(b"HTTP/") else "no head"] += 1
            victim = f"/victim-{number}"
            answer = exchange(front, f"GET {victim} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n".encode(), 3)
            if not answer.startswith(b"HTTP/1.1 200") or b"text/event-stream" not in answer.lower():
                failures.append(f"{case}: the victim got {answer[:60]!r}")
            if Backend.connects.count(victim) != 1:
                failures.append(f"{case}: {Backend.connects.count(victim)} connects for the victim")
    finally:
        process.send_signal(signal.SIGQUIT if kind == "nginx" else signal.SIGTERM)
        process.wait(20)
    lines = log.read_text(errors="replace").splitlines()
    targets = (re.match(r"[A-Za-z]+ (.*) HTTP/\d\.\d$", line) for line in lines)
    passed = collections.Counter(path_of(match[1]) for match in targets if match)
    seen = collections.Counter(path_of(url) for url in Backend.connects)
    for target in seen:
        if seen[target] > passed[target]:
            failures.append(f"{target}: {seen[target]} connects for {passed[target]} requests in the front end's log")
    inner = sum(count for target, count in seen.items() if not target.startswith("/victim"))
    print(f"{name}: {len(cases)} cases, first answers {dict(sorted(statuses.items()))}, "
          f"{inner} connects from cases, {len(cases)} victims, {len(failures)} failures", flush=True)
    for failure in failures:
        print(f"  {failure}")
    return not failures


def main():
    binary = sys.argv[1] if len(sys.argv) > 1 else "target/release/ssegateway"
    backend = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Backend)
    threading.Thread(target=backend.serve_forever, daemon=True).start()
    reserved = reserve_port()
    port = reserved.getsockname()[1]
    environment = {"PORT": str(port), "LISTEN_ADDRESS": "127.0.0.1", "LOG_LEVEL": "off",
                   "CALLBACK_URL": f"http://127.0.0.1:{backend.server_port}/"}
    gateway = subprocess.Popen([binary], env=environment)
    try:
        await_port(port)
        good = True
        for name, (kind, options) in SETUPS.items():
            with tempfile.TemporaryDirectory() as directory:
                good &= run(name, kind, options, port, pathlib.Path(directory))
    finally:
        gateway.terminate()
        gateway.wait(20)
    sys.exit(not good)


if __name__ == "__main__":
    main()
