import json
import logging
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from harmonize.data.batch import Row, collate
from harmonize.errors import ConfigError, ModelError, RunError
from harmonize.models import teacher as teacher_module
from harmonize.models.body import answer_hidden
from harmonize.models.frozen import Fp16Limit, TeacherRequest
from harmonize.models.generate import greedy
from harmonize.models.head import Head
from harmonize.models.lora import adapters_off, apply_peft
from harmonize.models.teacher import build_teacher_cache
from harmonize.objectives.distill import pull, push
from harmonize.objectives.inputs import call, list_sizes
from harmonize.objectives.outputs import Outputs
from tests.models.tiny import V, tiny

LORA = {"peft_type": "LORA", "r": 2, "target_modules": ["q_proj", "v_proj"]}


def requests(count: int = 6) -> list[TeacherRequest]:
    draw = torch.Generator().manual_seed(5)

    def ids(low: int, high: int) -> tuple[int, ...]:
        n = int(torch.randint(low, high, (1,), generator=draw))
        return tuple(torch.randint(3, V, (n,), generator=draw).tolist())

    return [
        TeacherRequest(f"e{i}", "forget", ids(3, 9), None if i % 2 else (*ids(1, 6), 2)) for i in range(count)
    ]


def build(model, folder: Path, mode: str = "hidden", asked=None, **changes):
    options = {
        "digest": "weights",
        "renderer_digest": "text",
        "end_id": 2,
        "stop_ids": [2],
        "pad_id": 0,
        "max_new_tokens": 5,
        "top_k": 20,
        "batch_size": 4,
    }
    head = Head.of(model)
    return build_teacher_cache(
        model, head, asked or requests(), mode=mode, cache_dir=folder, **{**options, **changes}
    )


def student_rows(cache) -> list[Row]:
    return [
        Row(
            r.example_id,
            "forget",
            "s",
            (5, 6, 7),
            cache.target(r.example_id),
            cache_start=cache.start(r.example_id),
        )
        for r in requests()
    ]


def losses(student, cache, dense: bool | None = None) -> torch.Tensor:
    batch = collate(student_rows(cache), pad_id=0)
    calls = [(pull, {"k": 8}), (push, {"k": 8, "k_teacher": 4})]
    outputs = Outputs(
        batch, answer_hidden(student, batch), Head.of(student), cache, sizes=list_sizes(calls), dense=dense
    )
    return torch.stack([call(f, outputs, s)[0] for f, s in calls])


def test_rows_are_the_models_own_logits_at_its_own_responses(tmp_path: Path) -> None:
    model = tiny("gemma2")
    cache = build(model, tmp_path)
    own = greedy(model, [r.prompt for r in requests()], [2], 0, 5)
    for request, answer in zip(requests(), own, strict=True):
        # an answer that hit the limit did not end, so it gets no end of turn
        target = request.target or (tuple(answer) if len(answer) == 5 else (*answer, 2))
        assert cache.target(request.example_id) == target
        ids = torch.tensor([[*request.prompt, *target]])
        first = len(request.prompt) - 1
        expected = model(input_ids=ids).logits[0, first : first + len(target)]
        index = torch.arange(len(target)) + cache.start(request.example_id)
        torch.testing.assert_close(cache.logits(index), expected, rtol=0, atol=2e-2)
        top_ids, top_values = cache.top(index, 3)
        torch.testing.assert_close(top_values, cache.logits(index).topk(3).values)
        torch.testing.assert_close(cache.at(index, top_ids), top_values)
        torch.testing.assert_close(cache.top(index, V)[1], cache.logits(index).sort(descending=True).values)


def test_second_build_runs_no_teacher(tmp_path: Path) -> None:
    model = tiny("llama")
    first = build(model, tmp_path)
    second = build(model, tmp_path, asked=requests()[::-1], batch_size=3)
    assert first.forwards > 0 and second.forwards == 0 and first.path == second.path
    student = tiny("llama", seed=1)
    assert torch.equal(losses(student, first), losses(student, second))


@pytest.mark.parametrize(
    "change",
    [
        {"digest": "other"},
        {"renderer_digest": "other"},
        {"max_new_tokens": 4},
        {"stop_ids": [2, 3]},
        {"top_k": 9},
        {"mode": "topk"},
        {"asked": requests()[:5]},
    ],
)
def test_whatever_matters_is_in_the_key(change: dict, tmp_path: Path) -> None:
    model = tiny("llama")
    assert build(model, tmp_path).path != build(model, tmp_path, **change).path


def test_limits_do_not_matter_where_nothing_is_generated(tmp_path: Path) -> None:
    given = [r for r in requests() if r.target]
    model = tiny("llama")
    assert (
        build(model, tmp_path, asked=given).path == build(model, tmp_path, asked=given, max_new_tokens=9).path
    )


@pytest.mark.parametrize("dense", [True, False])
def test_hidden_and_live_teacher_agree(dense: bool, tmp_path: Path) -> None:
    model, student = tiny("llama"), tiny("llama", seed=1)
    stored, live = build(model, tmp_path), build(model, tmp_path, mode="none")
    before = live.forwards
    torch.testing.assert_close(
        losses(student, live, dense), losses(student, stored, dense), rtol=1e-5, atol=1e-5
    )
    assert live.forwards > before and stored.path is not None and live.path is None
    mixed = torch.tensor([7, -1, 0, 7, live.positions - 1])
    expected = stored.logits(mixed)
    expected[1] = 0
    got = live.logits(mixed)
    got[1] = 0
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=2e-3)


def test_live_teacher_of_a_full_fine_tuning_does_not_move(tmp_path: Path) -> None:
    model = tiny("llama")
    live = build(model, tmp_path, mode="none")
    index = torch.arange(4)
    before = live.logits(index)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    live.prepare(torch.arange(live.positions))
    torch.testing.assert_close(live.logits(index), before, rtol=1e-4, atol=2e-3)


def test_topk_bounds_what_it_does_not_know(tmp_path: Path) -> None:
    model = tiny("llama")
    exact, bounded = build(model, tmp_path), build(model, tmp_path, mode="topk", top_k=5)
    index = torch.arange(exact.positions)
    every = torch.arange(V).expand(len(index), V)
    truth, bound = exact.at(index, every), bounded.at(index, every)
    known = torch.zeros_like(truth, dtype=torch.bool).scatter(1, exact.top(index, 5)[0], True)
    torch.testing.assert_close(bound[known], truth[known])
    assert bool((bound >= truth - 1e-6).all())
    assert torch.equal(bound.min(1).values, exact.top(index, 5)[1][:, -1])
    assert bounded.missing_share == bounded.missing_since() == pytest.approx(1 - 5 / V)
    bounded.at(torch.full((3,), -1), every[:3])  # positions without a teacher, which nothing reads
    assert bounded.missing_since() == 0 and bounded.missing_share == pytest.approx(1 - 5 / V)
    bounded.at(torch.tensor([0, -1]), bounded.top(torch.tensor([0, 0]), 5)[0])
    assert bounded.missing_since() == 0 and bounded.missing_share < 1 - 5 / V
    assert exact.missing_share == exact.missing_since() == 0
    assert not (bounded.path / "hidden.npy").exists()
    with pytest.raises(ConfigError, match=r"teacher\.cache_top_k=6"):
        bounded.top(index, 6)
    student = tiny("llama", seed=1)
    (pull_e, push_e), (pull_b, push_b) = (
        losses(student, exact),
        losses(student, build(model, tmp_path, mode="topk", top_k=8)),
    )
    torch.testing.assert_close(pull_b, pull_e)
    assert bool((push_b <= push_e + 1e-6).all()) and float(push_b.detach().sum()) > 0


def test_wide_topk_lookups_agree(tmp_path: Path, monkeypatch) -> None:
    cache = build(tiny("llama"), tmp_path, mode="topk")
    index, ids = torch.arange(5), torch.randint(0, V, (5, 30))
    narrow = cache.at(index, ids)
    monkeypatch.setattr("harmonize.models.cache._WIDE", 1)
    assert torch.equal(cache.at(index, ids), narrow)


@pytest.mark.parametrize("damage", ["cut", "flip", "header", "missing"])
def test_damaged_folders_are_rebuilt_with_a_notice(damage: str, tmp_path: Path, caplog) -> None:
    model = tiny("llama")
    first = build(model, tmp_path)
    target = first.path / ("header.json" if damage == "header" else "hidden.npy")
    content = bytearray(target.read_bytes())
    if damage == "cut":
        target.write_bytes(content[:-3])
    elif damage == "missing":
        target.unlink()
    elif damage == "flip":
        content[-1] ^= 1
        target.write_bytes(content)
    else:
        header = json.loads(content)
        header["key"] = "0" * 64
        target.write_text(json.dumps(header))
    with caplog.at_level(logging.WARNING):
        second = build(model, tmp_path)
    assert "is damaged" in caplog.text and second.forwards > 0
    assert build(model, tmp_path).forwards == 0
    assert [p.name for p in first.path.parent.iterdir()] == [first.path.name]


def test_files_are_private(tmp_path: Path) -> None:
    cache = build(tiny("llama"), tmp_path)
    assert stat.S_IMODE(cache.path.stat().st_mode) == 0o700
    assert stat.S_IMODE(cache.path.parent.stat().st_mode) == 0o700
    assert {stat.S_IMODE(p.stat().st_mode) for p in cache.path.iterdir()} == {0o600}


def test_an_unwritable_place_is_one_clear_error(tmp_path: Path) -> None:
    place = tmp_path / "file"
    place.write_text("")
    with pytest.raises(RunError, match=r"paths\.cache_dir"):
        build(tiny("llama"), place)


def test_a_failure_while_filling_leaves_nothing(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("harmonize.models.frozen.FP16_LIMIT", 1e-3)
    with pytest.raises(ModelError, match="fp16"):
        build(tiny("llama"), tmp_path)
    assert list((tmp_path / "teacher").iterdir()) == []


def test_a_live_teacher_that_fp16_cannot_hold_says_so_when_it_is_asked_why(
    tmp_path: Path, monkeypatch
) -> None:
    """As on a GPU, where nobody looks at the states before the loss is not finite."""
    model = tiny("llama")
    live = build(model, tmp_path, mode="none")
    monkeypatch.setattr("harmonize.models.frozen.FP16_LIMIT", 1e-3)
    with pytest.raises(ModelError, match="fp16"):
        live.logits(torch.arange(2))
    live.forget()
    monkeypatch.setattr(Fp16Limit, "note", lambda self, hidden: setattr(self, "_peak", hidden.abs().amax()))
    live.logits(torch.arange(2))
    with pytest.raises(ModelError, match="fp16"):
        live.check()
    live.check()  # it was said


def test_another_process_was_first(tmp_path: Path, monkeypatch) -> None:
    model, real = tiny("llama"), teacher_module.fill_teacher

    def slow_fill(*arguments):
        found = real(*arguments)
        monkeypatch.setattr(teacher_module, "fill_teacher", real)
        build(model, tmp_path)
        return found

    monkeypatch.setattr(teacher_module, "fill_teacher", slow_fill)
    cache = build(model, tmp_path)
    assert [p.name for p in cache.path.parent.iterdir()] == [cache.path.name]
    assert build(model, tmp_path).forwards == 0


PROCESS = """
import sys; from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.models.test_teacher import build
from tests.models.tiny import tiny
cache = build(tiny("llama"), Path(sys.argv[1]))
print(cache.path, cache.logits(__import__("torch").arange(cache.positions)).sum().item())
"""


def test_two_processes_fill_one_cache_at_once(tmp_path: Path) -> None:
    root = str(Path(__file__).resolve().parents[2])
    command = [sys.executable, "-c", PROCESS, str(tmp_path), root]
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in "ab"
    ]
    answers = [p.communicate(timeout=120) for p in running]
    assert [p.returncode for p in running] == [0, 0], answers
    assert answers[0][0] == answers[1][0]
    cache = build(tiny("llama"), tmp_path)
    assert cache.forwards == 0 and [p.name for p in cache.path.parent.iterdir()] == [cache.path.name]


def storages(model) -> set[int]:
    return {p.data_ptr() for p in model.parameters()}


@pytest.mark.parametrize("mode", ["hidden", "none"])
def test_under_lora_no_second_copy_of_the_weights(mode: str, tmp_path: Path) -> None:
    model = tiny("llama")
    expected = build(model, tmp_path / "base").logits(torch.arange(8))
    adapted = apply_peft(model, LORA)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    before = storages(adapted)
    cache = build(adapted, tmp_path, mode=mode)
    assert cache.head.weight.data_ptr() == adapted.get_output_embeddings().weight.data_ptr()
    assert storages(adapted) == before
    if mode == "none":
        reachable = cache._run.__closure__
        inner = next(c.cell_contents for c in reachable if hasattr(c.cell_contents, "model"))
        assert inner.model is not adapted and storages(inner.model) <= before
        assert not any("lora" in name for name, _ in inner.model.named_modules())
    torch.testing.assert_close(cache.logits(torch.arange(8)), expected, rtol=1e-5, atol=2e-3)
    ids = torch.tensor([[4, 5, 6]])
    changed = adapted(input_ids=ids).logits
    with adapters_off(adapted):
        assert not torch.allclose(adapted(input_ids=ids).logits, changed)
    assert torch.equal(adapted(input_ids=ids).logits, changed)


def test_full_fine_tuning_copies_the_head_alone(tmp_path: Path) -> None:
    model = tiny("llama")
    cache = build(model, tmp_path)
    index = torch.arange(cache.positions)
    before = cache.logits(index)
    assert cache.head.weight.data_ptr() not in storages(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(cache.logits(index), before)


def test_training_mode_is_restored(tmp_path: Path) -> None:
    model = tiny("llama").train()
    build(model, tmp_path)
    assert model.training and not model._forward_hooks


def test_one_example_asked_twice(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="same example_id"):
        build(tiny("llama"), tmp_path, asked=[*requests(), requests()[0]])
