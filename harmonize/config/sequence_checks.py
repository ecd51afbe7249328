"""Checks of `sequence`: that there are requests to forget, in that order, and models to go on from."""

from __future__ import annotations

from typing import Any

from harmonize.config.instantiate import resolve
from harmonize.config.rules import parameter_names, present
from harmonize.errors import HarmonizeError

SEQUENCE = "sequence"


def check(cfg: Any, command: str, others: bool) -> list[str]:
    """Problems of `sequence`; the data is read where the rest is sound, as its requests are known to it alone.

    Args:
        cfg: Configuration of `sequence`, `unlearn` or `evaluate`.
        command: Which of them.
        others: Whether other problems were found, which reading the data might only repeat.
    """
    s = cfg.sequence
    if command == SEQUENCE:
        problems = _models(cfg)
        if s.request is not None:
            problems.append(
                f"sequence.request={s.request}: the command gives each request its turn. Leave it out, or run one turn "
                f"alone: harmonize unlearn sequence.request={s.request}."
            )
    elif s.request is None:
        given = [f"sequence.{k}" for k in ("order", "earlier") if _given(s, k)]
        return [
            f"{name} has no effect on a run that forgets all requests at once. Use harmonize sequence, or name the "
            "request whose turn it is: sequence.request=<id>."
            for name in given
        ]
    else:
        problems = []
    return problems if problems or others else _requests(cfg, command)


def _given(sequence: Any, key: str) -> bool:
    return sequence.order is not None if key == "order" else sequence.earlier.value != "leave"


def _models(cfg: Any) -> list[str]:
    """Every request but the first starts from the model that the last one left."""
    problems = []
    if not cfg.save_model:
        problems.append(
            "save_model=false: each request starts from the model that the last one left. Use save_model=true."
        )
    if cfg.suite.axes is not None:
        problems.append(
            f"suite.axes={list(cfg.suite.axes)}: the summaries of a sequence are made of all five axes. "
            "Use suite.axes=null."
        )
    if present(cfg.peft).get("peft_type", "none") != "none" and not cfg.peft.merge:
        fix = "Use peft=lora" if cfg.peft.load_in_4bit else "Use peft.merge=true"
        problems.append(
            "peft.merge=false exports an adapter alone, and the next request starts from a whole model. "
            f"{fix}, or peft=none."
        )
    return problems


def _requests(cfg: Any, command: str) -> list[str]:
    from harmonize.data.read import order_of, read_corpus
    from harmonize.data.requests import order_problems, request_ids

    try:
        corpus = read_corpus(cfg)
    except HarmonizeError as error:
        return [str(error)]
    order = order_of(cfg, corpus)
    if problems := order_problems(corpus, order, cfg.sequence.request):
        return problems
    if command != SEQUENCE or len(order) > 1:
        return []
    known = request_ids(corpus)
    if len(known) > 1:
        return [
            f"sequence.order={list(order)} is a single request. Name two or more of {', '.join(known)}, or run it "
            f"alone: harmonize unlearn sequence.request={order[0]}."
        ]
    dealt = "requests" in parameter_names(resolve(cfg.dataset._target_, cfg.allow))
    fix = (
        "Deal its forget subjects out: dataset.requests=3."
        if dealt
        else 'Give its forget examples a "request_id" each (docs/sequential.md).'
    )
    return [
        f"dataset={cfg.dataset.name} has one request ('{known[0]}'), and a sequence needs two or more. {fix}"
    ]
