"""Guarded models on disk: what is written, that it makes the same model again, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from harmonize.errors import ConfigError, ModelError
from harmonize.guards.decoding import Decoding
from harmonize.guards.guard import Guard, Guarded
from harmonize.guards.instruction import Instruction
from harmonize.guards.logit_offset import LogitOffset
from harmonize.guards.saved import open_guard, save_guard, saved_guard, secret_files, warn_of_guard
from harmonize.models.load import LoadedModel
from harmonize.models.save import export
from tests.evaluation import worlds
from tests.guards import toys

DATA = worlds.corpus()
SPECS = (Instruction(), LogitOffset(), Decoding(delta=0.0))


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return toys.model(DATA)


@pytest.fixture
def surface(loaded: LoadedModel, request: pytest.FixtureRequest) -> Guarded:
    spec: Guard = getattr(request, "param", SPECS[2])
    return spec.around(toys.scene(loaded, DATA, assistant=toys.assistant(loaded)))


def exported(surface: Guarded, loaded: LoadedModel, folder: Path) -> Path:
    export(loaded, folder, "a card", guard=lambda work: save_guard(surface, work))
    return folder


@pytest.mark.parametrize("surface", SPECS, indirect=True, ids=lambda s: s.name)
def test_a_folder_makes_the_same_model_again(surface: Guarded, loaded: LoadedModel, tmp_path: Path) -> None:
    folder = exported(surface, loaded, tmp_path / "model")
    path = saved_guard(str(folder))
    assert path == folder / "guard.json" and json.loads(path.read_text())["name"] == surface.guard.name
    again = open_guard(path, loaded)
    assert type(again) is type(surface) and again.guard == surface.guard
    questions = [e.question for e in DATA.examples]
    both = [s.generate([s.renderer.prompt_ids(q) for q in questions], 6, 64, None) for s in (surface, again)]
    assert both[0] == both[1]
    for file in (path, *(folder / "guard").glob("*")):
        assert file.stat().st_mode & 0o077 == 0, file
    secrets = secret_files(folder)
    assert [p.name for p in secrets] == (["secrets.json"] if surface.secrets() is not None else [])


def test_the_guard_is_in_place_before_the_weights(
    surface: Guarded, loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    order: list[str] = []
    move = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (order.append(Path(b).name), move(a, b))[1])
    exported(surface, loaded, tmp_path / "model")
    moved = [n for n in order if n in ("guard", "guard.json", "model.safetensors")]
    assert moved[-1] == "model.safetensors" and {"guard", "guard.json"} <= set(moved)


def test_an_export_without_a_guard_leaves_none_of_an_earlier_one(
    surface: Guarded, loaded: LoadedModel, tmp_path: Path
) -> None:
    folder = exported(surface, loaded, tmp_path / "model")
    exported(surface, loaded, folder)
    assert saved_guard(str(folder))
    export(loaded, folder, "a card")
    assert saved_guard(str(folder)) is None and not (folder / "guard").exists()


def test_what_is_missing_or_altered_is_told(surface: Guarded, loaded: LoadedModel, tmp_path: Path) -> None:
    def refused(words: str, change) -> None:  # type: ignore[no-untyped-def]
        shutil.rmtree(tmp_path / "model", ignore_errors=True)
        path = exported(surface, loaded, tmp_path / "model") / "guard.json"
        header = json.loads(path.read_text())
        change(path.parent, header)
        if path.exists() and path.read_text()[:1] == "{":
            path.write_text(json.dumps(header))
        with pytest.raises((ModelError, ConfigError), match=words):
            open_guard(path, loaded)

    refused("was it purged", lambda f, h: (f / "guard" / "secrets.json").unlink())
    refused(
        "not the one that was exported",
        lambda f, h: (f / "guard" / "secrets.json").write_text('{"spans": []}'),
    )
    refused("of format 2", lambda f, h: h.update(format=2))
    refused("cannot be read as a guard", lambda f, h: h.pop("settings"))
    refused("cannot be read as a guard", lambda f, h: (f / "guard.json").write_text("half of it"))
    refused("outside the packages", lambda f, h: h.update(_target_="os.system"))
    refused("is no guard", lambda f, h: h.update(_target_="harmonize.guards.trie.Trie"))
    refused("does not hold what decoding needs", lambda f, h: h["settings"].update(nonsense=1))
    refused("does not hold what decoding needs", lambda f, h: h["files"].clear())


def test_weights_read_without_their_guard_are_told(
    surface: Guarded, loaded: LoadedModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = exported(surface, loaded, tmp_path / "model")
    warn_of_guard(str(folder))
    assert "without the guard" in " ".join(capsys.readouterr().err.split())
    for name in ("sandbox:target", "hf:owner/name", str(tmp_path)):
        warn_of_guard(name)
    assert capsys.readouterr().err == ""
