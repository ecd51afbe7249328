"""Checks of `guard` and `assistant`: what stands around a model, and what is trained in its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harmonize.config.edit_checks import acts, idle
from harmonize.config.instantiate import resolve
from harmonize.config.rules import component, own_problems, present


def check(cfg: Any, command: str) -> list[str]:
    """Both groups, each with what it needs of the other."""
    return assistant(cfg) + guard(cfg, command)


def assistant(cfg: Any) -> list[str]:
    """Its settings, and a guard that reads it."""
    if "assistant" not in cfg:
        return []
    if not acts(cfg, "assistant"):
        return idle(cfg, "assistant")
    problems = component("assistant", cfg, present(cfg.assistant)) or own_problems("assistant", cfg)
    if not acts(cfg, "guard"):
        problems.append(
            "An assistant is trained that no guard reads: guard=none. Use guard=logit_offset, or assistant=none."
        )
    return problems


def guard(cfg: Any, command: str) -> list[str]:
    """Its settings, and a model that it can stand around."""
    if not acts(cfg, "guard"):
        return idle(cfg, "guard")
    node = present(cfg.guard)
    problems = component("guard", cfg, node) or own_problems("guard", cfg)
    if command == "sequence":
        problems.append(
            "harmonize sequence starts each request from the weights that the last one left, and a guard is not in "
            "them. Use guard=none, and harmonize unlearn for a guarded model."
        )
    name = str(present(cfg.model).get("name_or_path", ""))
    if problems or command != "evaluate" or not (Path(name).expanduser() / "guard.json").is_file():
        return problems
    if getattr(resolve(node["_target_"], cfg.allow), "removes", False):
        return []
    return [
        f"model.name_or_path={name} brings a guard of its own (guard.json). Use guard=none to measure it with that "
        "one, or guard=removed to measure its weights alone."
    ]
