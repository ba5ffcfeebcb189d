"""examples/chat in Chromium, with its worker in a thread and as a Celery task: reloads, tabs, stops, deaths, deploys."""

import os
import pathlib
import re
import signal
import sys
import sysconfig

import pytest
from programs import listens, reserve_port, wait_until

ROOT = pathlib.Path(__file__).parents[2]
CHAT, PACKAGE = ROOT / "examples" / "chat", ROOT / "python"
BIN = pathlib.Path(sysconfig.get_path("scripts"))
TOKENS_PER_SECOND = 40
TEXT = "document.querySelector('section:last-child .answer').textContent"
STATE = "document.querySelector('section:last-child')?.className"


@pytest.fixture
def ports():
    """Of the application, the model and the broker."""
    reserved = [reserve_port() for _ in range(3)]
    yield [socket.getsockname()[1] for socket in reserved]
    for socket in reserved:
        socket.close()


@pytest.fixture
def origin(ports):
    return f"http://127.0.0.1:{ports[0]}"


@pytest.fixture
def ssegateway_environment(origin):
    return {"CALLBACK_URL": f"{origin}/callback", "CORS_ORIGINS": origin}


@pytest.fixture
def model(start, ports):
    model = start(sys.executable, CHAT / "vendor.py", str(ports[1]), str(TOKENS_PER_SECOND))
    wait_until(lambda: listens(ports[1]), model.output)
    return model


@pytest.fixture(params=["thread", "celery"])
def chat(request, start, ssegateway, ports, origin, model, tmp_path):
    """The application and its worker: programs with a `child` that does the work."""
    environment = {
        "GATEWAY_URL": ssegateway.url,
        "EVENTS_URL": f"{ssegateway.url}/runs",
        "OPENAI_BASE_URL": f"http://127.0.0.1:{ports[1]}/v1",
        "OPENAI_API_KEY": "none",
        "DATABASE": str(tmp_path / "chat.db"),
        "PYTHONPATH": str(PACKAGE),
    }
    celery = None
    if request.param == "celery":
        redis = start("redis-server", "--port", str(ports[2]), "--save", "", "--bind", "127.0.0.1", cwd=tmp_path)
        redis.read_until("Ready to accept connections")
        environment["BROKER_URL"] = f"redis://127.0.0.1:{ports[2]}"
        options = ["--concurrency=1", "--loglevel=info", "--without-gossip", "--without-mingle"]
        celery = start(BIN / "celery", "--app=tasks", "worker", *options, cwd=CHAT, env=environment)
        celery.read_until(" ready.")
    gunicorn = [BIN / "gunicorn", "--no-control-socket", f"--bind=127.0.0.1:{ports[0]}", "--threads=8", "app:app"]
    backend = start(*gunicorn, cwd=CHAT, env=environment)
    wait_until(lambda: listens(ports[0]), backend.output)
    return backend, celery or backend


def child(program):
    """The process that the program has forked last."""
    pid = program.process.pid
    return int(pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[-1])


@pytest.fixture
def ask(chat, open_page, origin):
    """Opens the page and asks; returns it once the answer has begun."""

    def ask(question="Why?"):
        page = open_page(origin)
        page.run("document.querySelector('input').value = arguments[0]; document.getElementById('send').click()", question)
        page.wait_until(f"{STATE} === 'running' && {TEXT}.length > 30")
        return page

    return ask


def whole(question="Why?"):
    """The words of the model's whole answer."""
    source = (CHAT / "vendor.py").read_text()
    text = re.search(r'ANSWER = """(.*?)"""', source, re.DOTALL)[1].replace("\\\n", "")
    return text.format(question=question)


def is_done(page):
    page.wait_until(f"{STATE} === 'done'")
    assert page.run(f"return {TEXT}") == whole()


def test_an_answer_survives_reloads_tabs_and_its_end(ask, open_page, origin, installed):
    page = ask()
    tabs = [page, open_page(origin), open_page(origin)]
    page.screenshot(installed / "chat.png")
    page.go(origin)
    for tab in tabs:
        is_done(tab)
    page.screenshot(installed / "chat-done.png")
    page.go(origin)
    is_done(page)


def test_stop_reaches_the_worker_and_the_model(ask, open_page, origin, model, installed):
    page = ask()
    tab = open_page(origin)
    tab.wait_until(f"{STATE} === 'running'")
    tab.run("document.getElementById('stop').click()")
    for opened in (page, tab):
        opened.wait_until(f"{STATE} === 'stopped'")
    model.read_until("the client has left")
    said = page.run(f"return {TEXT}")
    assert whole().startswith(said) and said != whole()
    page.screenshot(installed / "chat-stopped.png")


def test_the_page_shows_that_the_worker_was_killed(chat, ask, installed):
    page = ask()
    os.kill(child(chat[1]), signal.SIGKILL)
    page.wait_until(f"{STATE} === 'interrupted'")
    page.screenshot(installed / "chat-interrupted.png")
    page.run("location.reload()")
    page.wait_until(f"{STATE} === 'interrupted' && {TEXT}.length > 30")


def test_a_deploy_of_the_backend_disturbs_nobody(chat, ask):
    page = ask()
    before = child(chat[0])
    chat[0].process.send_signal(signal.SIGHUP)
    wait_until(lambda: child(chat[0]) != before, chat[0].output)
    is_done(page)


def test_a_restart_of_the_gateway_loses_nothing(ask, ssegateway):
    page = ask()
    ssegateway.restart()
    is_done(page)


@pytest.mark.parametrize("chat", ["thread"], indirect=True)
def test_the_page_says_that_the_gateway_is_down(chat, open_page, origin, ssegateway, installed):
    ssegateway.stop()
    page = open_page(origin)
    page.run("document.querySelector('input').value = 'Why?'; document.getElementById('send').click()")
    page.wait_until("document.getElementById('problem').textContent.startsWith('The gateway is unavailable.')")
    page.screenshot(installed / "chat-unavailable.png")
    ssegateway.start()
    page.run("document.getElementById('send').click()")  # the question is still there
    is_done(page)
    assert page.run("return document.querySelectorAll('section').length") == 1
    assert page.run("return document.getElementById('problem').textContent") == ""


def test_the_page_is_told_if_the_model_fails(ask, model):
    page = ask()
    model.end(signal.SIGKILL)
    page.wait_until(f"{STATE} === 'interrupted'")


def test_make_demo_chat(start, open_page, installed):
    environment = {"SSEGATEWAY": os.environ["SSEGATEWAY"], "PYTHONUNBUFFERED": "1"}
    demo = start(sys.executable, CHAT / "demo.py", env=environment)
    url = re.search(r"http://127\.0\.0\.1:\d+/", demo.read_until("ends the demo)"))[0]
    wait_until(lambda: listens(int(url.rstrip("/").rpartition(":")[2])), demo.output)
    page = open_page(url)
    page.run("document.querySelector('input').value = 'Why?'; document.getElementById('send').click()")
    page.wait_until(f"{STATE} === 'running' && {TEXT}.length > 30")
    assert demo.end(signal.SIGINT) == 0
