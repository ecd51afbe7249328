"""Checks of a suite: its axes, its parts, and the record that they are compared with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harmonize.config import attack_checks
from harmonize.config.instantiate import call, check_parameters, to_plain
from harmonize.errors import did_you_mean

AXES: tuple[str, ...] = ("forget", "retain", "neighbor", "asr", "leak", "utility", "relearn")
# what chooses a state looks at these alone: sampled answers and relearning cost too much at every look
VAL_AXES: tuple[str, ...] = ("forget", "retain", "neighbor", "asr", "utility")


def check(cfg: Any) -> list[str]:
    """Problems of `suite.axes`, `suite.parts` and `suite.reference`."""
    s = cfg.suite
    problems = [
        f"suite.axes: unknown axis '{a}'. {did_you_mean(str(a), AXES)} For example suite.axes=[forget,neighbor]."
        for a in s.axes or ()
        if a not in AXES
    ]
    attacks = list(attack_checks.chosen(cfg))
    if s.axes is not None and attacks and "asr" not in s.axes:
        problems.append(
            f"suite.axes={list(s.axes)} leaves out asr, the axis of attack.{attacks[0]}. Add it to suite.axes, or use "
            "attack=suite."
        )
    parts = to_plain(s.parts)
    told: set[str] = set()
    for name, node in parts.items():
        at = f"suite.parts.{name}"
        if node is None:
            continue
        if not isinstance(node, Mapping):
            problems.append(f"{at} must be a mapping with _target_. Remove it with ~{at}.")
            continue
        found = check_parameters(node, allow=cfg.allow, where=at)
        # a value that one part takes from another is one mistake
        problems += found or [p for p in _own(at, node, cfg) if _once(p, at, told)]
    if s.reference is not None:
        if not any(parts.values()):
            problems.append(
                f"suite.reference={s.reference}: suite={s.name} has no parts that are compared with another model. "
                "Use suite.reference=null, or a suite that has some: harmonize ls suites."
            )
        elif not Path(str(s.reference)).expanduser().exists():
            problems.append(
                f"suite.reference={s.reference}: there is no such run folder or results.json. Name the run of the "
                "reference model: suite.reference=<folder>."
            )
    return problems


def _once(problem: str, at: str, told: set[str]) -> bool:
    """Whether no other part has this very problem."""
    said = problem.replace(at, "")
    new = said not in told
    told.add(said)
    return new


def _own(at: str, node: Mapping[str, Any], cfg: Any) -> list[str]:
    """What a part says of its settings."""
    part = call(node, allow=cfg.allow)
    told = getattr(part, "problems", None)
    if not callable(told) or not callable(getattr(part, "measure", None)):
        return [
            f"{at}._target_ is no part of a suite: it has no problems(at) and measure(scene). Remove it: ~{at}."
        ]
    return list(told(at))
