"""Clients of language models read their POST's answer from the gateway: the AI SDK, those of OpenAI, fetch-event-source."""

import json
import pathlib
import threading

import openai
import pytest
from programs import PATIENCE
from ssegateway import Gone, accept

SCRIPT = pathlib.Path(__file__).parent / "ai.mjs"
PARTS = [
    {"type": "start"},
    {"type": "text-start", "id": "1"},
    *[{"type": "text-delta", "id": "1", "delta": word} for word in ("Because ", "it ", "is.")],
    {"type": "text-end", "id": "1"},
    {"type": "finish"},
]
DONE = "[DONE]"


@pytest.fixture
def ssegateway_environment():
    # Short heartbeats: a resumable stream has blocks of an id alone, which must not disturb.
    return {"CORS_ORIGINS": "*", "POST_STREAMS": "on", "HEARTBEAT_INTERVAL_SECONDS": "1"}


@pytest.fixture
def node(start, installed, ssegateway):
    """Starts a client; returns a function that waits for the next value that it prints."""

    def node(what, path):
        with SCRIPT.open() as script:
            program = start("node", "--input-type=module", "-", what, ssegateway.url + path, stdin=script, cwd=installed)
        return program, lambda: json.loads(program.read_until("\n"))

    return node


def chat_backend(call):
    """useChat posts the chat to its `api`, and resumes by GET of `api`/ID/stream."""
    if call.method == "POST":
        return accept(groups=[f"chat:{json.loads(call.body)['id']}"], headers={"x-vercel-ai-ui-message-stream": "v1"})
    return accept(groups=[f"chat:{call.path.split('/')[-2]}"], since="start", attach=True)


def test_use_chat_asks_resumes_and_is_told_of_the_end(ssegateway, node):
    ssegateway.answer = chat_backend
    assert node("resume", "/api/chat")[1]() is None, "204 means that there is nothing to resume"
    _, asking = node("ask", "/api/chat")
    call = ssegateway.wait_for(lambda call: call.action == "connect" and call.method == "POST")
    assert json.loads(call.body)["messages"][0]["parts"] == [{"type": "text", "text": "Why?"}]
    with ssegateway.client.stream("chat:7", end=True) as out:
        for part in PARTS[:4]:
            out.send(json=part)
        assert [asking() for _ in PARTS[:4]] == PARTS[:4]
        _, resuming = node("resume", "/api/chat")
        assert [resuming() for _ in PARTS[:4]] == PARTS[:4]
        for part in PARTS[4:]:
            out.send(json=part)
        out.send(DONE)
    for read in (asking, resuming):
        assert [read() for _ in PARTS[4:]] == PARTS[4:]
        assert read() == "end"


def test_use_chat_is_stopped_by_the_end_of_its_group(ssegateway, node):
    ssegateway.answer = chat_backend
    program, asking = node("ask", "/api/chat")
    ssegateway.wait_for(lambda call: call.method == "POST")
    stopped = threading.Event()
    with pytest.raises(Gone), ssegateway.client.stream("chat:7", end=True) as out:
        out.on_stop(stopped.set)
        out.send(json=PARTS[0])
        assert asking() == PARTS[0]
        ssegateway.send(group="chat:7", json={"type": "abort"}, end=True)
        assert stopped.wait(PATIENCE)
        out.send(json=PARTS[1])
    assert [asking(), asking()] == [{"type": "abort"}, "end"]
    assert program.wait() == 0


def completion(word):
    choice = {"index": 0, "delta": {"content": word}, "finish_reason": None}
    return {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "m", "choices": [choice]}


WORDS = ["Because ", "it ", "is."]


def complete(ssegateway):
    """A backend like OpenAI's. One client per answer, which is no group's: a stream without ids, by its token."""
    ssegateway.answer = {}

    def work():
        token = ssegateway.wait_for(lambda call: call.method == "POST").token
        with ssegateway.client.stream(token=token) as out:
            for word in WORDS:
                out.send(json=completion(word))
            out.send(DONE)
        ssegateway.send(token, close=True)

    threading.Thread(target=work).start()


def test_the_sdk_of_openai_for_python(ssegateway):
    complete(ssegateway)
    with openai.OpenAI(base_url=f"{ssegateway.url}/v1", api_key="secret", max_retries=0, timeout=PATIENCE) as client:
        chunks = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Why?"}], stream=True)
        assert [chunk.choices[0].delta.content for chunk in chunks] == WORDS
    call = ssegateway.wait_for(lambda call: call.method == "POST")
    assert (call.path, call.headers["authorization"]) == ("/v1/chat/completions", "Bearer secret")
    assert json.loads(call.body)["messages"] == [{"role": "user", "content": "Why?"}]


def test_it_leaves_and_the_worker_is_told(ssegateway):
    ssegateway.answer = {}
    with openai.OpenAI(base_url=f"{ssegateway.url}/v1", api_key="secret", max_retries=0, timeout=PATIENCE) as client:
        chunks = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Why?"}], stream=True)
        token = ssegateway.wait_for(lambda call: call.method == "POST").token
        with pytest.raises(Gone), ssegateway.client.stream(token=token) as out:
            stopped = threading.Event()
            out.on_stop(stopped.set)
            out.send(json=completion("Because"))
            assert next(chunks).choices[0].delta.content == "Because"
            chunks.close()
            assert stopped.wait(PATIENCE)
            out.send(json=completion("it"))


def test_it_cannot_read_blocks_of_an_id_alone(ssegateway):
    """So its streams must not be resumable: no groups in the answer of their connect."""
    ssegateway.answer = accept(groups=["run"])
    with openai.OpenAI(base_url=f"{ssegateway.url}/v1", api_key="secret", max_retries=0, timeout=PATIENCE) as client:
        chunks = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Why?"}], stream=True)
        with pytest.raises(json.JSONDecodeError):
            next(chunks)


def test_the_sdk_of_openai_for_node(ssegateway, node):
    complete(ssegateway)
    _, read = node("openai", "/v1")
    assert [read()["choices"][0]["delta"]["content"] for _ in WORDS] == WORDS
    assert read() == "end"


def test_fetch_event_source_posts(ssegateway, open_page, site):
    ssegateway.answer = accept(groups=["run"])
    before = ssegateway.client.cursor()
    page = open_page(f"{site.origin}/fetch.html")
    page.wait_until("window.connect")
    headers = {"Content-Type": "application/json"}
    source = page.connect(f"{ssegateway.url}/ask", method="POST", headers=headers, body='{"question":"Why?"}')
    call = ssegateway.wait_for(lambda call: call.url == "/ask")
    assert (call.method, call.body) == ("POST", '{"question":"Why?"}')
    # The first block is an id alone, which it shows as an event without data.
    opened = [["open", 200], ["message", "", before]]
    source.wait_for(*opened)
    sent = ssegateway.send(group="run", data="Because", name="token", end=True)
    source.wait_for(*opened, ["token", "Because", sent.id], ["end"])
