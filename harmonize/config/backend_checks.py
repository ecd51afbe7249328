"""Checks of `backend`: what generates the answers of `harmonize evaluate`."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from harmonize.config.edit_checks import acts
from harmonize.config.instantiate import resolve
from harmonize.config.rules import one_of, present, share

BACKENDS = ("torch", "vllm")


def check(cfg: Any) -> list[str]:
    """A known one that is installed, and a model that it can answer for."""
    problems = one_of("backend", cfg.backend, BACKENDS) + share("backend_memory", cfg.backend_memory)
    if problems or cfg.backend == BACKENDS[0]:
        return problems
    if find_spec("vllm") is None:
        problems.append(
            "backend=vllm needs vLLM and a GPU. pip install 'harmonize[vllm]', or use backend=torch."
        )
    if _guarded(cfg):
        problems.append(
            "backend=vllm answers for weights alone, and this model is guarded. Use backend=torch, or guard=removed "
            "to measure the weights of a guarded model."
        )
    if cfg.backend_memory <= 0:
        problems.append("backend_memory=0 leaves vLLM no memory. For example backend_memory=0.5.")
    return problems


def _guarded(cfg: Any) -> bool:
    if acts(cfg, "guard"):
        return not getattr(resolve(present(cfg.guard)["_target_"], cfg.allow), "removes", False)
    name = str(present(cfg.model).get("name_or_path", ""))
    return (Path(name).expanduser() / "guard.json").is_file()
