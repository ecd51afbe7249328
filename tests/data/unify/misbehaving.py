"""A server process that misbehaves as the question asks it to. Prints its port, then a line for every request.

Each prompt is `<kind> ...`; `log` lines are JSON: path, kind, the attempt's number, seconds, authorization header.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

START = time.monotonic()
SEEN: dict[str, int] = {}
LOCK = threading.Lock()
PAIRS = '[{"question": "What is it?", "answer": "SECRETREPLY"}]'


def reply(text: str, finish: str = "stop") -> bytes:
    body = {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text}}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120},
    }
    return json.dumps(body).encode()


def about(prompt: str) -> str:
    """A pair about `<kind> <item> <sentence>`, so that prompts of that shape get different replies."""
    _, item, *rest = [*prompt.split(), "", ""]
    if not item.startswith("item"):
        return PAIRS
    return json.dumps([{"question": f"What is known about {item}?", "answer": " ".join(rest).strip()}])


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.send(
            200, json.dumps({"object": "list", "data": [{"id": "model-a", "object": "model"}]}).encode()
        )

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = request["messages"][0]["content"]
        kind = prompt.split()[0]
        with LOCK:
            attempt = SEEN[prompt] = SEEN.get(prompt, 0) + 1
            line = {
                "path": self.path,
                "prompt": prompt,
                "attempt": attempt,
                "at": time.monotonic() - START,
                "key": self.headers.get("Authorization"),
                "organization": self.headers.get("OpenAI-Organization"),
            }
            print(json.dumps(line), flush=True)
        if kind == "slow":
            time.sleep(0.15)
        if kind == "slower":
            time.sleep(0.3)
        if kind == "hang":
            time.sleep(2)
        if kind == "drop":
            self.close_connection = True
            self.connection.close()
            return
        answers: dict[str, tuple[int, bytes]] = {
            "broken": (500, b'{"error": {"message": "SECRETPROMPT"}}'),
            "twice": (500, b"") if attempt <= 2 else (200, reply(PAIRS)),
            "garbage": (200, b"<html>oops</html>"),
            "types": (200, b'{"choices": 3}'),
            "nulls": (200, reply("x").replace(b'"x"', b"null")),
            "half": (200, reply(PAIRS[:-8])),
            "cut": (200, reply(PAIRS[:-8], "length")),
            "prose": (200, reply("SECRETREPLY I will not.")),
            "denied": (401, b'{"error": {"message": "bad key SECRETKEY"}}'),
            "unknown": (404, b'{"error": {"message": "SECRETPROMPT"}}'),
            "bad": (400, b'{"error": {"message": "SECRETPROMPT"}}'),
            "moved": (307, b""),
        }
        status, body = answers.get(kind, (200, reply(about(prompt))))
        headers = {"Location": "http://192.0.2.1/v1/chat/completions"} if kind == "moved" else {}
        if kind == "limited":
            status, body = (429, b"") if attempt == 1 else (200, reply(PAIRS))
            headers = {"Retry_After": "0.5"} if attempt == 1 else {}
        self.send(status, body, **headers)


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 0), Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()
