"""Streaming sends by both clients: their events, their ends, and the gateway's early answers."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, suppress
from typing import Any

import pytest
from clients import Connect
from servers import Peer, Serve
from ssegateway import Gateway, GatewayError, Gone, Unavailable, accept
from ssegateway.aio import AsyncGateway
from ssegateway.pytest_plugin import LiveGateway, Stream
from vendors import PATIENCE_SECONDS, Read, Vendor, by_http_client, by_httpx, by_openai, by_requests

INTERRUPTED = ("interrupted", "")


def watch(gateway: LiveGateway, *groups: str) -> Stream:
    gateway.answer = accept(groups=groups, since="start")
    return gateway.open("/", timeout=PATIENCE_SECONDS)


def events(stream: Stream) -> list[tuple[str, str]]:
    """Name and data of all events until the end."""
    return [event[:2] for event in iter(stream.event, None)]


def stop_later(gateway: LiveGateway, group: str) -> None:
    """Ends the group, as another process would, once its first event has come."""
    stream = watch(gateway, group)

    def stop() -> None:
        stream.event()
        with closing(Gateway(gateway.url)) as client:
            client.send(group=group, data="", name="stopped", end=True)

    threading.Thread(target=stop, daemon=True).start()


def test_events_arrive_in_order_and_the_group_ends_with_the_block(ssegateway: LiveGateway) -> None:
    stream = watch(ssegateway, "run/1 ä")
    with ssegateway.client.stream("run/1 ä", end=True) as out:
        out.send("zwölf\nBoxkämpfer", name="pangram", retry=2500)
        out.send("")
        out.send("typing", transient=True)
        out.send(json={"text": None})
        for neither_or_both in ({}, {"data": "x", "json": None}):
            with pytest.raises(TypeError, match="either data or json"):
                out.send(**neither_or_both)  # type: ignore[arg-type]
        for number in range(1000):
            out.send(str(number))
        assert not out.stopped
    received = events(stream)
    assert received[:3] == [("pangram", "zwölf\nBoxkämpfer"), ("message", ""), ("message", "typing")]
    assert received[3] == ("message", '{"text": null}')
    assert [data for _, data in received[4:]] == [str(number) for number in range(1000)]
    with pytest.raises(RuntimeError, match="over"):
        out.send("late")


def test_a_task_sends_as_well(ssegateway: LiveGateway) -> None:
    stream = watch(ssegateway, "run")

    async def send() -> None:
        gateway = AsyncGateway(ssegateway.url)
        async with gateway.stream("run", end=True) as out:
            await out.send("one", name="first")
            await asyncio.gather(*[out.send("more") for _ in range(100)])

    asyncio.run(send())
    assert events(stream) == [("first", "one"), *[("message", "more")] * 100]


def test_without_end_the_group_goes_on(ssegateway: LiveGateway) -> None:
    with ssegateway.client.stream("run") as out:
        out.send("x")
    assert not ssegateway.client.group("run").ended
    with pytest.raises(KeyError), ssegateway.client.stream("run"):
        raise KeyError
    assert not ssegateway.client.group("run").ended


def test_a_stream_by_its_token(ssegateway: LiveGateway) -> None:
    stream = ssegateway.open("/", timeout=PATIENCE_SECONDS)
    token = ssegateway.wait_for(lambda call: call.action == "connect").token
    with pytest.raises(Gone) as raised, ssegateway.client.stream(token=token) as out:
        out.send("hello")
        assert stream.event() == ("message", "hello", "")
        stream.close()
        wait_until_stopped(out)
        out.send("too late")
    assert raised.value.status == 404


def wait_until_stopped(out: Any) -> None:
    stopped = threading.Event()
    out.on_stop(stopped.set)
    assert stopped.wait(PATIENCE_SECONDS) and out.stopped


@pytest.mark.parametrize("target", [{}, {"group": "run", "token": "t"}, {"token": "t", "end": True}])
def test_a_target_is_needed(target: Any) -> None:
    for client in (Gateway(), AsyncGateway()):
        with pytest.raises(TypeError):
            client.stream(**target)


@pytest.mark.parametrize("read", [by_openai, by_requests, by_httpx, by_http_client])
def test_a_worker_that_waits_for_its_model_is_told(ssegateway: LiveGateway, vendor: Vendor, read: Read) -> None:
    stop_later(ssegateway, "run")
    chunks, response = read(vendor)
    seen: list[object] = []
    with pytest.raises(Gone), ssegateway.client.stream("run", end=True) as out:
        for chunk in out.watch(chunks, response):
            seen.append(chunk)
            out.send("token")
    assert seen
    # So the vendor stops as well.
    assert vendor.left.wait(PATIENCE_SECONDS)
    assert events(watch(ssegateway, "run"))[-1] == ("stopped", "")


@pytest.fixture
def vendor() -> Iterator[Vendor]:
    with closing(Vendor(["a", "b"])) as vendor:
        yield vendor


def test_what_has_no_socket_cannot_be_watched(ssegateway: LiveGateway) -> None:
    with ssegateway.client.stream("run") as out:
        with pytest.raises(TypeError, match="give the response, or use on_stop"):
            out.watch(["a"])
    with pytest.raises(TypeError, match="give the response"):
        ssegateway.client.pipe("run", [b""], object())


def test_the_worker_s_own_errors_stay_what_they_are(ssegateway: LiveGateway, vendor: Vendor) -> None:
    stream = watch(ssegateway, "run")
    chunks, response = by_requests(vendor)
    with pytest.raises(KeyError), ssegateway.client.stream("run", end=True) as out:
        for _ in out.watch(chunks, response):
            raise KeyError
    assert events(stream) == [INTERRUPTED]


def test_a_task_is_cancelled_where_it_waits(ssegateway: LiveGateway) -> None:
    async def wait(client: AsyncGateway) -> None:
        stop_later(ssegateway, "run")
        with pytest.raises(Gone):
            async with client.stream("run", end=True) as out:
                await out.send("token")
                await asyncio.sleep(PATIENCE_SECONDS)
        await asyncio.sleep(0.01)  # not cancelled any more

    async def cancelled(client: AsyncGateway) -> None:
        async with client.stream("other", end=True) as out:
            await out.send("token")
            await asyncio.sleep(PATIENCE_SECONDS)

    async def run() -> None:
        client = AsyncGateway(ssegateway.url)
        await wait(client)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(cancelled(client), 0.1)

    asyncio.run(run())
    assert events(watch(ssegateway, "other")) == [("message", "token"), INTERRUPTED]


@pytest.mark.parametrize("will", [None, "gone", {"name": "error", "data": "zwölf\n2"}])
def test_a_block_that_raises_leaves_the_last_will(ssegateway: LiveGateway, will: Any) -> None:
    async def fail() -> None:
        async with AsyncGateway(ssegateway.url).stream("b", end=True, will=will) as out:
            await out.send("token")
            raise KeyError

    with pytest.raises(KeyError), ssegateway.client.stream("a", end=True, will=will) as out:
        out.send("token")
        raise KeyError
    with pytest.raises(KeyError):
        asyncio.run(fail())
    last = {"name": "interrupted", "data": ""} if will is None else {"data": "gone"} if will == "gone" else will
    for group in "ab":
        assert events(watch(ssegateway, group)) == [("message", "token"), (last.get("name", "message"), last["data"])]


def test_so_does_a_process_that_is_killed(ssegateway: LiveGateway) -> None:
    script = """
import sys, time
from ssegateway import Gateway
with Gateway(sys.argv[1]).stream("run", end=True) as out:
    out.send("token")
    time.sleep(60)
"""
    stream = watch(ssegateway, "run")
    worker = subprocess.Popen([sys.executable, "-c", script, ssegateway.url])
    assert stream.event()[:2] == ("message", "token")  # type: ignore[index]
    os.kill(worker.pid, signal.SIGKILL)
    assert events(stream) == [INTERRUPTED]
    worker.wait()


def assert_continued(gateway: LiveGateway, sent: int) -> None:
    """The gateway before the restart has executed the first sends, and the one after it the others."""
    executed = re.search(r"feed ended lines=\d+ accepted=(\d+) end=refused", gateway.log())
    assert executed
    rest = [data for _, data in events(watch(gateway, "run"))]
    assert rest == [str(number) for number in range(int(executed[1]), sent)]


def test_a_drain_neither_loses_nor_repeats_a_send(ssegateway: LiveGateway) -> None:
    restart = threading.Thread(target=ssegateway.restart)
    sent = 0
    with ssegateway.client.stream("run", end=True, will="never seen") as out:
        while sent <= 500 or restart.is_alive():
            out.send(str(sent))
            if sent == 500:
                restart.start()
            sent += 1
    assert_continued(ssegateway, sent)


def test_a_task_survives_a_drain(ssegateway: LiveGateway) -> None:
    async def send() -> int:
        sent, restart = 0, None
        async with AsyncGateway(ssegateway.url).stream("run", end=True) as out:
            while sent <= 500 or not (restart and restart.done()):
                await out.send(str(sent))
                await asyncio.sleep(0)
                if sent == 500:
                    restart = asyncio.create_task(asyncio.to_thread(ssegateway.restart))
                sent += 1
        return sent

    assert_continued(ssegateway, asyncio.run(send()))


def test_a_gateway_that_is_killed_is_an_error(ssegateway: LiveGateway) -> None:
    with pytest.raises(Unavailable, match="the last of 2 sends may not have been executed"):
        with ssegateway.client.stream("run", end=True) as out:
            out.send("1")
            out.send("2")
            ssegateway.process.kill()
            wait_until_stopped(out)
            out.send("3")
    with pytest.raises(Unavailable, match="no answer from the gateway at"), ssegateway.client.stream("run"):
        pass


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_with_restart_the_stream_begins_anew(ssegateway: LiveGateway, number: signal.Signals) -> None:
    def restart() -> None:
        ssegateway.process.send_signal(number)
        ssegateway.process.wait(PATIENCE_SECONDS)
        ssegateway.start()

    async def send() -> None:
        async with AsyncGateway(ssegateway.url).stream("b", end=True, restart="anew") as out:
            await out.send("1")
            await asyncio.to_thread(restart)
            await out.send("2")

    with ssegateway.client.stream("a", end=True, restart={"name": "restart", "data": ""}) as out:
        out.send("1")
        restart()
        out.send("2")
    assert events(watch(ssegateway, "a")) == [("restart", ""), ("message", "1"), ("message", "2")]
    asyncio.run(send())
    assert events(watch(ssegateway, "b")) == [("message", "anew"), ("message", "1"), ("message", "2")]


def test_what_is_not_kept_any_more_cannot_be_sent_again(ssegateway: LiveGateway) -> None:
    with pytest.raises(Unavailable, match="was lost"), ssegateway.client.stream("run", restart="anew") as out:
        for _ in range(9):
            out.send("x" * 500_000)
        ssegateway.process.kill()
        wait_until_stopped(out)
        out.send("more")
    ssegateway.process.wait()


def test_a_stream_waits_only_so_long_for_the_next_gateway(ssegateway: LiveGateway) -> None:
    async def send() -> None:
        async with AsyncGateway(ssegateway.url).stream("run", reconnect_seconds=0.2) as out:
            await out.send("1")
            await asyncio.to_thread(ssegateway.stop)
            await asyncio.sleep(PATIENCE_SECONDS)

    with pytest.raises(Unavailable, match="Shutting down"):
        with ssegateway.client.stream("run", reconnect_seconds=0.2) as out:
            out.send("1")
            ssegateway.stop()
            out.send("2")
            wait_until_stopped(out)
    ssegateway.start()
    with pytest.raises(Unavailable, match="Shutting down"):
        asyncio.run(send())


def test_nor_for_the_end_of_a_drain() -> None:
    body = b'{"error":"Shutting down","line":0}'
    answer = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)

    def drain() -> None:
        with suppress(OSError):
            while True:
                with listener.accept()[0] as sock:
                    sock.recv(65536)
                    sock.sendall(answer)

    async def send() -> None:
        async with AsyncGateway(url).stream("run", reconnect_seconds=0.1):
            await asyncio.sleep(PATIENCE_SECONDS)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        draining = threading.Thread(target=drain)
        draining.start()
        with pytest.raises(Unavailable, match="Shutting down"):
            with Gateway(url).stream("run", reconnect_seconds=0.1) as out:
                wait_until_stopped(out)
                out.send("1")
        with pytest.raises(Unavailable, match="Shutting down"):
            asyncio.run(send())
        listener.shutdown(socket.SHUT_RDWR)
        draining.join()


def test_what_the_gateway_objects_to_is_said_at_the_end(ssegateway: LiveGateway) -> None:
    stream = watch(ssegateway, "run")
    with pytest.raises(GatewayError, match='"line": 2.*event.name must not contain line breaks'):
        with ssegateway.client.stream("run", end=True) as out:
            out.send("1")
            out.send("x", name="two\nlines")
            out.send("2")
    assert events(stream) == [("message", "1"), ("message", "2")]


@pytest.mark.parametrize("ssegateway_environment", [{"INTERNAL_TOKEN": "secret"}])
def test_the_internal_token_is_shown(ssegateway: LiveGateway, connect: Connect) -> None:
    with ssegateway.client.stream("run") as out:
        out.send("1")
    with pytest.raises(GatewayError, match="401") as raised, connect(ssegateway.url).stream("run") as out:
        wait_until_stopped(out)
        out.send("1")
    assert raised.value.status == 401


@pytest.mark.parametrize("size", [10, 1_000_000])
def test_a_gateway_that_does_not_react_is_an_error(serve: Serve, connect: Connect, size: int) -> None:
    is_done = threading.Event()

    def stall(_peer: Peer) -> None:
        is_done.wait(PATIENCE_SECONDS)

    async def send() -> None:
        async with AsyncGateway(server.url, timeout=0.2).stream("run") as out:
            while size > 10:
                await out.send("x" * size)

    server = serve(stall, stall)
    with pytest.raises(Unavailable, match="has not reacted for 0.2 s"):
        with connect(server.url, timeout=0.2).stream("run") as out:
            while size > 10:
                out.send("x" * size)
    with pytest.raises(Unavailable, match="has not reacted for 0.2 s"):
        asyncio.run(send())
    is_done.set()


VENDORS_STREAM = [b"\xef\xbb\xbf: hi\r\nretry: 5\r\nid: 1\r\nda", b"ta: 1\r\n\r", b"\n", b"event: n\ndata: 2\ndata\n\n\n"]


def test_a_vendor_s_stream_is_passed_on(ssegateway: LiveGateway) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for chunk in [*VENDORS_STREAM, b""]:
            yield chunk

    ssegateway.client.pipe("a", [*VENDORS_STREAM, b""], end=True)
    asyncio.run(AsyncGateway(ssegateway.url).pipe("b", chunks(), end=True))
    for group in "ab":
        assert events(watch(ssegateway, group)) == [("message", "1"), ("n", "2\n")]


def test_a_pipe_is_told_while_the_vendor_says_nothing(ssegateway: LiveGateway, vendor: Vendor) -> None:
    stop_later(ssegateway, "run")
    chunks: Any
    chunks, response = by_requests(vendor)
    with pytest.raises(Gone):
        ssegateway.client.pipe("run", chunks, response, end=True)
    assert vendor.left.wait(PATIENCE_SECONDS)


def test_a_vendor_that_fails_leaves_the_last_will(ssegateway: LiveGateway) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"data: 1\n\ndata: in"
        raise KeyError

    with pytest.raises(KeyError):
        ssegateway.client.pipe("run", chunks(), end=True)
    assert events(watch(ssegateway, "run")) == [("message", "1"), INTERRUPTED]


@pytest.mark.parametrize("cut", range(0, sum(map(len, VENDORS_STREAM)) + 1, 8))
def test_a_pipe_goes_on_behind_the_last_event_that_a_drain_executed(
    ssegateway: LiveGateway, connect: Connect, cut: int
) -> None:
    before = watch(ssegateway, "run")
    whole = b"".join(VENDORS_STREAM)

    def chunks() -> Iterator[bytes]:
        yield whole[:cut]
        # The gateway has read the first part.
        deadline = time.monotonic() + 0.05
        while time.monotonic() < deadline:
            pass
        ssegateway.restart()
        yield whole[cut:]

    connect(ssegateway.url).pipe("run", chunks(), end=True)
    received = [*events(before)]
    if ssegateway.client.group("run").cursor:
        received += events(watch(ssegateway, "run"))
    assert received == [("message", "1"), ("n", "2\n")]
