"""Answers that are kept: the same as without, gone on with after a kill, and apart from attacked models."""

from __future__ import annotations

import json
import stat
from contextlib import contextmanager
from pathlib import Path

import pytest

from harmonize.evaluation.five_axes import evaluate
from harmonize.evaluation.remembered import ANSWERS, Remembered, read_report, write_report
from harmonize.evaluation.surface import ModelSurface, Surface
from tests.evaluation import worlds
from tests.evaluation.worlds import Scripted, truthful

DATA = worlds.corpus()
PREFILL = worlds.prefill()


class Killed(BaseException):
    """Stands for a kill."""


def _report(surface, **suite):
    return evaluate(surface, DATA, worlds.suite(**suite), prefill=PREFILL)


def test_a_real_model_says_the_same(tmp_path: Path) -> None:
    loaded = worlds.llama(DATA)
    plain = _report(ModelSurface(loaded), batch_size=7)
    kept = _report(Remembered(ModelSurface(loaded), tmp_path / ANSWERS), batch_size=7)
    assert kept == plain
    assert stat.S_IMODE((tmp_path / ANSWERS).stat().st_mode) == 0o600
    again = Remembered(
        ModelSurface(worlds.llama(DATA, seed=1)), tmp_path / ANSWERS
    )  # asks its own model nothing
    assert _report(again, batch_size=7) == plain


@pytest.mark.parametrize("torn", [False, True])
def test_a_killed_evaluation_goes_on_where_it_stopped(tmp_path: Path, torn: bool) -> None:
    whole = Scripted(DATA, truthful)
    plain = _report(whole, batch_size=8)

    class Dying(Scripted):
        def generate(self, prompts, *rest):
            if len(self.seen) >= 16:
                raise Killed
            return super().generate(prompts, *rest)

    dying = Dying(DATA, truthful)
    with pytest.raises(Killed):
        _report(Remembered(dying, tmp_path / ANSWERS), batch_size=8)
    if torn:
        path = tmp_path / ANSWERS
        path.write_bytes(path.read_bytes()[:-5])
    second = Scripted(DATA, truthful)
    assert _report(Remembered(second, tmp_path / ANSWERS), batch_size=8) == plain
    assert len(second.seen) == len(whole.seen) - 16 + torn
    third = Scripted(DATA, truthful)
    assert _report(Remembered(third, tmp_path / ANSWERS), batch_size=8) == plain and not third.seen


def test_an_attacked_model_is_neither_read_nor_written(tmp_path: Path) -> None:
    entered = []

    class Attackable(Scripted):
        model = object()

        @contextmanager
        def attacked(self):
            entered.append(True)
            yield

    surface = Attackable(DATA, truthful)
    kept = Remembered(surface, tmp_path / ANSWERS)
    prompt = surface.renderer.prompt_ids(DATA.examples[0].question)
    before = kept.generate([prompt], 12, 4, None)
    surface.script = lambda asked: "nothing"
    assert kept.generate([prompt], 12, 4, None) == before
    with kept.attacked():
        changed = kept.generate([prompt], 12, 4, None)
    assert changed != before and entered == [True]
    assert kept.generate([prompt], 12, 4, None) == before
    assert kept.model is surface.model and isinstance(kept, Surface)
    assert not hasattr(Remembered(Scripted(DATA, truthful), tmp_path / "x"), "model")


def test_relearning_is_measured_on_the_taught_model(tmp_path: Path) -> None:
    loaded = worlds.llama(DATA)
    plain = _report(ModelSurface(loaded), relearn=True, batch_size=9)
    kept = Remembered(ModelSurface(loaded), tmp_path / ANSWERS)
    assert _report(kept, relearn=True, batch_size=9) == plain
    assert _report(kept, relearn=True, batch_size=9) == plain


def test_progress_counts_what_was_known(tmp_path: Path) -> None:
    surface = Scripted(DATA, truthful)
    prompts = [surface.renderer.prompt_ids(e.question) for e in DATA.examples[:6]]
    Remembered(surface, tmp_path / ANSWERS).generate(prompts[:2], 12, 2, None)
    shown: list[tuple[int, int]] = []
    Remembered(surface, tmp_path / ANSWERS).generate(prompts, 12, 2, lambda n, of: shown.append((n, of)))
    assert shown[-1] == (6, 6) and shown == sorted(shown) and shown[0][0] > 2


def test_a_report_comes_back_whole_or_not_at_all(tmp_path: Path) -> None:
    report = _report(Scripted(DATA, truthful))
    (tmp_path / ANSWERS).write_text("[]\n")
    write_report(tmp_path, report)
    assert read_report(tmp_path) == json_round(report) and not (tmp_path / ANSWERS).exists()
    assert stat.S_IMODE((tmp_path / "samples.jsonl").stat().st_mode) == 0o600
    text = (tmp_path / "report.json").read_text()
    for junk in ("", "{}", text[:100]):
        (tmp_path / "report.json").write_text(junk)
        assert read_report(tmp_path) is None
    (tmp_path / "report.json").write_text(text)
    (tmp_path / "samples.jsonl").write_text("{}\n")
    assert read_report(tmp_path) is None
    assert read_report(tmp_path / "nowhere") is None


def json_round(report):
    report.samples = json.loads(json.dumps(report.samples))
    return report
