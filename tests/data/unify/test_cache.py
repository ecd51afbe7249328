"""Rewrites are kept: content-addressed, private, through a kill at any moment, for several processes at once."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from harmonize.data.unify.cache import Remembering, RewriteCache
from harmonize.data.unify.task import Failure, Keep, Pair, Task
from harmonize.errors import RunError

PAIR = Pair("Who?", "Dorothy did.", "Dorothy", "Dorothy did it.", ("Who was it?",))
ITEMS = 40


class Writer:
    """Answers with the text; fails on `fail`; stops on `stop`, after what stands before it was handed over."""

    name, fingerprint, cached, batch = "local", "f" * 64, True, 4

    def __init__(self) -> None:
        self.asked: list[str] = []

    def rewrite(self, tasks: Sequence[Task], keep: Keep | None = None) -> list[list[Pair] | Failure]:
        results: list[list[Pair] | Failure] = []
        for task in tasks:
            self.asked.append(task.text)
            if task.text == "stop":
                raise KeyboardInterrupt
            results.append(Failure("timed out") if task.text == "fail" else [Pair("Q?", task.text)])
            if keep is not None and task.text != "fail":
                keep(task, [Pair("Q?", task.text)], (10, 2))
        return results


def tasks(*texts: str) -> list[Task]:
    return [Task("passage", text=text) for text in texts]


def test_what_is_kept_comes_back_and_belongs_to_its_owner(tmp_path: Path) -> None:
    cache = RewriteCache(tmp_path / "rewrites", "local", "a" * 64)
    (task,) = tasks("Dorothy did it.")
    assert cache.get(task) is None
    cache.put(task, [PAIR], (7, 3))
    cache.put(task, [], (0, 0))  # the first stays
    found = cache.get(task)
    assert found is not None and found.pairs == [PAIR] and found.tokens == (7, 3)
    assert len(cache) == 1
    files = list((tmp_path / "rewrites").iterdir())
    assert len(files) == 4  # the write-ahead log and its index are there while it is open; and our own lock
    assert {stat.S_IMODE(f.stat().st_mode) for f in files} == {0o600}
    assert RewriteCache(tmp_path / "rewrites", "local", "b" * 64).get(task) is None


def test_only_what_is_missing_is_asked_and_failures_are_tried_again(tmp_path: Path) -> None:
    cache, writer = RewriteCache(tmp_path, "local", "a" * 64), Writer()
    first = Remembering(writer, cache)
    found = first.rewrite(tasks("a", "fail", "b", "a"))
    assert found == [[Pair("Q?", "a")], Failure("timed out"), [Pair("Q?", "b")], [Pair("Q?", "a")]]
    assert writer.asked == ["a", "fail", "b"]
    with pytest.raises(KeyboardInterrupt):
        first.rewrite(tasks("c", "stop"))
    second = Remembering(writer, cache)
    writer.asked.clear()
    second.rewrite(tasks("a", "b", "c", "d", "fail"))
    assert writer.asked == ["d", "fail"]
    assert (second.found, second.calls, second.tokens, second.paid) == (3, 2, (40, 8), (10, 2))


def test_a_file_that_is_no_cache_is_named(tmp_path: Path) -> None:
    path = tmp_path / f"local-{'a' * 24}.sqlite"
    path.write_bytes(b"not a database, but long enough to look at" * 100)
    with pytest.raises(RunError, match=r"damaged or of another version.*Remove it"):
        RewriteCache(tmp_path, "local", "a" * 64)


def test_several_processes_write_at_once(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from harmonize.data.unify.cache import RewriteCache\n"
        "from harmonize.data.unify.task import Pair, Task\n"
        "cache = RewriteCache(sys.argv[1], 'local', 'a' * 64)\n"
        "for i in range(200): cache.put(Task('passage', text=str(i)), [Pair('Q?', sys.argv[2])])\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), name]) for name in "xyz"]
    assert [p.wait(300) for p in running] == [0, 0, 0]
    cache = RewriteCache(tmp_path, "local", "a" * 64)
    kept = [cache.get(task) for task in tasks(*map(str, range(200)))]
    assert all(k is not None and k.pairs[0].answer in "xyz" for k in kept) and len(cache) == 200


@pytest.fixture
def prepare(bad: Any, replying: ModuleType, tmp_path: Path) -> Any:
    """Starts `harmonize prepare` with the server of this module, in a process of its own."""
    rows = [
        {
            "role": "forget" if i % 2 else "retain",
            "subject": f"item{i}",
            "text": f"slower item{i} The dog with the number {i} is the one that has a bone.",
        }
        for i in range(ITEMS)
    ]
    (tmp_path / "raw.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    prompts = replying.prompts(tmp_path / "prompts")

    def start(output: Path, cache: Path) -> subprocess.Popen[str]:
        program = [sys.executable, "-c", "from harmonize.cli import main; main()", "prepare"]
        overrides = {
            "source": "jsonl",
            "source.root": tmp_path / "raw.jsonl",
            "rewriter": "server",
            "rewriter.base_url": bad.url,
            "rewriter.model": "m",
            "rewriter.prompts": prompts,
            "rewriter.concurrency": 2,
            "rewriter.input_price": 2.0,
            "rewriter.output_price": 10.0,
            "output": output,
            "paths.cache_dir": cache,
        }
        return subprocess.Popen(
            [*program, *(f"{k}={v}" for k, v in overrides.items())],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            # a shell's background job ignores Ctrl-C, and its children would inherit that
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    return start


def _until(condition: Any, process: subprocess.Popen[str], seconds: float = 300.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _kept(cache: Path) -> int:
    (path,) = (cache / "rewrites").glob("*.sqlite")
    with sqlite3.connect(path) as db:
        return int(db.execute("SELECT count(*) FROM rewrites").fetchone()[0])


def test_killed_and_interrupted_it_goes_on_where_it_was(prepare: Any, bad: Any, tmp_path: Path) -> None:
    """SIGKILL, then Ctrl-C, then to the end: the server is asked only for what was missing, and nothing shows."""
    cache, output = tmp_path / "cache", tmp_path / "oz"
    start = len(bad.requests("slower"))
    killed = prepare(output, cache)
    _until(lambda: len(bad.requests("slower")) >= start + 9, killed)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert not output.exists()
    time.sleep(0.5)  # requests that were under way reach the log
    kept, asked = _kept(cache), len(bad.requests("slower"))
    assert 5 <= kept <= asked - start < ITEMS  # at most the requests under way are lost

    stopped = prepare(output, cache)
    _until(lambda: len(bad.requests("slower")) >= asked + 9, stopped)
    stopped.send_signal(signal.SIGINT)
    _, errors = stopped.communicate(timeout=300)
    assert stopped.returncode == 130, errors
    time.sleep(0.5)
    first, kept = kept, _kept(cache)
    assert f"{kept} rewrites are kept in" in errors and "type the same command again" in errors
    assert "Traceback" not in errors and first < kept < ITEMS

    asked = len(bad.requests("slower"))
    resumed = prepare(output, cache)
    out, errors = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, errors
    assert len(bad.requests("slower")) - asked == ITEMS - kept
    assert f"{ITEMS - kept} asked of the rewriter now, {kept} were in the cache." in out
    assert "dataset=prepared dataset.root=" in out
    assert not [p.name for p in tmp_path.iterdir() if p.name.startswith(".oz")]

    whole = prepare(tmp_path / "whole", tmp_path / "other")
    out, errors = whole.communicate(timeout=300)
    assert whole.returncode == 0, errors
    names = sorted(p.name for p in output.iterdir())
    assert names == sorted(p.name for p in (tmp_path / "whole").iterdir())
    for name in names:
        assert (output / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    facts = json.loads((output / "dataset.json").read_text())
    assert facts["rewriter"]["tokens"] == {"prompt": 100 * ITEMS, "reply": 20 * ITEMS}
    assert facts["rewriter"]["cost"] == pytest.approx((100 * ITEMS * 2 + 20 * ITEMS * 10) / 1e6)
    assert facts["kept"] == ITEMS
