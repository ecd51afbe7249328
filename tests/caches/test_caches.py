"""What lies in a cache directory, what may go, and what stays whatever is asked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from harmonize.caches import use as locks
from harmonize.caches.clean import busy, expendable, remove
from harmonize.caches.describe import describe
from harmonize.caches.entries import Caches, Entry, read_caches
from harmonize.caches.use import hold, release, use
from harmonize.cli import main
from harmonize.models.store import read_folder, write_folder

DAY = 86400.0
NOW = time.time()
KEY = "0123456789abcdef" * 2


def run(*argv: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(argv)
    return int(stopped.value.code or 0)


@pytest.fixture(autouse=True)
def nothing_held() -> Iterator[None]:
    yield
    for path in list(locks._held):
        release(path)


def aged(path: Path, days: float) -> Path:
    for each in (path, *path.rglob("*")) if path.is_dir() else (path,):
        os.utime(each, (NOW - days * DAY,) * 2)
    return path


def teacher(root: Path, number: int = 0, days: float = 0.0, positions: int = 5) -> Path:
    """A teacher's cache as it is written, on a hidden size of 8 with lists of 4."""

    def fill(work: Path) -> None:
        np.save(work / "offsets.npy", np.array([0, positions]))
        np.save(work / "targets.npy", np.zeros(positions, np.int32))
        np.save(work / "hidden.npy", np.zeros((positions, 8), np.float16))
        np.save(work / "top_ids.npy", np.zeros((positions, 4), np.int32))
        np.save(work / "top_values.npy", np.zeros((positions, 4), np.float32))

    folder = root / "teacher" / f"{number:032x}"
    write_folder(folder, "key", fill, names={"model": "/models/llama", "data": "books"})
    release(folder / "header.json")
    return aged(folder, days)


def put(path: Path, text: str = "{}", days: float = 0.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return aged(path, days)


def model(root: Path, days: float = 0.0) -> Path:
    folder = root / "models" / "sandbox-gold-0123456789abcdef"
    put(folder / "config.json")
    put(folder / "model.safetensors", "0" * 100)
    put(folder.with_suffix(".lock"), "")
    return aged(folder, days)


def paths(found: tuple[Entry, ...] | list[Entry], root: Path) -> set[str]:
    return {str(e.path.relative_to(root)) for e in found}


def test_everything_that_a_run_writes_is_an_entry(tmp_path: Path) -> None:
    teacher(tmp_path, positions=7)
    model(tmp_path)
    put(
        tmp_path / "evaluations" / f"{KEY}.json",
        json.dumps({"metrics": {"a": {}}, "about": {"label": "target"}}),
    )
    put(tmp_path / "evaluated" / KEY / "report.json", json.dumps({"metrics": {}}))
    put(tmp_path / "evaluated" / f"{KEY}.lock", "")
    put(tmp_path / "rewrites" / "local-0123.sqlite")
    for name in ("local-0123.sqlite-wal", "local-0123.lock"):
        put(tmp_path / "rewrites" / name)
    found = read_caches(tmp_path)
    assert not found.leftovers and not found.foreign
    said = {e.kind: describe(e) for e in found.entries}
    assert said == {
        "teacher": "llama, books, hidden, top 4, 7 positions of 52 B",
        "models": "sandbox, gold",
        "evaluations": "target, 1 figures",
        "evaluated": "a finished evaluation, 0 figures and the answers",
        "rewrites": "rewrites by local",
    }
    on_disk = sum(p.stat().st_size for p in tmp_path.rglob("*") if p.is_file())
    assert found.size == on_disk, "locks are empty, and all else is counted once"


def test_headers_of_earlier_versions_are_read_from_their_arrays(tmp_path: Path) -> None:
    folder = teacher(tmp_path)
    header = json.loads((folder / "header.json").read_text())
    del header["for"]
    (folder / "header.json").write_text(json.dumps(header))
    (entry,) = read_caches(tmp_path).entries
    assert describe(entry) == "hidden, top 4, 5 positions of 52 B"
    (folder / "header.json").write_text("{")
    assert describe(entry) == "its header cannot be read"


def test_reading_is_a_use(tmp_path: Path) -> None:
    folder = teacher(tmp_path, days=9)
    (before,) = read_caches(tmp_path).entries
    assert NOW - before.used > 8 * DAY and not busy(before, NOW)
    read_folder(folder, "key")
    (after,) = read_caches(tmp_path).entries
    assert time.time() - after.used < 60 and busy(after, NOW) == "in use"


def entry(name: str, days: float, size: int = 10) -> Entry:
    path = Path("/nowhere") / name
    return Entry("teacher", path, size, NOW - days * DAY, path)


@pytest.mark.parametrize(
    ("older", "under", "expected"),
    [
        (None, None, ""),
        (2 * DAY, None, "ba"),  # the oldest first
        (2.5 * DAY, None, "b"),
        (0.0, None, "bacd"),
        (None, 40, ""),
        (None, 39, "b"),
        (None, 20, "ba"),
        (None, 0, "bacd"),
        (2.5 * DAY, 25, "ba"),  # b by its age, then one more
    ],
)
def test_what_may_go(older: float | None, under: int | None, expected: str) -> None:
    found = [entry("a", 2), entry("b", 3), entry("c", 1), entry("d", 0)]
    assert "".join(e.path.name for e in expendable(found, NOW, older, under)) == expected


HOLD = """
import sys, time
from pathlib import Path
from harmonize.caches.use import hold
for path in sys.argv[1:]:
    hold(Path(path))
print("held", flush=True)
time.sleep(60)
"""


def test_what_a_living_process_uses_or_writes_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    used, idle = teacher(tmp_path, 1, days=30), teacher(tmp_path, 2, days=30)
    building = tmp_path / "teacher" / ".building-abc"
    put(building / "hidden.npy", "0" * 10)
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(used / "header.json"), str(building)], stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None and process.stdout.readline()
        assert run("clean", "caches", "--older-than", "7d", "--yes", "--cache-dir", str(tmp_path)) == 0
        said = capsys.readouterr()
        assert used.exists() and building.exists() and not idle.exists()
        assert said.err.count("Left (in use)") == 2 and str(used) in said.err
    finally:
        process.kill()
        process.communicate()
    assert run("clean", "caches", "--older-than", "7d", "--yes", "--cache-dir", str(tmp_path)) == 0
    assert not list((tmp_path / "teacher").iterdir()), "its locks ended with it"


def test_what_was_used_after_it_was_listed_stays(tmp_path: Path) -> None:
    folder = teacher(tmp_path, days=30)
    (listed,) = read_caches(tmp_path).entries
    use(folder / "header.json")
    release(folder / "header.json")
    assert remove(listed, tmp_path, NOW) == "used meanwhile" and folder.exists()
    (again,) = read_caches(tmp_path).entries
    assert remove(again, tmp_path, NOW) == "" and not folder.exists()
    assert remove(again, tmp_path, NOW) == "", "another process was first"


def test_a_process_holds_the_latest_entries_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "_MOST", 2)
    files = [put(tmp_path / str(i)) for i in range(4)]
    for path in (*files, files[3], tmp_path / "gone"):
        hold(path)
    assert list(locks._held) == files[2:]


LEFT: dict[str, Callable[[Path], object]] = {
    "teacher/.building-1": lambda p: put(p / "hidden.npy"),
    "teacher/.writing-1": lambda p: put(p / "hidden.npy", days=1),
    f"statistics/{KEY}": lambda p: put(p / "fisher.npy", days=1),
    "models/.sandbox-gold-0123456789abcdef.x1y2": lambda p: put(p / "config.json"),
    "models/sandbox-gold-aaaaaaaaaaaaaaaa.lock": lambda p: put(p, days=1),
    "evaluations/.a.json.x1y2.tmp": lambda p: put(p, days=1),
}


def test_leftovers_of_killed_processes_go_without_being_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = teacher(tmp_path, days=30)
    for name, make in LEFT.items():
        make(tmp_path / name)
        if (tmp_path / name).is_dir():
            aged(tmp_path / name, 1)
    fresh = put(tmp_path / "evaluations" / ".b.json.x1y2.tmp")  # may be written this very moment
    assert paths(read_caches(tmp_path).leftovers, tmp_path.resolve()) == {
        *LEFT,
        "evaluations/.b.json.x1y2.tmp",
    }
    assert run("ls", "caches", "--kind", "leftovers", "--cache-dir", str(tmp_path)) == 0
    assert "a build that was killed" in capsys.readouterr().out
    assert run("clean", "caches", "--yes", "--cache-dir", str(tmp_path)) == 0
    assert whole.exists() and fresh.exists() and not any((tmp_path / name).exists() for name in LEFT)
    assert "may be in use" in capsys.readouterr().err


def test_nothing_else_is_ever_removed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A home folder as the cache directory, links out of it, and files that look like ours."""
    home, outside = tmp_path / "home", tmp_path / "outside"
    precious = [
        put(home / "thesis.tex", days=99),
        put(home / "models" / "my-llama" / "config.json", days=99),
        put(home / "teacher" / "notes.txt", days=99),
        put(home / "other" / KEY / "header.json", days=99),
    ]
    linked = teacher(outside, days=99)
    (home / "reference").symlink_to(outside / "teacher")
    (home / "teacher" / linked.name).symlink_to(linked)
    inside = put(home / "statistics" / KEY / "header.json", days=99).parent
    (inside / "data").symlink_to(outside)
    every = ("--older-than", "0d", "--keep-under", "0B", "--yes", "--cache-dir", str(home))
    assert run("clean", "caches", *every) == 0
    assert "Not made by harmonize" in capsys.readouterr().err
    assert all(p.exists() for p in precious) and linked.exists() and not inside.exists()
    assert (home / "reference").is_symlink() and (home / "teacher" / linked.name).is_symlink()
    away = Entry("teacher", linked, 1, 0.0, linked / "header.json")
    assert remove(away, home.resolve(), NOW) == "outside the cache directory" and linked.exists()


def test_clean_lists_asks_and_removes(
    cache_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    old, new = teacher(cache_dir, 1, days=9), teacher(cache_dir, 2, days=1)
    gold = model(cache_dir, days=8)
    assert run("clean", "caches") == 0
    assert "--older-than 7d" in capsys.readouterr().out
    week = ("clean", "caches", "--older-than", "7d")
    assert run(*week, "--dry-run") == 0
    said = capsys.readouterr().out
    assert old.name in said and gold.name in said and new.name not in said and "9 d ago" in said
    assert all(len(line.rstrip()) <= 80 for line in said.splitlines()[:-1])
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    assert run(*week) == 1
    assert "nobody to ask" in capsys.readouterr().err and old.exists()
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: "n")
    assert run(*week) == 1
    monkeypatch.setattr("builtins.input", lambda question: "y")
    assert old.exists() and run(*week, "--kind", "teacher") == 0
    assert not old.exists() and new.exists() and gold.exists()
    assert run("clean", "caches", "--keep-under", "1kB", "--yes") == 0
    assert new.exists() is False or not gold.exists()
    capsys.readouterr()
    for wrong, told in (
        (("--older-than", "soon"), "For example --older-than 7d"),
        (("--keep-under", "20"), "For example --keep-under 20GB"),
        (("--kind", "teachers"), "Did you mean 'teacher'?"),
    ):
        assert run("clean", "caches", *wrong) == 1
        assert told in capsys.readouterr().err
    assert run("clean") == 2 and run("clean", "runs") == 2


def test_ls_caches_sums_up_and_tells_each(
    cache_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run("ls", "caches") == 0
    assert "No caches in" in capsys.readouterr().out
    for number in range(3):
        teacher(cache_dir, number, days=number + 1)
    model(cache_dir)
    assert run("ls", "caches") == 0
    said = capsys.readouterr().out
    (row,) = [line.split() for line in said.splitlines() if line.startswith("teacher")]
    assert row[1] == "3" and row[-6:] == ["1", "d", "ago", "3", "d", "ago"]
    assert run("ls", "caches", "--all") == 0
    said = capsys.readouterr().out
    assert (
        "llama, books, hidden, top 4" in said
        and f"teacher/{2:032x}" in said
        and "models/sandbox-gold" in said
    )
    assert run("ls", "caches", "--kind", "models") == 0
    assert "teacher/" not in capsys.readouterr().out
    assert run("ls", "methods", "--all") == 2


def test_an_empty_place_is_no_error(tmp_path: Path) -> None:
    assert read_caches(tmp_path / "nowhere") == Caches((tmp_path / "nowhere").resolve())
    assert run("clean", "caches", "--cache-dir", str(tmp_path / "nowhere")) == 0
