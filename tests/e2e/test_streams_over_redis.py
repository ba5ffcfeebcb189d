"""A worker's stream goes on at another gateway when its own drains: with Redis, those who watch notice nothing."""

import contextlib
import threading

import pytest
from programs import reserve_port, wait_until
from relay import Relay
from ssegateway import Gateway, accept
from ssegateway.pytest_plugin import LiveGateway


@pytest.fixture
def gateways(start, tmp_path):
    """Two of them, over one Redis."""
    with reserve_port() as reserved, contextlib.ExitStack() as stack:
        port = reserved.getsockname()[1]
        redis = start("redis-server", "--port", str(port), "--save", "", "--bind", "127.0.0.1", cwd=tmp_path)
        redis.read_until("Ready to accept connections")
        environment = {"REDIS_URL": f"redis://127.0.0.1:{port}"}
        yield [stack.enter_context(contextlib.closing(LiveGateway(environment))) for _ in range(2)]


def test_a_drain_is_not_noticed(gateways):
    first, second = gateways
    second.answer = accept(groups=["run"], since="start")
    page = second.open("/", timeout=60)
    with contextlib.closing(Relay(int(first.environment["PORT"]))) as balancer:
        client = Gateway(balancer.url)
        drain = threading.Thread(target=first.stop)
        sent = 0
        with client.stream("run", end=True) as out:
            while sent <= 500 or drain.is_alive():
                out.send(str(sent))
                sent += 1
                if sent == 500:
                    wait_until(lambda: balancer.accepted, first.log)
                    balancer.target = int(second.environment["PORT"])
                    drain.start()
        assert balancer.accepted == 2
    assert [event.data for event in iter(page.event, None)] == [str(number) for number in range(sent)]
