from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import pytest
from clients import Connect
from servers import Peer, Serve, Server
from ssegateway import Gateway


@pytest.fixture
def connect(request: pytest.FixtureRequest) -> Iterator[Connect]:
    """Creates clients of either kind."""
    kind = getattr(request, "param", Gateway)
    with ExitStack() as stack:
        yield lambda *args, **kwargs: stack.enter_context(closing(kind(*args, **kwargs)))


@pytest.fixture
def serve() -> Iterator[Serve]:
    servers: list[Server] = []

    def start(*scripts: Callable[[Peer], None]) -> Server:
        servers.append(Server(*scripts))
        return servers[-1]

    yield start
    for server in servers:
        server.close()
