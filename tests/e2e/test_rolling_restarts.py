"""A page in Chromium is moved between three gateways by HAProxy, with the files of examples/deploy/cluster, while they are
restarted one after the other: it gets each event once, and in order. FULL=1 for a minute of that."""

import contextlib
import csv
import itertools
import os
import pathlib
import threading
import time
import urllib.request

import pytest
from programs import listens, reserve_port, wait_until
from proxies import replace
from ssegateway import accept
from ssegateway.pytest_plugin import LiveGateway

CLUSTER = pathlib.Path(__file__).parents[2] / "examples/deploy/cluster"
EVENTS, SECONDS = (5000, 60) if os.environ.get("FULL") else (1500, 15)
NAMES = ["gateway1", "gateway2", "gateway3"]


class Cluster:
    def __init__(self, gateways, port, statistics):
        self.gateways = gateways
        self.url = f"http://127.0.0.1:{port}"
        self._statistics = f"http://127.0.0.1:{statistics}/;csv"

    def status(self, gateway):
        """What HAProxy thinks of it."""
        with urllib.request.urlopen(self._statistics) as answer:
            rows = csv.DictReader(answer.read().decode().removeprefix("# ").splitlines())
        name = NAMES[self.gateways.index(gateway)]
        return next(row["status"] for row in rows if (row["pxname"], row["svname"]) == ("gateways", name))


@pytest.fixture
def cluster(start, tmp_path):
    with contextlib.ExitStack() as stack:
        redis, web, statistics = (stack.enter_context(reserve_port()).getsockname()[1] for _ in range(3))
        server = start("redis-server", "--port", str(redis), "--save", "", "--bind", "127.0.0.1", cwd=tmp_path)
        server.read_until("Ready to accept connections")
        environment = {
            "REDIS_URL": f"redis://127.0.0.1:{redis}",
            "CORS_ORIGINS": "*",
            # The file waits for what is here only HAProxy's next two checks.
            "SHUTDOWN_DELAY_SECONDS": "1",
            "RECONNECT_DELAY_MILLISECONDS": "10",
        }
        gateways = [stack.enter_context(contextlib.closing(LiveGateway(environment))) for _ in NAMES]
        for gateway in gateways:
            gateway.answer = accept(groups=["news"])
        ports = [gateway.environment["PORT"] for gateway in gateways]
        here = {f"{name}:3000": f"127.0.0.1:{port}" for name, port in zip(NAMES, ports, strict=True)}
        here["bind :3000"] = f"bind 127.0.0.1:{web}"
        report = f"listen statistics\n    bind 127.0.0.1:{statistics}\n    stats enable\n    stats uri /\n\n"
        here["frontend web"] = f"{report}frontend web"
        (tmp_path / "haproxy.cfg").write_text(replace((CLUSTER / "haproxy.cfg").read_text(), here))
        haproxy = start("haproxy", "-db", "-f", tmp_path / "haproxy.cfg")
        wait_until(lambda: listens(web) or haproxy.has_ended(), haproxy.output)
        yield Cluster(gateways, web, statistics)


def test_a_page_gets_each_event_once_and_in_order(cluster, page):
    source = page.connect(f"{cluster.url}/events/news", "gap")
    source.wait_for(["open"])
    resting, restarts, is_over = threading.Lock(), [], threading.Event()
    up = set(cluster.gateways)

    def restart_in_turn():
        for gateway in itertools.cycle(cluster.gateways):
            if is_over.is_set():
                return
            with resting:
                up.remove(gateway)
            gateway.restart()
            wait_until(lambda: cluster.status(gateway).startswith("UP"), gateway.log)
            with resting:
                up.add(gateway)
            restarts.append(gateway)

    restarting = threading.Thread(target=restart_in_turn)
    restarting.start()
    try:
        began = time.monotonic()
        for number in range(EVENTS):
            time.sleep(max(0, began + number * SECONDS / EVENTS - time.monotonic()))
            with resting:
                sender = sorted(up, key=cluster.gateways.index)[number % len(up)]
                sender.send(group="news", data=str(number))
    finally:
        is_over.set()
        restarting.join()
    page.wait_until(f"seen.some(([, what, data]) => what === 'message' && data === '{EVENTS - 1}')")
    seen = page.run("return seen.map(([, what, data]) => [what, data])")
    assert [data for what, data in seen if what == "message"] == [str(number) for number in range(EVENTS)]
    assert not [what for what, _ in seen if what == "gap"]
    opened = sum(what == "open" for what, _ in seen)
    print(f"{len(restarts)} restarts, {opened} connections of the page")
    assert opened > 3, "it was hardly moved"
