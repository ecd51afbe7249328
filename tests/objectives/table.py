"""One row per objective: the function, settings, and its value written once more as loops over plain numbers.

A new objective is a new row; `test_properties.py` runs all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable

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
from harmonize.objectives.representation import control_vector, keep_hidden, steer, threshold_margin
from harmonize.objectives.template import flat
from harmonize.testing import At, Entry
from tests.references import losses as slow


def _mean_p(row: list[At], length: int | None = None) -> float:
    return sum(math.exp(p.log_p) for p in row) / (length or len(row))


def _flat(divergence: str, length: int | None = None) -> Callable[..., float | None]:
    def of_row(row: list[At], other: list[At] | None) -> float | None:
        if other is None:
            return None
        return slow.FLAT[divergence](_mean_p(other, length), _mean_p(row, length))

    return of_row


def _dpo(row: list[At], other: list[At] | None) -> float | None:
    if other is None:
        return None
    gap = sum(p.ratio for p in other) - sum(p.ratio for p in row)
    return -slow.log_sigmoid(0.3 * gap) * 2 / 0.3


def _steer_at(p: At) -> float:
    target = control_vector(len(p.z_s), 3).tolist()
    return sum((h - 1.5 * u) ** 2 for h, u in zip(p.z_s, target, strict=True)) / len(p.z_s)


def _keep_at(p: At) -> float:
    return sum((h - 2 * h0) ** 2 for h, h0 in zip(p.z_s, p.z_r, strict=True)) / len(p.z_s)


TABLE: dict[str, Entry] = {
    "pull": Entry(
        pull,
        {"k": 4, "delta": 0.7, "temperature": 1.3},
        at=lambda p: slow.pull_at(p.z_s, p.z_t, 4, 0.7, 1.3),
        tags={"teacher", "zero"},
    ),
    "push": Entry(
        push,
        {"k": 5, "k_teacher": 3, "delta": 0.7, "temperature": 1.3},
        at=lambda p: slow.push_at(p.z_s, p.z_t, 5, 3, 0.7, 1.3),
        tags={"teacher", "zero"},
    ),
    "bild": Entry(
        bild, {"k": 3, "temperature": 2.0}, at=lambda p: slow.bild_at(p.z_s, p.z_t, 3, 2.0), tags={"teacher"}
    ),
    "cross_entropy": Entry(cross_entropy, {}, at=lambda p: -p.log_p),
    "gradient_ascent": Entry(gradient_ascent, {}, at=lambda p: p.log_p),
    "wga": Entry(wga, {"beta": 0.5}, at=lambda p: math.exp(p.log_p) ** 0.5 * p.log_p),
    "satimp": Entry(
        satimp,
        {"beta1": 2.0, "beta2": 0.5},
        at=lambda p: math.exp(p.log_p) ** 2 * max(0.0, 1 - math.exp(p.log_p)) ** 0.5 * p.log_p,
    ),
    "bounded_ascent": Entry(bounded_ascent, {}, at=lambda p: -math.log(1 - math.exp(p.log_p) / 2)),
    "bounded_forget": Entry(
        bounded_forget,
        {},
        of_row=lambda row, _: max(0.0, math.log(len(row[0].z_s)) + sum(p.log_p for p in row) / len(row)),
    ),
    "bounded_forget_by_token": Entry(
        bounded_forget_by_token, {"bound": 3.0}, at=lambda p: max(0.0, 3.0 + p.log_p)
    ),
    "inverted_hinge": Entry(inverted_hinge, {}, at=lambda p: slow.inverted_hinge_at(p.z_s, p.label)),
    "kl_to_original": Entry(kl_to_original, {}, at=lambda p: slow.kl(p.z_r, p.z_s)),
    "kl_to_uniform": Entry(kl_to_uniform, {}, at=lambda p: slow.kl([0.0] * len(p.z_s), p.z_s)),
    "undial": Entry(undial, {"beta": 2.5}, at=lambda p: slow.undial_at(p.z_s, p.z_r, p.label, 2.5)),
    "ceu": Entry(ceu, {"ignore_first_n_answer_tokens": 2}, at=lambda p: slow.ceu_at(p.z_s, p.label), skips=2),
    "logit_margin": Entry(logit_margin, {}, at=lambda p: slow.margin_at(p.z_s), extreme=1e15),
    "logit_margin_unshifted": Entry(
        logit_margin, {"mask": "unshifted"}, at=lambda p: slow.margin_at(p.z_s), skips=1, extreme=1e15
    ),
    "npo": Entry(
        npo,
        {"beta": 0.3},
        of_row=lambda row, _: -slow.log_sigmoid(-0.3 * sum(p.ratio for p in row)) * 2 / 0.3,
    ),
    "npo_on_logits": Entry(npo_on_logits, {"beta": 0.3}, at=lambda p: slow.npo_logits_at(p.z_s, p.z_r, 0.3)),
    "simnpo": Entry(
        simnpo,
        {"beta": 1.5, "gamma": 0.2},
        of_row=lambda row, _: (
            -slow.log_sigmoid(1.5 * (-sum(p.log_p for p in row) / len(row) - 0.2)) * 2 / 1.5
        ),
    ),
    "simnpo_on_logits": Entry(
        simnpo_on_logits, {"beta": 0.5, "gamma": 0.2}, at=lambda p: slow.simnpo_logits_at(p.z_s, 0.5, 0.2)
    ),
    "dpo": Entry(dpo, {"beta": 0.3}, of_row=_dpo, tags={"pair"}),
    **{
        f"flat_{name}": Entry(flat, {"divergence": name}, of_row=_flat(name), tags={"pair"})
        for name in slow.FLAT
    },
    "flat_padded": Entry(flat, {"padded_length": 21}, of_row=_flat("total_variation", 20), tags={"pair"}),
    "steer": Entry(steer, {"coefficient": 1.5, "control_seed": 3}, at=_steer_at, extreme=1e15),
    "keep_hidden": Entry(keep_hidden, {}, at=_keep_at, extreme=1e15),
    "threshold_margin": Entry(
        threshold_margin,
        {},
        at=lambda p, mean, std: slow.threshold_at(p.z_s, p.z_r, mean, std),
        moments=True,
        extreme=1e15,
    ),
}
