"""The systemd unit under a systemd: started, stopped with a stream open, killed, misconfigured. systemd.py BINARY"""
import os, pathlib, shutil, signal, subprocess, sys, tempfile
from harness import ROOT, Stream, eventually, get, isolate, metrics, start_backend, timed

BOOT = ROOT / "tests/deploy/boot-systemd"
UNIT = ROOT / "examples/deploy/ssegateway.service"
EXPOSURE_MAX = 1.5  # on the scale of `systemd-analyze security`; 10 is the worst


class Systemd:
    def __init__(self, work, binary):
        self.work = work
        self.boot = subprocess.Popen([BOOT, work, binary, UNIT], stdin=subprocess.DEVNULL)
        eventually("a process 1", self.find)
        eventually("systemd is up", lambda: self.run("systemctl", "is-active", "test.target").returncode == 0)

    def find(self):
        children = pathlib.Path(f"/proc/{self.boot.pid}/task/{self.boot.pid}/children").read_text().split()
        self.pid = next((pid for pid in children if pathlib.Path(f"/proc/{pid}/comm").read_text() == "systemd\n"), None)
        return self.pid

    def run(self, *command):
        """Runs a command in systemd's namespaces."""
        inside = ["nsenter", "--target", self.pid, "--all", *command]
        return subprocess.run(inside, capture_output=True, text=True, env={"PATH": "/usr/sbin:/usr/bin", "LC_ALL": "C"})

    def ok(self, *command):
        done = self.run(*command)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}{self.log()}"
        return (done.stdout + done.stderr).strip()

    def show(self, name):
        return self.ok("systemctl", "show", "ssegateway", "--value", "--property", name)

    def log(self):
        return self.run("journalctl", "--no-pager", "--output=cat", "--unit=ssegateway").stdout

    def end(self):
        os.kill(int(self.pid), signal.SIGRTMIN + 14)  # power off, at once
        self.boot.wait()
        for group, _, _ in os.walk(f"{self.work}/cgroup/ssegateway-test-{self.boot.pid}", topdown=False):
            os.rmdir(group)
        subprocess.run(["umount", f"{self.work}/cgroup"], check=True)


def passed(what):
    print(f"systemd: {what}", flush=True)


def is_sound(systemd):
    assert systemd.ok("systemd-analyze", "verify", "ssegateway.service") == ""
    unit = "/etc/systemd/system/ssegateway.service"
    rating = systemd.ok("systemd-analyze", "security", "--offline=yes", "--no-pager", unit).splitlines()[-1]
    exposure = float(rating.split(":")[1].split()[0])
    assert exposure <= EXPOSURE_MAX, rating
    passed(f"verify finds nothing; exposure level {exposure}")


def starts(systemd):
    systemd.ok("sh", "-c", "umask 077; echo INTERNAL_TOKEN=s3cret >/etc/ssegateway.env")
    systemd.ok("systemctl", "start", "ssegateway")
    assert get("/readyz").status == 200  # at once: started means that it listens
    assert (systemd.show("ActiveState"), systemd.show("Type")) == ("active", "notify")
    status = systemd.ok("cat", f"/proc/{systemd.show('MainPID')}/status")
    fields = dict(line.split(":\t") for line in status.splitlines())
    uid = int(fields["Uid"].split()[0])
    assert 61184 <= uid <= 65519, uid  # systemd's range for dynamic users
    assert [fields[name] for name in ("CapBnd", "NoNewPrivs", "Seccomp")] == ["0" * 16, "1", "2"], status
    # The part of /proc visible in the unit is enough.
    assert "\nprocess_resident_memory_bytes " in metrics() and "\nprocess_open_fds " in metrics()
    passed(f"active once it listens, as user {uid}, without capabilities, behind a system call filter")


def stops(systemd):
    stream = Stream()
    took = timed(lambda: systemd.ok("systemctl", "stop", "ssegateway"))
    stream.assert_ended()
    assert (systemd.show("Result"), systemd.show("ExecMainStatus")) == ("success", "0"), systemd.log()
    passed(f"stop gave the stream a clean end and the backend its disconnect; exit status 0 after {took:.2f} s")


def comes_back(systemd):
    systemd.ok("systemctl", "start", "ssegateway")
    first = systemd.show("MainPID")
    systemd.ok("kill", "-KILL", first)
    eventually("the restart", lambda: systemd.show("NRestarts") == "1" and systemd.show("ActiveState") == "active")
    assert systemd.show("MainPID") != first and get("/readyz").status == 200
    systemd.ok("systemctl", "stop", "ssegateway")
    passed("killed, it was started again")


def gives_up(systemd):
    systemd.ok("sh", "-c", "echo PORT=http >>/etc/ssegateway.env")
    assert systemd.run("systemctl", "start", "ssegateway").returncode != 0
    # A unit about to be restarted would be "activating".
    assert (systemd.show("ActiveState"), systemd.show("ExecMainStatus")) == ("failed", "2"), systemd.log()
    assert "PORT" in systemd.log()
    passed("with a bad configuration, exit status 2, it is not tried again")


isolate()
start_backend()
work = tempfile.mkdtemp()
systemd = Systemd(work, os.path.abspath(sys.argv[1]))
try:
    for check in (is_sound, starts, stops, comes_back, gives_up):
        check(systemd)
finally:
    systemd.end()
    shutil.rmtree(work)
