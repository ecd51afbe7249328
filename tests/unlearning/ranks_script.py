"""Two ranks, forked after the imports, and one process alone, each of which trains the toy model. Not collected.

Usage: python -m tests.unlearning.ranks_script FOLDER
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from pathlib import Path

import lightning as L
import torch

from harmonize.errors import Interrupted
from harmonize.unlearning import ranks
from harmonize.unlearning.callbacks import whole
from harmonize.unlearning.combiners import PCGrad
from harmonize.unlearning.fit import fit
from harmonize.unlearning.gradient import Sum
from harmonize.unlearning.launch import _free_port
from harmonize.unlearning.steps import StepLoader
from tests.unlearning.toy import Rows, make_module, make_rows, trainer_settings

STEPS, ROWS = 6, 8


class Shared(Rows):
    """The same rows of a step, those of this rank; a rank may lack a role."""

    def draw(self, step: int) -> list:
        share = super().draw(step)[ranks.rank() * self.size // ranks.size() :]
        mine = share[: self.size // ranks.size()]
        seen[step] = [r.example_id for r in mine]
        return mine


seen: dict[int, list[str]] = {}


def trajectory(
    name: str, combiner: object, ordered: list, accumulate: int = 1, strategy: str = "auto"
) -> dict:
    """Loss by step, the weights at the end, and the rows of each step."""
    losses: list[float] = []
    seen.clear()

    def log(found: dict, step: int) -> None:
        if "train/loss" in found:
            losses.append(found["train/loss"])

    module = make_module(combiner=combiner, accumulate=accumulate, log=log)
    sampler = Shared(ordered, ROWS)
    folder = Path(sys.argv[1], f"{name}-{ranks.size()}")
    # half, and on from the checkpoint, but for FSDP2, which has none
    for stop in (STEPS,) if strategy == "fsdp2" else (STEPS // 2, STEPS):
        settings = trainer_settings(max_steps=stop, devices=ranks.size(), strategy=strategy)
        loader = lambda start: StepLoader(sampler, lambda r: [r], start)  # noqa: E731
        fit(module, loader, settings, title="toy", checkpoints=folder, resume=True)
    weights = torch.cat([whole(p.detach()).flatten() for p in module.student.parameters()])
    return {"losses": losses, "weights": weights.tolist(), "seen": [seen[step] for step in range(STEPS)]}


def interrupted() -> str:
    """Where this rank stopped when the last one alone, or one process, was told to."""

    class Tells(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *args: object) -> None:
            if trainer.global_step == 3 and ranks.rank() == ranks.size() - 1:
                os.kill(os.getpid(), signal.SIGINT)

    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # tests may run in the background, which ignores it
    sampler = Shared(make_rows(32), ROWS)
    settings = trainer_settings(max_steps=50, devices=ranks.size())
    folder = Path(sys.argv[1], f"interrupted-{ranks.size()}")
    try:
        fit(
            make_module(),
            lambda start: StepLoader(sampler, lambda r: [r], start),
            settings,
            title="toy",
            checkpoints=folder,
            callbacks=[Tells()],
        )
    except Interrupted as error:
        return str(error)
    return "not interrupted"


def everything() -> dict:
    rows = make_rows(32)
    # the first rank has a step's forget rows and no other: it lacks a term
    parted = [r for k in range(0, 32, ROWS) for r in sorted(rows[k : k + ROWS], key=lambda r: r.role)]
    return {
        "interrupted": interrupted(),
        "sum": trajectory("sum", Sum(), parted, accumulate=2),
        "pcgrad": trajectory("pcgrad", PCGrad(groups="sides"), rows),
        "fsdp2": trajectory("fsdp2", Sum(), rows, strategy="fsdp2" if ranks.size() > 1 else "auto"),
    }


def rank(number: int, port: int) -> None:
    where = {"RANK": number, "LOCAL_RANK": number, "NODE_RANK": 0, "WORLD_SIZE": 2, "MASTER_PORT": port}
    os.environ.update({k: str(v) for k, v in where.items()}, MASTER_ADDR="127.0.0.1")
    ranks.join(cuda=False)
    assert ranks.any_of(number == 1) and ranks.of_first(number) == 0
    Path(sys.argv[1], f"rank{number}.json").write_text(json.dumps(everything()))


if __name__ == "__main__":
    free = _free_port()
    children = []
    for number in (0, 1):
        children.append(os.fork())
        if children[-1] == 0:
            try:
                rank(number, free)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
    codes = [os.waitpid(pid, 0)[1] for pid in children]
    Path(sys.argv[1], "alone.json").write_text(json.dumps(everything()))
    sys.exit(any(codes))
