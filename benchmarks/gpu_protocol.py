"""The cost protocol on a GPU: our step against plain supervised steps and the peers' ways, on random models.

Nothing is downloaded. Each section prints JSON rows `{section, arm_a, arm_b, ratio_median, q1, q3, n, ...}`. A pair
whose losses or gradients differ in fp32, on a model of the same widths and two layers, is not timed; what bf16 makes
of it at full depth is printed beside. FLOPs are those of the model (no attention scores, no recomputation).

    python -m benchmarks.gpu_protocol [--only s1,c1] [--budget 240] [--out rows.jsonl]
    python -m benchmarks.gpu_protocol --device cpu --tiny
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import sections
from benchmarks.arms import (
    PAD,
    Bench,
    bidirectional,
    build_model,
    flops,
    make_rows,
    make_teacher,
    requests_of,
)
from benchmarks.measure import Peak, Step, interleaved, parity, quartiles, ratio, timed
from benchmarks.place import PEAK_TFLOPS, Place, Section, adamw, emitter, facts, run_sections, trained, void
from harmonize.data.batch import collate
from harmonize.models.head import Head


def s1(place: Place) -> Iterator[dict[str, Any]]:
    """1B, all weights."""
    sizes = [(8, 1024, 0.25), (8, 1024, 0.1), (8, 1024, 0.5), (32, 256, 0.25)]
    for number, (rows, length, answers) in enumerate(sizes):
        work = place.work(rows=rows, length=length, answers=answers)
        yield from sections.step(place, place.shape("1b"), work, parts=len(sizes) - number)


def s1_lora(place: Place) -> Iterator[dict[str, Any]]:
    """8B with adapters of rank 16."""
    work = place.work(rows=4, length=1024, answers=0.25)
    yield from sections.step(place, place.shape("8b"), work, lora=True)


def compiled(place: Place) -> Iterator[dict[str, Any]]:
    """1B, all weights: the cached step with its blocks compiled, against the same step without."""
    shape, work = place.shape("1b"), place.work(rows=8, length=1024)
    model = build_model(shape, place.device, place.dtype)
    rows = make_rows(work, shape.vocabulary)
    teacher = make_teacher(model, requests_of(rows, work.prefix, shape.vocabulary))
    model.train()
    optimizer = adamw(trained(model), place)
    plain = Bench(model, bidirectional(), optimizer, teacher=teacher)
    fast = Bench(model, bidirectional(), optimizer, teacher=teacher, compile_blocks=True)
    about = facts(place, shape, rows, work, False)
    began = time.perf_counter()
    step = fast.step(rows, place.dtype)
    for _ in range(3):
        step()
    yield {"seconds_to_compile": round(time.perf_counter() - began, 1), **about}
    arms = {"compiled": step, "bidirectional": plain.step(rows, place.dtype)}
    found = interleaved(arms, place.device, place.pairs, seconds=place.left / 2)
    yield {**ratio(found, "compiled", "bidirectional"), **about}
    done = flops(shape, collate(rows, PAD), "cached", False)
    rate = done / quartiles(found["compiled"])[1] / 1e9
    yield {
        "rate": "compiled",
        "tflop_per_s": round(rate, 1),
        "share_of_peak": round(rate / PEAK_TFLOPS, 4),
        **about,
    }


def p1(place: Place) -> Iterator[dict[str, Any]]:
    """1B, all weights: rows between 0.2 and 1.0 of the longest, without padding and padded."""
    work = replace(place.work(rows=8, length=1024), shortest=0.2)
    yield from sections.padding(place, place.shape("1b"), work)


def s2(place: Place) -> Iterator[dict[str, Any]]:
    """1B, all weights and adapters."""
    cases = [(128, False), (512, False), (128, True)]
    for number, (prefix, lora) in enumerate(cases):
        work = place.work(rows=16, length=256, prefix=prefix)
        profiled = (prefix, lora) == (128, False)
        yield from sections.teachers(place, place.shape("1b"), work, lora, len(cases) - number, profiled)


def c1(place: Place) -> Iterator[dict[str, Any]]:
    """1B, 128 rows behind instructions of several lengths, and 512 rows behind one of them."""
    cases = [(128, 128), (128, 256), (128, 512), (512, 256)]
    for number, (rows, prefix) in enumerate(cases):
        work = place.work(rows=rows, length=512, prefix=prefix)
        left = len(cases) - number
        profiled = (rows, prefix) == (128, 256)
        yield from sections.caches(place, place.shape("1b"), work, left, profiled)


def v1(place: Place) -> Iterator[dict[str, Any]]:
    """Four layers of the 1B."""
    sizes = (300, 600) if place.tiny else (8192, 32768, 131072, 262144)
    shape = place.shape("1b")
    for number, size in enumerate(sizes):
        small = replace(shape, layers=min(4, shape.layers), vocabulary=size)
        yield from sections.vocabulary(place, small, place.work(rows=8, length=1024), len(sizes) - number)


def s3(place: Place) -> Iterator[dict[str, Any]]:
    """The head alone: selection and loss through the seam against dense logits with autograd."""
    cases = [(2048, 128256), (4096, 128256), (2304, 256000)] if not place.tiny else [(32, 300)]
    for hidden, vocabulary in cases:
        for answers in (256, 2048, 8192) if not place.tiny else (16,):
            for k in (16, 64) if answers == 2048 else (16,):
                for frozen in (False, True) if k == 16 else (False,):
                    yield from _s3(place, hidden, vocabulary, answers, k, frozen)
                    place.free()


def _s3(
    place: Place, hidden: int, vocabulary: int, answers: int, k: int, frozen: bool
) -> Iterator[dict[str, Any]]:
    torch.manual_seed(0)
    with place.device:
        weight = (torch.randn(vocabulary, hidden) * 0.02).to(place.dtype).requires_grad_(not frozen)
        states = torch.randn(answers, hidden).to(place.dtype).requires_grad_()
        ids = torch.randint(0, vocabulary, (answers, k)).sort(1).values
        target = torch.randn(answers, k)
    head = Head(weight)
    wanted = [states, *([] if frozen else [weight])]

    def loss(dense: bool) -> Tensor:
        _, top, at = head.select(states, ids, k, dense=dense)
        return F.huber_loss(at, target) + F.huber_loss(top, torch.zeros_like(top))

    about = {
        "hidden": hidden,
        "vocabulary": vocabulary,
        "answers": answers,
        "k": k,
        "head": "frozen" if frozen else "trained",
    }
    found = parity(lambda: loss(False), lambda: loss(True), wanted, place.dtype)
    yield {"parity": "seam / dense autograd", **found, **about}
    if not found["ok"]:
        return
    arms: dict[str, Step] = {
        "seam": lambda: void(torch.autograd.grad(loss(False), wanted)),
        "dense": lambda: void(torch.autograd.grad(loss(True), wanted)),
        "product": lambda: void(states.detach() @ weight.detach().t()),
        "seam, forward": lambda: void(loss(False)),
    }
    times = interleaved(arms, place.device, min(place.pairs, 15), seconds=5)
    row = ratio(times, "seam", "dense")
    row["ms"] = {name: round(quartiles(values)[1], 3) for name, values in times.items()}
    if place.device.type == "cuda":
        row["peak"] = {}
        for name in ("seam", "dense"):
            peak = Peak(place.device)
            arms[name]()
            peak.mark("op")
            row["peak"][name] = peak.row()["peak"] - peak.before
    yield {**row, **about}


def s4(place: Place) -> Iterator[dict[str, Any]]:
    """1B, 8 + 8 rows of 256 tokens."""
    yield from sections.methods(place, place.shape("1b"), place.work(rows=16, length=256))


def profile(place: Place) -> Iterator[dict[str, Any]]:
    """1B, all weights: the kernels of one cached step that take longest, and the step's idle share."""
    shape, work = place.shape("1b"), place.work(rows=8, length=1024)
    model = build_model(shape, place.device, place.dtype)
    rows = make_rows(work, shape.vocabulary)
    teacher = make_teacher(model, requests_of(rows, work.prefix, shape.vocabulary))
    model.train()
    module = Bench(model, bidirectional(), adamw(trained(model), place), teacher=teacher)
    step = module.step(rows, place.dtype)
    for _ in range(3):
        step()
    kinds = [torch.profiler.ProfilerActivity.CPU]
    if place.device.type == "cuda":
        kinds.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=kinds) as trace:
        whole = timed(step, place.device)
    on = "device" if place.device.type == "cuda" else "cpu"
    events = [
        (e.key, float(getattr(e, f"self_{on}_time_total")) / 1e3, e.count)
        for e in trace.key_averages()
        if on == "cpu" or str(e.device_type).endswith("CUDA")
    ]
    events.sort(key=lambda e: -e[1])
    yield {
        "ms": round(whole, 2),
        "busy_ms": round(sum(e[1] for e in events), 2),
        "kernels": [{"name": n[:90], "ms": round(t, 3), "calls": c} for n, t, c in events[:25]],
        **facts(place, shape, rows, work, False),
    }


# name to what it runs and the seconds it is given when all run
SECTIONS: Mapping[str, tuple[Section, float]] = {
    "s1": (s1, 115),
    "profile": (profile, 4),
    "s2": (s2, 45),
    "s4": (s4, 35),
    "v1": (v1, 12),
    "c1": (c1, 60),
    "compiled": (compiled, 28),
    "p1": (p1, 20),
    "s1lora": (s1_lora, 55),
    "s3": (s3, 37),
}


def main() -> int:
    """Runs the sections; 1 if one of them failed."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--only", default=",".join(SECTIONS), help="sections, with commas")
    options.add_argument("--budget", type=float, default=None, help="seconds for all of them together")
    options.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    options.add_argument("--dtype", default=None, choices=["bfloat16", "float32"])
    options.add_argument("--tiny", action="store_true", help="tiny models, to see that it runs")
    options.add_argument("--pairs", type=int, default=None)
    options.add_argument("--out", type=Path, default=None, help="also append the rows to this file")
    given = options.parse_args()
    names = given.only.split(",")
    if unknown := [n for n in names if n not in SECTIONS]:
        options.error(f"no section {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    if given.device == "cuda" and not torch.cuda.is_available():
        options.error("this torch sees no GPU; to see whether the protocol runs: --device cpu --tiny")
    device = torch.device(given.device)
    dtype = getattr(torch, given.dtype or ("bfloat16" if device.type == "cuda" else "float32"))
    if device.type == "cpu":
        torch.set_num_threads(1)
    place = Place(
        device, dtype, given.tiny, given.pairs or (5 if given.tiny else 30), emitter(device, given.out)
    )
    planned = sum(SECTIONS[n][1] for n in names)
    scale = 1.0 if given.budget is None else given.budget / planned
    return run_sections(SECTIONS, names, place, scale)


if __name__ == "__main__":
    sys.exit(main())
