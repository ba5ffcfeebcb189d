"""The client's connections with a scripted server: retries, answers in every form, deadlines."""

from __future__ import annotations

import asyncio
import socket
import threading

import pytest
from clients import Connect, both
from servers import LAST, OK, PATIENCE_SECONDS, Peer, Serve, answer_all
from ssegateway import GatewayError, Unavailable
from ssegateway.aio import AsyncGateway


def answer_once(peer: Peer) -> None:
    peer.request()
    peer.answer(OK)


def answer_once_and_drop_the_next(peer: Peer) -> None:
    answer_once(peer)
    peer.request()


@both
def test_an_unanswered_event_is_not_sent_twice(serve: Serve, connect: Connect) -> None:
    server = serve(answer_once_and_drop_the_next)
    client = connect(server.url)
    assert client.send("token", "first")
    with pytest.raises(Unavailable, match="closed without an answer"):
        client.send("token", "second")


@both
def test_an_unanswered_probe_is_repeated(serve: Serve, connect: Connect) -> None:
    server = serve(answer_once_and_drop_the_next, answer_once)
    client = connect(server.url)
    assert client.send("token", "first")
    assert client.send("token")
    assert server.accepted == 2


@both
def test_a_new_connection_that_is_closed_is_an_error(serve: Serve, connect: Connect) -> None:
    server = serve(lambda peer: None if peer.request() else None)
    with pytest.raises(Unavailable, match="no answer from the gateway at http://127.0.0.1:"):
        connect(server.url).send("token")


@both
def test_a_connection_is_not_kept_longer_than_the_gateway_keeps_it(serve: Serve, connect: Connect) -> None:
    def answer_with_a_timeout(peer: Peer) -> None:
        peer.request()
        peer.answer(OK.replace(b"\r\n", b"\r\nKeep-Alive: timeout=0\r\n", 1))
        assert not peer.request()  # the client is the one that closes

    server = serve(answer_with_a_timeout, answer_once)
    client = connect(server.url)
    assert client.send("token", "one")
    assert client.send("token", "two")
    assert server.accepted == 2


@both
def test_the_last_answer_of_a_connection_ends_it(serve: Serve, connect: Connect) -> None:
    def answer_and_wait(peer: Peer) -> None:
        peer.request()
        peer.answer(LAST)
        assert not peer.request()

    server = serve(answer_and_wait, answer_once)
    client = connect(server.url)
    assert client.send("token", "one")
    assert client.send("token", "two")
    assert server.accepted == 2


@both
@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8;x=1\r\n"
        b'{"status\r\n7\r\n":"ok"}\r\n0\r\nA-Trailer: 1\r\n\r\n',
        b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nF\r\n{"status":"ok"}\r\n0\r\n\r\n',
        b"HTTP/1.1 200\r\ncontent-length:15\r\n\r\n" + OK[-15:],
    ],
)
def test_answers_are_read_in_every_form_and_cut(serve: Serve, connect: Connect, answer: bytes) -> None:
    def answer_byte_by_byte(peer: Peer) -> None:
        peer.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for pieces in ([answer], [bytes([byte]) for byte in answer], [OK]):
            peer.request()
            peer.answer(*pieces)

    client = connect(serve(answer_byte_by_byte).url)
    for _ in range(3):
        assert client.send("token", "x")


@both
def test_an_answer_may_be_ended_by_its_connection(serve: Serve, connect: Connect) -> None:
    def answer_and_close(peer: Peer) -> None:
        peer.request()
        peer.answer(b'HTTP/1.0 404 Not Found\r\n\r\n{"error":', b'"Token not found"}')

    server = serve(answer_and_close, answer_once)
    client = connect(server.url)
    assert not client.send("token", "x")
    assert client.send("token", "x")


@both
@pytest.mark.parametrize("nonsense", [b"SSH-2.0-OpenSSH\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"])
def test_an_answer_of_another_protocol_is_an_error(serve: Serve, connect: Connect, nonsense: bytes) -> None:
    def answer_nonsense(peer: Peer) -> None:
        peer.request()
        peer.answer(nonsense)
        peer.request()

    with pytest.raises(GatewayError, match="no answer from the gateway"):
        connect(serve(answer_nonsense).url).send("token")


@both
@pytest.mark.parametrize("has_begun", [False, True])
def test_a_call_has_a_deadline(serve: Serve, connect: Connect, has_begun: bool) -> None:
    def answer_in_part(peer: Peer) -> None:
        peer.request()
        peer.answer(OK[:20] if has_begun else b"")
        peer.request()

    with pytest.raises(Unavailable, match="timed out"):
        connect(serve(answer_in_part).url, timeout=0.2).send("token")


@both
def test_what_is_answered_before_the_body_is_over_counts(serve: Serve, connect: Connect) -> None:
    def refuse(peer: Peer) -> None:
        peer.sock.recv(65536)
        peer.answer(b'HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 17\r\n\r\n{"error":"Large"}')
        peer.sock.shutdown(socket.SHUT_WR)
        while peer.sock.recv(65536):
            pass

    with pytest.raises(GatewayError, match="413.*Large"):
        connect(serve(refuse).url).send("token", "x" * 3_000_000)


def test_tasks_share_a_connection_and_keep_their_order(serve: Serve) -> None:
    requests: list[bytes] = []

    def answer_in_bulk(peer: Peer) -> None:
        requests.extend(peer.request() for _ in range(20))
        peer.answer(OK * 20)

    server = serve(answer_in_bulk)

    async def send_all() -> None:
        client = AsyncGateway(server.url)
        assert all(await asyncio.gather(*[client.send("token", f"<{number}>") for number in range(20)]))
        await client.aclose()

    asyncio.run(send_all())
    assert [request.partition(b"<")[2].partition(b">")[0] for request in requests] == [b"%d" % n for n in range(20)]


def test_what_stands_behind_the_last_answer_is_sent_again(serve: Serve) -> None:
    seen: list[bytes] = []

    def answer_one_of_three(peer: Peer) -> None:
        seen.extend(peer.request() for _ in range(3))
        peer.answer(LAST)

    def answer_two(peer: Peer) -> None:
        for _ in range(2):
            seen.append(peer.request())
            peer.answer(OK)

    server = serve(answer_one_of_three, answer_two)

    async def send_all() -> None:
        client = AsyncGateway(server.url)
        assert all(await asyncio.gather(*[client.send("token", f"{number}") for number in range(3)]))
        await client.aclose()

    asyncio.run(send_all())
    assert seen[3:] == seen[1:3]


def test_a_cancelled_task_leaves_the_others_their_answers(serve: Serve) -> None:
    received = threading.Event()

    def answer_late(peer: Peer) -> None:
        peer.request()
        received.set()
        peer.request()
        peer.answer(b'HTTP/1.1 404 Not Found\r\nContent-Length: 27\r\n\r\n{"error":"Token not found"}', OK)

    server = serve(answer_late)

    async def send_all() -> None:
        client = AsyncGateway(server.url)
        first = asyncio.create_task(client.send("gone", "x"))
        await asyncio.get_running_loop().run_in_executor(None, received.wait, PATIENCE_SECONDS)
        first.cancel()
        assert await client.send("token", "x")
        await client.aclose()

    asyncio.run(send_all())


def test_an_async_client_serves_one_event_loop_after_the_other(serve: Serve) -> None:
    client = AsyncGateway(serve(answer_all, answer_all).url)

    async def send() -> None:
        assert await client.send("token", "x")
        await client.aclose()

    asyncio.run(send())
    asyncio.run(send())
