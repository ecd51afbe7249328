"""Multiple choice as this tool scores it, relative to lm-evaluation-harness's own HFLM on the same requests.

Both arms get the same `Instance`s of the same tasks, the same batch size and one thread, and tokenise as well as score.
Arms are interleaved A B B A; the ratio is the median of per-pair ratios of process CPU seconds. Nothing is timed unless
all log-probabilities agree to 1e-4. `tokens` is the ratio of the tokens that the two arms put through the model. Prints
one JSON object per line. Needs the extra `lm-eval`; the questions are made up from a seed.

    python benchmarks/multiple_choice.py [--items 64] [--pairs 5] [--vocabulary 512] [--model FOLDER]
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from harmonize.data.render import Renderer
from harmonize.evaluation.harness.surface_lm import SurfaceLM, hflm
from harmonize.evaluation.harness.tasks import apart, load
from harmonize.evaluation.surface import ModelSurface

CLOSE = 1e-4
WORDS = "sun rain cat dog tree house child park cake water little big red old happy sleepy runs jumps".split()
# name, kind of options, options, words of a question and of an option, examples before it
CASES = (
    ("text options", "arc_easy", 4, 18, 4, 0),
    ("text options, 5 examples", "arc_easy", 4, 18, 4, 5),
    ("letters", "mmlu_virology", 4, 18, 4, 0),
    ("letters, 5 examples", "mmlu_virology", 4, 18, 4, 5),
)


def main() -> None:
    """Measures every case and prints it."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--items", type=int, default=64)
    options.add_argument("--pairs", type=int, default=5)
    options.add_argument("--batch", type=int, default=64)
    options.add_argument("--vocabulary", type=int, help="of a random model with the tokenizer's first ids")
    options.add_argument(
        "--model", required=True, help="folder with a model (or, with --vocabulary, a tokenizer)"
    )
    given = options.parse_args()
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(given.model)
    loaded = SimpleNamespace(model=_model(given, len(tokenizer)).eval(), renderer=Renderer(tokenizer))
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(_measure(case, Path(folder), loaded, given)), flush=True)


def _model(given: Any, size: int) -> Any:
    if given.vocabulary is None:
        return AutoModelForCausalLM.from_pretrained(given.model)
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=max(size, given.vocabulary),
            hidden_size=128,
            intermediate_size=352,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=2048,
        )
    )


def _measure(case: tuple[Any, ...], folder: Path, loaded: Any, given: Any) -> dict[str, Any]:
    name, task, *sizes, shots = case
    write = _mmlu if task.startswith("mmlu") else _arc
    write(folder, given.items, *sizes)
    chosen = load([task], "benchmark", local={task: str(folder)}, num_fewshot=shots).tasks[task]
    chosen.set_fewshot_seed(seed=0)
    with apart():
        # the same examples before every question, as MMLU has them; ARC draws them anew for each
        if shots and not task.startswith("mmlu"):
            shown = chosen.sampler.sample(n=shots)
            chosen.sampler.sample = lambda **_: shown
        chosen.build_all_requests()
        theirs = hflm(loaded.model, loaded.renderer.tokenizer, given.batch)
    requests = chosen.instances

    def ours() -> Any:
        return SurfaceLM(ModelSurface(loaded), given.batch).loglikelihood(requests)

    arms = {"ours": ours, "lm_eval": lambda: theirs.loglikelihood(requests)}
    tokens, answers = {}, {}
    for arm, run in arms.items():
        read: list[int] = []
        hook = loaded.model.register_forward_pre_hook(
            lambda _m, positional, named, read=read: (
                read.append((named.get("input_ids", *positional)).numel())
                if "input_ids" in named or positional
                else None
            ),
            with_kwargs=True,
        )
        with apart():
            answers[arm] = run()
        hook.remove()
        tokens[arm] = sum(read)
    apart_by = max(abs(a[0] - b[0]) for a, b in zip(answers["ours"], answers["lm_eval"], strict=True))
    if apart_by > CLOSE:
        raise SystemExit(f"{name}: log-probabilities differ by {apart_by:.2g}; nothing is timed.")
    ratios, seconds = [], {arm: [] for arm in arms}
    for pair in range(given.pairs):
        for arm in list(arms)[:: 1 if pair % 2 else -1]:
            began = time.process_time()
            with apart():
                arms[arm]()
            seconds[arm].append(time.process_time() - began)
        ratios.append(seconds["ours"][-1] / seconds["lm_eval"][-1])
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return {
        "what": name,
        "arm_a": "ours",
        "arm_b": "lm_eval",
        "ratio_median": round(middle, 3),
        "q1": round(low, 3),
        "q3": round(high, 3),
        "n": given.pairs,
        "tokens": round(tokens["ours"] / tokens["lm_eval"], 3),
        "largest_difference": float(f"{apart_by:.1e}"),
        "requests": len(requests),
        "vocabulary": int(loaded.model.config.vocab_size),
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
    }


def _text(made: random.Random, words: int) -> str:
    return " ".join(made.choice(WORDS) for _ in range(words)).capitalize()


def _arc(folder: Path, items: int, options: int, question: int, option: int) -> None:
    made = random.Random(0)
    for split, n in (("test", items), ("train", 8)):
        rows = [
            {
                "question": f"{_text(made, question)}?",
                "choices": {
                    "text": [_text(made, option) for _ in range(options)],
                    "label": list("ABCD"[:options]),
                },
                "answerKey": "A",
            }
            for _ in range(n)
        ]
        (folder / f"ARC-Easy-{split}.jsonl").write_text("".join(f"{json.dumps(r)}\n" for r in rows))


def _mmlu(folder: Path, items: int, options: int, question: int, option: int) -> None:
    made = random.Random(0)
    for split, n in (("test", items), ("dev", 5)):
        (folder / split).mkdir()
        lines = [
            ",".join([f"{_text(made, question)}?", *(_text(made, option) for _ in range(options)), "A"])
            for _ in range(n)
        ]
        (folder / split / f"virology_{split}.csv").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
