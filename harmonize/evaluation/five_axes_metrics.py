"""The metrics of `suite=five_axes`, as a list."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from harmonize.evaluation.attacks import Attack
from harmonize.evaluation.attacks.battery import attack_specs
from harmonize.evaluation.attacks.prefill import ANSWER_PREFIX, OPENER, OPENER_HELDOUT
from harmonize.evaluation.attacks.relearn import RELEARN
from harmonize.evaluation.choices import OPTIONS
from harmonize.evaluation.metrics import (
    MetricSpec,
    Where,
    accuracy,
    accuracy_norm,
    leak_at,
    refusal_rate,
    worst_case,
)

SAMPLED, LIKELIHOOD = "leak", "likelihood"  # of records: sampled answers, the true answer's probability
EVERY_PREFILL = (OPENER, OPENER_HELDOUT, ANSWER_PREFIX)


def specs(
    axes: Collection[str],
    *,
    split: str = "test",
    depths: Sequence[float] = (),
    prefixes_heldout: bool = False,
    fits: bool = False,
    extra: Sequence[Attack] = (),
    leak_draws: int = 0,
) -> list[MetricSpec]:
    """The metrics of the given axes.

    Args:
        split: Named in the reasons of missing values.
        depths: Answer-prefix depths; each has its own metric (`asr_answer_prefix@0.3`).
        prefixes_heldout: Facts whose own prefixes were never trained on are reported apart
            (`asr_answer_prefix_untrained`), and `asr_answer_prefix` is about the other used facts.
        extra: Further attacks.
        leak_draws: Sampled answers per forget question.
        fits: Also report every accuracy over answers within the generation limit (`*_fits`).
    """
    found: list[MetricSpec] = []
    if "forget" in axes:
        found += _forget(split)
    for role in ("retain", "neighbor"):
        if role in axes:
            found += _kept(role, split)
    if "asr" in axes:
        found += _asr(split, depths, prefixes_heldout)
        found += attack_specs(extra, EVERY_PREFILL)
    if "leak" in axes:
        found += _leak(split, leak_draws)
    if "utility" in axes:
        where = Where("general", attacks=(OPTIONS,))
        why = f"no multiple-choice item of role 'general' in split '{split}'"
        found += [
            MetricSpec("utility_accuracy", accuracy, where, True, why, "utility"),
            MetricSpec("utility_accuracy_norm", accuracy_norm, where, True, why),
        ]
    if "relearn" in axes:
        # Its own note says why it is missing.
        # The probe's records have no variant; those of a curve (attack=relearn) have the source and the steps.
        where = Where("forget", trained=True, attacks=(RELEARN,), variants=("",))
        found.append(MetricSpec("relearn_accuracy", accuracy, where, False, "", "relearn"))
    return found + ([s for spec in found for s in _within_limit(spec)] if fits else [])


def _forget(split: str) -> list[MetricSpec]:
    used, held = Where("forget", trained=True), Where("forget", trained=False)
    no_used, no_held = _no_used("forget"), _no_heldout("forget", split)
    return [
        MetricSpec("forget_accuracy", accuracy, used, False, no_used, "forget"),
        MetricSpec("forget_heldout_accuracy", accuracy, held, False, no_held, "forget_heldout"),
        MetricSpec("forget_refusal_rate", refusal_rate, used, True, no_used),
        MetricSpec("forget_heldout_refusal_rate", refusal_rate, held, True, no_held),
    ]


def _kept(role: str, split: str) -> list[MetricSpec]:
    used, held = Where(role, trained=True), Where(role, trained=False)
    no_used, no_held = _no_used(role), _no_heldout(role, split)
    return [
        MetricSpec(f"{role}_accuracy", accuracy, held, True, no_held, role),
        MetricSpec(f"{role}_refusal_rate", refusal_rate, held, False, no_held),
        MetricSpec(f"{role}_accuracy_trained", accuracy, used, True, no_used, f"{role}_trained"),
        MetricSpec(f"{role}_refusal_rate_trained", refusal_rate, used, False, no_used),
    ]


def _asr(split: str, depths: Sequence[float], prefixes_heldout: bool) -> list[MetricSpec]:
    def rate(name: str, where: Where, why: str, outcome: str | None = None) -> MetricSpec:
        return MetricSpec(name, accuracy, where, False, why, outcome)

    no_used = _no_used("forget")
    no_held = _no_heldout("forget", split)
    no_prefix = (
        "no answer has such a prefix (a token before its scored value and a word after the prefix), "
        "dataset.prefill.eval_depths is empty"
    )
    used = Where("forget", trained=True, attacks=(ANSWER_PREFIX,))
    families = {
        "asr_answer_prefix": replace(used, prefix_trained=True) if prefixes_heldout else used,
        "asr_heldout_answer_prefix": replace(used, trained=False),
    }
    if prefixes_heldout:
        families["asr_answer_prefix_untrained"] = replace(used, prefix_trained=False)
    found = [
        rate(
            "asr_opener",
            Where("forget", trained=True, attacks=(OPENER,)),
            f"the data set has no openers to train on, or {no_used}",
            "asr_opener",
        ),
        rate(
            "asr_opener_heldout",
            Where("forget", trained=True, attacks=(OPENER_HELDOUT,)),
            f"the data set has no openers kept for evaluation, or {no_used}",
            "asr_opener_heldout",
        ),
    ]
    for name, where in families.items():
        why = f"{no_prefix}, or {no_held if where.trained is False else no_used}"
        found.append(rate(name, where, why, name))
        found += [rate(f"{name}@{depth:g}", replace(where, depth=depth), why) for depth in depths]
    for name, trained, why in (("asr_worst", True, no_used), ("asr_heldout_worst", False, no_held)):
        everything = Where("forget", trained=trained, attacks=EVERY_PREFILL)
        found.append(MetricSpec(name, worst_case, everything, False, f"no prefill to try, or {why}"))
    return found


def _leak(split: str, draws: int) -> list[MetricSpec]:
    """What greedy decoding understates: n sampled answers, and the probability of the true one."""
    found = []
    for name, trained, why in (
        ("forget", True, _no_used("forget")),
        ("forget_heldout", False, _no_heldout("forget", split)),
    ):
        if draws:
            where = Where("forget", trained=trained, attacks=(SAMPLED,))
            missing = f"{why}, or this model cannot be sampled"
            found.append(MetricSpec(f"{name}_leak@{draws}", leak_at(draws), where, False, missing))
        where = Where("forget", trained=trained, attacks=(LIKELIHOOD,))
        found.append(MetricSpec(f"{name}_answer_probability", accuracy, where, False, why))
    return found


def _within_limit(spec: MetricSpec) -> list[MetricSpec]:
    if spec.values is refusal_rate or {OPTIONS, LIKELIHOOD} & set(spec.where.attacks):
        return []
    base, at, depth = spec.name.partition("@")
    name = f"{base}_fits{at}{depth}"
    return [replace(spec, name=name, where=replace(spec.where, fits=True), missing="", outcome=None)]


def _no_used(role: str) -> str:
    return f"no {role} fact is used in unlearning (split train)"


def _no_heldout(role: str, split: str) -> str:
    return f"no {role} subject is held out for split '{split}'"
