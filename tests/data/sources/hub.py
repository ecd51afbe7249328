"""A hub on loopback: the few requests by which a data set's files are listed and fetched."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def serving(repository: str, files: dict[str, str]) -> Iterator[tuple[str, list[str]]]:
    """Serves `files` as the data set `repository`; gives its address and the paths that were fetched."""
    fetched: list[str] = []
    contents = {name: text.encode() for name, text in files.items()}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, body: bool) -> None:
            path = self.path.partition("?")[0]
            name = path.removeprefix(f"/datasets/{repository}/resolve/{COMMIT}/")
            headers: dict[str, str] = {}
            if path.startswith(f"/api/datasets/{repository}/revision/"):
                listed = [{"rfilename": n} for n in contents]
                content = json.dumps({"id": repository, "sha": COMMIT, "siblings": listed}).encode()
                headers["Content-Type"] = "application/json"
            elif path.startswith(f"/api/datasets/{repository}/tree/"):
                listed = [
                    {"type": "file", "path": n, "size": len(c), "oid": "0"} for n, c in contents.items()
                ]
                content = json.dumps(listed).encode()
                headers["Content-Type"] = "application/json"
            elif name in contents:
                content = contents[name]
                headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
                if body:
                    fetched.append(name)
            else:
                self.send_response(404)
                self.send_header("X-Error-Code", "RepoNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(200)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if body:
                self.wfile.write(content)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", fetched
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
