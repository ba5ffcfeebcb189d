"""Everything at once, for `make demo-chat`: the gateway, the model, and the backend with its worker. Ctrl-C ends it."""
import os
import pathlib
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile

HERE = pathlib.Path(__file__).parent


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [free.getsockname()[1] for free in sockets]
    for free in sockets:
        free.close()
    return ports


def main():
    gateway_port, app_port, vendor_port = free_ports(3)
    app_url = f"http://127.0.0.1:{app_port}"
    with tempfile.TemporaryDirectory() as directory:
        environment = {
            **os.environ,
            "PYTHONPATH": str(HERE.parents[1] / "python"),
            "PORT": str(gateway_port),
            "LISTEN_ADDRESS": "127.0.0.1",
            "CALLBACK_URL": f"{app_url}/callback",
            "CORS_ORIGINS": app_url,
            "GATEWAY_URL": f"http://127.0.0.1:{gateway_port}",
            "EVENTS_URL": f"http://127.0.0.1:{gateway_port}/runs",
            "OPENAI_BASE_URL": f"http://127.0.0.1:{vendor_port}/v1",
            "OPENAI_API_KEY": "none",
            "DATABASE": f"{directory}/chat.db",
        }
        gunicorn = [f"{sysconfig.get_path('scripts')}/gunicorn", "--no-control-socket", f"--bind=127.0.0.1:{app_port}"]
        commands = [
            [os.environ["SSEGATEWAY"]],
            [sys.executable, "vendor.py", str(vendor_port)],
            [*gunicorn, "--threads=8", "--log-level=warning", "app:app"],
        ]
        quiet = {"LOG_LEVEL": "warn", **environment}
        programs = [subprocess.Popen(command, cwd=HERE, env=quiet, start_new_session=True) for command in commands]
        backend = programs[-1].pid
        print(f"Chat: {app_url}/ (kill -HUP {backend} deploys the backend; Ctrl-C ends the demo)", flush=True)
        try:
            signal.pause()
        except KeyboardInterrupt:
            pass
        finally:
            for program in reversed(programs):
                program.terminate()
            for program in programs:
                try:
                    program.wait(2)
                except subprocess.TimeoutExpired:  # gunicorn, whose threads finish their answers
                    os.killpg(program.pid, signal.SIGKILL)
                    program.wait()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    main()
