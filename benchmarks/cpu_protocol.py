"""The cost protocol on a CPU (`make bench`): one thread, process CPU seconds, small random models in fp32.

The sections are those of `benchmarks.gpu_protocol` at other sizes. Peak memory is the growth of the resident high-water
mark over steps of one arm in a fresh process (Linux), after the optimizer's state is there.

    python -m benchmarks.cpu_protocol [--only s1,c1] [--pairs 15] [--out rows.jsonl]
"""

from __future__ import annotations

import argparse
import gc
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import peers, sections, studies
from benchmarks.arms import (
    PAD,
    SHAPES,
    Bench,
    Shape,
    Work,
    answer_only_loss,
    bidirectional,
    build_model,
    flops,
    make_rows,
    make_teacher,
    one_mean,
    one_role,
    plain_step,
    requests_of,
    stock_loss,
    supervised,
)
from benchmarks.measure import Step, interleaved, ratio
from benchmarks.place import Place, Section, adamw, emitter, facts, run_sections, trained
from harmonize.data.batch import collate

CPU = torch.device("cpu")
WORKS = {
    "sandbox": Work(64, 28, 0.36, prefix=32),
    "1b-proportioned": Work(8, 64, 0.25, prefix=32),
    "v32k": Work(8, 64, 0.25, prefix=32),
}
SMALLEST = ("sandbox", "v32k")  # what the tests time
ALONE = Work(64, 64, 0.5)  # of the loss alone
GROWN = (8192, 32768, 131072, 262144)


def s1(place: Place) -> Iterator[dict[str, Any]]:
    """Three shapes, time and memory."""
    for number, (name, work) in enumerate(WORKS.items()):
        for row in sections.step(place, SHAPES[name], work, parts=len(WORKS) - number):
            if "rate" not in row:
                yield {**row, "shape": name}
        yield from memory(place, name)


def memory(place: Place, name: str) -> Iterator[dict[str, Any]]:
    """Peak memory growth of a step, each arm in a fresh process."""
    rows = make_rows(WORKS[name], SHAPES[name].vocabulary)
    about = {**facts(place, SHAPES[name], rows, WORKS[name], False), "shape": name}
    for arm in ("bidirectional", "supervised", "answer-only", "stock"):
        yield {"memory": arm, "peak": in_fresh_process(name, arm), **about}


def s2(place: Place) -> Iterator[dict[str, Any]]:
    """The 1B's proportions, all weights and adapters."""
    cases = [(32, False), (128, False), (128, True)]
    for number, (prefix, lora) in enumerate(cases):
        work = replace(WORKS["1b-proportioned"], prefix=prefix)
        left = len(cases) - number
        yield from sections.teachers(place, SHAPES["1b-proportioned"], work, lora, left)


def s4(place: Place) -> Iterator[dict[str, Any]]:
    """Vocabulary 32000, 8 + 8 rows of 64."""
    yield from sections.methods(place, SHAPES["v32k"], Work(16, 64, 0.25))


def c1(place: Place) -> Iterator[dict[str, Any]]:
    """The 1B's proportions: rows in four batches, behind instructions of half, one and two times their length."""
    cases = [Work(16, 64, 0.25, prefix) for prefix in (32, 64, 128)]
    cases.append(Work(64, 64, 0.25, 32))
    for number, work in enumerate(cases):
        yield from sections.caches(place, SHAPES["1b-proportioned"], work, len(cases) - number)


def v1(place: Place) -> Iterator[dict[str, Any]]:
    """A small body, four vocabularies: time of a step, and bytes of the loss alone."""
    for number, size in enumerate(GROWN):
        shape = replace(SHAPES["v32k"], vocabulary=size)
        yield from sections.vocabulary(place, shape, WORKS["v32k"], len(GROWN) - number)
        arms = ("bidirectional", "supervised")
        found = {arm: in_fresh_process(f"loss:{size}", arm) for arm in arms}
        yield {"loss memory": found, "rows": ALONE.rows, "vocabulary": size}


def p1(place: Place) -> Iterator[dict[str, Any]]:
    """Short rows, rows of a small body, and few long rows under a small body."""
    long = replace(SHAPES["sandbox"], hidden=64, layers=5, inner=172, vocabulary=512)
    cases = {name: (SHAPES[name], WORKS[name]) for name in ("sandbox", "1b-proportioned")}
    cases["long rows"] = (long, Work(15, 400, 0.4, prefix=32))
    for number, (name, (shape, work)) in enumerate(cases.items()):
        for row in sections.padding(place, shape, work, len(cases) - number):
            yield {**row, "shape": name}


def linear(place: Place) -> Iterator[dict[str, Any]]:
    """A cached step with twice the rows, and with twice the answers behind the same prompts."""
    shape = SHAPES["1b-proportioned"]
    optimizer: Any = None
    model = build_model(shape, CPU, place.dtype)
    works = {
        "step": Work(8, 64, 0.25),
        "twice the rows": Work(16, 64, 0.25),
        "twice the answers": Work(8, 80, 0.4),
    }
    rows = {name: make_rows(work, shape.vocabulary) for name, work in works.items()}
    teachers = {name: make_teacher(model, requests_of(r, 32, shape.vocabulary)) for name, r in rows.items()}
    model.train()
    optimizer = adamw(trained(model), place)
    steps: dict[str, Step] = {
        name: Bench(model, bidirectional(), optimizer, teacher=teachers[name]).step(r, place.dtype)
        for name, r in rows.items()
    }
    found = interleaved(steps, CPU, place.pairs, seconds=place.left)
    done = {name: flops(shape, collate(r, PAD), "cached", False) for name, r in rows.items()}
    for name in list(works)[1:]:
        yield {
            **ratio(found, name, "step"),
            "predicted": round(done[name] / done["step"], 4),
            **facts(place, shape, rows[name], works[name], False),
        }


SECTIONS: Mapping[str, tuple[Section, float]] = {
    "s1": (s1, 900),
    "s2": (s2, 900),
    "s4": (s4, 600),
    "c1": (c1, 600),
    "v1": (v1, 600),
    "p1": (p1, 400),
    "linear": (linear, 600),
    "r1": (studies.r1, 900),
}


def one_arm(name: str, arm: str) -> Step:
    """A step of one arm on a model of its own; `loss:V` is loss and backward alone, on given states."""
    if name.startswith("loss:"):
        return _loss_alone(replace(SHAPES["v32k"], vocabulary=int(name.partition(":")[2])), arm)
    shape, work = SHAPES[name], WORKS[name]
    model = build_model(shape, CPU, torch.float32)
    rows = make_rows(work, shape.vocabulary)
    same = one_role(rows)
    teacher = (
        make_teacher(model, requests_of(rows, work.prefix, shape.vocabulary))
        if arm == "bidirectional"
        else None
    )
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    if arm == "bidirectional":
        return Bench(model, bidirectional(), optimizer, teacher=teacher).step(rows, torch.float32)
    if arm == "supervised":
        return Bench(model, one_mean(supervised()), optimizer).step(same, torch.float32)
    loss: Callable[[Any, Any, Any], Tensor] = answer_only_loss if arm == "answer-only" else stock_loss
    return plain_step(lambda: loss(model, same, CPU), trained(model), optimizer)


def _loss_alone(shape: Shape, arm: str) -> Step:
    model: nn.Module = build_model(replace(shape, layers=1), CPU, torch.float32)
    rows = make_rows(ALONE, shape.vocabulary)
    terms = bidirectional() if arm == "bidirectional" else supervised()
    teacher = make_teacher(model, requests_of(rows, 32, shape.vocabulary)) if arm == "bidirectional" else None
    module = Bench(model, terms, None, teacher=teacher)
    forward = module._parts.forward
    forward.head = forward.head.frozen()
    batch = collate(rows, PAD)
    hidden = torch.randn(len(batch.labels), shape.hidden, requires_grad=True)
    return lambda: peers.loss_backward(module, batch, hidden)


def in_fresh_process(name: str, arm: str) -> int:
    """Bytes by which steps of an arm raise the high-water mark.

    Every larger block is mapped by itself and given back when it is freed: what glibc keeps for later differs from
    process to process by a factor of four.
    """
    command = [sys.executable, "-m", "benchmarks.cpu_protocol", "--peak", name, arm]
    root, plain = Path(__file__).resolve().parents[1], {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    return int(
        subprocess.run(command, check=True, capture_output=True, text=True, cwd=root, env=plain).stdout
    )


def print_peak(name: str, arm: str) -> None:
    """What a fresh process does."""
    step = one_arm(name, arm)
    step()  # the optimizer's state
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again from here
    before = _high_water()
    for _ in range(3):
        step()
    print(_high_water() - before)


def _high_water() -> int:
    """Peak resident bytes of this process (Linux)."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def main() -> int:
    """Runs the sections; 1 if one of them failed."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--only", default=",".join(SECTIONS), help="sections, with commas")
    options.add_argument("--pairs", type=int, default=15)
    options.add_argument("--out", type=Path, default=None, help="also append the rows to this file")
    options.add_argument("--peak", nargs=2, metavar=("SHAPE", "ARM"), help="print an arm's memory and stop")
    given = options.parse_args()
    torch.set_num_threads(1)
    if given.peak:
        print_peak(*given.peak)
        return 0
    names = given.only.split(",")
    if unknown := [n for n in names if n not in SECTIONS]:
        options.error(f"no section {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    place = Place(CPU, torch.float32, False, given.pairs, emitter(CPU, given.out))
    return run_sections(SECTIONS, names, place, 1.0)


if __name__ == "__main__":
    sys.exit(main())
