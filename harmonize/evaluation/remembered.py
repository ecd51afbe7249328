"""An evaluation that may be stopped: answers are kept as they come, and a whole report is kept when it is done."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

from harmonize.data.corpus import content_hash
from harmonize.errors import RunError
from harmonize.evaluation.likelihood import Pair
from harmonize.evaluation.report import Report
from harmonize.evaluation.surface import Progress, Surface
from harmonize.models.generate import in_order
from harmonize.models.stems import ordered
from harmonize.tracking.files import PRIVATE_FILE, disk_error, make_folder, write_text
from harmonize.tracking.metric import Metric

ANSWERS, SAMPLES, REPORT = "answers.jsonl", "samples.jsonl", "report.json"
Prompt = Sequence[int]


class Remembered:
    """A surface that writes every batch of answers to a file, and reads there first.

    Batches are those that the surface would form itself, so answers are the same with the file as without. While an
    attack changes the model (`attacked`), nothing is read or written. Anything else is the surface's own.

    Args:
        surface: Whose answers are kept.
        path: The file; what a kill left half-written at its end is passed over.

    Raises:
        RunError: The file cannot be read or written.
    """

    def __init__(self, surface: Surface, path: Path) -> None:
        self._surface, self._path = surface, path
        self.renderer = surface.renderer
        self._known: dict[str, Any] = dict(_read_lines(path))
        self._apart = False
        if hasattr(surface, "sample"):  # a surface that cannot be sampled stays one
            self.sample = self._sample

    def __getattr__(self, name: str) -> Any:
        return getattr(self._surface, name)

    @contextmanager
    def attacked(self) -> Iterator[None]:
        """Inside, the model is another one, whose answers are not kept."""
        before, self._apart = self._apart, True
        try:
            with getattr(self._surface, "attacked", nullcontext)():
                yield
        finally:
            self._apart = before

    def generate(
        self, prompts: Sequence[Prompt], max_new_tokens: int, batch_size: int, progress: Progress | None
    ) -> list[list[int]]:
        """Greedy continuations, as the surface gives them."""
        if self._apart:
            return self._surface.generate(prompts, max_new_tokens, batch_size, progress)
        unique = in_order(getattr(self._surface, "model", None), prompts)
        keys = {p: content_hash("generate", p, max_new_tokens)[:32] for p in unique}
        done = sum(k in self._known for k in keys.values())

        def ask(part: Sequence[Any]) -> list[list[int]]:
            nonlocal done
            before = done
            shown = None if progress is None else lambda n, _: progress(before + n, len(unique))
            found = self._surface.generate(part, max_new_tokens, batch_size, shown)
            done += len(part)
            return found

        self._fill([(keys[p], p) for p in unique], batch_size, ask)
        return [list(self._known[keys[tuple(p)]]) for p in prompts]

    def _sample(
        self,
        prompts: Sequence[Prompt],
        keys: Sequence[str],
        draws: int,
        temperature: float,
        max_new_tokens: int,
        batch_size: int,
        progress: Progress | None,
    ) -> list[list[list[int]]]:
        """Sampled continuations, as the surface gives them."""
        surface: Any = self._surface
        if self._apart:
            found: list[list[list[int]]] = surface.sample(
                prompts, keys, draws, temperature, max_new_tokens, batch_size, progress
            )
            return found
        asked = [(tuple(p), k) for p, k in zip(prompts, keys, strict=True)]
        unique = sorted(set(asked), key=lambda a: (-len(a[0]), *a))
        how = (draws, temperature, max_new_tokens)
        names = {a: content_hash("sample", *a, *how)[:32] for a in unique}
        done = sum(n in self._known for n in names.values())

        def ask(part: Sequence[Any]) -> list[list[list[int]]]:
            nonlocal done
            said: list[list[list[int]]] = surface.sample(
                [p for p, _ in part], [k for _, k in part], *how, batch_size, None
            )
            done += len(part)
            if progress is not None:
                progress(done * draws, len(unique) * draws)
            return said

        self._fill([(names[a], a) for a in unique], max(1, batch_size // max(1, draws)), ask)
        return [[list(d) for d in self._known[names[a]]] for a in asked]

    def log_probs(self, pairs: Sequence[Pair], batch_size: int) -> list[float]:
        """Log-probability of each target given its prompt, as the surface gives it."""
        if self._apart:
            return self._surface.log_probs(pairs, batch_size)
        keys = [content_hash("log_probs", tuple(p), tuple(t))[:32] for p, t in pairs]
        # what begins alike is asked together
        order = ordered([(*p, *t) for p, t in pairs], most=[len(p) for p, _ in pairs])
        unique = {keys[i]: pairs[i] for i in order}
        self._fill(list(unique.items()), batch_size, lambda part: self._surface.log_probs(part, batch_size))
        return [self._known[key] for key in keys]

    def _fill(
        self,
        items: Sequence[tuple[str, Any]],
        batch_size: int,
        ask: Callable[[Sequence[Any]], Sequence[Any]],
    ) -> None:
        missing = [(key, item) for key, item in items if key not in self._known]
        for start in range(0, len(missing), batch_size):
            part = missing[start : start + batch_size]
            found = ask([item for _, item in part])
            lines = [json.dumps([key, value]) for (key, _), value in zip(part, found, strict=True)]
            _append(self._path, "".join(f"{line}\n" for line in lines))
            self._known.update((key, value) for (key, _), value in zip(part, found, strict=True))


def _append(path: Path, text: str) -> None:
    try:
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, PRIVATE_FILE)
        with os.fdopen(handle, "a", encoding="utf-8") as out:
            out.write(text)
    except OSError as error:
        raise disk_error(path, error) from error


def _read_lines(path: Path) -> Iterator[tuple[str, Any]]:
    """Whole lines; a file that ends in half a line gets an end of line, so that the next one is whole."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return
    except OSError as error:
        raise RunError(
            f"{path}: cannot be read ({error.strerror}). Remove it, or set cache=false."
        ) from error
    if data and not data.endswith(b"\n"):
        _append(path, "\n")
    for line in data.splitlines():
        with suppress(ValueError, TypeError):  # half a line, or one that is damaged: asked again
            key, value = json.loads(line)
            yield key, value


def write_report(folder: Path, report: Report) -> None:
    """Keeps a report in a folder, readable by its owner alone; its answers so far are no longer needed.

    Raises:
        RunError: The disk is full or the place is not writable.
    """
    make_folder(folder)
    report.write_samples(folder / SAMPLES)
    apart = ("metrics", "samples", "failures")  # a report with failures is not kept
    rest = {f.name: getattr(report, f.name) for f in fields(Report) if f.name not in apart}
    data = {
        "metrics": {name: metric.to_dict() for name, metric in report.metrics.items()},
        **rest,
        "samples_sha256": hashlib.sha256((folder / SAMPLES).read_bytes()).hexdigest(),
    }
    write_text(folder / REPORT, json.dumps(data, indent=1, ensure_ascii=False) + "\n")
    with suppress(OSError):
        (folder / ANSWERS).unlink(missing_ok=True)


def read_report(folder: Path) -> Report | None:
    """A report that was kept, or None where there is none that is whole (a purge may have taken its samples)."""
    try:
        data = json.loads((folder / REPORT).read_text(encoding="utf-8"))
        said = (folder / SAMPLES).read_bytes()
        if hashlib.sha256(said).hexdigest() != data.pop("samples_sha256"):
            return None
        metrics = {n: Metric.from_dict(m, f"{folder}: {n}") for n, m in data.pop("metrics").items()}
        samples = [json.loads(line) for line in said.decode("utf-8").splitlines()]
        return Report(metrics=metrics, samples=samples, **data)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RunError):
        return None
