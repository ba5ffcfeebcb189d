"""examples/mcp_server.py and the client of the package mcp."""

import asyncio
import contextlib
import http.client
import json
import pathlib
import sysconfig

import pytest
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client
from programs import PATIENCE, listens, reserve_port, wait_until

ROOT = pathlib.Path(__file__).parents[2]
EXAMPLES, PACKAGE = ROOT / "examples", ROOT / "python"


@pytest.fixture
def port():
    with reserve_port() as reserved:
        yield reserved.getsockname()[1]


@pytest.fixture
def ssegateway_environment(port):
    return {"POST_STREAMS": "on", "CALLBACK_URL": f"http://127.0.0.1:{port}/callback"}


@pytest.fixture
def server(start, ssegateway, port):
    gunicorn = pathlib.Path(sysconfig.get_path("scripts")) / "gunicorn"
    environment = {"GATEWAY_URL": ssegateway.url, "PYTHONPATH": str(PACKAGE)}
    bind = f"--bind=127.0.0.1:{port}"
    server = start(gunicorn, "--no-control-socket", bind, "--threads=4", "mcp_server:app", cwd=EXAMPLES, env=environment)
    wait_until(lambda: listens(port), server.output)
    return server


def test_a_tool_reports_its_progress(ssegateway, server):
    seen = []

    async def progress(done, total, _message):
        seen.append((done, total))

    async def use():
        async with streamable_http_client(f"{ssegateway.url}/mcp") as (reading, writing, *_):
            async with ClientSession(reading, writing) as session:
                assert (await session.initialize()).server_info.name == "counter"
                assert [tool.name for tool in (await session.list_tools()).tools] == ["count"]
                result = await session.call_tool("count", {"to": 3}, progress_callback=progress)
                assert result.content[0].text == "counted to 3"

    asyncio.run(asyncio.wait_for(use(), PATIENCE))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_a_client_that_closes_its_stream_cancels_the_tool(ssegateway, server):
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "count", "arguments": {"to": 1000}}}
    with contextlib.closing(http.client.HTTPConnection(ssegateway.url.removeprefix("http://"))) as client:
        client.request("POST", "/mcp", json.dumps(call))
        assert client.getresponse().status == 200
    server.read_until("stopped counting at")
