"""How a suite's parts are run: failures, names, what is asked twice, and the record of a reference model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from harmonize.errors import DataError, RunError
from harmonize.evaluation.reference import read_reference, record_of
from harmonize.evaluation.report import Report
from harmonize.evaluation.suite import NotMeasured, Part, Passes, Scene, measure_parts
from harmonize.tracking.metric import Metric
from harmonize.tracking.results import build_results, write_results
from tests.evaluation import oracle, worlds


@dataclass(frozen=True)
class Fixed(Part):
    """Reports one number, or fails."""

    name: str = "x"
    error: Exception | None = None
    compares: ClassVar[bool] = True

    def figures(self) -> dict[str, bool]:
        return {self.name: True, f"{self.name}_second": False}

    def measure(self, scene: Scene) -> Report:
        if self.error is not None:
            raise self.error
        return Report(
            {self.name: Metric(0.5, 3)}, [{"part": scene.part}], rows={scene.part: {"f": {"a": 1.0}}}
        )


class Alone(Fixed):
    """Reads no reference."""

    compares: ClassVar[bool] = False


@pytest.fixture(scope="module")
def corpus():
    return worlds.corpus()


def run(corpus: Any, parts: dict[str, Part], split: str = "test", **more: Any) -> Report:
    surface = worlds.Scripted(corpus, worlds.truthful)
    return measure_parts(
        parts, surface, corpus, worlds.suite(), Report({"axis": Metric(1.0, 1)}), split=split, **more
    )


def test_finished_parts_are_kept_when_another_fails(corpus, capsys) -> None:
    bug = ZeroDivisionError("division by zero")
    parts = {
        "one": Fixed("one"),
        "broken": Fixed("broken", DataError("The file is empty.")),
        "bug": Fixed("bug", bug),
        "last": Fixed("last"),
    }
    report = run(corpus, parts)
    assert report.metrics["axis"].value == 1.0
    assert report.metrics["one"].value == report.metrics["last"].value == 0.5
    assert report.metrics["broken"] == Metric(None, 0, None, None, True)
    assert report.metrics["broken_second"] == Metric(None, 0, None, None, False)
    assert list(report.failures) == ["broken", "bug"] and report.failures["bug"] is bug
    assert "Part 'broken' failed: The file is empty." in report.notes
    assert "Part 'bug' failed: ZeroDivisionError: division by zero" in report.notes
    assert "Part 'broken' of the suite failed" in capsys.readouterr().err
    assert [s["part"] for s in report.samples] == ["one", "last"] and set(report.rows) == {"one", "last"}


def test_what_a_model_does_not_have_is_a_note(corpus) -> None:
    report = run(corpus, {"p": Fixed("p", NotMeasured("this model shows nothing"))})
    assert report.metrics["p"].value is None and not report.failures
    assert report.notes == ["Not measured: part 'p': this model shows nothing."]


def test_two_parts_cannot_report_the_same_figure(corpus) -> None:
    report = run(corpus, {"p": Fixed("axis")})
    assert "axis, which is there already" in str(report.failures["p"])
    assert report.metrics["axis"].value == 1.0


def test_val_chooses_and_is_not_measured_by_parts(corpus) -> None:
    report = run(corpus, {"p": Fixed("p")}, split="val")
    assert set(report.metrics) == {"axis"} and "split=test alone" in report.notes[0]
    assert run(corpus, {}, split="val").notes == []


def test_nothing_is_asked_twice(corpus) -> None:
    made = worlds.renderer(corpus)
    e = corpus.examples[0]
    loaded = oracle.loaded(made, [(made.prompt_ids(e.question), e.answer)])
    from harmonize.evaluation.surface import ModelSurface

    scene = Scene(Passes(ModelSurface(loaded)), corpus, worlds.suite(), "p")
    prompt, target = scene.prompt(e.question), scene.target(e.answer, "x")
    (one,) = scene.rows([(prompt, target)])
    calls = loaded.model.calls
    ((again,),) = scene.shared([(prompt, [target])])
    assert again is one and loaded.model.calls == calls
    said = scene.say([prompt, prompt], 4)
    calls = loaded.model.calls
    assert scene.say([prompt], 4) == said[:1] and loaded.model.calls == calls
    assert scene.say([prompt], 99)[0].text == e.answer


def test_what_does_not_fit_the_context_is_told(corpus) -> None:
    made = worlds.renderer(corpus)
    from harmonize.evaluation.surface import ModelSurface

    scene = Scene(Passes(ModelSurface(oracle.loaded(made, context=8))), corpus, worlds.suite(), "p")
    with pytest.raises(DataError, match="9 tokens together, but the model reads at most 8"):
        scene.rows([((1,) * 5, (2,) * 4)])
    assert len(scene.passage("red " * 20, "x")[1]) == 7
    assert len(scene.passage("red " * 20, "x", 4)[1]) == 3
    with pytest.raises(DataError, match="nothing to score"):
        scene.passage("", "text 'x'")


def test_verdicts_are_those_of_the_axes(corpus) -> None:
    scene = Scene(Passes(worlds.Scripted(corpus, worlds.truthful)), corpus, worlds.suite(), "p")
    assert scene.verdict(worlds.REFUSALS[0], 0.9) == "refused"
    assert [scene.verdict("The hat is red .", s) for s in (0.5, 0.4)] == ["correct", "wrong"]
    assert scene.verdict("", 0.0) == "degenerate"


def test_intervals_are_clustered_and_seeded(corpus) -> None:
    scene = Scene(Passes(worlds.Scripted(corpus, worlds.truthful)), corpus, worlds.suite(), "p")
    metric = scene.mean("m", [0.0, 1.0, 1.0, 1.0], ["a", "b", "b", "c"], True)
    assert (metric.value, metric.n) == (0.75, 4) and metric.ci_low < 0.75 < metric.ci_high
    assert scene.mean("m", [0.0, 1.0, 1.0, 1.0], ["a", "b", "b", "c"], True) == metric
    assert scene.mean("m", [], [], False) == Metric(None, 0, None, None, False)


def record(folder: Path, rows: Any, **extra: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    kept = {"rows": rows} if rows is not None else {}
    results = build_results(config={}, seed=0, metrics={}, command="evaluate", **kept, **extra)
    write_results(folder, results) if folder.exists() else None
    return folder


def test_a_record_is_read_from_a_folder_or_its_results(tmp_path: Path) -> None:
    rows = record_of({"p": {"f": {"a": 1.0}}}, {"p": "key", "q": "other"})
    folder = record(tmp_path / "run", rows)
    parts: dict[str, Part] = {"p": Fixed("p"), "q": Alone("q")}
    for path in (folder, folder / "results.json"):
        assert read_reference(path, parts, {"p": "key", "q": "x"}) == {"p": {"f": {"a": 1.0}}}


def test_a_record_of_other_data_is_refused(tmp_path: Path) -> None:
    parts: dict[str, Part] = {"p": Fixed("p")}
    folder = record(tmp_path / "run", record_of({"p": {"f": {"a": 1.0}}}, {"p": "key"}))
    with pytest.raises(RunError, match="was measured on another data set: the part 'p' scored other rows"):
        read_reference(folder, parts, {"p": "another"})
    with pytest.raises(RunError, match=r"no rows of the part 'q'\. It holds: p\."):
        read_reference(folder, {"q": Fixed("q")}, {"q": "key"})
    with pytest.raises(RunError, match="It holds no rows of any part"):
        read_reference(record(tmp_path / "axes", None), parts, {"p": "key"})
    with pytest.raises(RunError, match=r"there is no results.json"):
        read_reference(tmp_path / "nothing", parts, {"p": "key"})
    for damaged in ({"p": 3}, {"p": {"data": "key"}}, {"p": {"data": "key", "figures": {"f": {"a": "x"}}}}):
        with pytest.raises(RunError, match="damaged"):
            read_reference(record(tmp_path / "bad", damaged), parts, {"p": "key"})


def test_the_part_of_the_docs_runs(corpus) -> None:
    text = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text()
    code = text.split("```python\n")[1].split("```")[0].replace("from __future__ import annotations\n", "")
    made: dict[str, Any] = {"__name__": __name__}
    exec(code, made)
    report = run(corpus, {"length": made["AnswerLength"]()})
    metric = report.metrics["forget_answer_tokens"]
    assert not report.failures and (metric.value, metric.n) == (8.0, 6)
