"""DUSK (arXiv 2505.15209): the same invented professors in five documents, one to be forgotten, the facts shared."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from harmonize.data.example import Example, Role, Split
from harmonize.data.records import Passage, Record
from harmonize.data.sources.fields import text
from harmonize.data.sources.files import ROW_SUFFIXES, look, missing, resolve_root
from harmonize.data.sources.prose import paragraphs
from harmonize.data.sources.rows import rows, text_lines
from harmonize.data.sources.source import Source
from harmonize.errors import ConfigError, DataError, did_you_mean

ORIGIN = "https://huggingface.co/datasets/AI-ISL/DUSK"
DOCUMENTS = ("chronological", "feature_story", "interview", "inverted_pyramid", "listicle")
# Set -> stems of its file, role of its questions, split that the benchmark gives it.
QUESTIONS: dict[str, tuple[tuple[str, ...], Role]] = {
    "general_qa": (("eval_general_qa", "eval/GeneralQA"), Role.NEIGHBOR),
    "specific_forget_qa": (
        ("eval_specific_forget_qa", "eval/SpecificForgetQA", "eval/SpecificForgetQA_D1"),
        Role.FORGET,
    ),
    "specific_retain_qa": (
        ("eval_specific_retain_qa", "eval/SpecificRetainQA", "eval/SpecificRetainQA_D1"),
        Role.RETAIN,
    ),
}
SETS = ("raw", *QUESTIONS, "verbatim", "holdout")
_TITLE = re.compile(r"Title:\s*(.+)")
# Particles and capitalised words; a possessive ends the name.
_WORD = r"(?:(?:van|von|de|der|den|del|la|le|di|da|dos|al|el|bin)\b|[A-ZÀ-Þ][\w.-]*(?:['’](?!s\b)\w+)*)"
_PERSON = re.compile(rf"(?:Dr\.|Prof\.|Professor) {_WORD}(?: {_WORD}){{0,5}}")
_HONORIFIC = re.compile(r"^(?:Dr\.|Prof\.|Professor) ")


def read(
    *,
    name: str = "dusk",
    root: str | None = None,
    forget: Sequence[str] = ("chronological",),
    sets: Sequence[str] = ("raw", *QUESTIONS),
) -> Source:
    """Reads DUSK's documents and questions. A subject is a professor, found by name in titles and questions.

    | set | becomes | role |
    |---|---|---|
    | raw: the documents | a passage a professor, `meta.document` | forget for those of `forget`, else retain |
    | general_qa: facts that all documents share | questions | neighbor: next to what goes, and to be kept |
    | specific_forget_qa, specific_retain_qa | questions | forget, retain |
    | verbatim | question = prompt, answer = its continuation, in split test | forget |
    | holdout: professors that no document is about | passages in split test | general |

    The question files fit the benchmark's own task, which forgets the chronological document. Layout unverified: it is
    known from the dataset card, the file list and the code that reads it.

    Args:
        name: Of the source.
        root: Folder of the hub (raw/*.parquet, eval_*.parquet), data/Prof of the repository (Chronological.txt, ...,
            eval/*.jsonl), or hf:AI-ISL/DUSK.
        forget: Documents to forget, of chronological, feature_story, interview, inverted_pyramid, listicle.
        sets: Of raw, general_qa, specific_forget_qa, specific_retain_qa, verbatim, holdout.

    Raises:
        ConfigError: No root, an unknown document or set.
        DataError: Missing or malformed files.

    Source: arXiv 2505.15209; the role of shared facts and the recognition of names are our choice.
    """
    for kind, given, known in (("forget", forget, DOCUMENTS), ("sets", sets, SETS)):
        for value in given:
            if value not in known:
                raise ConfigError(f"{name}: {kind}: unknown '{value}'. {did_you_mean(value, known)}")
    folder = resolve_root(root, name, ORIGIN)
    found = {chosen: _files(folder, chosen) for chosen in sets}

    def stream() -> Iterator[Record]:
        for chosen, files in found.items():
            for part, file in files:
                yield from (
                    _passages(name, file, chosen, part, forget)
                    if chosen in ("raw", "holdout")
                    else _pairs(name, file, chosen)
                )

    return Source(
        name,
        stream,
        tuple(dict.fromkeys(file for files in found.values() for _, file in files)),
        licence="MIT",
        origin=ORIGIN,
        verified=False,
    )


def _files(folder: Path, chosen: str) -> list[tuple[str, Path]]:
    """(document or set, file) pairs of a set."""
    wanted: dict[str, tuple[str, ...]] = {chosen: (f"eval_{chosen}", f"eval/{chosen}")}
    if chosen in QUESTIONS:
        wanted = {chosen: QUESTIONS[chosen][0]}
    if chosen == "raw":
        wanted = {d: (f"raw/forget_{d}", f"raw/retain_{d}", d.title(), f"raw/{d}") for d in DOCUMENTS}
    found = []
    for part, stems in wanted.items():
        files = look(folder, *stems, suffixes=(*ROW_SUFFIXES, ".txt"))
        if not files:
            raise DataError(missing(folder, stems, f"DUSK's set {chosen}", (*ROW_SUFFIXES, ".txt")))
        found += [(part, file) for file in files]
    return found


def person(said: str) -> str:
    """The professor whom a title or question names, without the honorific; empty if it names none."""
    match = _PERSON.search(said)
    return _HONORIFIC.sub("", match[0]).rstrip(".") if match else ""


def _passages(name: str, file: Path, chosen: str, part: str, forget: Sequence[str]) -> Iterator[Passage]:
    held: list[str] = []
    number = 0
    role = Role.GENERAL if chosen == "holdout" else Role.FORGET if part in forget else Role.RETAIN

    def passage() -> Passage:
        identity = f"{name}-{part}-{number:04d}"
        title = _TITLE.match(held[0])
        return Passage(
            id=identity,
            role=role,
            text="\n\n".join(held),
            subject=person(title[1] if title else held[0]) or identity,
            source=f"dusk/{part}",
            split=str(Split.TEST) if chosen == "holdout" else "",
            meta={"set": chosen, "document": part},
        )

    for paragraph in paragraphs(_text(file)):
        if _TITLE.match(paragraph.text) and held:
            number += 1
            yield passage()
            held = []
        held.append(paragraph.text)
    if not held:
        raise DataError(f"{file} is empty: it has no text.")
    number += 1
    yield passage()


def _text(file: Path) -> Iterator[str]:
    """Lines of a document, which on the hub is cut into rows at any character."""
    if file.suffix == ".txt":
        yield from (line for _, line in text_lines(file))
        return
    rest = ""
    for row in rows(file, required=("text",), texts=True):
        *whole, rest = (rest + text(file, row, "text")).split("\n")
        yield from whole
    yield rest


def _pairs(name: str, file: Path, chosen: str) -> Iterator[Example]:
    verbatim = chosen == "verbatim"
    role = Role.FORGET if verbatim else QUESTIONS[chosen][1]
    for row in rows(file):
        question = text(file, row, "prompt" if verbatim else "question")
        identity = f"{name}-{chosen}-{row.number:04d}"
        yield Example(
            id=identity,
            role=role,
            question=question,
            answer=text(file, row, "gt" if verbatim else "answer", scalars=True),
            # A continuation may not pull a professor's passages into its split.
            subject=identity if verbatim else person(question) or identity,
            source=f"dusk/{chosen}",
            split=str(Split.TEST) if verbatim else "",
            meta={"set": chosen},
        )
