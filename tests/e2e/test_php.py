"""PHP, which cannot hold a connection itself: php-fpm behind nginx, without a port between them and the gateway."""

import os
import pathlib
from urllib.parse import quote

import pytest
from php_fpm import start_php
from programs import wait_until

SCRIPT = pathlib.Path(__file__).parent / "php" / "callback.php"
NGINX = """
daemon off; error_log stderr; pid {directory}/pid;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body; fastcgi_temp_path {directory}/fastcgi; proxy_temp_path {directory}/proxy;
    uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;
    server {{
        listen unix:{directory}/nginx.sock;
        location = /callback {{
            fastcgi_pass unix:{directory}/php.sock;
            fastcgi_param SCRIPT_FILENAME {script};
            fastcgi_param REQUEST_METHOD $request_method;
            fastcgi_param CONTENT_TYPE $content_type;
            fastcgi_param CONTENT_LENGTH $content_length;
        }}
    }}
}}
"""


@pytest.fixture
def ssegateway_environment(directory):
    nginx = quote(f"{directory}/nginx.sock", safe="")
    return {"CALLBACK_URL": f"http+unix://{nginx}/callback", "INTERNAL_SOCKET": f"{directory}/gateway.sock"}


@pytest.fixture
def php(ssegateway, directory, start):
    script = pathlib.Path(directory) / "callback.php"
    script.write_text(SCRIPT.read_text())
    (pathlib.Path(directory) / "nginx.conf").write_text(NGINX.format(directory=directory, script=script))
    start_php(start, directory, INTERNAL_SOCKET=f"{directory}/gateway.sock")
    start("nginx", "-c", f"{directory}/nginx.conf")
    wait_until(lambda: os.path.exists(f"{directory}/nginx.sock"), lambda: "no nginx.sock")
    yield
    ssegateway.stop()  # first, since it notifies the application of the streams that end


def test_php_holds_streams_through_the_gateway(ssegateway, php):
    assert ssegateway.open("/events").status == 401
    streams = []
    for name in ("ann", "bob"):
        streams.append(ssegateway.open(f"/events/{name}", {"Cookie": f"user={name}"}))
        assert streams[-1].status == 200
        event = streams[-1].event()
        assert (event.name, event.data) == ("hello", "from PHP 8")
    assert [streams[0].event().data for _ in range(2)] == ["came: /events/ann", "came: /events/bob"]
    streams[1].close()
    assert streams[0].event().data == "left: /events/bob"
