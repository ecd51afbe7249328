"""The sections of the cost protocol, of any size: arms with parity first, then rows of ratios.

S1 `step`, S2 `teachers`, S4 `methods`, C1 `caches`, V1 `vocabulary`, P1 `padding`. A pair whose losses or gradients
differ in fp32, on a model of the same widths and two layers, is not timed; what bf16 makes of it at full depth is
printed beside. FLOPs are those of the model (no attention scores, no recomputation).
"""

from __future__ import annotations

import copy
import cProfile
import pstats
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import peers
from benchmarks.arms import (
    PAD,
    Bench,
    Shape,
    Work,
    add_lora,
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
    unrounded_teachers,
)
from benchmarks.measure import Peak, Step, interleaved, parity, quartiles, ratio
from benchmarks.place import PEAK_TFLOPS, Place, adamw, facts, trained
from harmonize.data.batch import Row, collate
from harmonize.models import packing
from harmonize.models.body import answer_hidden
from harmonize.models.frozen import TeacherRequest
from harmonize.models.head import Head

FP16 = 2e-3  # parity of an arm that reads states which a cache rounded
TWO_WAYS = 1e-4  # parity of two kernels' fp32 attention, behind which differences of logits are taken


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


def step(
    place: Place, shape: Shape, work: Work, lora: bool = False, parts: int = 1
) -> Iterator[dict[str, Any]]:
    """S1: ours cached, supervised (ours, and plain with all answer logits at once), stock `labels=`."""
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


def teachers(
    place: Place, shape: Shape, work: Work, lora: bool = False, parts: int = 1, profiled: bool = False
) -> Iterator[dict[str, Any]]:
    """S2: a live teacher that reads the instruction in every row, one that reads it once, and the cache."""
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
    if profiled:
        yield {"where a live step goes": where(steps["live, shared prefix"], place.device), **about}


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
        teacher.forget()
        step()

    return take


def caches(
    place: Place, shape: Shape, work: Work, parts: int = 1, profiled: bool = False
) -> Iterator[dict[str, Any]]:
    """C1: building the cache, against a pure forward pass of the body over the same teacher tokens."""
    model = build_model(shape, place.device, place.dtype).eval()
    head = Head.of(model)
    prefix = work.prefix
    rows = make_rows(work, shape.vocabulary)
    requests = requests_of(rows, prefix, shape.vocabulary)
    asked = sorted(requests, key=lambda r: -len(r.prompt) - len(r.target or ()))
    plain = [Row(r.example_id, r.role, "", r.prompt, r.target or ()) for r in asked]
    size = min(64, max(1, len(rows) // 4))
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
    pairs = min(8, place.pairs)
    times = interleaved(arms, place.device, pairs, warmup=1, seconds=place.share(parts))
    about = facts(place, shape, rows, work, False)
    batch = collate(rows, PAD)
    tokens = sum(b.input_ids.numel() for b in batches)
    top = 2.0 * shape.vocabulary * shape.hidden * batch.labels.numel() / (2.0 * shape.body)
    for arm in ("build", "build, shared prefix"):
        read = tokens if arm == "build" else tokens - prefix * (len(rows) - 1)
        yield {**ratio(times, arm, "forward"), "predicted": round((read + top) / tokens, 4), **about}
    if profiled:
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


def vocabulary(place: Place, shape: Shape, work: Work, parts: int = 1) -> Iterator[dict[str, Any]]:
    """V1, one vocabulary: step time, and on a GPU the bytes of the loss alone."""
    size = shape.vocabulary
    model = build_model(shape, place.device, place.dtype)
    rows = make_rows(work, size)
    teacher = make_teacher(model, requests_of(rows, work.prefix, size))
    model.train()
    optimizer = adamw(trained(model), place)
    ours = Bench(model, bidirectional(), optimizer, teacher=teacher)
    sft = Bench(model, one_mean(supervised()), optimizer)
    about = facts(place, shape, rows, work, False)
    arms = {
        "bidirectional": ours.step(rows, place.dtype),
        "supervised": sft.step(one_role(rows), place.dtype),
    }
    times = interleaved(arms, place.device, max(5, place.pairs // 2), seconds=place.share(parts))
    yield {**ratio(times, "bidirectional", "supervised"), **about}
    if place.device.type == "cuda":
        yield {"loss memory": _loss_memory(place, model, rows, teacher), **about}
    del model, ours, sft, optimizer, teacher
    place.free()


def padding(place: Place, shape: Shape, work: Work, parts: int = 1) -> Iterator[dict[str, Any]]:
    """P1: a cached step that computes no padding (`model.attention=varlen`), against SDPA over padded rows."""
    packing.register()
    rows = make_rows(work, shape.vocabulary)
    about = facts(place, shape, rows, work, False)
    small = shallow(place, shape)
    teacher = make_teacher(small, requests_of(rows, work.prefix, shape.vocabulary))
    small.train()
    alike = Bench(small, bidirectional(), None, teacher=teacher)
    check = parity(
        lambda: _with_attention(small, packing.VARLEN, lambda: alike.loss(rows)),
        lambda: _with_attention(small, "sdpa", lambda: alike.loss(rows)),
        trained(small),
        limit=TWO_WAYS,
    )
    yield {"parity": "without padding / padded", **check, **about, "dtype": "float32", "layers": 2}
    if not check["ok"]:
        return
    model = build_model(shape, place.device, place.dtype)
    teacher = make_teacher(model, requests_of(rows, work.prefix, shape.vocabulary))
    model.train()
    step = Bench(model, bidirectional(), adamw(trained(model), place), teacher=teacher).step(
        rows, place.dtype
    )
    arms: dict[str, Step] = {
        "without padding": lambda: _with_attention(model, packing.VARLEN, step),
        "padded": lambda: _with_attention(model, "sdpa", step),
    }
    times = interleaved(arms, place.device, place.pairs, seconds=place.share(parts))
    yield {
        **ratio(times, "without padding", "padded"),
        "predicted": round(1 - about["padding"], 4),
        **{k: v for k, v in about.items() if k != "attention"},
    }


def _with_attention(model: Any, kernel: str, action: Callable[[], Any]) -> Any:
    model.config._attn_implementation = kernel
    return action()


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


def methods(place: Place, shape: Shape, work: Work) -> Iterator[dict[str, Any]]:
    """S4: NPO, NPO + KL and UNDIAL with a cached reference against the peers' way."""
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
        work_of = round(peers.predicted(method, shape, rows), 4)
        yield {**ratio(times, "cached reference", "live reference"), "predicted": work_of, **about}


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
