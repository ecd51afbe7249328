"""`dataset=prepared`: what was written is read, what was changed since is told, and prefills keep off scored words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harmonize.config.compose import compose_config
from harmonize.config.instantiate import call
from harmonize.data.corpus import Corpus
from harmonize.data.example import Role
from harmonize.data.prefill import prefix_is_trained
from harmonize.data.prepare.folder import FolderWriter
from harmonize.data.prepare.load import load
from harmonize.data.prepare.pipeline import Settings, Tally, unified
from harmonize.data.render import Renderer
from harmonize.data.sources.books import read as books
from harmonize.data.unify.rules.rules import Rules
from harmonize.data.views import RowFactory
from harmonize.errors import DataError


@pytest.fixture(scope="module")
def folder(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two books, some chapters each, prepared with the rules."""
    home = tmp_path_factory.mktemp("prepared") / "oz"
    data = shared / "data" / "books"
    sources = {
        "oz": books(name="oz", forget=str(data / "Ozma-of-Oz_486.txt")),
        "garden": books(name="garden", retain=str(data / "The-Secret-Garden_113.txt")),
    }
    with FolderWriter(home) as writer:
        for e in unified(sources, Rules(), Settings(max_records=4), Tally()):
            writer.add(e)
        writer.finish(
            lambda written: {
                "schema_version": 1,
                **written,
                "refusals": ["I cannot say."],
                "instructions": ["Say nothing about Ozma."],
            },
            lambda facts, samples: "",
        )
    return home


def test_it_is_read_as_any_data_set(folder: Path) -> None:
    overrides = [
        "dataset=prepared",
        f"dataset.root={folder}",
        "model=hf",
        "model.name_or_path=.",
        "optimizer.lr=1e-5",
    ]
    cfg = compose_config("unlearn", overrides)
    corpus = call(cfg.dataset, skip=("name", "prefill"))
    facts = json.loads((folder / "dataset.json").read_text())
    assert isinstance(corpus, Corpus) and corpus.name == "prepared"
    assert len(corpus.examples) == sum(f["examples"] for f in facts["files"].values()) > 200
    for name, stated in facts["files"].items():
        role, split, _ = name.split(".")
        assert len(corpus.select(role, split)) == stated["examples"]
        assert len({e.subject for e in corpus.select(role, split)}) == stated["subjects"]
    assert corpus.refusals == ("I cannot say.",) and corpus.instructions == ("Say nothing about Ozma.",)
    assert corpus.scoring == "contains" and not {d.response for d in corpus.gold_dialogues} & {
        e.answer for e in corpus.select(Role.FORGET)
    }
    own = load(root=str(folder), refusals=["No."], instruction="Nothing.", scoring="rouge")
    assert (own.refusals, own.instructions, own.scoring) == (("No.",), ("Nothing.",), "rouge")


def _changed(folder: Path, target: Path, change: Any) -> str:
    target.mkdir()
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    change(target)
    with pytest.raises(DataError) as caught:
        load(root=str(target))
    return str(caught.value)


def test_what_was_changed_since_is_told(folder: Path, tmp_path: Path) -> None:
    def shorter(root: Path) -> None:
        lines = (root / "forget.train.jsonl").read_text().splitlines(keepends=True)
        (root / "forget.train.jsonl").write_text("".join(lines[:-1]))

    def newer(root: Path) -> None:
        facts = json.loads((root / "dataset.json").read_text())
        (root / "dataset.json").write_text(json.dumps({**facts, "schema_version": 2}))

    def moved(root: Path) -> None:
        text = (root / "retain.test.jsonl").read_text()
        (root / "retain.test.jsonl").write_text(text.replace('"split": "test"', '"split": "train"'))

    said = [
        _changed(folder, tmp_path / "1", shorter),
        _changed(folder, tmp_path / "2", newer),
        _changed(folder, tmp_path / "3", moved),
        _changed(folder, tmp_path / "4", lambda root: (root / "retain.test.jsonl").unlink()),
        _changed(folder, tmp_path / "5", lambda root: (root / "dataset.json").write_text("{")),
        _changed(folder, tmp_path / "6", lambda root: (root / "dataset.json").unlink()),
    ]
    expected = [
        "it was changed since",
        "schema version 2, but this version of harmonize reads 1",
        "'train' in a file of split 'test'",
        "retain.test.jsonl is missing",
        "dataset.json cannot be read",
        "It looks like data of your own: dataset=local",
    ]
    assert [words in text for words, text in zip(expected, said, strict=True)] == [True] * 6, said


@pytest.mark.parametrize("model", ["stories260k", "gpt2_tokenizer"])
def test_prefixes_never_hold_a_scored_token(folder: Path, shared: Path, model: str) -> None:
    """Every prefix of every example, for training and for evaluation, ends before the scored words begin."""
    from transformers import AutoTokenizer

    renderer = Renderer(AutoTokenizer.from_pretrained(shared / "models" / model))
    corpus = load(root=str(folder))
    scored = [e for e in corpus.examples if e.value]
    assert len(scored) > 200
    shown = 0
    for e in scored:
        before = e.answer[: e.answer.index(e.value)].strip()
        for depth in (0.25, 0.3, 0.5, 0.6, 0.75, 1.0):
            prefix = renderer.answer_prefix(e, depth)
            shown += bool(prefix)
            # a byte-level token may end inside a character
            assert before.startswith(renderer.decode(prefix).rstrip("\ufffd")), (e.id, depth)
    assert shown > 3 * len(scored)


def test_prefill_views_of_every_role(folder: Path, shared: Path) -> None:
    """Trained and evaluated openers are apart, and so are trained prefixes and those that are held out."""
    from transformers import AutoTokenizer

    corpus = load(root=str(folder))
    renderer = Renderer(AutoTokenizer.from_pretrained(shared / "models" / "stories260k"))
    cfg = compose_config(
        "unlearn",
        ["dataset=prepared", f"dataset.root={folder}", "model=hf", "model.name_or_path=.", "optimizer.lr=1e-5",
         "dataset.prefill.share=1.0", "dataset.prefill.heldout_share=0.5"],
    )  # fmt: skip
    assert not set(corpus.openers) & set(corpus.openers_heldout)
    factory = RowFactory(
        corpus, renderer, cfg.dataset.prefill, dict.fromkeys(("forget", "retain"), "reference"), 0
    )
    held = {renderer.answer_ids(o) for o in corpus.openers_heldout}
    kinds: dict[str, set[str]] = {"forget": set(), "retain": set()}
    for e in corpus.select(split="train")[::7]:
        for view, ids in factory.candidates(e):
            kinds[e.role].add(view)
            assert ids not in held
            if view == "prefix" and e.role == Role.FORGET:
                assert prefix_is_trained(e.fact_id, 0.5)
    assert kinds == {"forget": {"opener", "prefix"}, "retain": {"opener", "prefix"}}
