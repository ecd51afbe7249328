"""Where a protocol runs, what a row of results says of it, and the loop over a protocol's sections."""

from __future__ import annotations

import gc
import json
import platform
import subprocess
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from benchmarks.arms import SHAPES, Shape, Work, batch_of
from harmonize.data.batch import Row

PEAK_TFLOPS = 790.0  # dense bf16 of an H100 or H200 in a large product


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


Section = Callable[[Place], Iterator[dict[str, Any]]]


def run_sections(
    sections: Mapping[str, tuple[Section, float]], names: Sequence[str], place: Place, scale: float
) -> int:
    """Emits every row of the named sections, each with its seconds times `scale`; 1 if one of them failed."""
    failed = 0
    for name in names:
        section, seconds = sections[name]
        began = time.perf_counter()
        place.until = began + seconds * scale
        try:
            for row in section(place):
                place.emit({"section": name, **row})
                if row.get("ok") is False:
                    failed = 1
        except Exception as error:  # one section that fails must not take the others with it
            traceback.print_exc()
            place.emit({"section": name, "error": f"{type(error).__name__}: {error}"})
            failed = 1
        place.free()
        place.emit({"section": name, "seconds": round(time.perf_counter() - began, 1)})
    return failed


def emitter(device: torch.device, out: Path | None) -> Callable[[dict[str, Any]], None]:
    """Prints rows as JSON, with machine and versions, and adds them to a file."""
    about = machine(device)

    def emit(row: dict[str, Any]) -> None:
        line = json.dumps({**row, **about})
        print(line, flush=True)
        if out:
            with out.open("a", encoding="utf-8") as file:
                file.write(line + "\n")

    return emit
