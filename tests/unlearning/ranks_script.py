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
from typing import Any

import lightning as L
import torch
from safetensors.torch import load_file

from harmonize.errors import Interrupted, ModelError, TrainingError
from harmonize.models.body import output_layer
from harmonize.models.frozen import TeacherRequest
from harmonize.models.head import Head
from harmonize.models.lora import apply_peft, form_of_peft
from harmonize.models.reference import build_reference
from harmonize.models.teacher import build_teacher_cache
from harmonize.tracking.loggers import read_metrics
from harmonize.unlearning import ranks, zero
from harmonize.unlearning.callbacks import whole
from harmonize.unlearning.combiners import PCGrad
from harmonize.unlearning.fit import RESUMES, fit
from harmonize.unlearning.gradient import StepTools, Sum
from harmonize.unlearning.launch import _free_port
from harmonize.unlearning.run import run
from harmonize.unlearning.sharded import is_divided, shard
from harmonize.unlearning.steps import StepLoader
from harmonize.unlearning.together import shares_of, together
from harmonize.unlearning.zero import STAGES
from tests.conftest import shared_folder
from tests.unlearning.small import small_config
from tests.unlearning.test_run import write_data
from tests.unlearning.toy import Rows, make_module, make_rows, tiny_llama, trainer_settings

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
    name: str, combiner: object, ordered: list, accumulate: int = 1, strategy: str = "auto", **changes: Any
) -> dict:
    """Loss by step, the weights at the end, and the rows of each step."""
    losses: list[float] = []
    seen.clear()

    def log(found: dict, step: int) -> None:
        if "train/loss" in found:
            losses.append(found["train/loss"])

    precision = changes.pop("precision", "32-true")
    model = tiny_llama().bfloat16() if precision == "bf16-true" and ranks.size() > 1 else None
    module = make_module(model, combiner=combiner, accumulate=accumulate, log=log, **changes)
    sampler = Shared(ordered, ROWS)
    folder = Path(sys.argv[1], f"{name}-{ranks.size()}")
    if ranks.size() == 1:
        strategy, precision = "auto", "32-true"
    # half, and on from the checkpoint, where the strategy has one
    for stop in (STEPS // 2, STEPS) if strategy in RESUMES else (STEPS,):
        settings = trainer_settings(
            max_steps=stop, devices=ranks.size(), strategy=strategy, precision=precision
        )
        loader = lambda start: StepLoader(sampler, lambda r: [r], start)  # noqa: E731
        fit(module, loader, settings, title="toy", checkpoints=folder, resume=True)
    return {"losses": losses, "weights": flat(module.student), "seen": [seen[step] for step in range(STEPS)]}


class Uneven(Sum):
    """The last rank's loss reaches the output layer alone."""

    def accumulate(self, weighted: Any, tools: StepTools) -> None:
        if ranks.rank():
            tools.backward(tools.parameters[-1].square().sum())
        else:
            super().accumulate(weighted, tools)


class Steep(Sum):
    """From a step on, a finite loss whose gradient is not, on the first rank."""

    def accumulate(self, weighted: Any, tools: StepTools) -> None:
        steep = (tools.parameters[0] * 0).sum()
        more = steep.sqrt() if tools.step == 2 and ranks.is_first() else steep
        super().accumulate({**weighted, ("steep", "forget"): more}, tools)


class Holds(L.Callback):
    """What a rank holds before an optimizer step, in numbers, and the weights after the last one."""

    def on_before_optimizer_step(self, trainer: L.Trainer, module: Any, optimizer: Any) -> None:
        shares = getattr(optimizer, "averaged_gradients", {}).values()
        self.states = [t for state in optimizer.state.values() for t in state.values() if t.ndim]
        self.gradients = [p.grad for p in module.trainable if p.grad is not None]
        self.held = [sum(t.numel() for t in self.states)]
        self.held.append(sum(t.numel() for t in [*self.gradients, *(t for share in shares for t in share)]))

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, *args: object) -> None:
        self.weights = flat(module.student)


def uneven(strategy: str, combiner: Sum) -> dict:
    """A training in which ranks differ, or a gradient is not finite: what was held, said and left behind."""
    module, sampler, said = make_module(combiner=combiner), Shared(make_rows(32), ROWS), ""
    strategy, holds = strategy if ranks.size() > 1 else "auto", Holds()
    settings = trainer_settings(max_steps=4, devices=ranks.size(), strategy=strategy)
    loader = lambda start: StepLoader(sampler, lambda r: [r], start)  # noqa: E731
    try:
        fit(module, loader, settings, title="toy", callbacks=[holds])
    except TrainingError as error:
        said = str(error)
    parameters = list(module.student.parameters())
    return {
        "said": said,
        "weights": flat(module.student),
        "before": getattr(holds, "weights", None),
        "held": getattr(holds, "held", None),
        "own_memory": all(p.untyped_storage().nbytes() == p.nbytes for p in parameters),
        "hooks": sum(len(p._post_accumulate_grad_hooks or ()) for p in parameters),
    }


def flat(model: torch.nn.Module) -> list[float]:
    return torch.cat([whole(p.detach()).flatten() for p in model.parameters()]).tolist()


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


def taught() -> dict:
    """Teacher and reference of a model with adapters that start elsewhere than at zero, and who held what of it."""
    model: torch.nn.Module = tiny_llama()
    lora = {
        "peft_type": "LORA",
        "r": 2,
        "target_modules": ["q_proj", "down_proj"],
        "init_lora_weights": "pissa",
    }
    if ranks.is_first():
        torch.manual_seed(1)
        model = apply_peft(model, lora)
    else:
        model = form_of_peft(model.to("meta"), lora)
    empty = all(p.is_meta for p in model.parameters())
    if ranks.size() > 1:
        shard(model)
    shares = shares_of(model)
    alike = tuple(range(3, 39))  # long enough to be read once for all that begin so
    rows = make_rows(13)
    requests = [
        TeacherRequest(
            r.example_id, r.role, (*(alike if n % 3 else ()), *r.prompt), None if n % 2 else r.target
        )
        for n, r in enumerate(rows)
    ]
    folder = Path(sys.argv[1], f"cache-{ranks.size()}")
    common = {
        "digest": "d",
        "pad_id": 0,
        "mode": "hidden",
        "cache_dir": folder,
        "batch_size": 2,
        "shares": shares,
    }
    said = {"renderer_digest": "r", "end_id": 2, "stop_ids": [2], "max_new_tokens": 4, "top_k": 5}
    teacher = build_teacher_cache(model, Head.of(model), requests, **common, **said)
    kinds = ("log_probs", "hidden")
    reference = build_reference(model, Head.of(model), rows, kinds, {0: 0}, **common)
    held = [p.to_local() if is_divided(p) else p for p in model.parameters()]
    return {
        "empty": empty,
        "folders": [teacher.path.name, reference.path.name],
        "hidden": teacher.hidden(torch.arange(teacher.positions)).tolist(),
        "targets": {r.example_id: teacher.target(r.example_id) for r in requests},
        "forwards": [teacher.forwards, reference.forwards],
        "weights": {n: whole(p.detach()).tolist() for n, p in model.named_parameters()},
        "held": sum(p.numel() for p in held),
        "head": sum(p.numel() for p in output_layer(model).parameters()),
        "failed": failed(model),
    }


def failed(model: torch.nn.Module) -> str:
    """What every rank raises when the last one fails between two passes and the others go on."""
    ids = torch.ones((1, 3), dtype=torch.long)
    try:
        with torch.no_grad(), together(model):
            for n in range(3):
                if n == 1 and ranks.rank() == ranks.size() - 1:
                    raise ModelError("no such row")
                model(input_ids=ids)
    except ModelError as error:
        return str(error)
    return "not failed"


def run_config(shared: Path, folder: Path, *overrides: str) -> Any:
    own = ["suite.axes=[forget]", "suite.relearn=false", "suite.bootstrap=2", "suite.max_new_tokens=4"]
    own += ["method=npo", "save_model=false", "logger=csv", "trainer.log_every_n_steps=1", "seed=3"]
    return small_config(shared, folder, *own, *overrides)


def losses(folder: Path) -> list[float]:
    return [value for _, name, value in read_metrics(folder / "metrics.csv") if name == "train/loss"]


def whole_run() -> dict:
    """A run of all weights that is an ordinary model before and after, as one rank of it or alone."""
    folder = Path(sys.argv[1], f"run-{ranks.size()}")
    shares = ["trainer.devices=2", "trainer.strategy=fsdp2"] if ranks.size() > 1 else []
    cache = f"paths.cache_dir={sys.argv[1]}/run-cache-{ranks.size()}"
    cfg = run_config(shared_folder(), Path(sys.argv[1]), "save_model=true", cache, *shares)
    values = run(cfg, folder)
    if not ranks.is_first():
        return {}
    state = load_file(folder / "model" / "model.safetensors")
    return {
        "losses": losses(folder),
        "values": {k: v for k, v in values.items() if v is not None},
        "exported": torch.cat([state[n].flatten()[:50] for n in sorted(state)]).tolist(),
    }


def everything() -> dict:
    rows = make_rows(32)
    # the first rank has a step's forget rows and no other: it lacks a term
    parted = [r for k in range(0, 32, ROWS) for r in sorted(rows[k : k + ROWS], key=lambda r: r.role)]
    return {
        "interrupted": interrupted(),
        "taught": taught(),
        "run": whole_run(),
        "sum": trajectory("sum", Sum(), parted, accumulate=2),
        "pcgrad": trajectory("pcgrad", PCGrad(groups="sides"), rows),
        "fsdp2": trajectory("fsdp2", Sum(), rows, strategy="fsdp2"),
        "zero1": trajectory("zero1", Sum(), parted, accumulate=2, strategy="deepspeed_stage_1"),
        "zero2": trajectory(
            "zero2", Sum(), parted, accumulate=2, strategy="deepspeed_stage_2", cosines_every=2
        ),
        "bf16": trajectory("bf16", Sum(), rows, strategy="deepspeed_stage_2", precision="bf16-true"),
        "uneven": {name: uneven(name, Uneven()) for name in ("ddp", *STAGES)},
        "steep": {name: uneven(name, Steep()) for name in STAGES},
    }


def rank(number: int, port: int) -> None:
    zero._BUCKET = 600  # several buckets, and parameters larger than one
    where = {"RANK": number, "LOCAL_RANK": number, "NODE_RANK": 0, "WORLD_SIZE": 2, "MASTER_PORT": port}
    os.environ.update({k: str(v) for k, v in where.items()}, MASTER_ADDR="127.0.0.1")
    ranks.join(cuda=False)
    assert ranks.any_of(number == 1) and ranks.of_first(number) == 0
    Path(sys.argv[1], f"rank{number}.json").write_text(json.dumps(everything()))


if __name__ == "__main__":
    write_data(Path(sys.argv[1], "data"))
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
