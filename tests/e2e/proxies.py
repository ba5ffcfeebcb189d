"""nginx, HAProxy and Caddy with the files of examples/proxies. Only ports, the paths of certificates and the explicit
changes of a test differ."""

import pathlib
import subprocess

from programs import Program, listens, reserve_port, wait_until

ROOT = pathlib.Path(__file__).parents[2]
FILES = {"nginx": "nginx.conf", "haproxy": "haproxy.cfg", "caddy": "Caddyfile"}

# The main configuration that includes the file of examples/proxies, as in the distribution.
NGINX = """
daemon off; error_log stderr; pid {directory}/pid;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi; uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;
    include {directory}/nginx.conf;
}}
"""
CADDY = """{
	admin off
	grace_period 1s
	auto_https disable_redirects
}
"""


def make_certificate(directory):
    """A key and a certificate for localhost, each in a file and both in one."""
    names = "subjectAltName=DNS:localhost,IP:127.0.0.1"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", names, "-keyout", "key.pem", "-out", "certificate.pem"],
        cwd=directory, check=True, capture_output=True,
    )  # fmt: skip
    both = [(directory / file).read_text() for file in ("certificate.pem", "key.pem")]
    (directory / "both.pem").write_text("".join(both))
    return directory


def replace(text, changes):
    """Each change must match, or the test would not test it."""
    for old, new in changes.items():
        assert text.count(old) == 1, f"{old!r} stands there {text.count(old)} times"
        text = text.replace(old, new)
    return text


class Proxy:
    """A proxy in front of a gateway and of an application, on https://localhost."""

    def __init__(self, name, directory, certificates, gateway, application, changes):
        self.name = name
        self.certificate = certificates / "certificate.pem"
        self._reserved = reserve_port()
        self.port = self._reserved.getsockname()[1]
        self.url = f"https://localhost:{self.port}"
        changes = {"127.0.0.1:3000": f"127.0.0.1:{gateway}", "127.0.0.1:8000": f"127.0.0.1:{application}", **changes}
        match name:
            case "nginx":
                here = {
                    "listen 443 ssl": f"listen 127.0.0.1:{self.port} ssl",
                    "/etc/ssl/example.com.pem": f"{certificates}/certificate.pem",
                    "/etc/ssl/example.com.key": f"{certificates}/key.pem",
                }
                (directory / "main.conf").write_text(NGINX.format(directory=directory))
                command = ["nginx", "-p", directory, "-e", "stderr", "-c", directory / "main.conf"]
            case "haproxy":
                here = {
                    "bind :443": f"bind 127.0.0.1:{self.port}",
                    "/etc/ssl/example.com.pem": f"{certificates}/both.pem",
                }
                command = ["haproxy", "-db", "-f", directory / "haproxy.cfg"]
            case "caddy":
                tls = f"tls {certificates}/certificate.pem {certificates}/key.pem"
                here = {"example.com {": f"{CADDY}https://localhost:{self.port} {{\n\tbind 127.0.0.1\n\t{tls}"}
                command = ["caddy", "run", "--adapter", "caddyfile", "--config", directory / "Caddyfile"]
        file = FILES[name]
        config = (ROOT / "examples/proxies" / file).read_text()
        (directory / file).write_text(replace(config, {**here, **changes}))
        homes = {"HOME": str(directory), "XDG_DATA_HOME": str(directory), "XDG_CONFIG_HOME": str(directory)}
        self._program = Program(*command, env=homes)
        wait_until(lambda: listens(self.port) or self._program.has_ended(), self._program.output)
        assert not self._program.has_ended(), self._program.output()

    def close(self):
        with self._program:
            self._reserved.close()
