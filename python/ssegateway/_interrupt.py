"""Waking a thread that reads a response: its socket is shut down, since closing it would wake nobody."""

from __future__ import annotations

import os
import socket
from typing import Any

__all__ = ["find_socket", "no_socket", "shut_down"]


def find_socket(response: Any) -> Any:
    """The socket of a response of httpx, requests, urllib3 or http.client, or of an object with such a `response`.

    The streams of openai and anthropic are such objects. None: it is not known.
    """
    stream = getattr(response, "extensions", {}).get("network_stream")
    if stream is not None:  # httpx
        return stream.get_extra_info("socket")
    # From the outside to http.client, its buffered file, and the socket in that.
    for attribute in ("response", "raw", "_fp", "fp"):
        if (part := getattr(response, attribute, None)) is not None:
            return find_socket(part)
    return getattr(response, "_sock", None)


def no_socket(response: object) -> TypeError:
    return TypeError(f"the socket of {response!r} is not known: give the response, or use on_stop")


def shut_down(sock: Any) -> None:
    try:
        # A duplicate, because TLS sockets have a shutdown of their own.
        with socket.socket(fileno=os.dup(sock.fileno())) as twin:
            twin.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # closed by its owner
