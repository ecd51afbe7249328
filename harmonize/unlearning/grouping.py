"""Which (term, role) losses share a gradient when gradients are kept apart (`gradient.groups`), and what can not be
paired with them.

A term that reads weights has no role: it goes where it is named, and otherwise with the retain role, as what holds the
model back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from harmonize.config.instantiate import resolve, to_plain
from harmonize.config.rules import on_weights, present
from harmonize.errors import ConfigError, did_you_mean

FORGET, RETAIN = "forget", "retain"
SIDES = (FORGET, RETAIN)
NO_ROLE = ""  # in the place of a role, for the loss of a term that reads weights
Groups = str | Mapping[str, Sequence[str]]


def loss_name(term: str, role: str) -> str:
    """A loss as it is named in logs and in `gradient.groups`: `term/role`, or the term alone where there is no role."""
    return f"{term}/{role}" if role else term


RULES: dict[str, Callable[[str, str], str]] = {
    "sides": lambda term, role: FORGET if role == FORGET else RETAIN,
    "terms": lambda term, role: term,
    "roles": lambda term, role: role or RETAIN,
    "pairs": loss_name,
}


def group_of(groups: Groups, term: str, role: str) -> str:
    """The group of a (term, role) loss.

    Args:
        groups: `sides` (the forget role against all others), `terms`, `roles`, `pairs` (every loss alone), or a mapping
            of group to selectors: `term/role`, a term or a role. The most specific selector wins.
        term, role: Of the loss; the role is empty for a term that reads weights.

    Raises:
        ConfigError: No such rule, or no selector covers the loss.
    """
    if isinstance(groups, str):
        if groups not in RULES:
            raise ConfigError(f"gradient.groups={groups}: {did_you_mean(groups, RULES)}")
        return RULES[groups](term, role)
    owners = {str(s): str(name) for name, selectors in groups.items() for s in selectors}
    name = loss_name(term, role)
    for selector in (name, term, role or RETAIN):
        if selector in owners:
            return owners[selector]
    raise ConfigError(
        f"gradient.groups leaves out the loss {name}. Add it to a group, for example "
        f"gradient.groups.{next(iter(groups), RETAIN)}=[{name}]."
    )


def group_problems(groups: Any, losses: Iterable[tuple[str, str]], sides_only: bool) -> list[str]:
    """What is wrong with `gradient.groups`, for the (term, role) losses of a configuration.

    Args:
        groups: As configured.
        losses: Every (term, role) that is trained.
        sides_only: The combiner knows two groups, forget and retain, and needs both.
    """
    pairs = list(losses)
    if not isinstance(groups, str | Mapping):
        return [f"gradient.groups={groups}: expected a rule or a mapping. For example gradient.groups=sides."]
    if isinstance(groups, Mapping):
        problems = [
            f"gradient.groups.{name}={selectors}: expected a list of terms and roles. "
            f"For example gradient.groups.{name}=[forget]."
            for name, selectors in groups.items()
            if isinstance(selectors, str) or not isinstance(selectors, Sequence)
        ]
        known = {s for pair in pairs for s in (*pair, loss_name(*pair)) if s}
        if not problems:
            named = [(name, str(s)) for name, selectors in groups.items() for s in selectors]
            problems = [
                f"gradient.groups.{name}: '{s}' is no trained term or role. {did_you_mean(s, known)} "
                f"Correct it in gradient.groups.{name}."
                for name, s in named
                if s not in known
            ]
            twice = {s for _, s in named if sum(s == t for _, t in named) > 1}
            problems += [
                f"gradient.groups names '{s}' more than once. Keep it in one group." for s in sorted(twice)
            ]
        if problems:
            return problems
    try:
        found = {group_of(groups, *pair) for pair in pairs}
    except ConfigError as error:
        return list(error.problems)
    if not sides_only or not pairs:
        return []
    if strange := sorted(found - set(SIDES)):
        return [
            f"gradient.groups makes the group '{strange[0]}', but this combination knows forget and retain alone. "
            "Use gradient.groups=sides."
        ]
    return [
        f"This gradient combination needs losses of both sides, and none is in the group '{side}'. "
        "Choose a method that trains on both (method=grad_diff), or gradient=sum."
        for side in SIDES
        if side not in found
    ]


def memoryless(cfg: Any) -> list[str]:
    """Refuses optimizers whose update has a part that the projection does not see: momentum, weight decay."""
    import inspect

    import torch

    node = present(cfg.optimizer)
    try:
        kind = resolve(node["_target_"], cfg.allow)
        given = {k: p.default for k, p in inspect.signature(kind).parameters.items()} | node
    except Exception:  # the optimizer's own check tells
        return []
    known = (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD)
    if not (isinstance(kind, type) and issubclass(kind, known)):
        return [
            f"gradient=gu projects in the geometry of Adam, AdamW or SGD, not of {node['_target_']}. "
            "Use optimizer=adamw, or gradient=blur."
        ]
    why = "adds to the update what gradient=gu has projected out"
    problems = []
    betas = given.get("betas")
    if betas is not None and float(betas[0]) != 0:
        problems.append(
            f"optimizer.betas={list(betas)}: the momentum of Adam {why}. Use optimizer.betas=[0.0,{betas[1]}]."
        )
    for key in ("momentum", "weight_decay"):
        if key in given and float(given[key]) != 0:
            problems.append(f"optimizer.{key}={given[key]} {why}. Use optimizer.{key}=0.0.")
    if given.get("amsgrad"):
        problems.append(
            "optimizer.amsgrad=true scales by another moment than gradient=gu reads. Use optimizer.amsgrad=false."
        )
    return problems


def trained(cfg: Any) -> list[tuple[str, str]]:
    """Every (term, role) that the configuration trains: the objective names the role, and the role has a response.

    A term that reads weights stands with NO_ROLE.
    """
    response = to_plain(cfg.method.response)
    found = []
    for name, entry in to_plain(cfg.method.objectives).items():
        if isinstance(entry, Mapping):
            roles = [r for r in entry.get("roles", list(response)) if r in response]
            roles = [NO_ROLE] if on_weights(entry, cfg.allow) else roles
            found += [(str(name), str(role)) for role in roles]
    return found
