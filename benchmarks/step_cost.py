"""Cost of a bidirectional step with a cached teacher, relative to our own supervised step on identical tensors.

Both arms run one student forward through the head seam, their loss, backward, clipping and AdamW on the same
batch (random prefills on half of the rows). Arms are interleaved A B A B on one thread; the ratio is the median of
per-pair ratios of process CPU seconds. Memory is the high-water mark of ten steps of each arm in a fresh
process (Linux), above the memory in use before the first. Prints one JSON object per line.

    python benchmarks/step_cost.py [--pairs 40] [--vocabulary 450] [--dense true|false]
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from harmonize.data.batch import Batch, Row, collate
from harmonize.models.head import Head, answer_hidden
from harmonize.models.teacher import TeacherRequest, build_teacher_cache
from harmonize.objectives.distill import pull, push
from harmonize.objectives.inputs import call, list_sizes
from harmonize.objectives.likelihood import cross_entropy
from harmonize.objectives.outputs import Outputs

ARMS = ("bidirectional", "supervised")
BIDIRECTIONAL = [(pull, {"k": 16}), (push, {"k": 16, "k_teacher": 16})]


def main() -> None:
    """Runs both measurements and prints them."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--pairs", type=int, default=40)
    options.add_argument("--rows", type=int, default=64)
    options.add_argument("--vocabulary", type=int, default=450)
    options.add_argument("--dense", choices=["auto", "true", "false"], default="auto")
    options.add_argument("--peak", choices=ARMS, help="print this arm's peak memory growth and stop")
    given = options.parse_args()
    torch.set_num_threads(1)
    dense = {"auto": None, "true": True, "false": False}[given.dense]
    if given.peak:
        _print_peak(given.peak, given.rows, given.vocabulary, dense)
        return
    steps, batch = _arms(given.rows, given.vocabulary, dense)
    print(json.dumps(_time(steps, given.pairs) | _facts(batch, given.vocabulary, given.dense)))
    peaks = {arm: int(statistics.median(_peak(arm, given) for _ in range(3))) for arm in ARMS}
    ratio = peaks["bidirectional"] / peaks["supervised"]
    print(json.dumps({"what": "peak memory growth", "bytes": peaks, "ratio": round(ratio, 3)}))


def _arms(rows: int, vocabulary: int, dense: bool | None) -> tuple[dict[str, Callable[[], None]], Batch]:
    """One step function per arm, each with its own model and optimizer, and the batch that both use."""
    batch = _batch(rows, vocabulary)
    steps = {arm: _step(arm, batch, vocabulary, dense) for arm in ARMS}
    return steps, batch


def _batch(rows: int, vocabulary: int) -> Batch:
    draw = torch.Generator().manual_seed(0)

    def ids(low: int, high: int) -> tuple[int, ...]:
        count = int(torch.randint(low, high + 1, (1,), generator=draw))
        return tuple(torch.randint(3, vocabulary, (count,), generator=draw).tolist())

    made, start = [], 0
    for i in range(rows):
        target = ids(5, 11)
        prefill = ids(2, 6) if i % 2 else ()
        made.append(
            Row(f"e{i:04d}", "forget", f"s{i}", ids(8, 18), target, prefill=prefill, cache_start=start)
        )
        start += len(target)
    return collate(made, pad_id=0)


def _model(vocabulary: int, seed: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=128,
            intermediate_size=352,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=256,
            tie_word_embeddings=True,
        )
    )


def _step(arm: str, batch: Batch, vocabulary: int, dense: bool | None) -> Callable[[], None]:
    model = _model(vocabulary)
    calls, teacher = [(cross_entropy, {})], None
    if arm == "bidirectional":
        calls = BIDIRECTIONAL
        source = _model(vocabulary, seed=1)
        requests = [
            TeacherRequest(name, "forget", (1, 2, 3), tuple(batch.labels[batch.row == i].tolist()))
            for i, name in enumerate(batch.example_id)
        ]
        with tempfile.TemporaryDirectory() as folder:
            teacher = build_teacher_cache(
                source,
                Head.of(source).frozen(),
                requests,
                digest="benchmark",
                renderer_digest="benchmark",
                end_id=2,
                stop_ids=[2],
                pad_id=0,
                max_new_tokens=1,
                mode="hidden",
                top_k=64,
                cache_dir=Path(folder),
            )
    head, sizes = Head.of(model), list_sizes(calls)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    model.train()

    def step() -> None:
        outputs = Outputs(batch, answer_hidden(model, batch), head, teacher, sizes=sizes, dense=dense)
        loss = torch.zeros(())
        for function, settings in calls:
            total, count = call(function, outputs, settings)
            loss = loss + total.sum() / count.sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def _time(steps: dict[str, Callable[[], None]], pairs: int) -> dict[str, object]:
    seconds: dict[str, list[float]] = {arm: [] for arm in steps}
    for number in range(pairs + 3):
        order = ARMS if number % 2 else ARMS[::-1]
        for arm in order:
            start = time.process_time()
            steps[arm]()
            if number >= 3:
                seconds[arm].append(time.process_time() - start)
    ratios = [a / b for a, b in zip(seconds["bidirectional"], seconds["supervised"], strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return {
        "what": "CPU seconds per step",
        "arm_a": "bidirectional, cached teacher",
        "arm_b": "supervised",
        "median_ms": {arm: round(1e3 * statistics.median(s), 2) for arm, s in seconds.items()},
        "ratio": round(middle, 3),
        "q1": round(low, 3),
        "q3": round(high, 3),
        "n": pairs,
    }


def _facts(batch: Batch, vocabulary: int, dense: str) -> dict[str, object]:
    tokens = int(batch.attention_mask.sum())
    return {
        "tokens": tokens,
        "answer_positions": int(batch.labels.numel()),
        "padding": round(1 - tokens / batch.input_ids.numel(), 3),
        "vocabulary": vocabulary,
        "dense": dense,
        "torch": torch.__version__,
        "machine": platform.machine(),
    }


def _peak(arm: str, given: argparse.Namespace) -> int:
    command = [sys.executable, __file__, "--peak", arm, "--rows", str(given.rows)]
    command += ["--vocabulary", str(given.vocabulary), "--dense", given.dense]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _print_peak(arm: str, rows: int, vocabulary: int, dense: bool | None) -> None:
    step = _step(arm, _batch(rows, vocabulary), vocabulary, dense)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again from here
    before = _high_water()
    for _ in range(10):
        step()
    print(_high_water() - before)


def _high_water() -> int:
    """Peak resident bytes of this process (Linux)."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


if __name__ == "__main__":
    main()
