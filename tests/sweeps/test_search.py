"""The search over several objectives: what is asked, what counts, how it goes on; runs are replaced by figures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from harmonize.errors import ConfigError, RunError
from harmonize.sweeps.search import Search, outcome
from harmonize.sweeps.space import middle, space_of, written
from harmonize.tracking.metric import Metric
from harmonize.tracking.results import Results, write_results
from harmonize.tracking.run_folder import RunFolder

BOTH = {"removed": "minimize", "kept": "maximize"}
SPACE = ["dataset=sandbox", "optimizer.lr=tag(log,interval(1e-5,1e-1))"]
FLOORS = {"trainer": {"neighbor_floor": 0.9, "utility_floor": 0.9}}


def finished(folder: Path, **values: float) -> Path:
    target = {name: Metric(1.0, 10) for name in values}
    folder.mkdir(parents=True, exist_ok=True)
    found = {name: Metric(value, 10) for name, value in values.items()}
    write_results(folder / "results.json", Results(FLOORS, 0, found, target_metrics=target))
    return folder


class World:
    """Runs whose figures follow from the rate: a higher one removes more and keeps less; the highest gives up."""

    def __init__(self, study: Path) -> None:
        self.study, self.seen, self.stop_after = study, [], 10**9
        self.jobs: list[str]

    def __call__(self, batch: Sequence[Sequence[str]], first: int) -> list[Path | None]:
        folders: list[Path | None] = []
        for overrides in batch:
            if len(self.seen) >= self.stop_after:
                raise KeyboardInterrupt
            assert overrides[0] == "dataset=sandbox" and overrides[-1] == "resume=true"
            rate = float(overrides[1].partition("=")[2])
            self.seen.append(overrides[1])
            folder = self.study / f"run-{rate}"
            kept = 1.0 - 4 * rate
            if rate > 0.05:
                folder.mkdir(exist_ok=True)
                values = {"forget_accuracy": 0.0, "utility_accuracy": kept, "shortfall": 0.9 - kept}
                RunFolder(folder, command="").mark("rejected", error="gave up", found=values)
            else:
                finished(
                    folder, forget_accuracy=0.2 if rate > 1e-3 else 0.8, asr_worst=0.1, utility_accuracy=kept
                )
            folders.append(folder)
        return folders


def search(world: World, n: int = 8, **more: Any) -> list[dict[str, Any]]:
    return Search(world.study, SPACE, **{"objectives": BOTH, "n_trials": n, **more}).run(world)


def record(study: Path) -> list[dict[str, Any]]:
    return list(json.loads((study / "search.json").read_text())["trials"])


@pytest.mark.parametrize("sampler", ["tpe", "nsgaii", "random"])
def test_the_front_is_unsurpassed_and_within_the_floors(tmp_path: Path, sampler: str) -> None:
    world = World(tmp_path)
    front = search(world, 14, sampler=sampler, seed=1)
    trials = record(tmp_path)
    assert len(trials) == 14 == len(world.seen)
    assert any(t["rejected"] and t["shortfall"] > 0 for t in trials), (
        "the space holds runs that give themselves up"
    )
    assert front and all(not t["rejected"] and t["shortfall"] == 0 for t in front)
    good = [t["values"] for t in trials if t["shortfall"] == 0]
    for t in front:
        assert not any(
            (v["removed"] <= t["values"]["removed"] and v["kept"] >= t["values"]["kept"]) and v != t["values"]
            for v in good
        )


def test_a_search_that_was_stopped_is_the_search_that_was_not(tmp_path: Path) -> None:
    whole = World(tmp_path / "whole")
    search(whole)
    parts = World(tmp_path / "parts")
    parts.stop_after = 3
    with pytest.raises(KeyboardInterrupt):
        search(parts)
    parts.stop_after = 10**9
    search(parts)
    # the trial that was lost is asked again with its values, as another number: those before it are the same
    assert parts.seen[:4] == whole.seen[:4]
    assert len(record(tmp_path / "parts")) == 8 == len(parts.seen)
    # and nothing is left to do
    search(parts)
    assert len(parts.seen) == 8
    # unless more is asked for
    search(parts, 9)
    assert len(parts.seen) == 9


def test_a_trial_of_a_living_process_is_left_to_it(tmp_path: Path) -> None:
    world = World(tmp_path)
    inner: list[str] = []

    def launch(batch: Sequence[Sequence[str]], first: int) -> list[Path | None]:
        if not inner:  # while this one runs its first trial, another process does all the others
            other = World(tmp_path)
            inner.append("")
            Search(tmp_path, SPACE, objectives=BOTH, n_trials=4).run(other)
            inner.extend(other.seen)
        return world(batch, first)

    Search(tmp_path, SPACE, objectives=BOTH, n_trials=4).run(launch)
    assert len(world.seen) == 1 and len(inner) == 1 + 3
    assert len(record(tmp_path)) == 4


def test_another_question_is_no_continuation(tmp_path: Path) -> None:
    search(World(tmp_path), 1)
    with pytest.raises(RunError, match="other objectives"):
        search(World(tmp_path), 2, objectives={"removed": "minimize"})


def test_a_database_serves_as_well(tmp_path: Path) -> None:
    world = World(tmp_path / "study")
    search(world, 2, storage=f"sqlite:///{tmp_path}/search.db")
    search(world, 3, storage=f"sqlite:///{tmp_path}/search.db")
    assert len(world.seen) == 3


def test_a_run_that_failed_or_lacks_a_figure_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "failed"
    folder.mkdir()
    RunFolder(folder, command="").mark("failed", error="the loss is not finite")
    assert outcome(folder, BOTH).error == "the loss is not finite"
    done = finished(tmp_path / "done", forget_accuracy=0.5, neighbor_accuracy=0.5)
    assert outcome(done, BOTH).values == [0.5, 0.5] and outcome(done, BOTH).shortfall == pytest.approx(0.4)
    assert "Did you mean 'forget_accuracy'" in outcome(done, {"forget_acuracy": "minimize"}).error
    assert search(World(tmp_path / "s"), 1, objectives={"nothing": "minimize"}) == []
    assert record(tmp_path / "s")[0]["state"] == "fail"


class Failing(World):
    """Fails the runs of some numbers."""

    def __init__(self, study: Path, *numbers: int) -> None:
        super().__init__(study)
        self.numbers = numbers

    def __call__(self, batch: Sequence[Sequence[str]], first: int) -> list[Path | None]:
        folders = super().__call__(batch, first)
        for i in range(len(batch)):
            if first + i in self.numbers:
                folders[i] = self.study / f"failed-{first + i}"
                folders[i].mkdir()  # type: ignore[union-attr]
                RunFolder(folders[i], command="").mark("failed", error="the loss is not finite")  # type: ignore[arg-type]
        return folders


def test_another_trial_takes_the_place_of_one_that_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = Failing(tmp_path, 0, 3)
    search(world)
    trials = record(tmp_path)
    assert [t["number"] for t in trials if t["state"] == "fail"] == [0, 3]
    assert len(trials) == 10 == len(set(world.seen)) and sum(t["values"] is not None for t in trials) == 8
    assert trials[3]["error"] == "the loss is not finite"
    said = " ".join(capsys.readouterr().err.split())
    assert "of 8 trials, within" in said and "2 further trials failed" in said and "no more" not in said


def test_a_search_whose_trials_all_fail_ends_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = Failing(tmp_path, *range(99))
    assert search(world, n_jobs=3) == []
    assert len(record(tmp_path)) == 8 + 2 == len(world.seen)
    said = " ".join(capsys.readouterr().err.split())
    assert "10 further trials failed" in said and "0 of 8 trials have figures" in said
    search(world)  # the bound holds for the study, not for a process
    assert len(world.seen) == 10
    world.numbers = ()
    search(world, 9)  # 9 + 2 trials in all at most
    assert len(world.seen) == 11


def test_the_space_is_written_in_hydras_words() -> None:
    space, fixed = space_of(
        [
            "a=1",
            "b=choice(x,y)",
            "c=range(1,8,2)",
            "d=int(interval(1,4))",
            "e=tag(log,interval(0.1,1.0))",
            "f=x,y",
        ]
    )
    assert fixed == ["a=1"] and list(space) == ["b", "c", "d", "e", "f"]
    assert space["b"].choices == ("x", "y") == space["f"].choices
    assert (space["c"].low, space["c"].high, space["c"].step) == (1, 7, 2)
    assert type(space["d"]).__name__ == "IntDistribution" and space["e"].log
    assert middle(space) == {"b": "x", "c": 3, "d": 2, "e": 0.55, "f": "x"}
    assert written({"a": 0.000123456789, "b": "x", "c": 3}) == ["a=0.000123457", "b=x", "c=3"]


@pytest.mark.parametrize(
    ("overrides", "more", "word"),
    [
        (["a=1"], {}, "nothing to search"),
        (["a=tag(log,interval(0,1.0))"], {}, "nothing to search in"),
        (SPACE, {"sampler": "tpee"}, "Did you mean 'tpe'"),
        (SPACE, {"objectives": {"kept": "up"}}, "hydra.sweeper.objectives.kept=up"),
        (SPACE, {"objectives": {}}, "is empty"),
        (SPACE, {"n_trials": 0}, "at least 1"),
    ],
)
def test_a_wrong_search_is_told(
    tmp_path: Path, overrides: list[str], more: dict[str, Any], word: str
) -> None:
    with pytest.raises(ConfigError, match=word.replace("(", "\\(")):
        Search(tmp_path, overrides, **{"objectives": BOTH, **more})
