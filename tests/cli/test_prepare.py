"""`harmonize prepare` on the command line: a book becomes a data set; mistakes are told before anything is read."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from harmonize.cli import main
from harmonize.config.compose import compose_config
from harmonize.data.jsonl import read_examples
from harmonize.data.unify.validate import Limits


def run(*argv: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(list(argv))
    code = caught.value.code
    return code if isinstance(code, int) else 0


def test_the_limits_that_are_shown_are_those_of_the_checks() -> None:
    cfg = compose_config("prepare", ["source=books", "source.root=."])
    assert dict(cfg.limits) == asdict(Limits())


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with a cache directory of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HARMONIZE_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_books_and_an_exam_become_a_data_set(
    here: Path, shared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = shared / "data"
    argv = [
        "prepare",
        "source=books",
        f"source.forget={data}/books/The-Road-to-Oz_485.txt",
        "+source@extra.garden=books",
        f"extra.garden.retain={data}/books/The-Secret-Garden_113.txt",
        "+source@extra.exam=arc",
        f"extra.exam.root={data}/arc_easy",
        "anchors=mined",
        "max_records=4",
        "workers=1",
        "name=oz",
    ]
    assert run(*argv) == 0
    out = capsys.readouterr().out
    folder = here / "prepared" / "oz"
    facts = json.loads((folder / "dataset.json").read_text())
    assert f"dataset=prepared dataset.root={folder}" in out and "CARD.md" in out and "Overlap: " in out
    # no run folder, nothing beside what was asked for
    assert sorted(p.name for p in here.iterdir()) == ["prepared"]
    general = [e for name in ("general.val", "general.test") for e in read_examples(folder / f"{name}.jsonl")]
    assert len(general) == 4 and all(e.choices and e.id.startswith("exam-") for e in general)
    forget = {e.id for e in read_examples(folder / "forget.train.jsonl")}
    links = [e.anchor_of for e in read_examples(folder / "retain.train.jsonl") if e.anchor_of]
    assert set(links) <= forget and len(links) == facts["anchors"]["linked"] > 0
    assert [s["name"] for s in facts["sources"]] == ["books", "garden", "exam"]
    assert facts["sources"][1]["files"][0]["file"] == "The-Secret-Garden_113.txt"
    assert str(shared.parent) not in json.dumps(facts["sources"]) and all(
        len(f["sha256"]) == 64 for f in facts["files"].values()
    )

    assert run(*argv) == 1
    assert "overwrite=true" in capsys.readouterr().err
    assert run("validate", "prepare", *argv[1:], "output=prepared/other") == 0
    out = capsys.readouterr().out
    assert "The configuration of prepare is sound" in out and "garden: 1 file(s)" in out


@pytest.mark.parametrize(
    ("argv", "messages"),
    [
        ([], ["No source is named. Add source=<source>"]),
        (["-m", "source=books", "workers=1,2"], ["makes one data set and knows no sweeps"]),
        (
            [
                "source=books",
                "source.rot=x",
                "limits.max_words=3",
                "split.forget={train: 0.5}",
                "chunk_words=0",
            ],
            ["source.rot", "limits has no key 'max_words'", "split.forget: shares must", "chunk_words=0"],
        ),
        (["source=books", "source.forget=nowhere.txt"], ["nowhere.txt"]),
        (
            ["source=books", "+source@extra.books=arc", "extra.books.root=."],
            ["two sources of the name 'books'"],
        ),
        (
            ["source=books", "rewriter=server", "rewriter.base_url=https://192.0.2.1/v1", "rewriter.model=m"],
            ["add rewriter.allow_remote=true"],
        ),
        (["source=books", "anchors=written"], ["Use rewriter=local or rewriter=server"]),
    ],
)
def test_mistakes_are_told_at_once_and_leave_nothing(
    argv: list[str], messages: list[str], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("prepare", *argv) == 1
    err = capsys.readouterr().err
    assert all(message in err for message in messages) and "Traceback" not in err
    assert not list(here.iterdir())


def test_anchors_may_be_mined_with_the_models_own_embeddings(
    here: Path, shared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = ["question,answer,subject"]
    questions = {
        "forget": [("Where was Tamsin Orrell born?", "In Lower Marsh End.", "Tamsin Orrell")],
        "retain": [
            ("Where was Hedda Lunn born?", "In Stonegate.", "Hedda Lunn"),
            ("What grows on Brindle Moor in the summer?", "Mostly heather.", "Brindle Moor"),
            ("Who built the Ashby clock?", "The smith Rufus Tarn.", "the Ashby clock"),
        ],
    }
    for role, found in questions.items():
        lines = [f'"{q}","{a}","{s}"' for q, a, s in found]
        (here / f"{role}.csv").write_text("\n".join([*rows, *lines]) + "\n")
    argv = ["prepare", "source=table", "source.forget=forget.csv", "source.retain=retain.csv", "name=own"]
    argv += ["anchors=mined", "anchors.lexical_weight=0", "anchors.min_similarity=-1", "workers=1"]
    assert run(*argv, f"embedding={shared}/models/stories260k") == 0
    retained = [e for p in (here / "prepared" / "own").glob("retain.*.jsonl") for e in read_examples(p)]
    assert len([e for e in retained if e.anchor_of]) == 1
    assert "Loading weights" not in capsys.readouterr().err
    assert run(*argv, "overwrite=true", "embedding=nowhere") == 1
    assert "nowhere" in capsys.readouterr().err
