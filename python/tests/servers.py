"""A scripted server in place of the gateway."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress

OK = b'HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{"status":"ok"}'
LAST = OK.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
PATIENCE_SECONDS = 60


class Peer:
    """The server's side of a connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._received = b""

    def request(self) -> bytes:
        """The next request, its body included; empty at the end."""
        while True:
            head, separator, rest = self._received.partition(b"\r\n\r\n")
            length = next((int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length:")), 0)
            if separator and len(rest) >= length:
                size = len(head) + 4 + length
                request, self._received = self._received[:size], self._received[size:]
                return request
            if not (data := self.sock.recv(65536)):
                return b""
            self._received += data

    def answer(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.sock.sendall(piece)


class Server:
    """Runs a script for each connection."""

    def __init__(self, *scripts: Callable[[Peer], None]) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(PATIENCE_SECONDS)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.accepted = 0
        self._thread = threading.Thread(target=self._serve, args=[scripts])
        self._thread.start()

    def _serve(self, scripts: tuple[Callable[[Peer], None], ...]) -> None:
        for script in scripts:
            with suppress(OSError), self._listener.accept()[0] as sock:
                sock.settimeout(PATIENCE_SECONDS)
                self.accepted += 1
                script(Peer(sock))

    def close(self) -> None:
        self._thread.join(PATIENCE_SECONDS)
        self._listener.close()


Serve = Callable[..., Server]


def answer_all(peer: Peer) -> None:
    while peer.request():
        peer.answer(OK)
