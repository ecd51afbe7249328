"""TOFU (arXiv 2401.06121): fictitious authors, as `dataset=tofu` reads them, for preparing."""

from __future__ import annotations

from collections.abc import Iterator

from harmonize.data.records import Record
from harmonize.data.sources.files import look, need, resolve_root
from harmonize.data.sources.source import Source
from harmonize.data.tofu import (
    GENERAL_FILES,
    INSTRUCTION,
    RETAIN_OF,
    examples_of,
    general_of,
    refusals_of,
)
from harmonize.errors import ConfigError, did_you_mean

ORIGIN = "https://huggingface.co/datasets/locuslab/TOFU"


def read(
    *,
    name: str = "tofu",
    root: str | None = None,
    forget_set: str = "forget01",
    neighbors: int = 2,
    retain_authors: int | None = None,
    general_items: int | None = None,
    refusals: int = 4,
) -> Source:
    """Reads TOFU's JSON-lines files. A subject is an author; roles are those of `harmonize.data.tofu.load`.

    Forget are the authors of `forget_set`, neighbors the authors just before them, retain the others, general the
    world_facts and real_authors items (four options each). TOFU's files are read as a whole: they are 4,000 rows.

    Args:
        name: Of the source.
        root: Folder with TOFU's files, or hf:locuslab/TOFU.
        forget_set: forget01, forget05 or forget10.
        neighbors: Number of neighbor authors.
        retain_authors: Number of retain authors; null takes all others.
        general_items: Cap on the general items; null takes all.
        refusals: How many refusal texts to take from idontknow.jsonl.

    Raises:
        ConfigError: No root, or an unknown forget set.
        DataError: Missing or malformed files.

    Source: arXiv 2401.06121 for the data; which authors are neighbors is our choice.
    """
    if forget_set not in RETAIN_OF:
        raise ConfigError(
            f"{name}: forget_set={forget_set} is unknown. {did_you_mean(forget_set, RETAIN_OF)}"
        )
    folder = resolve_root(root, name, ORIGIN)
    kept = RETAIN_OF[forget_set]
    files = [
        *need(folder, forget_set, what="the questions to forget", suffixes=(".json",)),
        *need(folder, kept, what=f"what is kept beside {forget_set}", suffixes=(".json",)),
    ]
    for stem in (f"{forget_set}_perturbed", "retain_perturbed", *GENERAL_FILES):
        files += look(folder, stem, suffixes=(".json",))
    files += look(folder, "idontknow", suffixes=(".jsonl",))

    def stream() -> Iterator[Record]:
        yield from examples_of(folder, forget_set, neighbors, retain_authors)
        yield from general_of(folder, general_items)

    return Source(
        name,
        stream,
        tuple(files),
        licence="MIT",
        origin=ORIGIN,
        refusals=refusals_of(folder, refusals),
        instructions=(INSTRUCTION,),
    )
