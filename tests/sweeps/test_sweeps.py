"""Sweeps: which jobs a file means, what is skipped and tried again, what is chosen and how it is written down."""

from __future__ import annotations

import itertools
import json
import math
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from harmonize.cli import main
from harmonize.config.compose import compose_config
from harmonize.config.paths import share
from harmonize.errors import ConfigError, HarmonizeError, Rejected, TrainingError
from harmonize.evaluation.selection import select_score, shortfall
from harmonize.reporting.published import load_yaml
from harmonize.sweeps.choose import Verdict, judge, ranked
from harmonize.sweeps.plan import Job, files, load_sweep
from harmonize.sweeps.queue import Queue, content_key
from harmonize.sweeps.write import write_tuned
from harmonize.tracking.metric import Metric
from harmonize.tracking.results import Results, write_results
from harmonize.tracking.run_folder import RunFolder
from harmonize.unlearning.setup import plain_config

TUNE = """
# Which rate?
overrides: [dataset=sandbox_easy, trainer.max_steps=6, trainer.val_check_interval=3, split=val, logger=csv]
trials:
  grad_diff: [[optimizer.lr=1e-3], [optimizer.lr=1e-4]]
  npo: [[optimizer.lr=1e-3], [optimizer.lr=1e-4, method.objectives.keep.weight=2]]
rounds:
  - {sweep: {dataset.world_seed: [0]}, keep: 1}
  - {sweep: {dataset.world_seed: [1, 2]}, keep: 1}
tuned: sandbox_easy
"""


def metric(value: float) -> Metric:
    return Metric(value, 10)


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """Runs in an empty folder, the work replaced by figures that depend on the rate; the configurations it saw."""
    from omegaconf import OmegaConf

    seen: list[Any] = []

    def run(cfg: Any, folder: Path) -> dict[str, Any]:
        place = RunFolder(folder).prepare(resume=cfg.resume, overwrite=cfg.overwrite)
        with place.running():
            place.write_text("config.yaml", OmegaConf.to_yaml(cfg, resolve=True))
            seen.append(cfg)
            print("what the run says")
            if cfg.seed == 13:
                raise TrainingError("the loss is not finite")
            if cfg.seed == 55:
                raise Rejected("below its floor", {"utility_accuracy": 0.1, "shortfall": 0.8})
            if cfg.seed == 77 and sum(c.seed == 77 for c in seen) == 1:
                raise ZeroDivisionError("once")
            if cfg.seed == 99 and not cfg.resume:
                raise KeyboardInterrupt
            # the higher rate forgets everything and keeps nothing of the neighbors
            high = cfg.optimizer.lr > 5e-4
            found = {
                "forget_accuracy": metric(0.0 if high else 0.2),
                "neighbor_accuracy": metric(0.1 if high else 0.95),
                "utility_accuracy": metric(1.0),
            }
            target = {name: metric(1.0) for name in found}
            write_results(
                folder / "results.json",
                Results(plain_config(cfg), cfg.seed, found, target_metrics=target),
            )
        return {}

    monkeypatch.setattr("harmonize.unlearning.run.run", run)
    monkeypatch.chdir(tmp_path)
    return seen


def status(*argv: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["sweep", *argv])
    return int(ended.value.code or 0)


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def states(folder: Path) -> list[str]:
    return sorted(json.loads(p.read_text())["state"] for p in folder.glob("*/status.json"))


@pytest.mark.parametrize("name", sorted(files()))
def test_every_file_that_ships_is_a_sweep_and_asks_its_question_in_the_first_line(name: str) -> None:
    sweep = load_sweep(name)
    assert sweep.jobs() or sweep.tunes
    assert files()[name].read_text().startswith("# ")


@pytest.mark.parametrize("name", sorted(n for n in files() if load_sweep(n).tunes))
def test_every_candidate_of_a_tuning_composes(name: str) -> None:
    sweep = load_sweep(name)
    first = {m: range(len(t)) for m, t in sweep.trials.items()}
    needs = ["dataset.root=.", "model.name_or_path=."] if "tofu" in name else []
    jobs = sweep.round_jobs(0, first)
    # one for each method and set of keys: values of one key compose alike, and composing takes its time
    kinds = {tuple(o if o.startswith("method=") else o.split("=")[0] for o in j.overrides): j for j in jobs}
    for job in kinds.values():
        compose_config("unlearn", [*needs, *job.overrides])
    assert all("split=val" in job.overrides for job in jobs)


def test_jobs_are_the_grid_times_the_variants_and_the_user_wins(tmp_path: Path) -> None:
    path = write(
        tmp_path / "s.yaml",
        "sweep: {seed: [0, 1], method: [npo]}\noverrides: [optimizer.lr=1e-3]\nvariants: [[a.b=1], [a.b=2]]\n",
    )
    assert [" ".join(j.overrides) for j in load_sweep(path).jobs()] == [
        "seed=0 method=npo optimizer.lr=1e-3 a.b=1",
        "seed=1 method=npo optimizer.lr=1e-3 a.b=1",
        "seed=0 method=npo optimizer.lr=1e-3 a.b=2",
        "seed=1 method=npo optimizer.lr=1e-3 a.b=2",
    ]
    assert [" ".join(j.overrides) for j in load_sweep(path).jobs(["seed=5", "optimizer.lr=1"])] == [
        "method=npo a.b=1 seed=5 optimizer.lr=1",
        "method=npo a.b=2 seed=5 optimizer.lr=1",
    ]
    assert [" ".join(j.overrides) for j in load_sweep(path).jobs(["seed=5,6", "~a.b"])] == [
        "method=npo seed=5 optimizer.lr=1e-3 ~a.b",
        "method=npo seed=6 optimizer.lr=1e-3 ~a.b",
        "method=npo seed=5 optimizer.lr=1e-3 ~a.b",
        "method=npo seed=6 optimizer.lr=1e-3 ~a.b",
    ]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("swep: {}", "unknown key 'swep'. Did you mean 'sweep'"),
        ("sweep: {seed: 3}", "sweep must map each key to a list"),
        ("trials: {npo: [[a.b=1]], dpo: [[a.b=1], [a.b=2]]}\nrounds: [{keep: 1}]", "equally many"),
        ("trials: {npo: [[a.b=1]]}", "belong together"),
        ("trials: {npo: [[peft=lora]]}\nrounds: [{keep: 1}]", "a trial sets values"),
        ("trials: {npo: [[a.b=1]]}\nrounds: [{keep: 0}]", "needs keep"),
        ("[1, 2]", "expected a mapping"),
    ],
)
def test_a_wrong_file_is_told(tmp_path: Path, text: str, word: str) -> None:
    with pytest.raises(ConfigError, match=word.replace("(", "\\(")):
        load_sweep(write(tmp_path / "wrong.yaml", text))


WANDB = """
program: harmonize
method: grid
parameters:
  seed: {values: [0, 1]}
  optimizer.lr: {values: [0.001]}
  dataset: {value: sandbox}
command: [harmonize, unlearn, logger=wandb, logger.wandb.mode=online, a.b=1, "${args_no_hyphens}"]
"""


def test_a_file_in_the_words_of_wandb_is_the_same_sweep(tmp_path: Path) -> None:
    sweep = load_sweep(write(tmp_path / "w.yaml", WANDB))
    assert [" ".join(j.overrides) for j in sweep.jobs()] == [
        "seed=0 optimizer.lr=0.001 a.b=1 dataset=sandbox",
        "seed=1 optimizer.lr=0.001 a.b=1 dataset=sandbox",
    ]
    assert sweep.study == "w" and not sweep.tunes


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ("grid", "bayes", "only a W&B agent does"),
        ("parameters:", "parametrs: {}\nparameters:", "Did you mean 'parameters'"),
        ("{values: [0, 1]}", "{min: 0, max: 1}", "parameters.seed needs value"),
        ("[0.001]", "[null]", "writes null as None"),
        ("{value: sandbox}", "{value: null}", "writes null as None"),
        (', "${args_no_hyphens}"', "", "would all be the same"),
        ("harmonize, unlearn", "python, train.py", "command must be"),
    ],
)
def test_a_wrong_wandb_file_is_told(tmp_path: Path, old: str, new: str, word: str) -> None:
    assert old in WANDB
    with pytest.raises(ConfigError, match=word):
        load_sweep(write(tmp_path / "w.yaml", WANDB.replace(old, new)))


@pytest.mark.parametrize("name", sorted(n for n, p in files().items() if "parameters" in load_yaml(p)))
def test_an_agent_runs_the_same_jobs(name: str) -> None:
    """The client's own code writes the command lines; both ways must give the same configurations."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    found = load_yaml(files()[name])
    values = {k: v["values"] if "values" in v else [v["value"]] for k, v in found["parameters"].items()}
    commands = []
    for chosen in itertools.product(*values.values()):
        args = create_sweep_command_args(
            {"args": {k: {"value": v} for k, v in zip(values, chosen, strict=True)}}
        )
        words = create_sweep_command(list(found["command"]))
        commands.append(
            [w for word in words for w in (args[word[2:-1]] if word.startswith("${") else [word])]
        )
    assert all(
        c[:4] == ["harmonize", "unlearn", "logger=wandb", "logger.wandb.mode=online"] for c in commands
    )
    jobs = load_sweep(name).jobs()
    assert [sorted(c[4:]) for c in commands] == [sorted(j.overrides) for j in jobs]
    needs = ["dataset.root=."] if "tofu" in str(found) else []
    for overrides in (commands[0][2:], commands[-1][2:]):
        compose_config("unlearn", [*needs, *overrides])


def test_an_unknown_sweep_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'sandbox_spread'"):
        load_sweep("sandbox_spred")


def test_the_rule_prefers_what_is_within_the_floors_then_what_lacks_least() -> None:
    target = {"neighbor_accuracy": 1.0, "utility_accuracy": 0.8}
    state = {"neighbor_accuracy": 0.7, "utility_accuracy": 0.6, "forget_accuracy": 0.0}
    assert shortfall(state, target) == pytest.approx((0.9 - 0.7) + (0.72 - 0.6))
    assert shortfall({"neighbor_accuracy": 0.95, "utility_accuracy": 0.8}, target) == 0
    assert shortfall({"neighbor_accuracy_trained": 0.0}, {"neighbor_accuracy_trained": 1.0}, 0.5) == 0.5
    assert select_score(state, target) == (False, 0.0)
    order = ranked(
        [Verdict(0, 0.8, 0.0, 1), Verdict(1, 0.0, 0.4, 1), Verdict(2, 0.0, 0.4, 1), Verdict(3, 0.3, 0.1, 1)]
    )
    assert [v.trial for v in order] == [1, 2, 3, 0]


def test_a_failed_run_counts_as_the_worst_there_is() -> None:
    config = {"trainer": {"neighbor_floor": 0.9, "utility_floor": 0.9}}
    good = Results(config, 0, {"forget_accuracy": metric(0.1)})
    assert judge(0, [good, good]) == Verdict(0, 0.0, pytest.approx(0.1), 2)
    assert judge(0, [good, None]).score == math.inf


def test_tuning_runs_its_rounds_and_writes_options_that_compose(work: list[Any], tmp_path: Path) -> None:
    path = write(tmp_path / "tune.yaml", TUNE)
    assert status(path, "--write", "tuned") == 0
    assert len(work) == 4 + 2 * 2
    record = json.loads((tmp_path / "runs" / "tune" / "chosen.json").read_text())
    assert record["chosen"]["grad_diff"]["overrides"] == ["optimizer.lr=1e-4"]
    assert record["chosen"]["npo"]["runs"] == 2 and record["chosen"]["npo"]["score"] == pytest.approx(0.2)
    assert len(record["rounds"]) == 2 and len(record["rounds"][0]["npo"]) == 2
    found = yaml.safe_load((tmp_path / "tuned" / "sandbox_easy" / "npo.yaml").read_text())
    assert found == {"optimizer": {"lr": 0.0001}, "method": {"objectives": {"keep": {"weight": 2}}}}
    # a second call runs nothing
    assert status(path) == 0 and len(work) == 8
    # as a folder of options they are what the method starts from, and the user still has the last word
    (tmp_path / "mine").mkdir()
    (tmp_path / "tuned").rename(tmp_path / "mine" / "tuned")
    asked = ["method=npo", "dataset=sandbox_easy"]
    cfg = compose_config("unlearn", asked, config_dirs=[tmp_path / "mine"])
    assert (cfg.optimizer.lr, cfg.method.objectives.keep.weight) == (1e-4, 2)
    cfg = compose_config("unlearn", [*asked, "optimizer.lr=7e-4"], config_dirs=[tmp_path / "mine"])
    assert (cfg.optimizer.lr, cfg.method.objectives.keep.weight) == (7e-4, 2)
    cfg = compose_config("unlearn", [*asked, "tuned=none"], config_dirs=[tmp_path / "mine"])
    assert cfg.method.objectives.keep.weight == 1


def test_a_plain_sweep_skips_retries_and_goes_on(work: list[Any], tmp_path: Path) -> None:
    path = write(
        tmp_path / "s.yaml", "sweep: {seed: [0, 13, 77, 1]}\noverrides: [dataset=sandbox_easy, logger=csv]\n"
    )
    assert status(path) == 1
    assert states(tmp_path / "runs" / "s") == ["done", "done", "done", "failed"]
    # 13 was tried twice, after all others; 77 once more
    assert [c.seed for c in work] == [0, 13, 77, 1, 13, 77]
    logs = [p.read_text() for p in (tmp_path / "runs" / "s").glob("*/log.txt")]
    assert len(logs) == 4 and all("what the run says" in text for text in logs)
    assert any("ZeroDivisionError" in text for text in logs)
    work.clear()
    assert status(path, "--retries", "0") == 1 and [c.seed for c in work] == [13]


def test_a_run_that_gave_itself_up_is_no_failure_and_is_not_tried_again(
    work: list[Any], tmp_path: Path
) -> None:
    path = write(
        tmp_path / "s.yaml", "sweep: {seed: [55, 1]}\noverrides: [dataset=sandbox_easy, logger=csv]\n"
    )
    assert status(path) == 0
    assert states(tmp_path / "runs" / "s") == ["done", "rejected"]
    assert status(path) == 0 and [c.seed for c in work] == [55, 1]


def test_what_is_done_is_found_by_content_not_by_name(work: list[Any], tmp_path: Path) -> None:
    path = write(
        tmp_path / "s.yaml", "sweep: {seed: [0, 1]}\noverrides: [dataset=sandbox_easy, logger=csv]\n"
    )
    assert status(path, "seed=0") == 0
    folder = next((tmp_path / "runs" / "s").glob("*seed0*"))
    folder.rename(folder.with_name("renamed"))
    work.clear()
    assert status(path) == 0 and [c.seed for c in work] == [1]
    # the same name with another content is kept, and the job goes beside it
    other = next((tmp_path / "runs" / "s").glob("*seed1*"))
    found = json.loads((other / "results.json").read_text())
    found["config"]["trainer"]["max_steps"] = 7
    (other / "results.json").write_text(json.dumps(found))
    work.clear()
    assert status(path) == 0 and [c.seed for c in work] == [1]
    assert len(list((tmp_path / "runs" / "s").glob("*seed1*"))) == 2


def test_a_folder_names_the_data_set_that_an_experiment_chooses(tmp_path: Path) -> None:
    places = (f"dataset.root={tmp_path}", f"model.name_or_path={tmp_path}")
    job = Job(("experiment=tofu_methods", "seed=3", *places))
    named = [
        Queue(tmp_path / "s").entries([job])[0].folder.name for _ in range(2)
    ]  # composed, then remembered
    assert named[0].startswith("bidirectional_tofu_seed3_") and named[0] == named[1]


def test_an_interrupted_sweep_resumes_its_job(work: list[Any], tmp_path: Path) -> None:
    path = write(
        tmp_path / "s.yaml", "sweep: {seed: [99, 1]}\noverrides: [dataset=sandbox_easy, logger=csv]\n"
    )
    assert status(path) == 130
    assert states(tmp_path / "runs" / "s") == ["interrupted"]
    work.clear()
    assert status(path) == 0
    assert [(c.seed, bool(c.resume)) for c in work] == [(99, True), (1, False)]


def test_a_job_that_another_process_runs_is_waited_for(work: list[Any], tmp_path: Path) -> None:
    path = write(tmp_path / "s.yaml", "sweep: {seed: [0]}\noverrides: [dataset=sandbox_easy, logger=csv]\n")
    queue = Queue(tmp_path / "runs" / "s")
    entry = queue.entries(load_sweep(path).jobs())[0]
    place = RunFolder(entry.folder).prepare()
    place.mark("running")
    queue.refresh(entry)
    assert entry.state == "running"
    entry.state = "waiting"  # as it stood when this process looked
    queue.run(entry)
    assert (entry.state, entry.tries, entry.error) == ("running", 0, "") and not work
    place.close()  # the process died
    queue.refresh(entry)
    assert entry.state == "waiting"
    queue.run(entry)
    assert entry.state == "done" and work[0].resume


def test_what_another_process_finished_is_told(
    work: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from harmonize.sweeps.board import Board

    path = write(
        tmp_path / "s.yaml", "sweep: {seed: [0, 1]}\noverrides: [dataset=sandbox_easy, logger=csv]\n"
    )
    show, other = Board.show, Queue(tmp_path / "runs" / "s")

    def shown(self: Board, entries: Any, running: Any = None) -> None:
        if running is not None and running.job.overrides[0] == "seed=0":  # meanwhile, elsewhere
            other.run(other.entries(load_sweep(path).jobs())[1])
        show(self, entries, running)

    monkeypatch.setattr(Board, "show", shown)
    assert status(path) == 0 and [c.seed for c in work] == [1, 0]
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("[")]
    assert [line.split("/")[0] for line in lines] == ["[1", "[2"] and "seed1" in lines[1]


def test_what_a_sweep_adds_to_its_runs_is_little(work: list[Any], tmp_path: Path) -> None:
    """benchmarks/sweep_overhead.py measures it on real runs; here they cost nothing but their composition."""
    file = write(tmp_path / "many.yaml", "# What does it cost?\nsweep: {seed: [0, 1, 2, 3]}\n")
    began = time.process_time()
    compose_config("unlearn", [])
    composing = time.process_time() - began
    began = time.process_time()
    assert status(file, "--quiet") == 0
    added = (time.process_time() - began) / 4 - composing
    assert len(work) == 4
    assert added < 1.0  # 5 % of a run of 20 CPU seconds, the quickest of the sandbox


def test_listing_runs_nothing(work: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "tune.yaml", TUNE)
    assert status(path, "--list") == 0
    assert capsys.readouterr().out.count("waiting") == 4 and not work


@pytest.mark.parametrize(
    ("argv", "word"),
    [
        (["sandbox_spread", "--write", "x"], "chooses nothing"),
        (["sandbox_spread", "--jobs", "0"], "at least 1"),
        (["sandbox_spread", "method=nop", "--list"], "Did you mean method=npo"),
    ],
)
def test_wrong_commands_are_told(
    work: list[Any], argv: list[str], word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status(*argv) == 1
    assert word in capsys.readouterr().err and not work


def test_the_content_key_leaves_out_where_and_how_a_run_goes() -> None:
    def key(*overrides: str) -> str:
        return content_key(plain_config(compose_config("unlearn", overrides)))

    assert key() == key("study=other", "job=x", "paths.runs=elsewhere", "logger=csv", "trainer.num_threads=2")
    assert (
        len({key(), key("seed=1"), key("optimizer.lr=1"), key("dataset.world_seed=1"), key("split=val")}) == 5
    )


def test_a_written_record_names_its_sweep(tmp_path: Path) -> None:
    chosen = {"npo": {"overrides": [], "runs": 2, "score": None, "shortfall": 0.25}}
    [path] = write_tuned({"sweep": "s", "commit": "abcdef012", "chosen": chosen}, tmp_path / "t")
    text = path.read_text()
    assert text.startswith("# @package _global_\n") and "abcdef0" in text and "not measured" in text


def test_sweeps_and_experiments_are_found_by_name() -> None:
    assert set(files()) >= {p.parent.name for p in share("experiments").glob("*/experiment.yaml")}
    with pytest.raises(HarmonizeError):
        load_sweep("no_such_file.yaml")


def test_a_sweep_of_diagnoses_and_the_note_of_its_experiment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from omegaconf import OmegaConf

    seen: list[Any] = []

    def run(cfg: Any, folder: Path) -> dict[str, Any]:
        place = RunFolder(folder).prepare(resume=cfg.resume, overwrite=cfg.overwrite)
        with place.running():
            place.write_text("config.yaml", OmegaConf.to_yaml(cfg, resolve=True))
            seen.append((cfg.compare, cfg.loss.value, cfg.dataset.world_seed))
            found = Results(
                plain_config(cfg), cfg.seed, {"cosine_forget_retain": metric(0.1)}, command="diagnose"
            )
            write_results(folder / "results.json", found)
        return {}

    monkeypatch.setattr("harmonize.unlearning.diagnose.run", run)
    monkeypatch.chdir(tmp_path)
    asked = ["gradient_similarity", "--profile", "sandbox", "dataset.world_seed=10", "loss=nll,value"]
    assert status(*asked) == 0
    assert sorted(seen) == [("raw", "nll", 10), ("raw", "value", 10)]
    assert status(*asked) == 0
    assert len(seen) == 2  # done by content
    (entry,) = json.loads((tmp_path / "runs" / "gradient_similarity" / "experiment.json").read_text())[
        "experiments"
    ]
    assert entry == {"name": "gradient_similarity", "profile": "sandbox", "overrides": asked[3:]}


def test_a_profile_of_a_sweep_without(capsys: pytest.CaptureFixture[str]) -> None:
    assert status("push_weight", "--profile", "full") == 1
    assert "'push_weight' has no profiles" in capsys.readouterr().err
