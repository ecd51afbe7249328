"""What follows training: an edit of the weights, then a repair. A run that chooses neither has no such stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harmonize.config.edit_checks import OWN_KEYS, acts
from harmonize.config.instantiate import parameters, resolve, to_plain
from harmonize.console import say, warn
from harmonize.data.corpus import Corpus
from harmonize.edits.inputs import FIELDS, ROLES, State, inputs_of
from harmonize.edits.write import Report, write
from harmonize.errors import DataError
from harmonize.models.load import LoadedModel
from harmonize.models.lora import adapter_layers, base_is_frozen, has_adapters, merge_in_place
from harmonize.statistics.passes import linear_layers, own_name, trained_parameters
from harmonize.unlearning.finetuned import finetuned_weights
from harmonize.unlearning.repair import Patient
from harmonize.unlearning.training import answer_rows, statistics_of

Record = Callable[[Path], object]
_NAMED: dict[str, Callable[[Any, list[str]], Mapping[str, Any]]] = {
    "fisher": trained_parameters,
    "mean_gradient": trained_parameters,
    "covariance": linear_layers,
}


def build_finish(
    cfg: Any, corpus: Corpus, loaded: LoadedModel, trains: bool, record: Record | None = None
) -> Finish | None:
    """The stage, or None where neither edit nor repair is chosen.

    Args:
        cfg: Configuration of `harmonize unlearn`.
        corpus: The data set.
        loaded: The start model, without adapters.
        trains: Whether the method trains.
        record: Told every cache that is read or written.

    Raises:
        DataError: A role without training examples.
        ModelError: A pattern that matches no layer, or statistics of another model.
    """
    if not acts(cfg, "edit") and not acts(cfg, "repair"):
        return None
    return Finish(cfg, corpus, loaded, trains, record)


class Finish:
    """Measures what an edit reads before training, and changes the weights after it.

    In main memory it costs what the edit names: statistics and fine-tuned weights, mapped from disk where they are
    large; and a copy of the start weights where edit or repair reads them and training moves them (with adapters, and
    without a repair, only of the matrices that carry some). An edit makes one tensor at a time.
    """

    def __init__(
        self, cfg: Any, corpus: Corpus, loaded: LoadedModel, trains: bool, record: Record | None = None
    ) -> None:
        self.cfg, self.corpus, self.loaded, self.record = cfg, corpus, loaded, record
        self.edit = resolve(cfg.edit._target_, cfg.allow) if acts(cfg, "edit") else None
        self.repair = resolve(cfg.repair._target_, cfg.allow) if acts(cfg, "repair") else None
        self._inputs = inputs_of(self.edit) if self.edit else ()
        self._repair_reads = self.repair.reads(to_plain(cfg.repair)) if self.repair else set()  # type: ignore[attr-defined]
        self._statistics = statistics_of(cfg, loaded, corpus, record)
        self._settings = to_plain(cfg.edit).get("inputs") or {}
        self._measured: dict[str, State] = {}
        self._repair_fisher: State = {}
        self._start: dict[str, Tensor] = {}
        self._keep_whole = "start" in self._repair_reads or (
            "start" in self._inputs and trains and not base_is_frozen(cfg.peft)
        )
        self._check()

    def prepare(self) -> None:
        """Measures, or finds, everything that is of the start model. Call it before adapters and optimizer exist."""
        rows = answer_rows(self.cfg, self.loaded, self.corpus)
        for name in self._inputs:
            if name not in FIELDS:
                continue
            side, kind = FIELDS[name].side, FIELDS[name].kind
            settings = self._settings.get(kind) or {}
            roles = self._roles(side)
            if kind == "weights":
                learned = [row for role in roles for row in rows(role)]
                self._measured[name] = finetuned_weights(
                    self.cfg, self.loaded, learned, "+".join(roles), record=self.record, **settings
                )
            else:
                self._measured[name] = self._statistics.get(kind, roles, **settings)
        if "fisher" in self._repair_reads:
            self._repair_fisher = self._statistics.get("fisher", self._repair_roles())
        if self._keep_whole:
            self._start = {n: p.to("cpu", copy=True) for n, p in live(self.loaded.model).items()}

    def __call__(self) -> dict[str, Any]:
        """Edits, then repairs `loaded.model`, adapters merged.

        Returns:
            Reports for `results.json`, by stage.

        Raises:
            TrainingError: An edit that makes values that are not finite.
        """
        self._settle()
        reports: dict[str, Any] = {}
        if self.edit is not None:
            report = self._edit()
            for line in report.lines():
                say(line)
            if not report.total.changed:
                warn(f"The edit {report.name} changed nothing. Try other settings: harmonize show edit.")
            reports["edit"] = report.to_dict()
        if self.repair is not None:
            weights = live(self.loaded.model)
            patient = Patient(
                self.cfg,
                self.loaded,
                weights,
                self._start,
                self._repair_fisher,
                answer_rows(self.cfg, self.loaded, self.corpus),
            )
            done = self.repair(patient, **parameters(to_plain(self.cfg.repair), ("name",)))
            say(
                f"Repair {done['name']}: {done['steps']} steps on {done['rows']} rows in {', '.join(done['modules'])}."
            )
            reports["repair"] = done
        return reports

    def _edit(self) -> Report:
        weights = live(self.loaded.model)
        given = {"weights": weights, "start": {**weights, **self._start}, **self._measured}
        settings = parameters(to_plain(self.cfg.edit), OWN_KEYS)
        assert self.edit is not None
        with torch.no_grad():
            changes = self.edit(*(given[name] for name in self._inputs), **settings)
            return write(weights, changes, str(self.cfg.edit.get("name") or self.edit.__name__))

    def _settle(self) -> None:
        """Adapters become part of the weights."""
        model = self.loaded.model
        if has_adapters(model) and "start" in self._inputs and not self._start:
            self._start = {
                f"{own_name(n)}.weight": layer.base_layer.weight.detach().to("cpu", copy=True)
                for n, layer in adapter_layers(model)
            }
        self.loaded.model = merge_in_place(model).eval()

    def _repair_roles(self) -> list[str]:
        return list(self.cfg.repair.get("roles") or ROLES["retain"])

    def _roles(self, side: str) -> list[str]:
        return list((to_plain(self.cfg.edit).get("roles") or {}).get(side) or ROLES[side])

    def _check(self) -> None:
        """What only model and data can tell."""
        needed = {
            f"edit.roles.{FIELDS[n].side}": self._roles(FIELDS[n].side) for n in self._inputs if n in FIELDS
        }
        if self.repair is not None:
            needed["repair.roles"] = self._repair_roles()
        for key, roles in needed.items():
            for role in roles:
                if not self.corpus.trained(role):
                    others = [r for r in roles if self.corpus.trained(r)] or ["<role>"]
                    raise DataError(
                        f"{key} names the role '{role}', of which the data set '{self.corpus.name}' has no training "
                        f"examples. Add some, or leave it out: {key}=[{','.join(others)}]."
                    )
        for kind, names in _NAMED.items():
            if patterns := (self._settings.get(kind) or {}).get("layers"):
                names(self.loaded.model, patterns)


def live(model: Any) -> dict[str, Tensor]:
    """Live floating-point parameters of a model without adapters, by name, tied ones once."""
    return {n: p.detach() for n, p in model.named_parameters() if p.is_floating_point()}
