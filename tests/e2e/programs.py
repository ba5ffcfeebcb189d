"""Programs started by the tests: waiting for their output, ending them by pid."""

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import tempfile
import time

PATIENCE = 60  # seconds to wait for a condition that normally takes a fraction of one


def wait_until(condition, explain):
    """The first true value of `condition`; fails with the text of `explain` if there is none in time."""
    deadline = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < deadline, explain()
        time.sleep(0.01)
    return value


def reserve_port():
    """A socket that reserves a port for a program: bound, so that no other program gets the port, but not listening,
    so that SO_REUSEADDR lets the program listen there."""
    reserved = socket.socket()
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.bind(("127.0.0.1", 0))
    return reserved


def listens(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True


class Program:
    """A process whose stdout and stderr go to a file."""

    def __init__(self, *command, stdin=subprocess.DEVNULL, cwd=None, env={}):
        self.name = pathlib.Path(command[0]).name
        self._output = tempfile.TemporaryFile()
        self._read = 0
        streams = {"stdin": stdin, "stdout": self._output, "stderr": subprocess.STDOUT}
        # A shell's background job ignores SIGINT, and so would what it starts.
        interruptible = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
        environment = {**os.environ, **env}
        self.process = subprocess.Popen(command, cwd=cwd, env=environment, preexec_fn=interruptible, **streams)

    def output(self):
        return os.pread(self._output.fileno(), os.fstat(self._output.fileno()).st_size, 0).decode(errors="replace")

    def read_until(self, text):
        """Waits for output that ends with `text`, starting after the last call's match, and returns it."""

        def found():
            output = self.output()
            position = output.find(text, self._read)
            return output[self._read : position + len(text)] if position >= 0 else None

        piece = wait_until(found, lambda: f"{self.name} did not say {text!r} but {self.output()[self._read :]!r}")
        self._read += len(piece)
        return piece

    def has_ended(self):
        return self.process.poll() is not None

    def wait(self):
        """Its exit status, once it has ended by itself."""
        return self.process.wait(PATIENCE)

    def end(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if not self.has_ended():
            self.end()
        print(f"--- output of {self.name}\n{self.output()}---")  # pytest shows it if a test has failed
