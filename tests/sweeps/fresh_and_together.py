"""Two runs in fresh processes, and in one process after each other in either order.

A script of its own, because it forks: a process that has imported everything and run nothing is as good as a new one,
and cheaper. Not collected. Usage: python -m tests.sweeps.fresh_and_together FOLDER MODEL
"""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext
from pathlib import Path

import harmonize.unlearning.run
from harmonize.config.compositions import Compositions
from harmonize.errors import HarmonizeError
from harmonize.warm import kept
from tests.unlearning.test_run import write_data

FULL = ("method=bidirectional",)
LORA = ("method=npo", "seed=1", "peft=lora", "peft.r=2", "peft.target_modules=[q_proj,down_proj]")
RUNS = {"full": FULL, "lora": LORA}
PROCESSES = {  # study: its runs, and whether they share what they load
    "full-alone": (["full"], False),
    "lora-alone": (["lora"], False),
    "full-first": (["full", "lora", "full"], True),
    "lora-first": (["lora", "full"], True),
}


def base(folder: Path, model: str) -> list[str]:
    return [
        "dataset=local",
        f"dataset.examples={folder / 'data' / 'examples.jsonl'}",
        "dataset.refusals=['I can not say.']",
        "dataset.instruction='Say nothing of where people live.'",
        "dataset.openers=['Sure, here it is:']",
        "dataset.openers_heldout=['Of course:']",
        "model=hf",
        f"model.name_or_path={model}",
        f"model.gold={model}",
        f"paths.cache_dir={folder / 'cache'}",
        f"paths.runs={folder}",
        "trainer.max_steps=4",
        "trainer.val_check_interval=2",
        "trainer.enable_progress_bar=false",
        "suite.max_new_tokens=4",
        "suite.bootstrap=5",
        "suite.relearn_steps=2",
        "suite.relearn_facts=1",
        "teacher.max_new_tokens=4",
        "sampler.rows={forget: 2, neighbor: 2, retain: 2}",
        "optimizer.lr=1e-3",
        "logger=csv",
    ]


def work(folder: Path, model: str, study: str) -> None:
    """The runs of one process."""
    names, shared = PROCESSES[study]
    compositions = Compositions()
    with kept() if shared else nullcontext():
        for number, name in enumerate(names):
            cfg = compositions.compose("unlearn", [*base(folder, model), f"study={study}", *RUNS[name]])
            harmonize.unlearning.run.run(cfg, folder / study / f"{number}-{name}")


def main(folder: Path, model: str) -> int:
    write_data(folder / "data")
    for study in PROCESSES:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                work(folder, model, study)
                code = 0
            except HarmonizeError as error:
                print(error, file=sys.stderr)
            finally:
                os._exit(code)
        if os.waitpid(pid, 0)[1]:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
