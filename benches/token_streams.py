"""Costs of token streams, as docs/token-streams.md shows them: the worker's CPU per token, and how fast ends are noticed.

Every row runs in a process of its own against the same gateway: 20 conversations (or 200) of 50 tokens a second, each token
a chunk as OpenAI's, made by json.dumps. For the baselines, which need no gateway, the process is the application server.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import resource
import signal
import socket
import statistics
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

from ssegateway import Gateway, Gone, accept
from ssegateway.aio import AsyncGateway
from ssegateway.pytest_plugin import LiveGateway

CONVERSATIONS, TOKENS_PER_SECOND, SECONDS = 20, 50, 4
MANY = 200  # conversations of the rows for one event loop
TOKENS = TOKENS_PER_SECOND * SECONDS
RUNS = 3
BIN = sysconfig.get_path("scripts")


def chunk(number: int) -> str:
    choice = {"index": 0, "delta": {"content": f"token {number} "}, "finish_reason": None}
    return json.dumps({"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "m", "choices": [choice]})


def paced() -> Iterator[str]:
    start = time.monotonic()
    for number in range(TOKENS):
        time.sleep(max(0, start + number / TOKENS_PER_SECOND - time.monotonic()))
        yield chunk(number)


def in_threads(converse: Callable[[str], None]) -> None:
    threads = [threading.Thread(target=converse, args=[f"run:{number}"]) for number in range(CONVERSATIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def nothing(_gateway: Gateway, _group: str) -> None:
    for _ in paced():
        pass


def send(gateway: Gateway, group: str) -> None:
    for token in paced():
        gateway.send(group=group, data=token)


def stream(gateway: Gateway, group: str) -> None:
    with gateway.stream(group) as out:
        for token in paced():
            out.send(token)


def pipe(gateway: Gateway, group: str) -> None:
    """From a vendor in another process."""
    connection = http.client.HTTPConnection("127.0.0.1", int(os.environ["VENDOR_PORT"]))
    connection.request("GET", "/")
    answer = connection.getresponse()
    gateway.pipe(group, iter(lambda: answer.read1(65536), b""), answer)


async def in_tasks(url: str, is_stream: bool, conversations: int) -> None:
    gateway = AsyncGateway(url)

    async def converse(group: str) -> None:
        start = time.monotonic()
        if is_stream:
            async with gateway.stream(group) as out:
                for number in range(TOKENS):
                    await asyncio.sleep(start + number / TOKENS_PER_SECOND - time.monotonic())
                    await out.send(chunk(number))
            return
        for number in range(TOKENS):
            await asyncio.sleep(start + number / TOKENS_PER_SECOND - time.monotonic())
            await gateway.send(group=group, data=chunk(number))

    await asyncio.gather(*[converse(f"run:{number}") for number in range(conversations)])
    await gateway.aclose()


def work(row: str, url: str) -> None:
    """The process of a row; prints its CPU time and its duration in seconds."""
    if row == "vendor":
        return serve_chunks()
    before, start = cpu_of_self(), time.monotonic()
    if row.startswith("Async"):
        asyncio.run(in_tasks(url, "stream.send" in row, conversations_of(row)))
    else:
        gateway, converse = Gateway(url), SYNC[row]
        in_threads(lambda group: converse(gateway, group))
    print(cpu_of_self() - before, time.monotonic() - start)


def conversations_of(row: str) -> int:
    return MANY if str(MANY) in row else CONVERSATIONS


def cpu_of_self() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def serve_chunks() -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=100)
    print(listener.getsockname()[1], flush=True)

    def answer(sock: socket.socket) -> None:
        with sock, suppress(OSError):
            sock.recv(65536)
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
            for token in paced():
                sock.sendall(f"data: {token}\n\n".encode())

    while True:
        threading.Thread(target=answer, args=[listener.accept()[0]], daemon=True).start()


SYNC = {
    "pacing and json.dumps alone": nothing,
    "Gateway.send": send,
    "Gateway.send, Unix socket": send,
    "Gateway.stream.send": stream,
    "Gateway.stream.send, Unix socket": stream,
    "Gateway.pipe": pipe,
}
ASYNC = ["AsyncGateway.send", "AsyncGateway.stream.send"]
ROWS = [*SYNC, *ASYNC, *(f"{row}, {MANY} conversations" for row in ASYNC)]

STARLETTE = """
import asyncio, sys, time
sys.path.insert(0, "benches")
from sse_starlette import EventSourceResponse
from starlette.applications import Starlette
from starlette.routing import Route
from token_streams import TOKENS, TOKENS_PER_SECOND, chunk
async def tokens():
    start = time.monotonic()
    for number in range(TOKENS):
        await asyncio.sleep(start + number / TOKENS_PER_SECOND - time.monotonic())
        yield {"data": chunk(number)}
app = Starlette(routes=[Route("/", lambda request: EventSourceResponse(tokens()))])
"""
FLASK = """
import sys
sys.path.insert(0, "benches")
from flask import Flask, Response
from token_streams import paced
app = Flask(__name__)
@app.get("/")
def tokens():
    return Response((f"data: {token}\\n\\n" for token in paced()), content_type="text/event-stream")
"""
BASELINES = {
    "sse-starlette under uvicorn": (STARLETTE, ["uvicorn", "--no-access-log", "--log-level=warning"], "--fd={}"),
    "a Flask generator under gthread": (
        FLASK,
        ["gunicorn", "--no-control-socket", f"--threads={CONVERSATIONS + 5}", "--log-level=warning"],
        "--bind=fd://{}",
    ),
}


def run_row(row: str, gateway: LiveGateway, environment: dict[str, str]) -> tuple[float, float]:
    """CPU seconds per token, and tokens per second."""
    streams, conversations = [], conversations_of(row)
    for number in range(conversations):
        gateway.answer = accept(groups=[f"run:{number}"])
        streams.append(gateway.open("/", timeout=30))
    counts = read_all([iter(stream.event, None) for stream in streams])
    command = [sys.executable, __file__, row, gateway.client.url]
    worker = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    for number in range(conversations):
        gateway.send(group=f"run:{number}", data="", close=True)
    received, tokens = sum(counts()) - conversations, conversations * TOKENS
    assert received == (0 if row.startswith("pacing") else tokens), received
    spent, duration = map(float, worker.stdout.split())
    return spent / tokens, tokens / duration


def run_baseline(script: str, command: list[str], bind: str, directory: Path) -> float:
    (directory / "bench_app.py").write_text(script)
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
        arguments = [f"{BIN}/{command[0]}", *command[1:], bind.format(listener.fileno()), "bench_app:app"]
        environment = {**os.environ, "PYTHONPATH": f"{directory}:{os.environ['PYTHONPATH']}"}
        server = subprocess.Popen(arguments, pass_fds=[listener.fileno()], env=environment)
        port = listener.getsockname()[1]
        answers = []
        for _ in range(CONVERSATIONS):
            connection = http.client.HTTPConnection("127.0.0.1", port)
            connection.request("GET", "/")
            answers.append(connection)
        before = None
        lines = []
        for connection in answers:
            answer = connection.getresponse()
            before = before or cpu_of(server.pid)
            lines.append(line for line in iter(answer.readline, b"") if line.startswith(b"data:"))
        assert sum(read_all(lines)()) == CONVERSATIONS * TOKENS
        spent = cpu_of(server.pid) - (before or 0)
        server.terminate()
        server.wait()
    return spent / CONVERSATIONS / TOKENS


def cpu_of(pid: int) -> float:
    """CPU seconds of a process and its children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK") + sum(cpu_of(int(child)) for child in children)


def read_all(sources: list[Iterator[object]]) -> Callable[[], list[int]]:
    """Counts what comes from each, in threads; the result waits for their ends."""
    counts = [0] * len(sources)

    def read(index: int) -> None:
        for _ in sources[index]:
            counts[index] += 1

    threads = [threading.Thread(target=read, args=[index]) for index in range(len(sources))]
    for thread in threads:
        thread.start()

    def result() -> list[int]:
        for thread in threads:
            thread.join()
        return counts

    return result


def stop_times(gateway: LiveGateway, count: int) -> list[float]:
    """From a stop to a worker that waits for its model, in milliseconds."""
    times = []
    for number in range(count):
        quiet, vendor = socket.socketpair()
        told = threading.Event()

        class Answer:
            _sock = quiet

            def __iter__(self) -> Iterator[bytes]:
                return iter(lambda: quiet.recv(1000), b"")

        def converse() -> None:
            with suppress(Gone), gateway.client.stream(f"stop:{number}", end=True) as out:
                out.send("token")
                ready.set()
                for _ in out.watch(Answer()):
                    pass
            times.append((time.monotonic() - stopped) * 1000)
            told.set()

        ready = threading.Event()
        threading.Thread(target=converse).start()
        ready.wait()
        time.sleep(0.02)
        stopped = time.monotonic()
        gateway.send(group=f"stop:{number}", data="", name="stopped", end=True)
        told.wait()
        quiet.close(), vendor.close()
    return times


def death_times(gateway: LiveGateway, count: int) -> list[float]:
    """From kill -9 of a worker to the page's event, in milliseconds."""
    script = "import sys, time\nfrom ssegateway import Gateway\n"
    script += "with Gateway(sys.argv[1]).stream(sys.argv[2], end=True) as out:\n    out.send('token')\n    time.sleep(60)\n"
    times = []
    for number in range(count):
        gateway.answer = accept(groups=[f"death:{number}"])
        stream = gateway.open("/", timeout=30)
        worker = subprocess.Popen([sys.executable, "-c", script, gateway.url, f"death:{number}"])
        stream.event()
        killed = time.monotonic()
        os.kill(worker.pid, signal.SIGKILL)
        event = stream.event()
        times.append((time.monotonic() - killed) * 1000)
        assert event and event.name == "interrupted"
        worker.wait()
    return times


def note(best: dict[str, float], row: str, spent: float) -> None:
    best[row] = min(spent, best.get(row, spent))


def main(directory: Path) -> None:
    vendor = subprocess.Popen([sys.executable, __file__, "vendor", ""], stdout=subprocess.PIPE, text=True)
    assert vendor.stdout
    environment = {**os.environ, "VENDOR_PORT": vendor.stdout.readline().strip()}
    # The best of several runs: whatever else runs on the machine only adds to a row.
    best: dict[str, float] = {}
    reached: dict[str, float] = {}
    with (
        closing(LiveGateway({"LOG_LEVEL": "warn"})) as gateway,
        closing(LiveGateway({"LOG_LEVEL": "warn", "INTERNAL_SOCKET": f"{directory}/gateway.sock"})) as on_unix,
    ):
        for _ in range(RUNS):
            for row in ROWS:
                used = on_unix if "Unix" in row else gateway
                before = cpu_of(used.process.pid)
                spent, rate = run_row(row, used, environment)
                note(best, row, spent)
                reached[row] = max(rate, reached.get(row, 0))
                tokens = conversations_of(row) * TOKENS
                note(best, f"{row}: the gateway", (cpu_of(used.process.pid) - before) / tokens)
            for name, baseline in BASELINES.items():
                note(best, name, run_baseline(*baseline, directory))
        for row, spent in best.items():
            rate = f", {reached[row]:.0f} tokens/s" if row in reached else ""
            print(f"{row:50} {spent * 1e6:6.0f} us{rate}", flush=True)
        for what, times in (("stop -> worker", stop_times(gateway, 50)), ("kill -9 -> page", death_times(gateway, 30))):
            print(f"{what:50} p50 {statistics.median(times):.1f} ms, max {max(times):.1f} ms", flush=True)
    vendor.terminate()
    vendor.wait()


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in [*ROWS, "vendor"]:
        work(sys.argv[1], sys.argv[2])
    else:
        main(Path(sys.argv[1]))
