"""htmx with its extension for SSE, and Datastar, in Chromium: pages without JavaScript of their own."""

import json

import pytest
from ssegateway import accept

ANSWER = "document.getElementById('answer').textContent"


@pytest.fixture
def ssegateway_environment(site):
    # By name: htmx connects with credentials, for which browsers do not accept "*".
    return {"CORS_ORIGINS": site.origin, "POST_STREAMS": "on", "HEARTBEAT_INTERVAL_SECONDS": "1"}


@pytest.fixture
def open_with(open_page, site, ssegateway):
    ssegateway.answer = accept(groups=["run"], since="start")
    return lambda page: open_page(f"{site.origin}/{page}?events={ssegateway.url}/run")


def test_htmx_appends_tokens_until_the_event_that_closes(ssegateway, open_with):
    page = open_with("htmx.html")
    with ssegateway.client.stream("run", end=True) as out:
        out.send("<b>Because</b> ", name="token")
        out.send("it is.", name="token")
        page.wait_until(f"{ANSWER} === 'Because it is.'")
        out.send("", name="done")
    page.wait_until("seen.length === 1")
    assert page.seen() == [["closed", "message"]]
    assert ssegateway.wait_for(lambda call: call.action == "disconnect")


def test_datastar_posts_and_merges_the_answer(ssegateway, open_with):
    page = open_with("datastar.html")
    page.run("document.querySelector('button').click()")
    call = ssegateway.wait_for(lambda call: call.method == "POST")
    assert (call.headers["datastar-request"], json.loads(call.body)) == ("true", {})
    with ssegateway.client.stream("run", end=True) as out:
        for words in ("Because", "Because it is."):
            out.send(f"fragments <p id=answer>{words}</p>", name="datastar-merge-fragments")
            page.wait_until(f"{ANSWER} === '{words}'")
