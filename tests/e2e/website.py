"""The web site of the tests: the pages in pages/, ssegateway.js, and the packages installed by npm."""

import http.server
import json
import mimetypes
import pathlib
import threading

PAGES = pathlib.Path(__file__).parent / "pages"
JS = PAGES.parents[2] / "js"


class Site:
    """Serves the pages; `127.0.0.1` and `localhost` are two origins of it."""

    def __init__(self, packages):
        self.reports = reports = []

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                root = packages if self.path.startswith("/node_modules/") else PAGES
                root = JS if self.path == "/ssegateway.js" else root
                file = root / self.path.partition("?")[0].lstrip("/")
                # Packages for bundlers omit the file extension of their own modules.
                if file.is_dir() and (file / "index.js").is_file():
                    return self.redirect(f"{self.path}/index.js")
                file = file if file.is_file() else file.with_name(f"{file.name}.js")
                found = file.is_file()
                body = file.read_bytes() if found else b"no such page"
                self.send_response(200 if found else 404)
                self.send_header("Content-Type", mimetypes.guess_type(file.name)[0] or "text/plain")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def redirect(self, path):
                self.send_response(302)
                self.send_header("Location", path)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def do_POST(self):
                """Takes a report. Behind the proxies this is the application, which does not have any other path."""
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.path != "/report":
                    return self.send_error(404)
                reports.append(json.loads(body))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=[0.01], daemon=True).start()
        self.port = self._server.server_port
        self.origin = f"http://127.0.0.1:{self.port}"
        self.other_origin = f"http://localhost:{self.port}"

    def close(self):
        self._server.shutdown()
        self._server.server_close()
