"""The cost protocol on a GPU: our step against plain supervised steps and the peers' ways, on random models.

Nothing is downloaded. Each section prints JSON rows `{section, arm_a, arm_b, ratio_median, q1, q3, n, ...}`. A pair
whose losses or gradients differ in fp32, on a model of the same widths and two layers, is not timed; what bf16 makes
of it at full depth is printed beside. FLOPs are those of the model (no attention scores, no recomputation).

    python -m benchmarks.gpu_protocol [--only s1,c1] [--budget 240] [--out rows.jsonl]
    python -m benchmarks.gpu_protocol --device cpu --tiny
"""

from __future__ import annotations

import argparse
import copy
import cProfile
import gc
import json
import platform
import pstats
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

from benchmarks import peers
from benchmarks.arms import (
    PAD,
    SHAPES,
    Bench,
    Shape,
    Work,
    add_lora,
    answer_only_loss,
    batch_of,
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
    unrounded_teachers,
)
from benchmarks.measure import Peak, Step, interleaved, parity, quartiles, ratio, timed
from harmonize.data.batch import Row, collate
from harmonize.models.head import Head, answer_hidden
from harmonize.models.teacher import TeacherRequest

PEAK_TFLOPS = 790.0  # dense bf16 of an H100 or H200 in a large product
FP16 = 2e-3  # parity of an arm that reads states which a cache rounded
TWO_WAYS = 1e-4  # parity of two kernels' fp32 attention, behind which differences of logits are taken


@dataclass
class Place:
    """Where and how large the protocol runs."""

    device: torch.device
    dtype: torch.dtype
    tiny: bool
    pairs: int
    emit: Callable[[dict[str, Any]], None]
    until: float = 0.0

    def shape(self, name: str) -> Shape:
        """The named shape, or a tiny one."""
        return SHAPES["tiny"] if self.tiny else SHAPES[name]

    def work(self, **full: Any) -> Work:
        """The given rows, or few short ones."""
        return Work(8, 24, full.get("answers", 0.25), prefix=40) if self.tiny else Work(**full)

    @property
    def left(self) -> float:
        """Seconds left for the section."""
        return max(1.0, self.until - time.perf_counter())

    def share(self, parts: int) -> float:
        """Seconds for the timed steps of the next of so many equal parts of the section."""
        return 0.7 * self.left / parts

    def free(self) -> None:
        """Gives memory of what is gone back to the device."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def adamw(parameters: Sequence[nn.Parameter], place: Place) -> torch.optim.Optimizer:
    """AdamW as runs have it on this device."""
    return torch.optim.AdamW(parameters, lr=1e-6, fused=place.device.type == "cuda")


def trained(model: nn.Module) -> list[nn.Parameter]:
    """Parameters that are trained."""
    return [p for p in model.parameters() if p.requires_grad]


def s1_full(place: Place) -> Iterator[dict[str, Any]]:
    """1B, all weights: ours cached, supervised (ours, and plain with all answer logits at once), stock `labels=`."""
    shapes = [(8, 1024, 0.25), (8, 1024, 0.1), (8, 1024, 0.5), (32, 256, 0.25)]
    for number, (rows, length, answers) in enumerate(shapes):
        work = place.work(rows=rows, length=length, answers=answers)
        yield from _s1(place, "1b", work, lora=False, parts=len(shapes) - number)


def s1_lora(place: Place) -> Iterator[dict[str, Any]]:
    """8B with adapters of rank 16: the same arms."""
    yield from _s1(place, "8b", place.work(rows=4, length=1024, answers=0.25), lora=True)


def shallow(place: Place, shape: Shape, lora: bool = False) -> Any:
    """An fp32 model of the same widths with two layers, for parity."""
    model = build_model(replace(shape, layers=2), place.device, torch.float32, seed=1)
    return add_lora(model, torch.float32) if lora else model


def _agree(
    place: Place, model: Any, rows: list[Row], work: Work, vocabulary: int
) -> Iterator[dict[str, Any]]:
    """Parity of the arms of S1 on this model."""
    dtype = next(model.parameters()).dtype
    teacher = make_teacher(model, requests_of(rows, work.prefix, vocabulary))
    model.train()
    same, parameters = one_role(rows), trained(model)
    ours = Bench(model, bidirectional(), None, teacher=teacher)
    sft = Bench(model, one_mean(supervised()), None)

    def supervised_loss() -> Tensor:
        return sft.loss(same)

    def stock(mask: bool = True) -> Tensor:
        return stock_loss(model, same, place.device, mask)

    arms = [
        ("supervised / stock", supervised_loss, stock),
        ("supervised / answer-only", supervised_loss, lambda: answer_only_loss(model, same, place.device)),
        ("sparse / dense head", lambda: ours.loss(rows, dense=False), lambda: ours.loss(rows, dense=True)),
    ]
    if dtype != torch.float32:  # how far the choice of an attention kernel alone moves the peers' own way
        arms.append(("stock without a mask / stock", lambda: stock(False), stock))
    for what, a, b in arms:
        yield {"parity": what, **parity(a, b, parameters, dtype)}
        place.free()


def _s1(place: Place, name: str, work: Work, lora: bool, parts: int = 1) -> Iterator[dict[str, Any]]:
    shape = place.shape(name)
    rows = make_rows(work, shape.vocabulary)
    about = facts(place, shape, rows, work, lora)
    agreed = True
    for row in _agree(place, shallow(place, shape, lora), rows, work, shape.vocabulary):
        agreed &= row["ok"]
        yield {**row, **about, "dtype": "float32", "layers": 2}
    place.free()
    if not agreed:
        return
    model = build_model(shape, place.device, place.dtype)
    if lora:
        model = add_lora(model, place.dtype)
    if place.dtype != torch.float32:
        for row in _agree(place, model, rows, work, shape.vocabulary):
            row["within"] = row.pop("ok")
            yield {**row, **about}
    teacher = make_teacher(model, requests_of(rows, work.prefix, shape.vocabulary))
    model.train()
    optimizer = adamw(trained(model), place)
    same = one_role(rows)
    ours = Bench(model, bidirectional(), optimizer, teacher=teacher)
    sft = Bench(model, one_mean(supervised()), optimizer)
    losses = {
        "answer-only": lambda: answer_only_loss(model, same, place.device),
        "stock": lambda: stock_loss(model, same, place.device),
    }
    arms: dict[str, Step] = {
        "bidirectional": ours.step(rows, place.dtype),
        "supervised": sft.step(same, place.dtype),
        **{n: plain_step(loss, trained(model), optimizer) for n, loss in losses.items()},
    }
    found = interleaved(arms, place.device, place.pairs, seconds=place.share(parts))
    batch = collate(rows, PAD)
    work_of = {"bidirectional": "cached", "supervised": "answers", "answer-only": "answers", "stock": "stock"}
    for other in ("supervised", "answer-only", "stock"):
        predicted = flops(shape, batch, "cached", lora) / flops(shape, batch, work_of[other], lora)
        yield {**ratio(found, "bidirectional", other), "predicted": round(predicted, 4), **about}
    for arm, kind in work_of.items():
        done = flops(shape, batch, kind, lora)
        middle = quartiles(found[arm])[1]
        rate = done / middle / 1e9
        yield {
            "rate": arm,
            "ms": round(middle, 3),
            "tflop": round(done / 1e12, 3),
            "tflop_per_s": round(rate, 1),
            "share_of_peak": round(rate / PEAK_TFLOPS, 4),
            **about,
        }
    if place.device.type == "cuda":
        for arm in (ours, sft):
            name = "bidirectional" if arm is ours else "supervised"
            mine = rows if arm is ours else same
            peak = Peak(place.device)
            arm.mark = peak.mark
            arm.step(mine, place.dtype)()
            arm.mark = None
            yield {"memory": name, **peak.row(), **about}
        for name, loss in losses.items():
            peak = Peak(place.device)
            plain_step(loss, trained(model), optimizer, peak.mark)()
            yield {"memory": name, **peak.row(), **about}


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


def s2(place: Place) -> Iterator[dict[str, Any]]:
    """1B: a live teacher that reads the instruction in every row, one that reads it once, and the cache."""
    cases = [(128, False), (512, False), (128, True)]
    for number, (prefix, lora) in enumerate(cases):
        yield from _s2(place, prefix, lora, len(cases) - number)


def _s2(place: Place, prefix: int, lora: bool, parts: int) -> Iterator[dict[str, Any]]:
    shape, work = place.shape("1b"), place.work(rows=16, length=256, prefix=prefix)
    rows = make_rows(work, shape.vocabulary)
    requests = requests_of(rows, work.prefix, shape.vocabulary)
    about = facts(place, shape, rows, work, lora)

    def arms_of(model: Any, optimizer: Any) -> dict[str, Bench]:
        teachers = {
            "live": make_teacher(model, requests, "none", share=False),
            "live, shared prefix": make_teacher(model, requests, "none"),
            "cached": make_teacher(model, requests),
        }
        model.train()
        return {n: Bench(model, bidirectional(), optimizer, teacher=t) for n, t in teachers.items()}

    agreed = True
    for row in _same_teachers(place, shallow(place, shape, lora), rows, requests, arms_of):
        agreed &= row.get("ok", True)
        yield {**row, **about, "dtype": "float32", "layers": 2}
    place.free()
    if not agreed:
        return
    model = build_model(shape, place.device, place.dtype)
    if lora:
        model = add_lora(model, place.dtype)
    optimizer = adamw(trained(model), place)
    arms = arms_of(model, optimizer)
    sft = Bench(model, one_mean(supervised()), optimizer)
    steps: dict[str, Step] = {n: arm.step(rows, place.dtype) for n, arm in arms.items()}
    steps["supervised"] = sft.step(one_role(rows), place.dtype)
    # a live teacher keeps what it said of the same rows; every step here is to ask it again
    for name in ("live", "live, shared prefix"):
        steps[name] = _asked_again(arms[name]._parts.forward.teacher, steps[name])
    times = interleaved(steps, place.device, place.pairs, seconds=place.share(parts))
    tokens = collate(rows, PAD).input_ids.numel()
    again = (tokens + work.prefix * len(rows)) / tokens
    for name in ("live", "live, shared prefix", "cached"):
        kind = "cached" if name == "cached" else "live"
        share = again if name == "live" else 1.0 + work.prefix / tokens
        batch = collate(rows, PAD)
        predicted = flops(shape, batch, kind, lora, share) / flops(shape, batch, "answers", lora)
        yield {**ratio(times, name, "supervised"), "predicted": round(predicted, 4), **about}


def _same_teachers(
    place: Place,
    model: Any,
    rows: list[Row],
    requests: list[TeacherRequest],
    arms_of: Callable[[Any, Any], dict[str, Bench]],
) -> Iterator[dict[str, Any]]:
    """Parity of both ways to ask, without the rounding to fp16; and what the rounding does, which is no parity."""
    exact = unrounded_teachers(model, requests)
    made = arms_of(model, None)
    a, b = "live, shared prefix", "live"
    unrounded = {n: Bench(model, bidirectional(), None, teacher=t) for n, t in exact.items()}
    check = parity(
        lambda: unrounded[a].loss(rows), lambda: unrounded[b].loss(rows), trained(model), limit=TWO_WAYS
    )
    index = torch.arange(exact[b].positions, device=place.device)
    check["states"] = _apart(exact[a].hidden(index), exact[b].hidden(index))
    check["ok"] &= check["states"] <= TWO_WAYS
    yield {"parity": f"{a} / {b}", **check}
    for a in ("live, shared prefix", "cached"):

        def first(arm: Bench = made[a]) -> Tensor:
            return arm.loss(rows)

        found = parity(first, lambda: made[b].loss(rows), trained(model))
        lists = [made[n]._parts.forward.teacher.top(index, 16)[0].sort(1).values for n in (a, b)]
        yield {
            "rounded to fp16": f"{a} / {b}",
            "loss": found["loss"],
            "gradient": found["gradient"],
            "lists that differ": round(float((lists[0] != lists[1]).any(1).float().mean()), 5),
        }


def _apart(first: Tensor, second: Tensor) -> float:
    """Relative distance of two tensors."""
    return float((first - second).norm() / second.norm())


def _asked_again(teacher: Any, step: Step) -> Step:
    def take() -> None:
        teacher._kept = {}
        step()

    return take


def c1(place: Place) -> Iterator[dict[str, Any]]:
    """Building the cache, against a pure forward pass of the body over the same teacher tokens."""
    shares = (0.25, 0.5, 1.0)
    for number, share in enumerate(shares):
        length = 24 if place.tiny else 512
        prefix = 40 if place.tiny else round(share * length)
        shape = place.shape("1b")
        work = Work(8 if place.tiny else 128, length, 0.25, prefix)
        model = build_model(shape, place.device, place.dtype).eval()
        head = Head.of(model)
        rows = make_rows(work, shape.vocabulary)
        requests = requests_of(rows, prefix, shape.vocabulary)
        asked = sorted(requests, key=lambda r: -len(r.prompt) - len(r.target or ()))
        plain = [Row(r.example_id, r.role, "", r.prompt, r.target or ()) for r in asked]
        size = max(1, len(rows) // 4)
        batches = [collate(plain[i : i + size], PAD) for i in range(0, len(plain), size)]

        def forward(model: Any = model, batches: Any = batches) -> None:
            with torch.no_grad():
                for batch in batches:
                    model.model(input_ids=batch.to(place.device).input_ids, use_cache=False)

        def build(share: bool, model: Any = model, r: Any = requests, n: int = size, h: Head = head) -> None:
            make_teacher(model, r, share=share, batch=n, head=h)

        arms: dict[str, Step] = {
            "build": lambda f=build: f(False),
            "build, shared prefix": lambda f=build: f(True),
            "forward": forward,
        }
        pairs = 5 if place.tiny else 8
        parts = len(shares) - number
        times = interleaved(arms, place.device, pairs, warmup=1, seconds=place.share(parts))
        about = facts(place, shape, rows, work, False)
        batch = collate(rows, PAD)
        tokens = sum(b.input_ids.numel() for b in batches)
        top = 2.0 * shape.vocabulary * shape.hidden * batch.labels.numel() / (2.0 * shape.body)
        for arm in ("build", "build, shared prefix"):
            read = tokens if arm == "build" else tokens - prefix * (len(rows) - 1)
            yield {**ratio(times, arm, "forward"), "predicted": round((read + top) / tokens, 4), **about}
        if share == 0.5:
            yield {"where a build goes": where(arms["build, shared prefix"], place.device), **about}
        del model, arms
        place.free()


def where(step: Step, device: torch.device, most: int = 25) -> list[dict[str, Any]]:
    """Wall milliseconds of the package's functions and of long built-in ones in one call, callees included.

    On a GPU a function that waits for the device is charged with what the device still had to do.
    """
    profiler = cProfile.Profile()
    profiler.enable()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    profiler.disable()
    found = []
    for (file, line, name), (_, calls, own, whole, _) in pstats.Stats(profiler).stats.items():  # type: ignore[attr-defined]
        ours = "harmonize" in file
        if ours or own > 1e-3:
            shown = f"{Path(file).name}:{line} {name}" if line else name
            found.append({"name": shown[:80], "calls": calls, "ms": round(1e3 * (whole if ours else own), 2)})
    return sorted(found, key=lambda f: -float(str(f["ms"])))[:most]


def v1(place: Place) -> Iterator[dict[str, Any]]:
    """Step time and the loss's memory as the vocabulary grows, at a fixed body."""
    for vocabulary in (300, 600) if place.tiny else (8192, 32768, 131072, 262144):
        shape = place.shape("1b")
        shape = Shape(
            shape.hidden, min(4, shape.layers), shape.heads, shape.kv_heads, shape.inner, vocabulary
        )
        work = place.work(rows=8, length=1024)
        model = build_model(shape, place.device, place.dtype)
        rows = make_rows(work, vocabulary)
        teacher = make_teacher(model, requests_of(rows, work.prefix, vocabulary))
        model.train()
        optimizer = adamw(trained(model), place)
        ours = Bench(model, bidirectional(), optimizer, teacher=teacher)
        sft = Bench(model, one_mean(supervised()), optimizer)
        about = facts(place, shape, rows, work, False)
        arms = {
            "bidirectional": ours.step(rows, place.dtype),
            "supervised": sft.step(one_role(rows), place.dtype),
        }
        times = interleaved(arms, place.device, max(5, place.pairs // 2), seconds=place.left / 5)
        yield {**ratio(times, "bidirectional", "supervised"), **about}
        if place.device.type == "cuda":
            yield {"loss memory": _loss_memory(place, model, rows, teacher), **about}
        del model, ours, sft, optimizer, teacher
        place.free()


def _loss_memory(place: Place, model: Any, rows: list[Row], teacher: Any) -> dict[str, int]:
    """Bytes beyond hidden states that forward and backward of the loss alone take, without the head's gradient."""
    found = {}
    for name, terms in (("bidirectional", bidirectional()), ("supervised", supervised())):
        module = Bench(model, terms, None, teacher=teacher if name == "bidirectional" else None)
        batch = collate(rows, PAD).to(place.device)
        hidden = answer_hidden(model, batch).detach().requires_grad_()
        forward = module._parts.forward
        forward.head = forward.head.frozen()
        found[name] = peers.loss_memory(module, batch, hidden, place.device)
        place.free()
    return found


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
    """1B, 8 + 8 rows of 256 tokens: NPO, NPO + KL and UNDIAL with a cached reference against the peers' way."""
    shape, work = place.shape("1b"), place.work(rows=16, length=256)
    rows = peers.two_roles(make_rows(work, shape.vocabulary))
    small = shallow(place, shape)
    untouched = copy.deepcopy(small).eval().requires_grad_(False)
    # where the student is the reference, UNDIAL's gradient is the difference of two nearly equal distributions, and a
    # reference rounded to fp16 shows in all of it
    moved(small)
    for method in peers.METHODS:
        about = {"method": method, **facts(place, shape, rows, work, False)}
        check = _same_method(place, method, small, untouched, rows)
        yield {"parity": "ours / the peers' way", **check, **about, "dtype": "float32", "layers": 2}
        if not check["ok"]:
            return
    del small, untouched
    place.free()
    model = build_model(shape, place.device, place.dtype)
    theirs = copy.deepcopy(model).eval().requires_grad_(False)
    optimizer = adamw(trained(model), place)
    for number, method in enumerate(peers.METHODS):
        about = {"method": method, **facts(place, shape, rows, work, False)}
        module = peers.our_module(method, theirs, model, rows, optimizer)

        def peer(method: str = method) -> Tensor:
            return peers.peer_loss(method, model, theirs, rows, place.device)

        arms = {
            "cached reference": module.step(rows, place.dtype),
            "live reference": plain_step(peer, trained(model), optimizer),
        }
        parts = len(peers.METHODS) - number
        times = interleaved(arms, place.device, place.pairs, seconds=place.share(parts))
        yield {**ratio(times, "cached reference", "live reference"), **about}


@torch.no_grad()
def moved(model: nn.Module, share: float = 0.3) -> None:
    """Moves every weight matrix by noise of this share of its own deviation."""
    torch.manual_seed(2)
    for weight in model.parameters():
        if weight.dim() == 2:
            weight.add_(torch.randn_like(weight), alpha=share * float(weight.std()))


def _same_method(place: Place, method: str, model: Any, untouched: Any, rows: list[Row]) -> dict[str, Any]:
    module = peers.our_module(method, untouched, model, rows, None)
    model.train()
    return parity(
        lambda: module.loss(module.placed(rows)),
        lambda: peers.peer_loss(method, model, untouched, rows, place.device),
        trained(model),
        limit=FP16,
    )


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
SECTIONS: Mapping[str, tuple[Callable[[Place], Iterator[dict[str, Any]]], float]] = {
    "s1": (s1_full, 115),
    "profile": (profile, 4),
    "s2": (s2, 45),
    "s4": (s4, 35),
    "v1": (v1, 12),
    "c1": (c1, 40),
    "compiled": (compiled, 28),
    "s1lora": (s1_lora, 55),
    "s3": (s3, 37),
}


def facts(place: Place, shape: Shape, rows: Sequence[Row], work: Work, lora: bool) -> dict[str, Any]:
    """What a row of results must say beside its figures."""
    batch, _ = batch_of(rows, torch.device("cpu"))
    tokens = int(batch.attention_mask.sum())
    return {
        "trained": "lora r=16" if lora else "all weights",
        "parameters": shape.body + shape.vocabulary * shape.hidden * (1 if shape.tied else 2),
        "rows": len(rows),
        "tokens": tokens,
        "answers": int(batch.labels.numel()),
        "padding": round(1 - tokens / batch.input_ids.numel(), 3),
        "prefix": work.prefix,
        "hidden": shape.hidden,
        "vocabulary": shape.vocabulary,
        "dtype": str(place.dtype).removeprefix("torch."),
        "attention": "sdpa",
        "optimizer": "AdamW, fused" if place.device.type == "cuda" else "AdamW",
    }


def machine(device: torch.device) -> dict[str, Any]:
    """Machine, versions and commit."""
    root = Path(__file__).resolve().parents[1]
    stamp = root / "COMMIT"  # of a copy without its history
    if stamp.exists():
        commit = stamp.read_text().strip()
    else:
        ask = ["git", "rev-parse", "--short", "HEAD"]
        commit = subprocess.run(ask, cwd=root, capture_output=True, text=True, check=False).stdout.strip()
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "machine": card,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "commit": commit,
    }


def void(_: object) -> None:
    """Forgets a result."""


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
    device = torch.device(given.device)
    dtype = getattr(torch, given.dtype or ("bfloat16" if device.type == "cuda" else "float32"))
    if device.type == "cpu":
        torch.set_num_threads(1)
    about = machine(device)

    def emit(row: dict[str, Any]) -> None:
        line = json.dumps({**row, **about})
        print(line, flush=True)
        if given.out:
            with given.out.open("a") as file:
                file.write(line + "\n")

    place = Place(device, dtype, given.tiny, given.pairs or (5 if given.tiny else 30), emit)
    planned = sum(SECTIONS[n][1] for n in names)
    scale = 1.0 if given.budget is None else given.budget / planned
    failed = 0
    for name in names:
        section, seconds = SECTIONS[name]
        began = time.perf_counter()
        place.until = began + seconds * scale
        try:
            for row in section(place):
                emit({"section": name, **row})
                if row.get("ok") is False:
                    failed = 1
        except Exception as error:  # one section that fails must not take the others with it
            traceback.print_exc()
            emit({"section": name, "error": f"{type(error).__name__}: {error}"})
            failed = 1
        place.free()
        emit({"section": name, "seconds": round(time.perf_counter() - began, 1)})
    return failed


if __name__ == "__main__":
    sys.exit(main())
