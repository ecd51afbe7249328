"""Server processes for tests: any command, and the misbehaving one."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


class Process:
    """A server process, its address, and what it logged."""

    def __init__(self, argv: list[str], log: Path) -> None:
        self.log = log
        self._out = log.open("w")
        self.process = subprocess.Popen(argv, stdout=self._out, stderr=subprocess.STDOUT)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        self._out.close()


class Misbehaving(Process):
    """The server of misbehaving.py."""

    def __init__(self, log: Path) -> None:
        super().__init__([sys.executable, str(Path(__file__).with_name("misbehaving.py"))], log)
        deadline = time.monotonic() + 30
        while not log.read_text().endswith("\n"):
            assert time.monotonic() < deadline and self.process.poll() is None
            time.sleep(0.02)
        self.url = f"http://127.0.0.1:{int(log.read_text())}/v1"

    def requests(self, word: str = "") -> list[dict[str, Any]]:
        """Requests whose prompt begins with `word`."""
        written = self.log.read_text().splitlines()
        lines = [json.loads(line) for line in written if line.startswith("{")]
        return [line for line in lines if line["prompt"].startswith(word)]
