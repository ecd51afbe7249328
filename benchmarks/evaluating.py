"""What evaluation saves on a CPU (`make bench`): one thread, process CPU seconds, random models in fp32.

`options`: text options scored with each question read once, against a row for every option with the logarithms of all
logits at every position (how lm-evaluation-harness scores). `metrics`: seven teacher-forced metrics from one pass,
against a pass for each (how open-unlearning measures). `prefills`: a question with eight openings of its answer, its
beginning read once or in every row. `finished`: rows that are done leave the batch, or stay to its end.

The other arm of the first two is plain code of this file. Two arms whose figures differ by more than 1e-4, or whose
tokens differ, are not timed. FLOPs are counted as body times tokens read and head times positions, padding included.

    python -m benchmarks.evaluating [--only options,metrics] [--pairs 15] [--out rows.jsonl]
"""

from __future__ import annotations

import argparse
import random
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.arms import PAD, SHAPES, Shape, build_model
from benchmarks.measure import interleaved, ratio
from benchmarks.place import Place, Section, emitter, run_sections
from harmonize.evaluation.one_pass import shared_log_probs, token_rows
from harmonize.evaluation.scores import membership, memorization
from harmonize.models import generate, stems

CPU = torch.device("cpu")
CLOSE = 1e-4
Ids = tuple[int, ...]
Pairs = Sequence[tuple[Ids, Ids]]

# shape, tokens of a question and of an option, questions; each has four options
OPTIONS = (
    ("sandbox", 24, 6, 16),
    ("sandbox", 128, 6, 16),
    ("1b-proportioned", 24, 6, 8),
    ("1b-proportioned", 128, 6, 4),
    ("v32k", 24, 6, 8),
    ("v32k", 128, 6, 4),
)
# shape, tokens of a question, questions; each has eight openings of 4 to 16 tokens
PREFILLS = (
    ("sandbox", 24, 16),
    ("sandbox", 128, 16),
    ("1b-proportioned", 24, 4),
    ("1b-proportioned", 128, 4),
)
# shape, rows at once
FINISHED = (("sandbox", 256), ("1b-proportioned", 32))
# shape, texts, half of them members
METRICS = (("sandbox", 64), ("1b-proportioned", 8), ("v32k", 8))
_NEW, _BATCH = 16, 8


def options(place: Place) -> Iterator[dict[str, Any]]:
    """Text options."""
    for number, (name, question, option, count) in enumerate(OPTIONS):
        shape, made = SHAPES[name], random.Random(0)
        model = build_model(shape, CPU, torch.float32).eval()
        groups = [
            (_ids(made, shape, question), [_ids(made, shape, option) for _ in range(4)]) for _ in range(count)
        ]
        pairs = [(q, o) for q, own in groups for o in own]
        arms: dict[str, Callable[[], Any]] = {
            "question once": lambda m=model, g=groups: [
                v for own in shared_log_probs(m, g, PAD, 64) for v, _ in own
            ],
            "a row an option": lambda m=model, p=pairs: whole_rows(m, p, 64),
        }
        about = {"shape": name, "case": f"question {question}, option {option}", **_counted(pairs)}
        yield from _compared(place, model, shape, arms, about, len(OPTIONS) - number)


@torch.no_grad()
def whole_rows(model: Any, pairs: Pairs, batch_size: int) -> list[float]:
    """Summed log-probabilities: a right-padded row a pair, the longest first, logarithms of all logits."""
    order = sorted(range(len(pairs)), key=lambda i: -len(pairs[i][0]) - len(pairs[i][1]))
    found = [0.0] * len(pairs)
    for at in range(0, len(order), batch_size):
        part = order[at : at + batch_size]
        rows = [(*pairs[i][0], *pairs[i][1])[:-1] for i in part]
        width = max(map(len, rows))
        logs = model(torch.tensor([[*r, *[PAD] * (width - len(r))] for r in rows])).logits.log_softmax(-1)
        for n, i in enumerate(part):
            end, said = len(rows[n]), torch.tensor(pairs[i][1])
            own = logs[n, end - len(said) : end]
            _ = bool(
                (own.argmax(-1) == said).all()
            )  # the harness asks whether the option is the greedy answer
            found[i] = float(own.gather(1, said.unsqueeze(1)).sum())
    return found


def metrics(place: Place) -> Iterator[dict[str, Any]]:
    """Seven metrics of the same texts, eight rows a batch."""
    for number, (name, count) in enumerate(METRICS):
        shape, made = SHAPES[name], random.Random(0)
        model = build_model(shape, CPU, torch.float32).eval()
        pairs = [
            (_ids(made, shape, made.randint(18, 28)), _ids(made, shape, made.randint(30, 50)))
            for _ in range(count)
        ]
        texts = [" ".join(map(str, target)) for _, target in pairs]
        arms: dict[str, Callable[[], Any]] = {
            "one pass": lambda m=model, p=pairs, t=texts: together(m, p, t),
            "seven passes": lambda m=model, p=pairs, t=texts: [v for f in APART for v in apart(m, p, t, f)],
        }
        yield from _compared(
            place, model, shape, arms, {"shape": name, **_counted(pairs)}, len(METRICS) - number
        )


def together(model: Any, pairs: Pairs, texts: Sequence[str]) -> list[float]:
    """Ours: all seven from one pass, metric by metric."""
    rows = token_rows(model, pairs, PAD, _BATCH)
    return [
        *map(memorization.probability, rows),
        *map(memorization.exact_memorization, rows),
        *map(memorization.extraction_strength, rows),
        *map(membership.loss_score, rows),
        *(membership.zlib_score(r, t) for r, t in zip(rows, texts, strict=True)),
        *map(membership.min_k_score, rows),
        *map(membership.min_k_plus_plus_score, rows),
    ]


# (logits that predict a text's tokens [K, V], its tokens [K], the text) -> the metric
Single = Callable[[Tensor, Tensor, str], float]


@torch.no_grad()
def apart(model: Any, pairs: Pairs, texts: Sequence[str], metric: Single) -> list[float]:
    """One metric by a pass of its own: right-padded batches in the given order, logits at every position."""
    found = []
    for at in range(0, len(pairs), _BATCH):
        rows = [(*p, *t) for p, t in pairs[at : at + _BATCH]]
        width = max(map(len, rows))
        ids = torch.tensor([[*r, *[PAD] * (width - len(r))] for r in rows])
        mask = torch.tensor([[1] * len(r) + [0] * (width - len(r)) for r in rows])
        logits = model(ids, attention_mask=mask).logits
        for n, (prompt, target) in enumerate(pairs[at : at + _BATCH]):
            own = logits[n, len(prompt) - 1 : len(rows[n]) - 1]
            found.append(metric(own, torch.tensor(target), texts[at + n]))
    return found


def _loss(logits: Tensor, labels: Tensor) -> float:
    return float(torch.nn.functional.cross_entropy(logits, labels))


def _extracted(logits: Tensor, labels: Tensor, _: str) -> float:
    right = (logits.argmax(-1) == labels).tolist()
    k = next((k for k in range(len(right)) if all(right[k:])), len(right))
    return 1 - k / len(right)


def _lowest(values: Tensor, k: float = 0.2) -> float:
    return float(values.sort().values[: max(1, int(len(values) * k))].mean())


def _min_k(logits: Tensor, labels: Tensor, _: str) -> float:
    return _lowest(logits.log_softmax(-1).gather(1, labels.unsqueeze(1)).squeeze(1))


def _min_k_plus_plus(logits: Tensor, labels: Tensor, _: str) -> float:
    logs = logits.log_softmax(-1)
    own, probs = logs.gather(1, labels.unsqueeze(1)).squeeze(1), logits.softmax(-1)
    mean = (probs * logs).sum(-1)
    # the authors' difference of two large sums loses too many digits for parity
    variance = (probs * (logs - mean.unsqueeze(-1)).square()).sum(-1)
    return _lowest((own - mean) / variance.clamp_min(1e-6).sqrt())


APART: tuple[Single, ...] = (
    lambda logits, labels, _: float(np.exp(-_loss(logits, labels))),
    lambda logits, labels, _: float((logits.argmax(-1) == labels).float().mean()),
    _extracted,
    lambda logits, labels, _: -_loss(logits, labels),
    lambda logits, labels, text: -_loss(logits, labels) / len(zlib.compress(text.encode())),
    _min_k,
    _min_k_plus_plus,
)


def prefills(place: Place) -> Iterator[dict[str, Any]]:
    """Greedy answers after the openings of a question."""
    for number, (name, question, count) in enumerate(PREFILLS):
        shape, made = SHAPES[name], random.Random(0)
        model = build_model(shape, CPU, torch.float32).eval()
        asked = [_ids(made, shape, round(question * made.uniform(0.75, 1.25))) for _ in range(count)]
        prompts = [q + _ids(made, shape, made.randint(4, 16)) for q in asked for _ in range(8)]

        def said(model: Any = model, prompts: Any = prompts) -> Any:
            return generate.greedy(model, prompts, (), PAD, _NEW, 64)

        def unshared(said: Any = said) -> Any:
            with _with(generate, "shares", lambda _: False), _with(stems, "shares", lambda _: False):
                return said()

        arms = {"beginnings once": said, "every row whole": unshared}
        about = {
            "shape": name,
            "case": f"question {question}",
            **_counted([(p, (0,) * _NEW) for p in prompts]),
        }
        yield from _compared(place, model, shape, arms, about, len(PREFILLS) - number)


def finished(place: Place) -> Iterator[dict[str, Any]]:
    """Greedy answers that end after 2 to 32 tokens, evenly."""
    for number, (name, count) in enumerate(FINISHED):
        shape, made = SHAPES[name], random.Random(0)
        model = build_model(shape, CPU, torch.float32).eval()
        prompts = [_ids(made, shape, made.randint(20, 60)) for _ in range(count)]
        ends = {p: made.randint(2, 32) for p in prompts}

        def ended(logits: Tensor, asked: Any, said: Any, ends: Any = ends) -> Tensor:
            at_end = torch.tensor([len(s) >= ends[tuple(p)] for p, s in zip(asked, said, strict=True)])
            logits[:, 2] = torch.where(at_end, 1e9, -1e9)
            return logits

        def dropped(model: Any = model, prompts: Any = prompts, ended: Any = ended) -> Any:
            return generate.greedy(model, prompts, (2,), PAD, 32, len(prompts), adjust=ended)

        def kept(dropped: Any = dropped) -> Any:
            with _with(generate, "_FINISHED", 1.0):
                return dropped()

        about = {"shape": name, **_counted([(p, (0,) * ends[p]) for p in prompts])}
        arms = {"finished rows leave": dropped, "all rows stay": kept}
        yield from _compared(place, model, shape, arms, about, len(FINISHED) - number)


def _compared(
    place: Place,
    model: Any,
    shape: Shape,
    arms: Mapping[str, Callable[[], Any]],
    about: Mapping[str, Any],
    parts: int,
) -> Iterator[dict[str, Any]]:
    """Parity, then the ratio of the first arm and the second, with the ratio of their counted FLOPs."""
    (a, one), (b, other) = arms.items()
    counts, answers = {}, {}
    for name, run in arms.items():
        with _flops(model, shape) as done:
            answers[name] = run()
        counts[name] = sum(done)
    numbers = isinstance(answers[a][0], float)
    gap = (
        float(np.abs(np.subtract(answers[a], answers[b])).max())
        if numbers
        else float(answers[a] != answers[b])
    )
    same = {"parity": f"{a} / {b}", "loss": gap, "gradient": 0.0, "ok": gap <= CLOSE}
    yield {**same, **about}
    if same["ok"]:
        times = interleaved(
            {a: lambda: _run(one), b: lambda: _run(other)}, CPU, place.pairs, 1, place.share(parts)
        )
        yield {**ratio(times, a, b), "predicted": round(counts[a] / counts[b], 4), **about}


def _run(step: Callable[[], Any]) -> None:
    step()


@contextmanager
def _flops(model: Any, shape: Shape) -> Iterator[list[float]]:
    done: list[float] = []
    head = model.get_output_embeddings()
    hooks = [
        model.model.embed_tokens.register_forward_hook(
            lambda _m, given, _o: done.append(2.0 * shape.body * given[0].numel())
        ),
        head.register_forward_hook(lambda _m, _g, out: done.append(2.0 * shape.hidden * out.numel())),
    ]
    try:
        yield done
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _with(module: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


def _ids(made: random.Random, shape: Shape, length: int) -> Ids:
    return tuple(made.choices(range(3, shape.vocabulary), k=length))


def _counted(pairs: Pairs) -> dict[str, int]:
    answers = sum(len(t) for _, t in pairs)
    return {"rows": len(pairs), "tokens": sum(len(p) for p, _ in pairs) + answers, "answers": answers}


SECTIONS: Mapping[str, tuple[Section, float]] = {
    "options": (options, 300),
    "metrics": (metrics, 300),
    "prefills": (prefills, 300),
    "finished": (finished, 300),
}


def main() -> int:
    """Runs the sections; 1 if one of them failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, with commas")
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--out", type=Path, default=None, help="also append the rows to this file")
    given = parser.parse_args()
    torch.set_num_threads(1)
    names = given.only.split(",")
    if unknown := [n for n in names if n not in SECTIONS]:
        parser.error(f"no section {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    place = Place(CPU, torch.float32, False, given.pairs, emitter(CPU, given.out))
    return run_sections(SECTIONS, names, place, 1.0)


if __name__ == "__main__":
    sys.exit(main())
