"""The stage after training: every edit as a method and after another one, LoRA and full; repair; what it costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from harmonize.config.instantiate import parameters, resolve, to_plain
from harmonize.data.batch import collate
from harmonize.edits.inputs import inputs_of
from harmonize.errors import ConfigError, DataError, ModelError
from harmonize.models.body import answer_hidden
from harmonize.models.head import Head
from harmonize.statistics import Statistics
from harmonize.unlearning.finetuned import finetuned_weights
from harmonize.unlearning.finish import OWN_KEYS
from harmonize.unlearning.training import answer_rows
from tests.unlearning.small import LORA, Small, small_config, small_run

EDITS = ("ssd", "task_vector", "tall_mask", "layer_boost", "sparse_update")
AFTER = ("method=npo", "optimizer.lr=1e-3")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder, so that runs share their caches as those of a study do."""
    return tmp_path_factory.mktemp("small")


def rows_of(run: Small, role: str) -> Any:
    from harmonize.unlearning.setup import load_corpus

    return answer_rows(run.cfg, run.loaded, load_corpus(run.cfg))(role)


def nll(run: Small, weights: dict[str, Tensor], role: str) -> float:
    """Mean negative log-likelihood of a role's answers under some weights."""
    model, before = run.loaded.model, {n: p.detach().clone() for n, p in run.loaded.model.named_parameters()}
    batch = collate(rows_of(run, role), run.loaded.renderer.pad_id)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights[name])
        found = -float(Head.of(model).log_probs(answer_hidden(model, batch), batch.labels).mean())
        for name, parameter in model.named_parameters():
            parameter.copy_(before[name])
    return found


def expected(run: Small) -> dict[str, Tensor]:
    """The edit's function called by hand on what the run started from and trained."""
    function = resolve(run.cfg.edit._target_)
    given = {"start": run.start, "weights": run.trained, **run.finish._measured}  # type: ignore[union-attr]
    settings = parameters(to_plain(run.cfg.edit), OWN_KEYS)
    return {**run.trained, **dict(function(*(given[n] for n in inputs_of(function)), **settings))}


@pytest.mark.parametrize("tuning", [(), LORA], ids=["full", "lora"])
@pytest.mark.parametrize("before", [(), AFTER], ids=["as_method", "after_npo"])
@pytest.mark.parametrize("edit", EDITS)
def test_every_edit(
    edit: str, before: tuple[str, ...], tuning: tuple[str, ...], shared: Path, folder: Path
) -> None:
    overrides = [f"edit={edit}" if before else f"method={edit}", *before, *tuning]
    if edit == "ssd":
        overrides.append("edit.alpha=2.0")
    run = small_run(shared, folder, *overrides)
    assert not hasattr(run.loaded.model, "peft_config") and not run.loaded.model.training
    assert run.final.keys() == run.start.keys()
    by_hand = expected(run)
    # LoRA's sum and the merged weights agree bit for bit, so everything does
    assert all(torch.equal(run.final[n], by_hand[n]) for n in by_hand)
    report = run.reports["edit"]
    differing = {n for n in run.final if not torch.equal(run.final[n], run.trained[n])}
    assert report["name"] == edit and set(report["tensors"]) == differing != set()
    assert report["total"]["changed"] == sum(int((run.final[n] != run.trained[n]).sum()) for n in differing)
    trained = any(not torch.equal(run.trained[n], run.start[n]) for n in run.start)
    assert trained == (bool(before) or edit in ("layer_boost", "sparse_update"))
    tied = run.loaded.model.lm_head.weight is run.loaded.model.get_input_embeddings().weight
    assert tied == run.loaded.model.config.tie_word_embeddings


def test_a_task_vector_raises_the_loss_of_what_it_was_trained_on(shared: Path, folder: Path) -> None:
    run = small_run(shared, folder, "method=task_vector", "edit.inputs.weights.steps=30", "optimizer.lr=1e-3")
    learned = {**run.start, **run.finish._measured["forget_weights"]}  # type: ignore[union-attr]
    assert nll(run, learned, "forget") < 0.5 * nll(run, run.start, "forget") < nll(run, run.final, "forget")


def test_the_fine_tuned_checkpoint_is_made_once_and_leaves_no_trace(
    shared: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harmonize.unlearning import finetuned

    calls: list[str] = []
    learn = finetuned.learn
    monkeypatch.setattr(finetuned, "learn", lambda *a, **k: (calls.append(k["title"]), learn(*a, **k)))
    cache = f"paths.cache_dir={folder / 'own'}"
    first = small_run(shared, folder, "method=task_vector", cache)
    again = small_run(shared, folder, "method=tall_mask", "edit.alpha=0.5", cache)
    third = small_run(shared, folder, "method=task_vector", "edit.alpha=2.0", cache)
    assert calls == ["fine-tuning on forget", "fine-tuning on neighbor+retain"]
    small_run(shared, folder, "method=task_vector", "optimizer.lr=1e-3", cache)
    small_run(shared, folder, "method=task_vector", cache, *LORA)
    assert len(calls) == 4
    assert len(first.recorded) == 1 and set(first.recorded) <= set(again.recorded)
    (place,) = first.recorded
    assert place.parent == folder / "own" / "finetuned" and place.stat().st_mode & 0o077 == 0
    half = {n: first.start[n] + 2 * (first.final[n] - first.start[n]) for n in first.start}
    assert all(torch.allclose(third.final[n], half[n], atol=1e-6) for n in half)


MORE = ("peft=lora", "peft.r=4", "peft.target_modules=[q_proj]", "+peft.modules_to_save=[norm]")


def test_modules_that_adapters_train_whole(shared: Path, folder: Path) -> None:
    """Beside adapters some modules may be trained whole; start, edit and checkpoint count them in."""
    run = small_run(shared, folder, *AFTER, *MORE, "edit=layer_boost", "edit.unit=block", "edit.share=1.0")
    by_hand = expected(run)
    assert all(torch.equal(run.final[n], by_hand[n]) for n in by_hand)
    assert not torch.equal(run.trained["model.norm.weight"], run.start["model.norm.weight"])
    undone = small_run(shared, folder, *AFTER, *MORE, "edit=sparse_update", "edit.share=0.0")
    assert all(torch.equal(undone.final[n], undone.start[n]) for n in undone.start)
    vector = small_run(shared, folder, "method=task_vector", *MORE, "optimizer.lr=1e-3")
    learned = vector.finish._measured["forget_weights"]  # type: ignore[union-attr]
    assert "model.norm.weight" in learned and vector.reports["edit"]["tensors"].keys() == learned.keys()


@pytest.mark.parametrize("tuning", [(), LORA, MORE], ids=["full", "lora", "more"])
def test_fine_tuning_is_undone_bit_for_bit(tuning: tuple[str, ...], shared: Path, folder: Path) -> None:
    from harmonize.unlearning.setup import load_corpus
    from harmonize.unlearning.targets import load_target

    cfg = small_config(shared, folder, f"paths.cache_dir={folder / 'undone'}", *tuning)
    corpus = load_corpus(cfg)
    loaded = load_target(cfg, corpus, None)
    model = loaded.model
    before = {n: (v.clone(), v.requires_grad) for n, v in model.state_dict(keep_vars=True).items()}
    names = {n for n, _ in model.named_modules()}
    found = finetuned_weights(cfg, loaded, answer_rows(cfg, loaded, corpus)("forget"), "forget", steps=2)
    assert loaded.model is model and {n for n, _ in model.named_modules()} == names
    for name, value in model.state_dict(keep_vars=True).items():
        assert torch.equal(value, before[name][0]) and value.requires_grad == before[name][1], name
        assert value.grad is None
    changed = {n.split(".")[-2] for n in found}
    norms = {"norm", "input_layernorm", "post_attention_layernorm"}  # peft goes by how names end
    some = {LORA: {"q_proj", "down_proj"}, MORE: {"q_proj", *norms}}
    assert changed == some[tuning] if tuning else len(changed) > 5


def test_bfloat16_checkpoints_keep_their_dtype(shared: Path, folder: Path) -> None:
    run = small_run(
        shared, folder, "method=task_vector", "model.dtype=bfloat16", "trainer.precision=bf16-true"
    )
    assert {v.dtype for v in run.finish._measured["forget_weights"].values()} == {torch.bfloat16}  # type: ignore[union-attr]
    assert {v.dtype for v in run.final.values()} == {torch.bfloat16} and run.reports["edit"]["total"][
        "changed"
    ]


def test_statistics_are_those_of_the_start_model(shared: Path, folder: Path) -> None:
    """After another method the importances are still the start's, and a second run finds them."""
    run = small_run(shared, folder, "edit=ssd", *AFTER)
    fresh = small_run(shared, folder, "edit=ssd", "edit.alpha=3.0", "method=grad_ascent")
    assert set(run.recorded) == set(fresh.recorded)
    own = Statistics(fresh.loaded, lambda role: rows_of(fresh, role), folder / "other")
    with torch.no_grad():
        for name, parameter in fresh.loaded.model.named_parameters():
            parameter.copy_(fresh.start[name])
    slow = own.get("fisher", ["forget"])
    measured = run.finish._measured["forget_fisher"]  # type: ignore[union-attr]
    assert all(torch.equal(measured[n], slow[n]) for n in slow)


def test_an_edit_can_be_kept_to_some_layers(shared: Path, folder: Path) -> None:
    run = small_run(
        shared, folder, "method=ssd", "edit.alpha=1.0", "edit.inputs.fisher.layers=['*layers.1.mlp*']"
    )
    assert run.reports["edit"]["tensors"] and all("layers.1.mlp" in n for n in run.reports["edit"]["tensors"])
    with pytest.raises(ModelError, match=r"'\*ffn\*' matches no layer"):
        small_run(shared, folder, "method=ssd", "edit.inputs.fisher.layers=['*ffn*']")


def test_without_edit_and_repair_there_is_no_stage(shared: Path, folder: Path) -> None:
    run = small_run(shared, folder, "method=grad_diff")
    assert run.finish is None and not run.recorded


@pytest.mark.parametrize("rank", ["change", "relative", "fisher"])
def test_repair_trains_the_chosen_modules_alone(rank: str, shared: Path, folder: Path) -> None:
    overrides = ["method=grad_ascent", "optimizer.lr=1e-3", "trainer.max_steps=6"]
    plain = small_run(shared, folder, *overrides)
    run = small_run(
        shared, folder, *overrides, "repair=fpf", f"repair.rank={rank}", "repair.modules=3", "repair.steps=20"
    )
    assert all(torch.equal(run.trained[n], plain.final[n]) for n in run.trained)
    moved = {n.rpartition(".")[0] for n in run.final if not torch.equal(run.final[n], run.trained[n])}
    report = run.reports["repair"]
    assert moved == set(report["modules"]) and len(moved) == 3 and report["rows"] == 4
    assert nll(run, run.final, "retain") < nll(run, run.trained, "retain")
    assert all(p.requires_grad and p.grad is None for p in run.loaded.model.parameters())
    scores = slow_scores(run, rank)
    top = sorted(scores, key=lambda n: -scores[n])[:3]
    assert list(report["modules"]) == top
    assert list(report["modules"].values()) == pytest.approx([scores[n] for n in top], rel=1e-4)


def slow_scores(run: Small, rank: str) -> dict[str, float]:
    """Scores module by module, all its entries in one vector."""
    fisher = {}
    if rank == "fisher":
        with torch.no_grad():
            for name, parameter in run.loaded.model.named_parameters():
                parameter.copy_(run.start[name])
        statistics = Statistics(run.loaded, lambda role: rows_of(run, role), run.cfg.paths.cache_dir)
        fisher = statistics.get("fisher", ["neighbor", "retain"])
    found = {}
    for module in {n.rpartition(".")[0] for n in run.start}:
        own = [n for n in run.start if n.rpartition(".")[0] == module]
        before = torch.cat([run.start[n].flatten() for n in own]).double()
        moved = torch.cat([run.trained[n].flatten() for n in own]).double() - before
        if rank == "fisher":
            found[module] = float(torch.cat([fisher[n].flatten() for n in own]).double().mean())
        else:
            found[module] = float(moved.abs().mean() if rank == "change" else moved.norm() / before.norm())
    return found


def test_repair_after_an_edit_with_adapters(shared: Path, folder: Path) -> None:
    run = small_run(shared, folder, *AFTER, *LORA, "edit=layer_boost", "repair=fpf", "repair.steps=3")
    assert set(run.reports) == {"edit", "repair"}
    assert {n.split(".")[-1] for n in run.reports["repair"]["modules"]} <= {"q_proj", "down_proj"}
    again = small_run(shared, folder, *AFTER, *LORA, "edit=layer_boost", "repair=fpf", "repair.steps=3")
    assert all(torch.equal(run.final[n], again.final[n]) for n in run.final)


def test_a_role_without_examples_is_told_before_anything_runs(shared: Path, folder: Path) -> None:
    data = folder / "few.jsonl"
    lines = (folder / "data" / "examples.jsonl").read_text().splitlines()
    data.write_text("\n".join(line for line in lines if '"role": "neighbor"' not in line) + "\n")
    given = f"dataset.examples={data}"
    with pytest.raises(DataError, match=r"edit\.roles\.retain=\[retain\]"):
        small_run(shared, folder, "method=ssd", given)
    small_run(shared, folder, "method=ssd", given, "edit.roles.retain=[retain]", "edit.alpha=1.0")
    with pytest.raises(DataError, match=r"repair\.roles=\[retain\]"):
        small_run(shared, folder, "method=grad_ascent", "repair=fpf", given)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["method=ssd", "edit.alpha=-1"], "edit.alpha=-1"),
        (["method=ssd", "edit.alhpa=1"], "edit.alpha"),
        (["method=ssd", "+edit.alhpa=1"], "Did you mean 'alpha'"),
        (["method=ssd", "edit.dampening=-2"], "edit.dampening"),
        (["method=ssd", "edit.roles.retain=[retian]"], "Did you mean 'retain'"),
        (["method=ssd", "edit.roles.retain=[]"], "edit.roles.retain=[retain]"),
        (["method=ssd", "+edit.roles.neighbor=[neighbor]"], "~edit.roles.neighbor"),
        (["method=ssd", "edit.inputs.fisher.group_rows=0"], "edit.inputs.fisher.group_rows"),
        (["method=ssd", "edit.inputs.fisher.layers='*mlp*'"], "list of patterns"),
        (["method=ssd", "+edit.inputs.fisher.centered=true"], "~edit.inputs.fisher.centered"),
        (["method=ssd", "+edit.inputs.weights={}"], "~edit.inputs.weights"),
        (["method=ssd", "edit=none"], "method.objectives is empty"),
        (["method=ssd", "edit=layer_boost"], "method=ssd trains nothing"),
        (["method=ssd", "statistics.path=nowhere"], "statistics.path=nowhere"),
        (["method=task_vector", "edit.alpha=.inf"], "edit.alpha"),
        (["method=task_vector", "edit.inputs.weights.steps=0"], "edit.inputs.weights.steps"),
        (["method=tall_mask", "edit.threshold=-0.1"], "edit.threshold=0.4"),
        (["method=layer_boost", "edit.share=25"], "edit.share"),
        (["method=layer_boost", "edit.unit=head"], "edit.unit"),
        (["method=npo", "edit=sparse_update", "edit.keep=all"], "edit.keep"),
        (["method=npo", "edit=sparse_update", *LORA, "peft.merge=false"], "peft.merge=true"),
        (["method=npo", "edit=sparse_update", *LORA, "+peft.use_dora=true"], "peft.use_dora=false"),
        (["method=npo", "+edit.alpha=1"], "edit.alpha has no effect with edit=none"),
        (["method=npo", "repair=fpf", "repair.rank=size"], "repair.rank"),
        (["method=npo", "repair=fpf", "repair.steps=0"], "repair.steps"),
        (["method=npo", "repair=fpf", "repair.lr=0"], "repair.lr"),
        (["method=npo", "repair=fpf", "repair.roles=[general]"], "repair.roles"),
        (["method=npo", "edit._target_=harmonize.edits.ssd.sd"], "ssd"),
        (["method=npo", "edit._target_=harmonize.objectives.preference.npo"], "nothing supplies"),
    ],
)
def test_mistakes_are_told_at_configuration_time(
    overrides: list[str], words: str, shared: Path, folder: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        small_config(shared, folder, *overrides)
    assert words in str(caught.value)


def test_diagnose_takes_methods_that_train_nothing() -> None:
    from harmonize.config.compose import compose_config

    compose_config("diagnose", ["method=ssd"])
    with pytest.raises(ConfigError, match="loss=nll"):
        compose_config("diagnose", ["method=ssd", "loss=method"])
