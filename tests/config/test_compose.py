"""Composition: everything that is wrong is said at once, with what mends it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from harmonize.config.compose import compose_config
from harmonize.data.batch import RESPONSES
from harmonize.errors import ConfigError


def problems(command: str, *overrides: str, check: bool = True, **options: object) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        compose_config(command, overrides, check=check, **options)  # type: ignore[arg-type]
    return caught.value.problems


def test_every_mistake_is_in_one_message() -> None:
    found = problems(
        "unlearn",
        "method=bidirctional",
        "dataset=tofuu",
        "seed=abc",
        "trainer.max_step=3",
        "lr=1e-4",
        "foo",
        "dataset.prefill.mode=randm",
        "dataset.wrold_seed=3",
        "+trainer.foo=1",
        "seed=1,2",
        "optimizer.lr=-1",
        "resume=true",
        "overwrite=true",
    )
    expected = [
        "Did you mean method=bidirectional?",
        "Did you mean dataset=tofu?",
        "seed=abc: expected a whole number. For example seed=0.",
        "Did you mean trainer.max_steps=3?",
        "Did you mean optimizer.lr=1e-4?",
        "'foo' is no override.",
        "Did you mean 'random'?",
        "Did you mean dataset.world_seed=3?",
        "trainer has no key 'foo'",
        "Add -m to run every value",
        "optimizer.lr=-1: expected a number above 0.",
        "resume and overwrite exclude each other.",
    ]
    for text in expected:
        assert sum(text in problem for problem in found) == 1, (text, found)
    assert len(found) == len(expected)


@pytest.mark.parametrize(
    ("command", "overrides", "message"),
    [
        ("unlearn", ["dataset=tofu", "dataset.root=x"], "Use model=hf"),
        ("unlearn", ["dataset=tofu", "model=hf"], "Add dataset.root=<folder>"),
        ("unlearn", ["model=hf"], "model.name_or_path=<folder> (or hf:owner/name"),
        ("unlearn", ["model.name_or_path=gpt2"], "model.name_or_path=hf:gpt2"),
        ("unlearn", ["model.name_or_path=sandbox:targt"], "sandbox:target"),
        ("unlearn", ["model.dtype=fp16"], "float16"),
        ("unlearn", ["model.dtype=float16"], "too coarse"),
        ("unlearn", ["trainer.precision=bf16-true"], "model.dtype=bfloat16"),
        ("unlearn", ["trainer.precision=16-mixed", "trainer=cpu"], "bf16-mixed"),
        ("unlearn", ["model.plain_question=hello"], "{question}"),
        ("unlearn", ["method.response.forget=techer"], "Did you mean 'teacher'"),
        ("unlearn", ["+method.response.general=teacher"], "unknown role 'general'"),
        ("unlearn", ["method=dpo", "method.response.forget=reference"], "gives no pair with the data's own"),
        (
            "unlearn",
            ["method=npo", "method.response.forget=[reference,reference]"],
            "a list of different ones",
        ),
        ("unlearn", ["method.response.retain=random"], "scores no random tokens"),
        ("unlearn", ["method=ensemble_teacher", "teacher.cache=topk"], "averages all logits"),
        ("unlearn", ["method.objectives.pull.roles=[forgt]"], "Did you mean 'forget'"),
        ("unlearn", ["method.objectives.pull.weight=.inf"], "finite"),
        ("unlearn", ["+method.objectives.pull.kk=3"], "Did you mean 'k'"),
        ("unlearn", ["~method.objectives.pull", "~method.objectives.push"], "method.objectives is empty"),
        ("unlearn", ["method.objectives.pull._target_=os.system"], "--allow os"),
        ("unlearn", ["sampler.rows.forget=-1"], "whole number from 0"),
        ("unlearn", ["sampler.rows={forget: 0, neighbor: 0, retain: 0}"], "no row for any role"),
        (
            "unlearn",
            ["method=grad_diff", "sampler.rows.forget=0"],
            "Remove it with ~method.objectives.forget",
        ),
        ("unlearn", ["trainer.accumulate_grad_batches=99"], "accumulate_grad_batches=1"),
        ("unlearn", ["teacher.cache=topk", "teacher.cache_top_k=4"], "teacher.cache_top_k=16"),
        (
            "unlearn",
            ["teacher.cache_over_budget=topk", "teacher.cache_top_k=4"],
            "or teacher.cache_over_budget=error",
        ),
        ("unlearn", ["teacher.cache=topk", "teacher.cache_top_k=0"], "at least 1"),
        ("unlearn", ["method=ensemble_teacher", "teacher.cache_over_budget=topk"], "averages all logits"),
        ("unlearn", ["method=bild", "teacher.cache_over_budget=tpk"], "Did you mean 'topk'"),
        ("unlearn", ["teacher.cache_budget=20"], "For example teacher.cache_budget=20GB"),
        ("evaluate", ["teacher.cache_budget=much"], "For example teacher.cache_budget=20GB"),
        (
            "unlearn",
            ["teacher.cache_over_budget=topk", "trainer.devices=2"],
            "and teacher.cache=topk if the space is known to be short",
        ),
        ("unlearn", ["teacher.instruct_roles=[forgets]"], "Did you mean 'forget'"),
        ("unlearn", ["dataset.prefill.depths=[0.5,1.5]"], "outside (0, 1]"),
        ("unlearn", ["dataset.prefill.share=2"], "a share from 0 to 1"),
        (
            "unlearn",
            ["dataset.prefill.openers=false", "dataset.prefill.prefixes=false"],
            "dataset.prefill.mode=none",
        ),
        ("unlearn", ["peft=qlora"], "Use peft=lora"),
        ("unlearn", ["peft=lora", "peft.target_modules=[q_proj,lm_head]"], "output head"),
        ("unlearn", ["peft=lora", "+peft.rank=8"], "peft.rank"),
        ("unlearn", ["+peft.r=8"], "no effect with peft_type=none"),
        ("unlearn", ["+optimizer.learning_rate=1"], "optimizer.learning_rate"),
        ("unlearn", ["+scheduler.warmup=1"], "warmup_steps"),
        ("unlearn", ["trainer.early_stop_patience=2", "trainer.val_check_interval=0"], "takes none"),
        ("unlearn", ["logger.wandb.mode=onlin"], "Did you mean 'online'"),
        ("unlearn", ["allow=[os]"], "--allow os"),
        ("unlearn", ["suite.confidence=1"], "suite.confidence=0.95"),
        ("unlearn", ["+callbacks.x=3"], "~callbacks.x"),
        ("evaluate", ["split=tst"], "Did you mean 'test'"),
        ("evaluate", ["split=train"], "For example split=test"),
        ("unlearn", ["model.plain_question='{question} {x}'"], "has braces beside {question}"),
        ("unlearn", ["+attack.x=3"], "~attack.x"),
        ("finetune", ["dataset=tofu", "dataset.root=x"], "from_scratch=false"),
        ("finetune", ["from_scratch=false"], "from_scratch=true"),
        ("finetune", ["batch_rows=0"], "at least 1"),
    ],
)
def test_impossible_combinations_say_what_mends_them(
    command: str, overrides: list[str], message: str
) -> None:
    found = problems(command, *overrides)
    assert any(message in problem for problem in found), found


DENSE = "def kl(teacher_logits, row, offset, n_rows):\n    ...\n"


@pytest.mark.parametrize(
    ("overrides", "exact"),
    [
        (["teacher.cache=topk"], "teacher.cache=hidden"),
        (["teacher.cache_over_budget=topk"], "teacher.cache_over_budget=error"),
    ],
)
def test_all_logits_cannot_come_from_top_lists(
    overrides: list[str], exact: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dense_losses.py").write_text(DENSE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [p for p in sys.path if p])
    monkeypatch.setenv("HARMONIZE_ALLOW", "dense_losses")
    dense = ["method.objectives.pull._target_=dense_losses.kl", "~method.objectives.pull.k"]
    found = problems("unlearn", *dense, *overrides)
    assert any("reads all logits of the teacher" in p and p.endswith(f"Use {exact}.") for p in found), found


@pytest.mark.parametrize("key", ["cache", "cache_over_budget"])
def test_statistics_over_all_positions_cannot_come_from_a_live_model(key: str) -> None:
    target = "harmonize.objectives.representation.threshold_margin"
    found = problems(
        "unlearn", "method=rmu", f"method.objectives.keep._target_={target}", f"teacher.{key}=none"
    )
    assert any("over all states" in p and f"teacher.{key}=" in p for p in found), found


def test_split_shares_must_sum_to_one() -> None:
    found = problems(
        "unlearn",
        "dataset=local",
        "dataset.root=.",
        "model=hf",
        "model.name_or_path=.",
        "dataset.split={retain: {train: 0.9, val: 0.5, test: 0.1}}",
    )
    assert "sum to 1" in found[0]


def test_terms_are_swept_and_removed_by_override() -> None:
    cfg = compose_config("unlearn", ["method.objectives.push.weight=0.5", "~method.objectives.pull"])
    assert list(cfg.method.objectives) == ["push"]
    assert cfg.method.objectives.push.weight == 0.5


def test_lora_composes() -> None:
    assert compose_config("unlearn", ["peft=lora", "peft.r=4"]).peft.r == 4


def test_a_config_folder_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "mine.yaml").write_text("defaults: [duet, _self_]\nname: mine\n")
    assert compose_config("unlearn", ["method=mine"], config_dirs=[tmp_path]).method.name == "mine"
    assert (
        compose_config("unlearn", ["method=mine", f"hydra.searchpath=[file://{tmp_path}]"]).method.name
        == "mine"
    )
    (tmp_path / "method" / "typo.yaml").write_text("defaults: [duet, _self_]\nnam: mine\n")
    with pytest.raises(ConfigError, match="nam"):
        compose_config("unlearn", ["method=typo"], config_dirs=[tmp_path])
    with pytest.raises(ConfigError, match="no such folder"):
        compose_config("unlearn", [], config_dirs=[tmp_path / "nowhere"])


def test_responses_are_the_ones_of_the_batch() -> None:
    from harmonize.config.method_checks import RESPONSES as CHECKED

    assert set(CHECKED) == set(RESPONSES)
