"""The pages of the example applications in Chromium, each from its application's own origin."""

import socket

import pytest
from apps import PASSWORD, SERVERS, TOKENS, App


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        yield listener


@pytest.fixture
def ssegateway_environment(listener):
    origin = f"http://127.0.0.1:{listener.getsockname()[1]}"
    return {**TOKENS, "CALLBACK_URL": f"{origin}/callback", "CORS_ORIGINS": origin}


@pytest.fixture(params=SERVERS)
def app(request, listener, ssegateway, tmp_path):
    app = App(request.param, listener, ssegateway, tmp_path)
    yield app
    ssegateway.close()
    app.stop()
    print(f"--- log of the application\n{app.log()}---")


@pytest.fixture
def sign_in(app, browser, open_page):
    """Opens a page of the application as a user; the browser has one user at a time."""

    def sign_in(name):
        page = open_page(app.url)
        page.run("document.cookie")
        browser.delete_all_cookies()
        page.go(app.url)
        fields = {"username": name, "password": PASSWORD} if app.kind == "django" else {"user": name}
        page.wait_until("document.querySelector('form')")
        fill(page, **fields)
        page.run("document.querySelector('form button').click()")
        page.wait_until("document.getElementById('messages')")
        return page

    return sign_in


def fill(page, **fields):
    script = "for (const name in arguments[0]) document.querySelector('form').elements[name].value = arguments[0][name]"
    page.run(script, fields)


LINES = "[...document.querySelectorAll('#messages li')].map(line => line.textContent)"


def shows(page, *lines):
    page.wait_until(f"JSON.stringify({LINES}) === JSON.stringify({list(lines)})")


def is_open(page):
    page.wait_until("events.readyState === EventSource.OPEN")


def write(page, to, text):
    fill(page, to=to, text=text)
    page.run("document.querySelector('#form button').click()")
    page.wait_until("document.getElementById('form').text.value === ''")


def test_messages_reach_every_tab(app, sign_in, open_page):
    page = sign_in("ann")
    tab = open_page(app.url)
    for opened in (page, tab):
        is_open(opened)
    app.user("bob").say(to="ann", text="<b>Hello</b>, Ann")
    for opened in (page, tab):
        shows(opened, "bob: <b>Hello</b>, Ann")
    write(tab, "bob", "Hello, Bob")
    for opened in (page, tab):
        shows(opened, "bob: <b>Hello</b>, Ann", "ann: Hello, Bob")
    page.go(app.url)
    shows(page, "bob: <b>Hello</b>, Ann", "ann: Hello, Bob")


def test_a_page_recovers_from_a_restart_of_the_gateway(app, ssegateway, sign_in):
    page, bob = sign_in("ann"), app.user("bob")
    is_open(page)
    bob.say(to="ann", text="one")
    shows(page, "bob: one")
    ssegateway.restart()
    bob.say(to="ann", text="two")  # perhaps before the page is back: then the gap makes it load all messages
    shows(page, "bob: one", "bob: two")
    is_open(page)
    bob.say(to="ann", text="three")
    shows(page, "bob: one", "bob: two", "bob: three")
