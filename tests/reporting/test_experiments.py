"""Experiments: profiles, whose runs a study holds, what is missing, and what a profile with real models needs."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from harmonize.config.compose import compose_config
from harmonize.errors import ConfigError, RunError
from harmonize.reporting import experiment as module
from harmonize.reporting.command import collect, main
from harmonize.reporting.compute import ADAM_STATE, Load, Shape, estimate
from harmonize.reporting.experiment import (
    experiment_of,
    experiments,
    load_experiment,
    profile_names_of,
    write_record,
)
from harmonize.reporting.members import demands, fits, job_of
from harmonize.reporting.needs import MISSING, needs_of, plan
from harmonize.reporting.study import load_study
from harmonize.sweeps.plan import Job, load_sweep
from harmonize.sweeps.profiles import flattened
from harmonize.tracking.metric import Metric

Write = Callable[..., Path]
Make = Callable[..., dict[str, Metric]]

PAPER = "main_books main_wmdp_cyber loss_ablation data_ablation gradient_similarity five_axis_radar".split()
DUET = ["duet_harry_potter", "duet_wmdp"]
EVERY = [(name, profile) for name in [*PAPER, *DUET] for profile in profile_names_of(name)]


def test_there_is_a_folder_for_every_table_and_figure() -> None:
    assert set(PAPER) | set(DUET) <= set(experiments())
    for name in [*PAPER, *DUET]:
        assert {"sandbox", "full"} <= set(profile_names_of(name))
        assert load_experiment(name).found["shows"]
        assert (experiments()[name].parent / "README.md").is_file()


@pytest.mark.parametrize(("name", "profile"), EVERY)
def test_every_profile_composes(name: str, profile: str) -> None:
    """The last job; what is wrong with a full profile is only what is not on this machine."""
    job = load_experiment(name, profile).jobs[-1]
    compose_config(job.command, list(job.overrides), check=profile == "sandbox")


@pytest.mark.parametrize(("name", "profile"), [pair for pair in EVERY if pair[1] != "sandbox"])
def test_what_a_profile_tells_to_type_exists(name: str, profile: str) -> None:
    wanted = needs_of(load_experiment(name, profile))
    assert Shape(**wanted["shape"]).parameters > 1e9
    for item in wanted["data"]:
        program, command, *rest = shlex.split(
            " ".join(item["get"].split()).format(path="somewhere", model="hf:a/b")
        )
        if program == "harmonize":
            assert command == "prepare"
            compose_config("prepare", rest, check=False)
        else:
            assert (program, command) == ("hf", "download")
            assert rest[0].count("/") == 1 and rest[1:] == [
                "--repo-type",
                "dataset",
                "--local-dir",
                "somewhere",
            ]


def test_a_misspelt_profile_and_one_of_a_file_without(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--profile sandbx: 'main_books' has none.*Did you mean 'sandbox'"):
        load_experiment("main_books", "sandbx")
    with pytest.raises(ConfigError, match=r"'leaderboard' has no profiles.*Leave --profile out"):
        load_experiment("leaderboard", "full")
    place = tmp_path / "x" / "experiment.yaml"
    with pytest.raises(ConfigError, match=r"unknown key 'overides'. Did you mean 'overrides'"):
        flattened({"profiles": {"a": {"overides": []}}}, place)
    with pytest.raises(ConfigError, match="runs_of names no experiment"):
        flattened({"runs_of": "nothing"}, place)
    with pytest.raises(ConfigError, match="profiles must map"):
        flattened({"profiles": ["a"]}, place)


def test_a_profile_adds_overrides_and_replaces_keys_of_the_sweep(tmp_path: Path) -> None:
    found = {
        "study": "s",
        "overrides": ["a=1"],
        "sweep": {"seed": [0], "method": ["npo"]},
        "profiles": {"small": {"overrides": ["b=2"]}, "large": {"sweep": {"seed": [0, 1]}}},
    }
    small, large = (flattened(found, tmp_path / "t" / "experiment.yaml", name) for name in ("small", "large"))
    assert (small["overrides"], small["study"], small["profile"]) == (["a=1", "b=2"], "s", "small")
    assert (large["sweep"], large["study"]) == ({"seed": [0, 1], "method": ["npo"]}, "s_large")


def test_a_figure_of_a_tables_runs_has_its_jobs_and_its_study() -> None:
    radar, table = load_experiment("five_axis_radar"), load_experiment("main_books")
    assert radar.jobs == table.jobs and radar.study == table.study
    assert load_experiment("five_axis_radar", "full").study == "main_books_full"


def test_jobs_of_another_command(tmp_path: Path) -> None:
    assert {job.command for job in load_experiment("gradient_similarity").jobs} == {"diagnose"}
    path = tmp_path / "s.yaml"
    path.write_text("# Q?\ncommand: evaluat\nsweep: {seed: [0]}\n")
    with pytest.raises(ConfigError, match="unknown command 'evaluat'"):
        load_sweep(str(path))


FLAT = {
    "seed": "1",
    "method.name": "duet",
    "dataset.name": "sandbox",
    "optimizer.lr": "0.001",
    "teacher.instruction": "never discuss painters",
    "method.objectives.pull.k": "8",
}


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["method=duet", "seed=1", "optimizer.lr=1e-3"], True),
        (["method=npo"], False),
        (["seed=0"], False),
        (["~method.objectives.push"], True),
        (["~method.objectives.pull"], False),
        (["teacher.instruction='never discuss painters'"], True),
        (["tuned=none", "logger=csv", "save_model=false", "study=x"], True),
        (["trainer.max_steps=200"], True),  # nothing is known of a key that the run does not have
    ],
)
def test_a_run_fits_a_job_by_its_configuration(overrides: list[str], expected: bool) -> None:
    assert fits(FLAT, demands(Job(tuple(overrides)))) is expected


def test_a_run_is_of_the_job_that_says_most(tmp_path: Path, write_run: Write) -> None:
    wanted = [demands(Job(("method=duet",))), demands(Job(("method=duet", "~method.objectives.push")))]
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", seed=1, config={"method.objectives.push.weight": 1.0})
    plain, pushed = (
        load_study(tmp_path, keep=lambda run: run.seeds[0] == "0").runs
        + load_study(tmp_path, keep=lambda run: run.seeds[0] == "1").runs
    )
    assert (job_of(plain, wanted), job_of(pushed, wanted)) == (1, 0)
    # of two that say as much, the one whose keys the run has: nothing is known of a term that it lacks
    crossed = [("method=duet", "method.objectives.push.weight=2"), ("method=duet", "~method.objectives.push")]
    assert job_of(plain, [demands(Job(o)) for o in crossed]) == 1


def _duets(folder: Path, write_run: Write, seeds: tuple[int, ...] = (0, 1), method: str = "duet") -> None:
    for seed in seeds:
        write_run(
            folder / f"{method}{seed}",
            method=method,
            seed=seed,
            prefill="none",
            config={"dataset.world_seed": 10},
        )


def test_missing_runs_are_told_and_foreign_ones_left_out(tmp_path: Path, write_run: Write) -> None:
    _duets(tmp_path, write_run)
    _duets(tmp_path, write_run, (0,), "simnpo")
    study = collect(tmp_path, load_experiment("duet_harry_potter"))
    assert len(study.runs) == 2
    assert "1 of 3 runs are of something else and left out." in study.notes
    (note,) = [n for n in study.notes if n.startswith("Missing")]
    assert "8 of the 10 runs of duet_harry_potter are not there: method=grad_ascent seed=0; " in note
    assert note.endswith("and 4 more.")


def test_a_study_of_another_experiment_is_refused(tmp_path: Path, write_run: Write) -> None:
    folder = tmp_path / "runs" / "loss_ablation"
    write_run(folder / "b", method="bild")
    with pytest.raises(
        RunError, match=r"none of its 1 runs is of .*'duet_wmdp'.*They are of 'loss_ablation'"
    ):
        main(["--experiment", "duet_wmdp", "--study", str(folder)])
    other = tmp_path / "runs" / "mine"
    write_run(other / "b", method="bild")
    with pytest.raises(RunError, match=r"See them with: reproduce-paper-table --study .*mine, or make runs"):
        main(["--experiment", "duet_wmdp", "--study", str(other)])
    assert main(["--study", str(folder), "--format", "csv"]) == 0  # and what it says to type shows them


def test_which_experiment_a_study_is_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def of(folder: Path, name: str | None = None) -> tuple[str, str]:
        found = experiment_of(folder, name)
        return (found.name, found.profile) if found else ("", "")

    noted, named, full, unknown = (
        tmp_path / n for n in ("mine", "main_books", "duet_wmdp_full_bio", "other")
    )
    for folder in (noted, named, full, unknown):
        folder.mkdir()
    assert (of(named), of(full), of(unknown)) == (
        ("main_books", "sandbox"),
        ("duet_wmdp", "full_bio"),
        ("", ""),
    )
    assert of(unknown, "loss_ablation") == ("loss_ablation", "sandbox")
    write_record(noted, "loss_ablation", "sandbox", ["seed=0"])
    write_record(noted, "five_axis_radar", "full", [])
    write_record(noted, "loss_ablation", "sandbox", ["seed=5"])
    assert of(noted) == ("loss_ablation", "sandbox")
    assert of(noted, "five_axis_radar") == ("five_axis_radar", "full")
    found = experiment_of(noted)
    assert found and len(found.jobs) == 16, "further seeds stand beside the first"
    assert {o for job in found.jobs for o in job.overrides if o.startswith("seed=")} == {"seed=0", "seed=5"}
    write_record(noted, "loss_ablation", "sandbox", ["seed=5", "trainer.max_steps=2"])
    found = experiment_of(noted)
    assert (
        found and len(found.jobs) == 8 and all("trainer.max_steps=2" in job.overrides for job in found.jobs)
    )
    (noted / module.RECORD).write_text("{")  # a broken note is none
    assert of(noted) == ("", "")


def test_one_seed_only_is_said(tmp_path: Path, write_run: Write, capsys: pytest.CaptureFixture[str]) -> None:
    _duets(tmp_path / "one", write_run, (0,))
    main(["--experiment", "duet_harry_potter", "--study", str(tmp_path / "one"), "--format", "md"])
    text = (tmp_path / "one" / "report" / "table.md").read_text()
    assert "One run a row: no spread and no test" in text
    assert "±" not in text.split("| duet")[1].split("\n")[0]


def test_no_published_numbers_is_said(
    tmp_path: Path, write_run: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "a" / "b", method="bild", config={"dataset.world_seed": 10})
    main(["--experiment", "loss_ablation", "--study", str(tmp_path / "a"), "--format", "md"])
    assert (
        "No published figure of this table is known" in (tmp_path / "a" / "report" / "table.md").read_text()
    )


# Shapes of the published config.json files; body and head as the arithmetic of the models' cards has them.
LLAMA_1B = Shape(2048, 16, 8192, 32, 8, 64, 128256, True)
LLAMA_8B = Shape(4096, 32, 14336, 32, 8, 128, 128256, False)


def test_parameters_of_known_models() -> None:
    # per layer 2 x 2048 x 2048 + 2 x 2048 x 512 + 3 x 2048 x 8192 = 60,817,408; 16 layers
    assert LLAMA_1B.body == 973_078_528
    assert LLAMA_1B.head == 262_668_288
    assert LLAMA_1B.parameters == pytest.approx(1.236e9, rel=1e-3)
    assert LLAMA_8B.body == pytest.approx(6.98e9, rel=1e-3)
    assert LLAMA_8B.parameters == pytest.approx(8.03e9, rel=1e-3)
    config = {
        "hidden_size": 2048,
        "num_hidden_layers": 16,
        "intermediate_size": 8192,
        "num_attention_heads": 32,
    }
    more = {"num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": True}
    assert Shape.of({**config, **more}) == LLAMA_1B


def test_the_estimate_by_hand() -> None:
    """One layer with H 2, I 4, one head of 2, V 10, tied: body 4 x 4 + 3 x 8 = 40, head 20; F_b 80, F_h 40."""
    shape = Shape(2, 1, 4, 1, 1, 2, 10, True)
    assert (shape.body, shape.head, shape.parameters) == (40, 20, 60)
    # rank 1: q, k, v, o have 2 + 2 each, three matrices 2 + 4 each
    assert shape.adapter(1) == 16 + 18
    load = Load(10, 3, 3, 2, 0.5, 5, 100, 50, 4, 0, False)
    found = estimate(shape, load)
    # 60 tokens x (3 x 80 + 0.5 x 40) + the cache: 60 x (1.5 x 80 + 0.5 x 40)
    assert found.training == 60 * 260 + 60 * 140
    assert (found.evaluation, found.generation) == (12_000, 6_000)
    # 16 bytes a weight; 34 x 30 tokens x 2 x 1; 8 x 15 positions x 10
    assert found.memory == 60 * (4 + ADAM_STATE) + 34 * 60 + 8 * 15 * 10
    lora = estimate(shape, Load(10, 3, 3, 2, 0.5, 5, 0, 0, 1, 1, True))
    assert lora.training == 60 * 260 + 60 * 140  # 2 + 1 passes of the body
    assert lora.memory == 60 * 4 + 34 * ADAM_STATE + 2 * 60 + 1200
    assert estimate(shape, Load(10, 3, 3, 2, 0.5, 5, 100, 50, 8, 0, False)).hours == pytest.approx(
        2 * found.hours
    )


def _model(folder: Path) -> Path:
    folder.mkdir(parents=True)
    config = {"hidden_size": 8, "num_hidden_layers": 1, "intermediate_size": 16, "num_attention_heads": 2}
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 32}))
    return folder


def test_the_plan_says_what_is_missing_and_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["--experiment", "duet_wmdp", "--profile", "full"]) == 0
    out = capsys.readouterr().out
    assert "GPU hours, all 9 runs" in out
    for line in (
        "hf download HuggingFaceH4/zephyr-7b-beta",
        "hf download cais/wmdp ",
        "harmonize prepare source=jsonl",
    ):
        assert f"  {line}" in out
    assert out.rstrip().endswith("Then: reproduce-paper-table --experiment duet_wmdp --profile full --run")
    with pytest.raises(
        RunError, match="duet_wmdp, profile full: missing weights of hf:HuggingFaceH4/zephyr-7b-beta"
    ):
        main(["--experiment", "duet_wmdp", "--profile", "full", "--run"])


def test_what_is_there_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = _model(tmp_path / "model")
    for name in (
        "dataset.json",
        "forget.train.jsonl",
        "neighbor.train.jsonl",
        "retain.train.jsonl",
        "general.test.jsonl",
    ):
        (tmp_path / "mine").mkdir(exist_ok=True)
        (tmp_path / "mine" / name).write_text("{}")
    given = [f"model.name_or_path={model}", "dataset.root=mine"]

    def states() -> dict[str, str]:
        found = plan(load_experiment("duet_wmdp", "full", given), tmp_path)
        assert found and found.cost
        return {need.what.split(",")[0].split(" of ")[0]: need.state for need in found.needs}

    before = states()
    assert before["weights"] == MISSING  # a configuration without weights is no model
    (model / "model.safetensors").write_bytes(b"")
    after = states()
    assert (after["weights"], after["questions"], after["MMLU"]) == ("there", "there", "no longer needed")
    assert after["WMDP's questions"] == MISSING
    assert before["weights"] != after["weights"]


def test_a_sharded_model_in_the_cache_needs_every_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harmonize.reporting import needs

    model = _model(tmp_path / "model")
    monkeypatch.setattr(needs, "_snapshot", lambda name: model)
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    (model / "model-1.safetensors").write_bytes(b"")
    _, need = needs._weights("hf:owner/name", "Ask first.")
    assert (need.state, need.get) == (MISSING, "hf download owner/name")
    assert need.detail == "only in part in the cache. Ask first."
    (model / "model-2.safetensors").write_bytes(b"")
    assert needs._weights("hf:owner/name", "")[1].there


def test_a_profile_without_needs_is_just_run(tmp_path: Path) -> None:
    assert plan(load_experiment("duet_wmdp"), tmp_path) is None


def test_labels_of_an_experiment_are_those_of_its_own_rows(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    labels = load_experiment("factorial").labels
    assert labels["teacher.instruction"] == {"null": "", "*": "other wording"}
    for name in experiments():
        jobs = [job for p in profile_names_of(name) or [None] for job in load_experiment(name, p).jobs]
        for key in load_experiment(name).labels:
            assert any(key in override for job in jobs for override in job.overrides), (name, key)
    file = tmp_path / "experiment.yaml"
    file.write_text("# Why?\nsweep: {seed: [0]}\nlabels: {optimizer.lr: fast}\n")
    monkeypatch.setattr(module, "experiments", lambda: {"mine": file})
    with pytest.raises(ConfigError, match="labels map a key to"):
        load_experiment("mine")
