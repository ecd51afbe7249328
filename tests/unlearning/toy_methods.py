"""Every shipped method on a tiny random model: real configuration, teacher, reference and training loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch.nn import Module

from harmonize.config.instantiate import parameters
from harmonize.config.paths import conf_dir
from harmonize.data.batch import Row
from harmonize.data.responses import all_sources, sources_of
from harmonize.guards.assistant import Truncated
from harmonize.models.frozen import TeacherRequest
from harmonize.models.head import Head
from harmonize.models.load import LoadedModel
from harmonize.models.reference import build_reference
from harmonize.models.teacher import build_teacher_cache
from harmonize.reporting.catalogue import option
from harmonize.statistics import fit_stats
from harmonize.unlearning.adapters import Measure, adapt
from harmonize.unlearning.fit import fit
from harmonize.unlearning.forward import named_blocks
from harmonize.unlearning.steps import StepLoader
from harmonize.unlearning.terms import Term, build_terms
from tests.unlearning.toy import VOCABULARY, Rows, make_module, tiny_llama, trainer_settings

METHODS = sorted(p.stem for p in (conf_dir() / "method").glob("*.yaml"))
# Edits of the start model, and guards around it; test_finish.py and test_guarded_runs.py run them.
UNTRAINED = ("guard_decoding", "guard_instruction", "ssd", "tall_mask", "task_vector")
TRAINED = [name for name in METHODS if name not in UNTRAINED]
ROLES = ("forget", "neighbor", "retain")
LORA = {"peft_type": "LORA", "r": 2, "target_modules": ["q_proj", "down_proj"]}


def method_config(name: str) -> dict[str, Any]:
    """The method's own YAML, interpolations resolved; without what it chooses of other groups."""
    loaded = OmegaConf.load(conf_dir() / "method" / f"{name}.yaml")
    whole: Any = OmegaConf.create({"seed": 0, "method": loaded})
    return OmegaConf.to_container(whole, resolve=True)["method"]  # type: ignore[index, call-overload, return-value]


def start_of(name: str) -> dict[str, Any]:
    """`init` of the `peft` option that the method's YAML chooses, if there is one."""
    for entry in OmegaConf.load(conf_dir() / "method" / f"{name}.yaml").get("defaults", []):
        for key, peft in entry.items() if isinstance(entry, Mapping) else ():
            if key.startswith("override /peft@"):
                chosen = OmegaConf.load(conf_dir() / "peft" / f"{peft}.yaml")
                return {"init": OmegaConf.to_container(chosen.init)} if "init" in chosen else {}
    return {}


def assistant_of(name: str) -> Truncated | None:
    """The assistant that the method trains in the model's place, if it does."""
    chosen = option("method", name).choices.get("assistant")
    return Truncated(**parameters(option("assistant", chosen).node)) if chosen else None


def measure_on(model: Any, response: dict[str, Any]) -> Measure:
    """Second moments on the rows of a side, with the data's own answers."""

    def measure(side: str, layers: Sequence[str]) -> dict[str, torch.Tensor]:
        rows = [
            row
            for row in rows_for(dict.fromkeys(response, "reference"))
            if (row.role == "forget") == (side == "forget")
        ]
        return fit_stats("covariance", model, Head.of(model), rows, 0, layers=layers)

    return measure


def _ids(draw: torch.Generator, low: int, high: int) -> tuple[int, ...]:
    length = int(torch.randint(low, high, (1,), generator=draw))
    return tuple(torch.randint(3, VOCABULARY, (length,), generator=draw).tolist())


def rows_for(response: dict[str, Any], teacher: Any = None, per_role: int = 4) -> list[Row]:
    """Rows of the method's roles, with companions where a role answers from several sources."""
    draw = torch.Generator().manual_seed(7)
    found = []
    for i in range(per_role):
        for role in ROLES:
            prompt = (1, *_ids(draw, 2, 7))
            targets = {s: (*_ids(draw, 2, 6), 2) for s in ("reference", "refusal", "alternate")}
            if role not in response:
                continue
            name, rows = f"{role}{i}", []
            for source in sources_of(response[role]):
                if teacher is not None and source == "teacher":
                    target, start = teacher.target(name), teacher.start(name)
                else:
                    target, start = targets[source], -1
                rows.append(Row(name, role, name, prompt, target, response=source, cache_start=start))
            found.append(replace(rows[0], companions=tuple(rows[1:])))
    return found


@dataclass
class Trained:
    """What a short run gave.

    Attributes:
        losses: The weighted loss of each step.
        terms: The unweighted mean of each (term, role) at each step.
        student, frozen: Forward passes of the student, and of the frozen model while it trained.
        before: Forward passes that filled the caches.
        moved: Whether the trained weights changed.
    """

    losses: list[float] = field(default_factory=list)
    terms: dict[str, list[float]] = field(default_factory=dict)
    student: int = 0
    frozen: int = 0
    before: int = 0
    moved: bool = False

    def log(self, values: dict[str, float], _: int) -> None:
        """Keeps what the module logs of a step."""
        if "train/loss" in values:
            self.losses.append(values["train/loss"])
        for name, value in values.items():
            if name.startswith("term/"):
                self.terms.setdefault(name.removeprefix("term/"), []).append(value)


def _teacher(model: Module, response: dict[str, Any], folder: Path, mode: str) -> Any:
    if "teacher" not in all_sources(response):
        return None
    asked = [
        TeacherRequest(r.example_id, r.role, (5, *r.prompt))
        for r in rows_for(dict.fromkeys(response, "reference"))
    ]
    return build_teacher_cache(
        model,
        Head.of(model),
        asked,
        digest="weights",
        renderer_digest="text",
        end_id=2,
        stop_ids=[2],
        pad_id=0,
        max_new_tokens=4,
        mode=mode,
        top_k=20,
        cache_dir=folder,
    )


def _reference(model: Module, terms: Sequence[Term], rows: Sequence[Row], folder: Path, mode: str) -> Any:
    kinds = {kind for t in terms for kind in t.reference.kinds}
    if not kinds:
        return None
    roles = {role for t in terms if t.reference.kinds for role in t.roles}
    wanted = [r for row in rows if row.role in roles for r in (row, *row.companions)]
    layers = {layer for t in terms for layer in t.reference.layers}
    blocks = {k: v for k, v in named_blocks(model, terms).items() if k in layers}
    return build_reference(
        model,
        Head.of(model),
        wanted,
        kinds - {"layer"},
        blocks,
        digest="weights",
        pad_id=0,
        mode=mode,
        cache_dir=folder,
    )


def train(name: str, folder: Path, steps: int, *, lora: bool = False, mode: str = "hidden") -> Trained:
    """Trains a method for some steps of six draws each; one that needs adapters always has them."""
    torch.set_num_threads(1)  # so small a model gains nothing from more, and a busy machine loses
    config = method_config(name)
    model: Module = tiny_llama()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(6)  # a model with opinions, so that every loss has something to do
    terms = build_terms(config["objectives"])
    weights, target, assistant = None, model, assistant_of(name)
    if assistant is not None:
        torch.manual_seed(1)
        model = assistant.build(LoadedModel(target, None, None)).loaded.model  # type: ignore[arg-type]
    elif lora or any(t.reads_weights for t in terms):
        model, weights = adapt(
            model, {**LORA, **start_of(name)}, terms, measure_on(model, config["response"]), 1
        )
    teacher = _teacher(model, config["response"], folder, mode)
    rows = rows_for(config["response"], teacher)
    reference = _reference(model, terms, rows, folder, mode)
    frozen = [f for f in (teacher, reference) if f is not None]
    found = Trained(before=sum(f.forwards for f in frozen))
    module = make_module(
        model,
        terms=terms,
        teacher=teacher,
        reference=reference,
        weights=weights,
        # Adam would blow rounding up to whole steps where a gradient is zero, as RMU's is on retain rows at first
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.05),
        log=found.log,
    )
    start = torch.cat([p.detach().flatten().clone() for p in module.trainable])
    calls: list[bool] = []
    untrained: list[bool] = []
    handles = [model.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))]
    if assistant is not None:
        handles.append(target.register_forward_hook(lambda *_: untrained.append(True)))
    try:
        fit(
            module,
            lambda at: StepLoader(Rows(rows, 6), lambda r: [r], at),  # type: ignore[arg-type]
            trainer_settings(max_steps=steps),
            title="toy",
        )
    finally:
        for handle in handles:
            handle.remove()
    found.student = sum(calls)
    found.frozen = sum(f.forwards for f in frozen) - found.before + len(untrained)
    end = torch.cat([p.detach().flatten() for p in module.trainable])
    found.moved = bool((end != start).any()) and bool(end.isfinite().all())
    return found
