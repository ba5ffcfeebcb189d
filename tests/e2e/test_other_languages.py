"""The same room in Express, PHP and Go: the files of examples/ that are no Python."""

import http.client
import os
import pathlib
import shutil
import subprocess

import pytest
from php_fpm import start_php
from programs import PATIENCE, listens, reserve_port, wait_until
from proxies import replace

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"
NGINX = """
daemon off; error_log stderr; pid {directory}/pid;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi; uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;
    include {directory}/room.conf;
}}
"""


@pytest.fixture
def port():
    with reserve_port() as reserved:
        yield reserved.getsockname()[1]


@pytest.fixture
def ssegateway_environment(port):
    return {"CALLBACK_URL": f"http://127.0.0.1:{port}/callback", "CORS_ORIGINS": f"http://127.0.0.1:{port}"}


def start_node(start, port, gateway, directory, installed):
    shutil.copy(EXAMPLES / "node_express.mjs", directory)
    (pathlib.Path(directory) / "node_modules").symlink_to(installed / "node_modules")
    start("node", "node_express.mjs", cwd=directory, env={"PORT": str(port), "GATEWAY_URL": gateway.url})


def start_nginx(start, port, gateway, directory, installed):
    room = pathlib.Path(directory)
    for name in ("index.php", "page.php"):
        shutil.copy(EXAMPLES / "php" / name, room)
    shutil.copy("/etc/nginx/fastcgi_params", room)
    start_php(start, directory, GATEWAY_URL=gateway.url)
    changes = {
        "listen 8000": f"listen 127.0.0.1:{port}",
        "http://127.0.0.1:3000": gateway.url,
        "/srv/room/index.php": f"{room}/index.php",
        "/run/php/php-fpm.sock": f"{room}/php.sock",
    }
    (room / "room.conf").write_text(replace((EXAMPLES / "php/nginx.conf").read_text(), changes))
    (room / "nginx.conf").write_text(NGINX.format(directory=room))
    start("nginx", "-c", f"{room}/nginx.conf")


def start_php_alone(start, port, gateway, directory, installed):
    environment = {"GATEWAY_URL": gateway.url, "EVENTS_URL": f"{gateway.url}/events/room"}
    start("php", "-S", f"127.0.0.1:{port}", "index.php", cwd=EXAMPLES / "php", env=environment)


def start_go(start, port, gateway, directory, installed):
    command = ["go", "build", "-o", f"{directory}/room", EXAMPLES / "go/main.go"]
    subprocess.run(command, check=True, env={**os.environ, "GOCACHE": f"{installed}/go"})  # half a minute the first time
    start(f"{directory}/room", env={"LISTEN": f"127.0.0.1:{port}", "GATEWAY_URL": gateway.url})


@pytest.fixture(params=[start_node, start_nginx, start_php_alone, start_go], ids=["express", "php", "php -S", "go"])
def room(request, start, ssegateway, port, directory, installed):
    request.param(start, port, ssegateway, directory, installed)
    wait_until(lambda: listens(port), lambda: "the application does not listen")
    yield f"http://127.0.0.1:{port}"
    ssegateway.stop()  # first, since it notifies the application of the streams that end


def sign_in(port, user):
    """The cookies of a browser that has opened the page; the room in Go has none, and takes anybody's word."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    connection.request("GET", f"/?user={user}")
    cookie = connection.getresponse().headers["Set-Cookie"] or f"user={user}"
    connection.close()
    return "theme=dark; " + cookie.partition(";")[0]


def say(port, cookies, text):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    headers = {"Content-Type": "application/x-www-form-urlencoded", "Cookie": cookies}
    connection.request("POST", "/messages", f"text={text}", headers)
    assert connection.getresponse().status in (200, 204)
    connection.close()


def test_who_may_come_in_messages_to_all_and_who_has_left(ssegateway, room, port):
    assert ssegateway.open("/events/room").status == 401
    cookies = {user: sign_in(port, user) for user in ("ann", "bob")}
    streams = {}
    for user in cookies:
        streams[user] = ssegateway.open("/events/room", {"Cookie": cookies[user]})
        assert streams[user].event().data == f"Welcome, {user}"
    say(port, cookies["bob"], "Hello")
    for stream in streams.values():
        assert stream.event().data == "bob: Hello"
    streams["bob"].close()
    assert streams["ann"].event().data == "bob has left"


@pytest.mark.parametrize("room", [start_node, start_nginx, start_php_alone], ids=["express", "php", "php -S"], indirect=True)
def test_two_pages_talk(room, open_page):
    pages = [open_page(f"{room}/?user=ann"), open_page(f"{room}/?user=ann")]
    for page in pages:
        page.wait_until("document.querySelector('ul').textContent.includes('Welcome, ann')")
    pages[0].run("document.querySelector('input').value = '1 < 2'; document.forms[0].requestSubmit()")
    for page in pages:
        page.wait_until("document.querySelector('ul').textContent.includes('ann: 1 < 2')")
