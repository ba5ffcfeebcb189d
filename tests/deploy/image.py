"""The image, built by the last stage of the Dockerfile, which needs no other image, and run like by a container engine.

    image.py DIRECTORY-OF-THE-STATIC-BINARY
"""
import json, os, pathlib, shutil, subprocess, sys, tempfile
from harness import ROOT, Stream, eventually, get, isolate, start_backend, timed

BYTES_MAX = 4_000_000


class Podman:
    """With a store of its own, and without features that need privileges: control groups, bridges, timers."""

    def __init__(self, work):
        self.command = ["podman", "--root", f"{work}/store", "--runroot", f"{work}/run", "--tmpdir", f"{work}/tmp",
                        "--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "none"]

    def run(self, *arguments):
        return subprocess.run([*self.command, *arguments], capture_output=True, text=True)

    def ok(self, *arguments):
        done = self.run(*arguments)
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def start(self, name, **variables):
        settings = [part for item in variables.items() for part in ("--env", "=".join(item))]
        # As compose.yaml does it.
        locked = ["--read-only", "--cap-drop", "all", "--security-opt", "no-new-privileges"]
        self.ok("run", "--detach", "--name", name, "--network", "host", "--cgroups", "disabled",
                "--ulimit", "nproc=4096:4096", "--ulimit", "nofile=4096:4096", *locked, *settings, "ssegateway")

    def state(self, name):
        return json.loads(self.ok("inspect", name))[0]["State"]


def passed(what):
    print(f"image: {what}", flush=True)


def build(podman, directory):
    podman.ok("build", "--format", "docker", "--build-context", f"build={directory}", "--tag", "ssegateway",
              "--file", f"{ROOT}/Dockerfile", str(ROOT))
    image = json.loads(podman.ok("inspect", "ssegateway"))[0]
    assert image["User"] == "65532:65532" and "3000/tcp" in image["Config"]["ExposedPorts"], image["Config"]
    assert image["Size"] < BYTES_MAX, image["Size"]
    passed(f"{image['Size']} bytes")


def serves(podman):
    podman.start("gateway", CALLBACK_URL="http://localhost:8000/callback",
                 INTERNAL_PORT="3001", INTERNAL_TOKEN="s3cret")
    eventually("it is healthy", lambda: podman.run("healthcheck", "run", "gateway").returncode == 0)
    assert podman.state("gateway")["Health"]["Status"] == "healthy"
    assert get("/readyz").status == 200
    status = pathlib.Path(f"/proc/{podman.state('gateway')['Pid']}/status").read_text()
    fields = dict(line.split(":\t") for line in status.splitlines())
    assert (fields["Uid"].split()[0], fields["CapBnd"], fields["NoNewPrivs"]) == ("65532", "0" * 16, "1"), status
    passed("healthy, as user 65532, without capabilities, on a read-only root")


def stops(podman):
    stream = Stream()
    took = timed(lambda: podman.ok("stop", "gateway"))
    stream.assert_ended()
    assert podman.state("gateway")["ExitCode"] == 0, podman.run("logs", "gateway").stderr
    passed(f"stop gave the stream a clean end and the backend its disconnect; exit status 0 after {took:.2f} s")


def complains(podman):
    podman.start("misconfigured", PORT="http")
    assert podman.ok("wait", "misconfigured") == "2"
    assert "PORT" in podman.run("logs", "misconfigured").stderr
    passed("with a bad configuration it ends with status 2 and says why")


def fits_its_binary(podman, work):
    binary = bytearray(pathlib.Path(sys.argv[1], "ssegateway").read_bytes()[:4096])
    for machine, architecture in ((62, "amd64"), (183, "arm64"), (40, "arm")):
        binary[18:20] = machine.to_bytes(2, "little")  # in the header of ELF
        pathlib.Path(work, "binary").write_bytes(binary)
        command = [f"{ROOT}/.ci/image", f"{work}/binary", architecture]
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, "ENGINE": " ".join(podman.command)})
        image = json.loads(podman.ok("inspect", architecture))[0]
        assert (image["Architecture"], image["User"]) == (architecture, "65532:65532"), image
    passed("of the architecture that the binary is for")


isolate("--cgroup")
subprocess.run(["umount", "--recursive", "/sys/fs/cgroup"], check=True)
subprocess.run(["mount", "-t", "cgroup2", "cgroup2", "/sys/fs/cgroup"], check=True)
start_backend()
work = tempfile.mkdtemp()
podman = Podman(work)
try:
    build(podman, os.path.abspath(sys.argv[1]))
    for check in (serves, stops, complains):
        check(podman)
    fits_its_binary(podman, work)
finally:
    podman.run("rm", "--all", "--force")
    shutil.rmtree(work)
