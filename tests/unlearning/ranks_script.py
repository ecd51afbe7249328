"""One rank of the test of several: trains the toy model on its share and writes what it saw. Not collected."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from harmonize.unlearning import ranks
from harmonize.unlearning.combiners import PCGrad
from harmonize.unlearning.fit import fit
from harmonize.unlearning.gradient import Sum
from harmonize.unlearning.steps import StepLoader
from tests.unlearning.toy import Rows, make_module, make_rows, trainer_settings

STEPS, ROWS = 6, 8


class Shared(Rows):
    """The same rows of a step, those of this rank; a rank may lack a role."""

    def draw(self, step: int) -> list:
        share = super().draw(step)[ranks.rank() * self.size // ranks.size() :]
        mine = share[: self.size // ranks.size()]
        seen.append([r.example_id for r in mine])
        return mine


seen: list[list[str]] = []


def trajectory(combiner: object, ordered: list, accumulate: int = 1) -> dict:
    """Loss by step, the weights at the end, and the rows of each step."""
    losses: list[float] = []
    seen.clear()

    def log(found: dict, step: int) -> None:
        if "train/loss" in found:
            losses.append(found["train/loss"])

    module = make_module(combiner=combiner, accumulate=accumulate, log=log)
    settings = trainer_settings(max_steps=STEPS, devices=ranks.size())
    sampler = Shared(ordered, ROWS)
    fit(module, lambda start: StepLoader(sampler, lambda r: [r], start), settings, title="toy")
    weights = torch.cat([p.detach().flatten() for p in module.student.parameters()])
    return {"losses": losses, "weights": weights.tolist(), "seen": seen[:STEPS]}


def everything() -> list[dict]:
    rows = make_rows(32)
    # the first rank has a step's forget rows and no other: it lacks a term
    parted = [r for k in range(0, 32, ROWS) for r in sorted(rows[k : k + ROWS], key=lambda r: r.role)]
    return [trajectory(Sum(), parted, accumulate=2), trajectory(PCGrad(groups="sides"), rows)]


if __name__ == "__main__":
    ranks.join(cuda=False)
    Path(sys.argv[1], f"rank{ranks.rank()}.json").write_text(json.dumps(everything()))
