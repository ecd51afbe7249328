"""Statistics on disk: found again, private, verified, taken once by two at a time, refused for another model."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from harmonize.errors import DataError, ModelError, RunError
from harmonize.models.load import LoadedModel
from harmonize.models.lora import apply_peft
from harmonize.statistics import Statistics, passes
from tests.models.tiny import V, some_rows, tiny

ROWS = some_rows(9)


def loaded(seed: int = 0, model: Any = None) -> LoadedModel:
    return LoadedModel(
        tiny("llama", seed) if model is None else model,
        range(V),
        SimpleNamespace(pad_id=0),  # type: ignore[arg-type]
        "tiny",
    )


def statistics(folder: Path, model: LoadedModel | None = None, **more: Any) -> Statistics:
    return Statistics(
        loaded() if model is None else model, lambda role: [r for r in ROWS if r.role == role], folder, **more
    )


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Kinds of the passes that ran."""
    found: list[str] = []
    for kind, function in list(passes.KINDS.items()):

        def counting(*args: Any, _kind: str = kind, _function: Any = function, **settings: Any) -> Any:
            found.append(_kind)
            return _function(*args, **settings)

        counting.__signature__ = __import__("inspect").signature(function)  # type: ignore[attr-defined]
        monkeypatch.setitem(passes.KINDS, kind, counting)
    return found


def test_taken_once_and_found_again_bit_for_bit(tmp_path: Path, taken: list[str]) -> None:
    seen: list[Path] = []
    first = statistics(tmp_path, record=seen.append).get("fisher", ["forget", "retain"])
    again = statistics(tmp_path, record=seen.append).get("fisher", ("forget", "retain"), group_rows=1)
    assert taken == ["fisher"] and len(set(seen)) == 1 and len(seen) == 2
    assert first.keys() == again.keys() and all(torch.equal(first[k], again[k]) for k in first)
    (folder,) = (tmp_path / "statistics").iterdir()
    assert folder == seen[0] and folder.stat().st_mode & 0o077 == 0
    assert all(p.stat().st_mode & 0o077 == 0 for p in folder.iterdir())
    about = json.loads((folder / "header.json").read_text())["about"]
    assert (about["kind"], about["roles"]) == ("fisher", ["forget", "retain"])


def test_what_it_depends_on_makes_another_one(tmp_path: Path, taken: list[str]) -> None:
    kept = statistics(tmp_path)
    kept.get("covariance", "forget")
    for again in (
        lambda: kept.get("covariance", "retain"),
        lambda: kept.get("covariance", "forget", centered=True),
        lambda: kept.get("covariance", "forget", layers=["*q_proj"]),
        lambda: kept.get("mean_gradient", "forget"),
        lambda: statistics(tmp_path, loaded(1)).get("covariance", "forget"),
        lambda: statistics(tmp_path, loaded(model=tiny("llama").bfloat16())).get("covariance", "forget"),
    ):
        before = len(taken)
        again()
        assert len(taken) == before + 1
    adapted = loaded(
        model=apply_peft(tiny("llama"), {"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"]})
    )
    statistics(tmp_path, adapted).get("mean_gradient", "forget")
    assert len(taken) == 8


def test_a_damaged_one_is_taken_again(tmp_path: Path, taken: list[str]) -> None:
    first = statistics(tmp_path).get("fisher", "forget")
    (folder,) = (tmp_path / "statistics").iterdir()
    path = folder / "model.norm.weight.npy"
    path.write_bytes(path.read_bytes()[:-4] + b"\0\1\2\3")
    again = statistics(tmp_path).get("fisher", "forget")
    assert taken == ["fisher"] * 2 and all(torch.equal(first[k], again[k]) for k in first)


def test_two_at_once(tmp_path: Path) -> None:
    found: list[Any] = []
    models = [statistics(tmp_path), statistics(tmp_path)]
    threads = [
        threading.Thread(target=lambda s=s: found.append(s.get("covariance", "forget", layers=["*q_proj"])))
        for s in models
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2 and all(torch.equal(found[0][k], found[1][k]) for k in found[0])
    assert len([p for p in (tmp_path / "statistics").iterdir() if not p.name.startswith(".")]) == 1


def test_a_folder_from_elsewhere_serves_the_same_model_alone(
    tmp_path: Path, taken: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    first = statistics(tmp_path / "there").get("fisher", "forget")
    (folder,) = (tmp_path / "there" / "statistics").iterdir()
    for given in (folder, folder.parent):
        found = statistics(tmp_path / "here", given=given).get("fisher", "forget")
        assert all(torch.equal(found[k], first[k]) for k in first)
    assert taken == ["fisher"] and not (tmp_path / "here").exists()
    with pytest.raises(ModelError, match=r"fisher of another model.*statistics\.path=null"):
        statistics(tmp_path / "here", loaded(1), given=folder)
    statistics(tmp_path / "here", given=folder).get("fisher", "retain")
    assert taken == ["fisher"] * 2 and "no fisher of retain" in capsys.readouterr().err


def test_a_folder_from_elsewhere_is_verified(tmp_path: Path) -> None:
    statistics(tmp_path).get("fisher", "forget")
    (folder,) = (tmp_path / "statistics").iterdir()
    with pytest.raises(RunError, match="no statistics are there"):
        statistics(tmp_path, given=tmp_path / "nowhere")
    (folder / "model.norm.weight.npy").unlink()
    with pytest.raises(RunError, match=r"damaged.*Copy it again"):
        statistics(tmp_path, given=folder).get("fisher", "forget")
    header = folder / "header.json"
    header.write_text(header.read_text().replace("fisher", "wisher"))
    with pytest.raises(RunError, match="damaged"):
        statistics(tmp_path, given=folder)


def test_mistakes(tmp_path: Path) -> None:
    kept = statistics(tmp_path)
    with pytest.raises(DataError, match="'general'"):
        kept.get("fisher", "general")
    with pytest.raises(ModelError, match="Did you mean 'centered'"):
        kept.get("covariance", "forget", centred=True)
    with pytest.raises(ModelError, match="Did you mean 'covariance'"):
        kept.get("covarience", "forget")
    with pytest.raises(ModelError, match="matches no layer"):
        kept.get("covariance", "forget", layers=["nothing"])
    assert not list((tmp_path / "statistics").glob("*"))
