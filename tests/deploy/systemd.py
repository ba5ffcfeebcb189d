"""The systemd unit under a systemd: started, stopped, killed and misconfigured, with a stream open.

    tests/deploy/systemd.py BINARY

Runs as root, in namespaces of its own: nothing of the machine is changed, and the unit's own ports are free.
"""
import contextlib, http.client, http.server, json, os, pathlib, queue, shutil, signal, socket, subprocess, sys
import tempfile, threading, time

HERE = pathlib.Path(__file__).resolve().parent
UNIT = HERE.parent.parent / "examples/deploy/ssegateway.service"
PATIENCE = 30  # seconds for what must happen
EXPOSURE_MAX = 1.5  # as `systemd-analyze security` counts; 10 is the worst

callbacks = queue.Queue()


class Backend(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        callbacks.put({**body, "detail": self.headers["SSEGateway-Detail"]})
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


def eventually(what, condition):
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < PATIENCE, f"never happened: {what}"
        time.sleep(0.02)


class Systemd:
    def __init__(self, work, binary):
        self.boot = subprocess.Popen([HERE / "boot-systemd", work, binary, UNIT], stdin=subprocess.DEVNULL)
        eventually("a process 1", self.find)
        eventually("systemd is up", lambda: self.run("systemctl", "is-active", "test.target").returncode == 0)

    def find(self):
        children = pathlib.Path(f"/proc/{self.boot.pid}/task/{self.boot.pid}/children").read_text().split()
        self.pid = next((pid for pid in children if pathlib.Path(f"/proc/{pid}/comm").read_text() == "systemd\n"), None)
        return self.pid

    def run(self, *command):
        """Runs a command where systemd runs."""
        inside = ["nsenter", "--target", self.pid, "--all", *command]
        return subprocess.run(inside, capture_output=True, text=True, env={"PATH": "/usr/sbin:/usr/bin", "LC_ALL": "C"})

    def ok(self, *command):
        done = self.run(*command)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}{self.log()}"
        return done.stdout + done.stderr

    def show(self, name):
        return self.ok("systemctl", "show", "ssegateway", "--value", "--property", name).strip()

    def log(self):
        return self.run("journalctl", "--no-pager", "--output=cat", "--unit=ssegateway").stdout

    def end(self):
        os.kill(int(self.pid), signal.SIGRTMIN + 14)  # power off, at once
        self.boot.wait()


def get(port, path):
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    client.request("GET", path)
    return client.getresponse()


def send(token, **message):
    client = http.client.HTTPConnection("127.0.0.1", 3001, timeout=PATIENCE)
    client.request("POST", "/internal/send", json.dumps({"token": token, **message}), {"Authorization": "Bearer s3cret"})
    return client.getresponse().status


def passed(what):
    print(f"systemd: {what}", flush=True)


def checks(systemd):
    assert systemd.ok("systemd-analyze", "verify", "ssegateway.service") == ""
    rating = systemd.ok("systemd-analyze", "security", "--offline=yes", "--no-pager",
                        "/etc/systemd/system/ssegateway.service").strip().splitlines()[-1]
    exposure = float(rating.split(":")[1].split()[0])
    assert exposure <= EXPOSURE_MAX, rating
    passed(f"verify finds nothing, exposure level {exposure}")

    systemd.ok("sh", "-c", "umask 077; echo INTERNAL_TOKEN=s3cret >/etc/ssegateway.env")
    systemd.ok("systemctl", "start", "ssegateway")
    assert get(3000, "/readyz").status == 200  # no waiting: started means that it listens
    assert systemd.show("ActiveState") == "active" and systemd.show("NotifyAccess") == "main"
    status = systemd.ok("cat", f"/proc/{systemd.show('MainPID')}/status")
    fields = dict(line.split(":\t") for line in status.splitlines())
    uid = int(fields["Uid"].split()[0])
    assert 61184 <= uid <= 65519, uid  # where systemd takes dynamic users from
    assert [fields[name] for name in ("CapBnd", "NoNewPrivs", "Seccomp")] == ["0" * 16, "1", "2"], status
    passed(f"active once it listens, as user {uid}, without capabilities, behind a system call filter")

    stream = get(3000, "/news")
    connect = callbacks.get(timeout=PATIENCE)
    assert connect["action"] == "connect" and stream.status == 200
    assert send(connect["token"], event={"data": "hello"}) == 200
    assert stream.readline() == b"data: hello\n"
    began = time.monotonic()
    systemd.ok("systemctl", "stop", "ssegateway")
    took = time.monotonic() - began
    # http.client raises IncompleteRead if the last chunk is missing.
    assert stream.read() == b"\n"
    disconnect = callbacks.get_nowait()  # before the stop was over, so it is here
    assert (disconnect["reason"], disconnect["detail"]) == ("server_closed", "shutdown"), disconnect
    assert (systemd.show("Result"), systemd.show("ExecMainStatus")) == ("success", "0"), systemd.log()
    passed(f"stop gave the stream a clean end and the backend its disconnect, exit 0, after {took:.2f} s")

    systemd.ok("systemctl", "start", "ssegateway")
    first = systemd.show("MainPID")
    systemd.ok("kill", "-KILL", first)
    eventually("the restart", lambda: systemd.show("NRestarts") == "1" and systemd.show("ActiveState") == "active")
    assert systemd.show("MainPID") != first and get(3000, "/readyz").status == 200
    systemd.ok("systemctl", "stop", "ssegateway")
    passed("killed, it was started again")

    systemd.ok("sh", "-c", "echo PORT=http >>/etc/ssegateway.env")
    assert systemd.run("systemctl", "start", "ssegateway").returncode != 0
    # One that was to be started again would be "activating".
    assert (systemd.show("ActiveState"), systemd.show("ExecMainStatus")) == ("failed", "2"), systemd.log()
    assert "PORT" in systemd.log()
    passed("a bad configuration, exit 2, is not tried again")


def main():
    if os.geteuid() != 0:
        sys.exit("systemd.py: namespaces with a systemd in them need root")
    if "unshared" not in sys.argv:
        command = ["unshare", "--net", "--mount", sys.executable, *sys.argv, "unshared"]
        os.execvp(command[0], command)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 8000), Backend)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    work = tempfile.mkdtemp()
    systemd = Systemd(work, os.path.abspath(sys.argv[1]))
    try:
        checks(systemd)
    finally:
        systemd.end()
        groups = pathlib.Path(work, "cgroup", f"ssegateway-test-{systemd.boot.pid}")
        for group, _, _ in os.walk(groups, topdown=False):
            os.rmdir(group)
        subprocess.run(["umount", f"{work}/cgroup"], check=True)
        shutil.rmtree(work)


main()
