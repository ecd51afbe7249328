"""Schedules, controllers, the combiner, the fine-tuning sampler and the worst-of-n choice."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from harmonize.data.batch import Row
from harmonize.data.example import Dialogue, Example, Role
from harmonize.data.render import Renderer
from harmonize.errors import DataError
from harmonize.models.frozen import TeacherRequest
from harmonize.models.head import Head
from harmonize.unlearning import schedules
from harmonize.unlearning.controllers import Fixed, Scheduled
from harmonize.unlearning.finetune import dialogue_rows
from harmonize.unlearning.gradient import Sum
from harmonize.unlearning.supervised import RowSampler
from harmonize.unlearning.teaching import check_lengths
from harmonize.unlearning.worst import WorstPrefill
from tests.unlearning.toy import make_rows, make_tools, tiny_llama


def rates(name: str, steps: int, **settings: float) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = getattr(schedules, name)(optimizer, steps, **settings)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_schedules_by_hand() -> None:
    assert rates("constant", 4, warmup_steps=2) == [0.5, 1.0, 1.0, 1.0]
    assert rates("linear", 4) == pytest.approx([1.0, 0.75, 0.5, 0.25])
    assert rates("linear", 4, final_share=0.5) == pytest.approx([1.0, 0.875, 0.75, 0.625])
    assert rates("cosine", 4) == pytest.approx([1.0, 0.853553, 0.5, 0.146447], abs=1e-5)
    assert rates("warmup_stable_decay", 5, decay_share=0.4) == pytest.approx([1, 1, 1, 1, 0.5])


def test_controllers() -> None:
    base = {"pull": 2.0, "push": 1.0}
    assert Fixed().weights(base, 5) == base
    ramp = Scheduled({"push": {0: 0.0, 10: 1.0, 20: 0.5}})
    assert [ramp.weights(base, s)["push"] for s in (0, 5, 10, 15, 99)] == pytest.approx(
        [0, 0.5, 1, 0.75, 0.5]
    )
    assert ramp.weights(base, 3)["pull"] == 2.0


def test_sum_is_one_backward() -> None:
    calls = []
    x = torch.nn.Parameter(torch.tensor(2.0))
    tools = make_tools([x], backward=lambda loss: (calls.append(1), loss.backward())[1])
    Sum().accumulate({("a", "r"): x * 3, ("b", "r"): x * x}, tools)
    assert x.grad is not None and float(x.grad) == 7.0 and len(calls) == 1


def test_finetune_sampler_shows_every_row_once_an_epoch() -> None:
    rows = make_rows(50)
    sampler = RowSampler(rows, 8, seed=1)
    assert sampler.per_epoch == 7
    first = [r.example_id for s in range(7) for r in sampler.draw(s)]
    second = [r.example_id for s in range(7, 14) for r in sampler.draw(s)]
    assert sorted(first) == sorted(second) == sorted(r.example_id for r in rows)
    assert first != second
    assert [r.example_id for r in RowSampler(rows, 8, seed=1).draw(9)] == [
        r.example_id for r in sampler.draw(9)
    ]


@pytest.fixture(scope="module")
def renderer(shared: Path) -> Renderer:
    return Renderer(AutoTokenizer.from_pretrained(shared / "models" / "stories260k"))


def test_dialogue_rows(renderer: Renderer) -> None:
    rows = dialogue_rows(
        [Dialogue("Who?", "Ann.", "Be brief.", weight=2), Dialogue("", "Once upon a time.")], renderer, 64
    )
    assert len(rows) == 3
    assert rows[0].prompt == renderer.prompt_ids("Who?", "Be brief.") and rows[
        0
    ].target == renderer.target_ids("Ann.")
    assert rows[2].prompt + rows[2].target == renderer.text_ids("Once upon a time.")
    with pytest.raises(DataError, match="at most 5"):
        dialogue_rows([Dialogue("Who was it that came?", "Ann.")], renderer, 5)
    with pytest.raises(DataError, match="no texts"):
        dialogue_rows([], renderer, 5)


class Digits:
    """A renderer of single digits: the answer '5 6' is the ids 5, 6."""

    def answer_ids(self, text: str) -> tuple[int, ...]:
        return tuple(int(w) for w in text.split())


def test_worst_prefill_is_the_one_that_leaks_most() -> None:
    model = tiny_llama(3)
    example = Example("e", Role.FORGET, "q", "5 6 7", "s")
    candidates = [
        Row("e", "forget", "s", (1, 4), (9, 2), prefill=(i, i + 1), view="opener") for i in range(10, 22)
    ]
    plain = Row("f", "retain", "s", (1, 8), (9, 2))
    chooser = WorstPrefill({"e": example}, Digits(), pad_id=0, every=2)  # type: ignore[arg-type]
    head = Head.of(model)
    chosen = chooser(model, head, [[plain], candidates], 4)

    def leak(row: Row) -> float:
        ids = torch.tensor([[*row.prompt, *row.prefill, 5, 6, 7]])
        with torch.no_grad():
            log_probs = model(ids).logits[0].log_softmax(-1)
        start = len(row.prompt) + len(row.prefill)
        return sum(float(log_probs[start + j - 1, t]) for j, t in enumerate((5, 6, 7)))

    assert chosen[0] is plain
    assert chosen[1] is max(candidates, key=leak)
    assert chooser(model, head, [[plain], candidates], 5)[1] is candidates[0]


def test_what_the_teacher_reads_must_fit_the_context() -> None:
    own = TeacherRequest("own", "forget", (1, 2, 3))
    given = TeacherRequest("given", "retain", (1, 2), (4, 5, 6, 7, 8))
    check_lengths([own, given], 7, 4)
    check_lengths([own, given], None, 400)
    with pytest.raises(DataError, match=r"'own' needs 8 .* teacher.max_new_tokens=4 or less"):
        check_lengths([own, given], 7, 5)
    with pytest.raises(DataError, match=r"'given' needs 7 .* leave the example out"):
        check_lengths([own, given], 6, 2)


def test_teacher_warnings() -> None:
    from harmonize.unlearning.run import teacher_warnings

    good = {"forget_accuracy": 0.0, "neighbor_refusal_rate": 0.05, "retain_refusal_rate": 0.0}
    assert teacher_warnings(good, 0.05, 0.05) == []
    bad = {"forget_heldout_accuracy": 0.5, "neighbor_refusal_rate_trained": 0.2, "retain_refusal_rate": 0.06}
    texts = teacher_warnings(bad, 0.05, 0.05)
    assert [
        w in t for w, t in zip(("50%", "20% of the neighbor", "6% of the retain"), texts, strict=True)
    ] == [True] * 3
