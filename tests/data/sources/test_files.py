"""Roots, file names and roles: what is looked for, what is found, and what a message says otherwise."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harmonize.data.example import Role
from harmonize.data.sources.files import look, need, resolve_root, role_files, unique_stems
from harmonize.errors import ConfigError, DataError

_spec = importlib.util.spec_from_file_location("loopback_hub", Path(__file__).with_name("hub.py"))
assert _spec and _spec.loader
hub = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(hub)

NO_NAMES: dict[str, Any] = {"forget": None, "neighbor": None, "retain": None, "general": None}


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    return folder


def test_a_root_is_asked_for_and_the_nearest_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "rwku").mkdir()
    with pytest.raises(ConfigError, match=r"rwku: root is missing.*source.root=hf:owner/name"):
        resolve_root(None, "rwku")
    with pytest.raises(DataError, match=r"there is no such folder. Did you mean 'rwku'\?.*hf:owner/name"):
        resolve_root(str(tmp_path / "rwkuu"), "rwku")
    with pytest.raises(ConfigError, match="is no hub name; write hf:owner/name"):
        resolve_root("hf:nothing", "rwku")
    assert resolve_root(str(tmp_path), "rwku") == tmp_path


def test_files_are_found_by_stem_suffix_and_shard(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "a.json",
        "deep/b.csv",
        "c-00001-of-00002.parquet",
        "c-00000-of-00002.parquet",
        "d.jsonl",
        "d.json",
    )
    assert look(tmp_path, "z", "a") == (tmp_path / "a.json",)
    assert look(tmp_path, "deep/b") == (tmp_path / "deep/b.csv",)
    assert [p.name for p in look(tmp_path, "c")] == ["c-00000-of-00002.parquet", "c-00001-of-00002.parquet"]
    assert look(tmp_path, "d") == (tmp_path / "d.jsonl",)
    assert look(tmp_path, "c", suffixes=(".json",)) == () == look(tmp_path, "z")


def test_a_file_that_is_not_there_is_explained(tmp_path: Path) -> None:
    touch(tmp_path, "forget_level1.jsonl", ".hidden.jsonl", *(f"other{i}.txt" for i in range(20)))
    with pytest.raises(DataError) as caught:
        need(tmp_path, "forget_levl1", what="the probes")
    said = str(caught.value)
    assert (
        "has no forget_levl1" in said
        and "the probes" in said
        and "Did you mean 'forget_level1.jsonl'?" in said
    )
    assert "and 9 more" in said and "hidden" not in said
    with pytest.raises(DataError, match="The folder holds: nothing"):
        need(tmp_path / "none", "x", what="y")


def files(found: list[tuple[Path, Role | None]], base: Path) -> list[tuple[str, str | None]]:
    return [(str(f.relative_to(base)), None if r is None else str(r)) for f, r in found]


def test_roles_come_from_names_of_files_and_folders(tmp_path: Path) -> None:
    touch(tmp_path, "forget.txt", "retain/b.txt", "retain/a.txt", "retain/.c.txt", "retain/d.pdf", "else.txt")
    found = role_files("books", str(tmp_path), None, NO_NAMES, (".txt",))
    assert files(found, tmp_path) == [
        ("forget.txt", "forget"),
        ("retain/a.txt", "retain"),
        ("retain/b.txt", "retain"),
    ]
    every = role_files("books", str(tmp_path), "neighbor", NO_NAMES, (".txt",))
    assert {r for _, r in every} == {Role.NEIGHBOR} and len(every) == 4


def test_roles_come_from_named_paths_patterns_and_lists(tmp_path: Path) -> None:
    touch(tmp_path, "oz1.txt", "oz2.txt", "alice/a.txt", "b.txt", "c.md")
    named = {**NO_NAMES, "forget": "oz*.txt", "retain": ["alice", "b.txt"], "general": str(tmp_path / "c.md")}
    found = role_files("books", str(tmp_path), None, named, (".txt",))
    assert files(found, tmp_path) == [
        ("oz1.txt", "forget"),
        ("oz2.txt", "forget"),
        ("alice/a.txt", "retain"),
        ("b.txt", "retain"),
        ("c.md", "general"),
    ]


@pytest.mark.parametrize(
    ("settings", "error", "expected"),
    [
        ({}, ConfigError, "nothing to read. Type source.root=<folder>, or one of source.forget=<path>"),
        ({"root": "."}, DataError, "files named after roles (forget.txt, ...) or sub-folders"),
        ({"root": "one.txt"}, ConfigError, "nothing says what it is for. Type source.role=forget"),
        ({"root": ".", "role": "forgotten"}, ConfigError, "unknown role 'forgotten'. Did you mean 'forget'?"),
        ({"root": ".", "forget": "onee.txt"}, DataError, "Did you mean 'one.txt'?"),
        ({"root": ".", "forget": "z*.txt"}, DataError, "no file matches"),
        ({"root": ".", "forget": "empty"}, DataError, "The folder holds: nothing"),
        ({"root": ".", "forget": "one.txt", "retain": "one.txt"}, ConfigError, "named for two roles"),
    ],
)
def test_what_cannot_be_read_is_explained(
    tmp_path: Path, settings: dict[str, str], error: type[Exception], expected: str
) -> None:
    touch(tmp_path, "one.txt")
    (tmp_path / "empty").mkdir()
    given = dict(settings)
    root = str(tmp_path / given.pop("root")) if "root" in given else None
    role = given.pop("role", None)
    with pytest.raises(error) as caught:
        role_files("books", root, role, {**NO_NAMES, **given}, (".txt",))
    assert expected in str(caught.value)


def test_ids_of_files_differ_where_their_names_do_not() -> None:
    paths = [Path(p) for p in ("a/x.txt", "b/x.txt", "b/y.txt", "c/b/z.json", "c/b/z.csv", "d/b/x.txt")]
    names = list(unique_stems(paths).values())
    assert len(set(names)) == len(paths) and names[2] == "y" and names[0] == "a-x"


FETCH = """
import sys
from harmonize.data.sources.wmdp import read
from harmonize.errors import DataError
try:
    source = read(root=sys.argv[1])
    print([f.name for f in source.files], len(list(source.read())))
except DataError as error:
    print(error)
"""


def fetch(root: str, home: Path, **environment: str) -> str:
    ours = {"HF_HOME": str(home), "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    done = subprocess.run(
        [sys.executable, "-c", FETCH, root],
        env={**os.environ, **ours, **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return done.stdout


def test_a_named_hub_data_set_is_fetched_once_and_data_files_only(tmp_path: Path) -> None:
    question = '[{"question": "q", "choices": ["a", "b"], "answer": 1}]'
    there = {
        "bio_questions.json": question,
        "loader.py": "raise SystemExit",
        "big.json": "[]",
        "README.md": "x",
    }
    with hub.serving("cais/wmdp", there) as (address, fetched):
        online = {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0"}
        assert fetch("hf:cais/wmdp@main", tmp_path, **online) == "['bio_questions.json'] 1\n"
        assert fetched == ["bio_questions.json"]
        assert "hf:cais/wmpd could not be fetched (404" in fetch("hf:cais/wmpd", tmp_path, **online)
    assert fetch("hf:cais/wmdp", tmp_path, HF_HUB_OFFLINE="1") == "['bio_questions.json'] 1\n"
    refused = fetch("hf:cais/other", tmp_path, HF_HUB_OFFLINE="1")
    assert "could not be fetched" in refused and "source.root=<folder>" in refused
