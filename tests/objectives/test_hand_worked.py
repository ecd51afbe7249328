"""Literal numbers, worked by hand."""

import math

import pytest
import torch

from harmonize.errors import ConfigError
from harmonize.objectives.bild import bild
from harmonize.objectives.distill import pull, push
from harmonize.objectives.divergence import (
    ceu,
    inverted_hinge,
    kl_to_original,
    kl_to_uniform,
    logit_margin,
    undial,
)
from harmonize.objectives.likelihood import (
    bounded_ascent,
    bounded_forget,
    bounded_forget_by_token,
    cross_entropy,
    gradient_ascent,
    satimp,
    wga,
)
from harmonize.objectives.preference import dpo, npo, npo_on_logits, simnpo, simnpo_on_logits
from harmonize.objectives.reduce import per_row
from harmonize.objectives.representation import control_vector, keep_hidden, steer, threshold_margin
from harmonize.objectives.template import DIVERGENCES, flat

ROW = torch.tensor([0, 0, 1])
OFFSET = torch.tensor([0, 1, 0])


def test_pull() -> None:
    student = torch.tensor([[1.0, 2.0], [5.0, 0.0], [3.0, 3.0]])
    teacher = torch.tensor([[1.5, 2.0], [2.0, 0.5], [3.0, 1.0]])
    # position 0: (0.125 + 0) / 2; position 1: (|3| - 0.5 + 0.125) / 2; position 2: (0 + 1.5) / 2
    total, count = pull(student, teacher, ROW, OFFSET, 2)
    assert total.tolist() == [0.0625 + 1.3125, 0.75]
    assert count.tolist() == [2.0, 1.0]
    total, count = pull(student, teacher, ROW, OFFSET, 2, positions="first")
    assert total.tolist() == [0.0625, 0.75]
    assert count.tolist() == [1.0, 1.0]
    # delta 2: position 1 is (2 * (3 - 1) + 0.125) / 2, position 2 is (0 + 2) / 2
    assert pull(student, teacher, ROW, OFFSET, 2, delta=2.0)[0].tolist() == [0.0625 + 2.0625, 1.0]
    # temperature 2 halves the differences: 0.25, 0 | 1.5, -0.25 | 0, 1
    assert pull(student, teacher, ROW, OFFSET, 2, temperature=2.0)[0].tolist() == [
        0.03125 / 2 + (1.0 + 0.03125) / 2,
        0.25,
    ]


def test_push() -> None:
    student = torch.tensor([[4.0, 3.0], [2.0, 1.0], [9.0, 8.0]], requires_grad=True)
    teacher = torch.tensor([[3.5, 0.0], [3.0, 5.0], [0.0, 7.0]])
    shared = torch.tensor([[False, True], [False, False], [True, True]])
    total, count = push(student, teacher, shared, ROW, OFFSET, 2)
    # position 0: only id 0 counts, 0.5**2 / 2; position 1: the student is below the teacher; position 2: S \ T empty
    assert total.tolist() == [0.125, 0.0]
    assert count.tolist() == [2.0, 1.0]
    total.sum().backward()
    assert student.grad.tolist() == [[0.5, 0.0], [0.0, 0.0], [0.0, 0.0]]


def test_push_takes_the_mean_over_what_is_outside() -> None:
    student, teacher = torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([[0.0, 1.5, 2.0]])
    outside = torch.zeros(1, 3, dtype=torch.bool)
    total, _ = push(student, teacher, outside, torch.tensor([0]), torch.tensor([0]), 1)
    assert total.item() == pytest.approx((2.5 + 0.125 + 0.0) / 3)


def test_cross_entropy_and_its_opposite() -> None:
    log_probs = torch.log(torch.tensor([0.5, 0.25, 1.0]))
    total, count = cross_entropy(log_probs, ROW, OFFSET, 2)
    assert total.tolist() == pytest.approx([3 * math.log(2), 0.0])
    assert count.tolist() == [2.0, 1.0]
    assert gradient_ascent(log_probs, ROW, OFFSET, 2)[0].tolist() == pytest.approx([-3 * math.log(2), 0.0])
    assert cross_entropy(log_probs, ROW, OFFSET, 2, positions="first")[0].tolist() == pytest.approx(
        [math.log(2), 0.0]
    )


def test_rows_without_positions_sum_to_zero() -> None:
    total, count = per_row(torch.tensor([2.0]), torch.tensor([1]), 3)
    assert total.tolist() == [0.0, 2.0, 0.0] and count.tolist() == [0.0, 1.0, 0.0]


def test_unknown_positions() -> None:
    with pytest.raises(ConfigError, match="positions=all or positions=first"):
        pull(torch.ones(1, 1), torch.ones(1, 1), torch.tensor([0]), torch.tensor([0]), 1, positions="last")


LOG = torch.log(torch.tensor([0.5, 0.25, 1.0]))
ZERO = torch.zeros(3)
TWO = {"row": ROW, "offset": OFFSET, "n_rows": 2}


def test_weighted_ascents() -> None:
    half, quarter = math.log(0.5), math.log(0.25)
    assert wga(LOG, **TWO)[0].tolist() == pytest.approx([0.5 * half + 0.25 * quarter, 0.0])
    assert wga(LOG, **TWO, beta=0.0)[0].tolist() == pytest.approx([half + quarter, 0.0])
    # p^1 (1-p)^1: 0.25 and 0.1875
    assert satimp(LOG, **TWO, beta1=1.0)[0].tolist() == pytest.approx([0.25 * half + 0.1875 * quarter, 0.0])
    # -log(3/4) - log(7/8), and log 2 for a certain token
    assert bounded_ascent(LOG, **TWO)[0].tolist() == pytest.approx([math.log(32 / 21), math.log(2)])


def test_weights_of_ascents_carry_no_gradient() -> None:
    log_p = LOG.clone().requires_grad_()
    (wga(log_p, **TWO)[0].sum() + satimp(log_p, **TWO, beta1=1.0)[0].sum()).backward()
    assert log_p.grad is not None and log_p.grad.tolist() == pytest.approx([0.5 + 0.25, 0.25 + 0.1875, 1.0])


def test_npo_and_simnpo() -> None:
    # a student equal to its reference: -(2 / beta) log sigmoid 0
    assert npo(LOG, LOG, ROW, 2, beta=0.1)[0].tolist() == pytest.approx([20 * math.log(2)] * 2)
    # row 0: the ratio is log 1/8, and sigmoid(log 8) = 8/9; row 1: ratio 0
    total, count = npo(LOG, ZERO, ROW, 2, beta=1.0)
    assert total.tolist() == pytest.approx([2 * math.log(9 / 8), 2 * math.log(2)]) and count.tolist() == [
        1,
        1,
    ]
    # row 0: mean NLL is log sqrt 8; sigmoid(2 log sqrt 8) = 8/9
    total, _ = simnpo(LOG, ROW, 2, beta=2.0)
    assert total.tolist() == pytest.approx([math.log(9 / 8), math.log(2)])
    assert simnpo(LOG, ROW, 2, beta=2.0, gamma=math.log(2))[0][1].item() == pytest.approx(math.log(5))


def test_preference_on_raw_logits() -> None:
    student, reference = torch.tensor([[math.log(2), 0.0]]), torch.zeros(1, 2)
    one = {"row": torch.tensor([0]), "offset": torch.tensor([0]), "n_rows": 1}
    # sigmoid(-log 2) = 1/3 and sigmoid(0) = 1/2
    assert npo_on_logits(student, reference, **one, beta=1.0)[0].item() == pytest.approx(math.log(6))
    assert simnpo_on_logits(student, **one, beta=1.0, gamma=0.0)[0].item() == pytest.approx(math.log(6))


def test_dpo_and_flat_join_a_pair() -> None:
    pair, true = torch.tensor([4, 4, 9]), torch.tensor([False, True, True])
    row = torch.tensor([0, 1, 2])
    # chosen p 1/2 against reference 1/4 (ratio log 2), rejected 1/4 against 1 (ratio -log 4): sigmoid(log 8) = 8/9
    total, count = dpo(
        torch.log(torch.tensor([0.5, 0.25, 0.3])),
        torch.log(torch.tensor([0.25, 1.0, 1.0])),
        row,
        3,
        pair,
        true,
        beta=1.0,
    )
    assert total.tolist() == pytest.approx([0.0, 2 * math.log(9 / 8), 0.0])
    assert count.tolist() == [0.0, 1.0, 0.0]  # a row of the data's answer without a companion carries nothing
    log_p = torch.log(torch.tensor([0.5, 0.25, 0.3]))
    total, count = flat(log_p, row, 3, pair, true, divergence="pearson")
    assert total.tolist() == pytest.approx([0.0, -0.5 + 0.25 + 0.25**2 / 4, 0.0])
    assert flat(log_p, row, 3, pair, true)[0][1].item() == pytest.approx(
        -math.tanh(0.5) / 2 + math.tanh(0.25) / 2
    )
    # padded to 11 tokens: 10 predicted positions
    padded = flat(log_p, row, 3, pair, true, divergence="kl", padded_length=11)[0][1].item()
    assert padded == pytest.approx(-0.05 + math.exp(0.025 - 1))
    with pytest.raises(ConfigError, match="Did you mean 'pearson'"):
        flat(log_p, row, 3, pair, true, divergence="peerson")


@pytest.mark.parametrize("name", sorted(DIVERGENCES))
def test_divergences_favour_the_template(name: str) -> None:
    template, forget = DIVERGENCES[name]
    p = torch.linspace(0, 1, 21)
    assert bool((template(p).diff() < 0).all()) and bool((forget(p).diff() > 0).all())


def test_whole_distributions() -> None:
    one = {"row": torch.tensor([0]), "offset": torch.tensor([0]), "n_rows": 1}
    flat_logits, label = torch.zeros(1, 2), torch.tensor([0])
    odds = torch.tensor([[math.log(3), 0.0]])  # 3/4, 1/4
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert kl_to_original(flat_logits, odds, **one)[0].item() == pytest.approx(expected)
    # lowering the label by log 3 levels the reference; the student is level too
    assert undial(flat_logits, odds, label, **one, beta=math.log(3))[0].item() == pytest.approx(math.log(2))
    # without the label all mass is on the other id, to which the student gives 1/4
    assert ceu(odds, label, **one, ignore_first_n_answer_tokens=0)[0].item() == pytest.approx(math.log(4))
    total, count = ceu(odds, label, **one)
    assert total.tolist() == [0.0] and count.tolist() == [0.0]
    assert logit_margin(torch.tensor([[3.0, -1.0]]), **one)[0].item() == 4.0
    assert logit_margin(torch.tensor([[3.0, -1.0]]), **one, mask="unshifted")[1].item() == 0.0


def test_kl_to_uniform() -> None:
    # softmax (1/4, 3/4) at position 0, uniform at 1 and 2: log 2 is taken off the mean surprisal of either token
    student = torch.tensor([[0.0, math.log(3.0)], [5.0, 5.0], [-1.0, -1.0]], requires_grad=True)
    total, count = kl_to_uniform(student, ROW, OFFSET, 2)
    assert total.tolist() == pytest.approx([-math.log(3 / 16) / 2 - math.log(2), 0.0], abs=1e-6)
    assert count.tolist() == [2.0, 1.0]
    total.sum().backward()
    # the gradient of KL(u || q) is q - u
    assert student.grad.tolist()[0] == pytest.approx([1 / 4 - 1 / 2, 3 / 4 - 1 / 2])


def test_bild() -> None:
    # one pair: a softmax over a single difference is 1 on both sides
    two = torch.tensor([[1.0, 0.0]])
    one = {"row": torch.tensor([0]), "offset": torch.tensor([0]), "n_rows": 1}
    assert bild(two * 5, two, two * 5, two, **one)[0].item() == 0.0
    # three ids, all equal for the student: uniform over the differences 1, 2, 1 of the teacher
    teacher, student = torch.tensor([[2.0, 1.0, 0.0]]), torch.zeros(1, 3)
    p = [math.exp(d) / (2 * math.e + math.e**2) for d in (1.0, 2.0, 1.0)]
    expected = sum(v * math.log(3 * v) for v in p)
    found = bild(student, teacher, student, teacher, **one, temperature=1.0)[0].item()
    assert found == pytest.approx(2 * expected)


def test_hidden_states() -> None:
    one = {"row": torch.tensor([0]), "offset": torch.tensor([0]), "n_rows": 1}
    direction = control_vector(4, 3)
    assert direction.norm().item() == pytest.approx(1.0) and bool((direction >= 0).all())
    assert torch.equal(direction, control_vector(4, 3)) and not torch.equal(direction, control_vector(4, 4))
    states = 2 * direction.unsqueeze(0)
    assert steer(states, **one, coefficient=2.0, control_seed=3)[0].item() == pytest.approx(0.0, abs=1e-12)
    assert steer(states, **one, coefficient=0.0, control_seed=3)[0].item() == pytest.approx(1.0)
    assert keep_hidden(torch.tensor([[1.0, 4.0]]), torch.tensor([[0.0, 1.0]]), **one)[0].item() == 5.0
    # thresholds -1 and 1; low went up by 2, high fell by 0.5, between stayed, between rose by 1: mean of three
    h, h0 = torch.tensor([[1.0, 0.5, 0.3, 2.0]]), torch.tensor([[-2.0, 3.0, 0.0, 0.9]])
    total, _ = threshold_margin(h, h0, torch.zeros(4), torch.ones(4), **one)
    assert total.item() == pytest.approx((2.0 + 0.5 + 1.0) / 3)


def test_bounded_forget_acts_on_rows_or_tokens() -> None:
    # row 0: cross-entropies 1 and 5, mean 3; row 1: cross-entropy 2
    log_probs = torch.tensor([-1.0, -5.0, -2.0], requires_grad=True)
    total, count = bounded_forget(log_probs, 8, ROW, OFFSET, 2, bound=4.0)
    assert total.tolist() == [1.0, 2.0] and count.tolist() == [1.0, 1.0]
    total.sum().backward()
    assert log_probs.grad.tolist() == [0.5, 0.5, 1.0]
    total, count = bounded_forget_by_token(log_probs, 8, ROW, OFFSET, 2, bound=4.0)
    assert total.tolist() == [3.0, 2.0] and count.tolist() == [2.0, 1.0]
    # without a bound it is ln V: row 0 lies beyond ln 8 = 2.079, and is let go
    total, _ = bounded_forget(log_probs, 8, ROW, OFFSET, 2)
    assert total.tolist() == pytest.approx([0.0, math.log(8) - 2.0])
    first, _ = bounded_forget(log_probs, 8, ROW, OFFSET, 2, positions="first")
    assert first.tolist() == pytest.approx([math.log(8) - 1.0, math.log(8) - 2.0])


def test_inverted_hinge() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [1.0, 1.0, 2.0]]))
    total, count = inverted_hinge(logits, torch.tensor([0, 0, 2]), ROW, OFFSET, 2)
    # 1 + 0.5 - 0.3 and 1 + 0.1 - 0.7; 1 + 0.5 - 0.25
    assert total.tolist() == pytest.approx([1.2 + 0.4, 1.25]) and count.tolist() == [2.0, 1.0]
