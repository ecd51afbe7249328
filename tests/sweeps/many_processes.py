"""A sweep in processes that are killed, and in several at once. A script of its own, because it forks; not collected.

Usage: python -m tests.sweeps.many_processes FOLDER
"""

from __future__ import annotations

import copy
import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import harmonize.unlearning.run
from harmonize.commands import sweep
from harmonize.config.compose import compose_config
from harmonize.config.compositions import Compositions
from harmonize.tracking.metric import Metric
from harmonize.tracking.results import Results, write_results
from harmonize.tracking.run_folder import RunFolder
from harmonize.unlearning.setup import plain_config

JOBS = 24
KILLS = 20
SWEEP = f"""# Which seed?
sweep: {{seed: {list(range(JOBS))}}}
overrides: [dataset=sandbox_easy, logger=csv]
"""


def run(cfg: Any, folder: Path) -> dict[str, Any]:
    """A run of some 150 ms, which writes as a run does; it says when it begins, and whether it was done before."""
    place = RunFolder(folder).prepare(resume=cfg.resume, overwrite=cfg.overwrite)
    with place.running():
        note(f"begin {cfg.seed} {place.previous_state or 'new'}")
        place.write_text("config.yaml", harmonize.unlearning.run.OmegaConf.to_yaml(cfg, resolve=True))
        for step in range(6):
            time.sleep(0.02)
            place.write_text("checkpoints/last.ckpt", str(step))
        found = {"forget_accuracy": Metric(cfg.seed / JOBS, 10)}
        write_results(
            folder / "results.json", Results(plain_config(cfg), cfg.seed, found, target_metrics=found)
        )
    return {}


def composed(_: Any, command: str, overrides: list[str]) -> Any:
    """The configuration of a job, made from one that was composed before the processes were."""
    cfg = copy.deepcopy(BASE)
    for key, _, value in (text.partition("=") for text in overrides):
        if key in ("seed", "resume", "overwrite"):
            cfg[key] = json.loads(value)
    return cfg


def note(line: str) -> None:
    with open("begun.txt", "a") as out:
        out.write(line + "\n")


def fork() -> int:
    pid = os.fork()
    if pid == 0:
        try:
            code = sweep.run(["s.yaml", "--quiet"])
        except BaseException as error:
            note(f"error {error}")
            code = 9
        os._exit(code)
    return pid


def ended(pid: int) -> bool:
    return os.waitpid(pid, os.WNOHANG)[0] != 0


def read_everything() -> None:
    """What a reader sees at any moment is whole."""
    for path in Path("runs").glob("s/*/*.json"):
        json.loads(path.read_text())


def begun() -> int:
    return len(Path("begun.txt").read_text().splitlines()) if Path("begun.txt").exists() else 0


def killed() -> None:
    """Kills most processes in or after a run that they began, some at any moment."""
    draw = random.Random(0)
    for _ in range(KILLS):
        pid, before = fork(), begun()
        anywhere = draw.random() < 0.25
        while not anywhere and begun() == before and not ended(pid):
            read_everything()
            time.sleep(0.005)
        until = time.monotonic() + draw.uniform(0.0, 0.2)
        while time.monotonic() < until:
            read_everything()
            time.sleep(0.005)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        note("killed")
    os.waitpid(fork(), 0)


def together() -> None:
    for pid in [fork() for _ in range(4)]:
        os.waitpid(pid, 0)


if __name__ == "__main__":
    BASE = compose_config("unlearn", ["dataset=sandbox_easy", "logger=csv", "study=s"])
    Compositions.compose = composed
    harmonize.unlearning.run.run = run
    sweep._POLL_SECONDS = 0.05
    for study in (killed, together):
        folder = Path(sys.argv[1], study.__name__)
        folder.mkdir()
        os.chdir(folder)
        Path("s.yaml").write_text(SWEEP)
        study()
