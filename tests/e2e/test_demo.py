"""`make demo`: its page in Chromium, with either backend."""

import os
import pathlib
import re
import signal

import pytest
from programs import listens, wait_until

DEMO = pathlib.Path(os.environ["SSEGATEWAY"]).parent / "examples/demo"


@pytest.fixture(params=["python", "rust"])
def demo(request, start):
    # Without a path there is no python3.
    return start(DEMO, env={} if request.param == "python" else {"PATH": "/nowhere"})


@pytest.fixture
def url(demo):
    return re.search(r"http://127\.0\.0\.1:\d+/", demo.read_until("ends the demo."))[0]


@pytest.fixture
def open_demo(open_page, url):
    def open_demo(user="Ann"):
        page = open_page(f"{url}?user={user}")
        page.wait_until(text("#state") + " === 'Live'")
        return page

    return open_demo


@pytest.fixture
def page(open_demo):
    return open_demo()


def text(selector):
    return f"document.querySelector('{selector}').textContent"


def lists(where, *words):
    """An expression: whether an entry of the given list on the page contains all these words."""
    holds = " && ".join(f"entry.textContent.includes({word!r})" for word in words)
    return f"[...document.querySelectorAll('#{where} li')].some(entry => {holds})"


def send(page, group, words):
    page.run(f"$('group').value = '{group}'; $('data').value = '{words}'; document.querySelector('#send button').click()")


def test_events_arrive_by_themselves(page, installed):
    page.wait_until(lists("events", "message", "tick ", ", to everyone"))
    page.wait_until(text("#p99") + ".endsWith(' ms')")
    page.wait_until("document.querySelector('#source').textContent.includes('callback')")
    page.screenshot(installed / "demo.png")


def test_what_is_for_ann_reaches_both_of_her_pages_and_none_of_bobs(page, open_demo):
    second, bob = open_demo(), open_demo("Bob")
    page.wait_until(text("#open") + " === '3'")
    send(page, "user:Ann", "For Ann")
    for anns in (page, second):
        anns.wait_until(lists("events", "greeting", "For Ann"))
    # Bob's own event comes behind it, so his page has had the time.
    bob.run("$('name').value = ''")
    send(bob, "user:Bob", "For Bob")
    bob.wait_until(lists("events", "message", "For Bob"))
    assert not bob.run("return " + lists("events", "For Ann"))
    assert not page.run("return " + lists("events", "For Bob"))
    second.close()
    page.wait_until(lists("callbacks", "disconnect", "reason client_closed"))
    page.wait_until(text("#open") + " === '2'")


def test_nothing_is_missing_behind_a_cut(page, installed):
    page.wait_until(lists("events", "tick "))
    page.run("$('cut').click()")
    page.wait_until(lists("events", "The connection is cut."))
    for number in (1, 2, 3):
        page.wait_until(lists("events", f"sent while away, number {number}"))
    page.wait_until(lists("events", "All 3 events that were sent while this page was away have come"))
    page.wait_until(lists("callbacks", "connect", "has seen ", "(this page)"))
    assert page.run("return " + text("#missed")) == "0"
    page.screenshot(installed / "demo-cut.png")


def test_the_page_comes_back_when_the_backend_has_closed_its_stream(page):
    page.wait_until(lists("events", "tick "))
    page.run("$('close').click()")
    page.wait_until(lists("events", "The backend closed the stream."))
    page.wait_until(lists("callbacks", "disconnect", "reason server_closed", "(this page)"))
    page.wait_until(lists("events", "The browser reconnected by itself, with Last-Event-ID "))
    page.wait_until(lists("callbacks", "connect", "has seen ", "(this page)"))


def test_the_counts_are_those_of_the_lists(page):
    page.wait_until(lists("events", "tick "))
    listed = "[...document.querySelectorAll('#events li:not(.note)')].length"
    page.wait_until(f"Number({text('#listed')}) === {listed} && {listed} > 1")
    page.wait_until(f"Number({text('#called')}) === document.querySelectorAll('#callbacks li').length")


def test_its_links_lead_on(page, url):
    links = page.run("return [...document.querySelectorAll('footer a')].map(link => link.href)")
    assert len(links) == 4
    for link in links:
        assert page.run("return fetch(arguments[0]).then(answer => answer.ok)", link), link


@pytest.mark.parametrize("demo", ["python"], indirect=True)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_small_screen_in_either_colours(page, browser, installed, scheme):
    page.run("")
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    size = {"width": 360, "height": 2000, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    page.wait_until(text("#p99") + ".endsWith(' ms')")
    page.wait_until(lists("events", "tick ", "id "))
    assert page.run("return document.documentElement.scrollWidth") == 360
    assert page.run("return [...document.querySelectorAll('ol')].every(list => list.scrollWidth <= list.clientWidth)")
    page.screenshot(installed / f"demo-360-{scheme}.png")
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize("demo", ["python"], indirect=True)
def test_by_keyboard_and_by_its_accessibility_tree(page, browser):
    page.run("")
    tree = browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    nodes = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in tree if not node["ignored"]]
    # Chromium has a name for each thing that one can operate or should hear of.
    for role in ("button", "link", "textbox", "combobox", "image", "list", "heading", "status"):
        names = [name for of, name in nodes if of == role and (role != "status" or name)]
        assert role == "status" or (names and all(names)), (role, names)
    reached = []
    for _ in range(20):
        browser.switch_to.active_element.send_keys("\ue004")  # Tab
        reached.append(page.run("const on = document.activeElement; return on.id || on.textContent"))
    wanted = ["Ann", "Bob", "group", "name", "data", "Send", "cut", "close", "events", "callbacks"]
    assert [name for name in reached if name in wanted][: len(wanted)] == wanted, reached
    page.run("$('data').focus()")
    browser.switch_to.active_element.send_keys(" by keyboard\n")
    page.wait_until(lists("events", "greeting", "by keyboard"))


def test_control_c_ends_it(page, demo):
    assert demo.end(signal.SIGINT) == 0


def test_its_backend_ends_with_it_even_by_sigkill(url, demo):
    port = int(url.split(":")[2].strip("/"))
    assert listens(port)
    demo.process.kill()
    wait_until(lambda: not listens(port), lambda: "the backend still listens")
