"""BLUR (arXiv 2506.15699): forget and retain prompts that overlap, combined ones, and texts to relearn from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from harmonize.data.example import Example, Role, Split
from harmonize.data.records import Passage, Record
from harmonize.data.sources.fields import optional, text
from harmonize.data.sources.files import look, missing, resolve_root
from harmonize.data.sources.rows import rows
from harmonize.data.sources.source import Source
from harmonize.errors import ConfigError, DataError, did_you_mean

ORIGIN = "https://huggingface.co/datasets/forgelab/BLUR"
TASKS = ("rwku", "tofu", "whp", "wmdp")
# A paired prompt asks for both; whoever forgets must refuse one half and keep the other.
VARIANTS = {"forget": Role.FORGET, "retain": Role.RETAIN, "paired_forget_retain": Role.FORGET}
# Texts to fine-tune on after unlearning, of high, middle and low overlap with what was forgotten.
RELEARN = ("D_hi", "D_mid", "D_lo")
_SUFFIXES = (".json", ".jsonl", ".parquet")


def read(
    *,
    name: str = "blur",
    root: str | None = None,
    tasks: Sequence[str] | None = None,
    variants: Sequence[str] = tuple(VARIANTS),
) -> Source:
    """Reads BLUR's files, `<task>_<variant>.json`, whose rows hold a prompt each under `text`.

    Prompts have no published answers: `answer` is empty, and `prepare` counts them out of the question-answer pairs.
    They are in split test, each a subject of its own; `meta` has task and variant. Relearning texts (D_hi, D_mid,
    D_lo) are passages of role general in split test, with `meta.relearn`; D_lo is one file for all tasks.
    Layout unverified: it is known from public code that loads these files.

    Args:
        name: Of the source.
        root: Folder with the files, or hf:forgelab/BLUR.
        tasks: Of rwku, tofu, whp (Who's Harry Potter), wmdp; null reads those that are there.
        variants: Of forget, retain, paired_forget_retain (TOFU has only this one), D_hi, D_mid, D_lo.

    Raises:
        ConfigError: No root, an unknown task or variant.
        DataError: Missing or malformed files.

    Source: arXiv 2506.15699; the roles of paired prompts and relearning texts are our choice.
    """
    known = (*VARIANTS, *RELEARN)
    for kind, given, options in (("tasks", tasks or (), TASKS), ("variants", variants, known)):
        for value in given:
            if value not in options:
                raise ConfigError(f"{name}: {kind}: unknown '{value}'. {did_you_mean(value, options)}")
    folder = resolve_root(root, name, ORIGIN)
    found: dict[tuple[str, str], tuple[Path, ...]] = {}
    for variant in variants:
        for task in tasks or TASKS:
            key, stems = (task, variant), [f"{task}_{variant}", f"{task}_{variant}/train"]
            if variant == "D_lo":
                key, stems = ("all", variant), ["D_lo_for_all", "D_lo_for_all/train"]
            if files := look(folder, *stems, suffixes=_SUFFIXES):
                found[key] = files
    absent = [task for task in tasks or () if not any(t in (task, "all") for t, _ in found)]
    if absent or not found:
        stems = [f"{task}_{variant}" for task in absent or TASKS for variant in variants]
        raise DataError(missing(folder, stems, "BLUR's prompts", _SUFFIXES))

    def stream() -> Iterator[Record]:
        for (task, variant), files in found.items():
            number = 0
            for file in files:
                for row in rows(file, texts=True):
                    number += 1
                    identity = f"{name}-{task}-{variant}-{number:04d}"
                    said = text(file, row, "text")
                    if variant in RELEARN:
                        yield Passage(
                            identity,
                            Role.GENERAL,
                            said,
                            subject=identity,
                            source=f"blur/{task}",
                            split=str(Split.TEST),
                            meta={"task": task, "relearn": variant},
                        )
                        continue
                    yield Example(
                        id=identity,
                        role=VARIANTS[variant],
                        question=said,
                        answer=optional(file, row, "answer"),
                        subject=identity,
                        source=f"blur/{task}",
                        split=str(Split.TEST),
                        meta={"task": task, "variant": variant},
                    )

    return Source(
        name,
        stream,
        tuple(dict.fromkeys(f for files in found.values() for f in files)),
        origin=ORIGIN,
        verified=False,
        notes=("BLUR's prompts have no published answers: they are for evaluation.",),
    )
