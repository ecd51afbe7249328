"""MUSE (arXiv 2407.06460), News and Books: knowledge questions, verbatim continuations, membership, raw text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harmonize.data.example import ROLES, Example, Role, Split
from harmonize.data.records import Passage, Record
from harmonize.data.sources.fields import text
from harmonize.data.sources.files import ROW_SUFFIXES, look, missing, resolve_root
from harmonize.data.sources.prose import pieces
from harmonize.data.sources.rows import Row, rows, text_lines
from harmonize.data.sources.source import Source
from harmonize.errors import ConfigError, DataError, did_you_mean

ORIGIN = "https://huggingface.co/muse-bench"
CORPORA = ("books", "news")
# Raw text in a .txt file has no rows; it is cut between paragraphs into pieces of this many characters. Our choice.
PIECE = 8000
SUFFIXES = (*ROW_SUFFIXES, ".txt")


@dataclass(frozen=True, slots=True)
class _Part:
    """One file of a set: the names it goes by, the role of its rows (None: `retain_role`), and their split."""

    stems: tuple[str, ...]
    role: Role | None
    split: str = ""


_FORGET, _GENERAL = Role.FORGET, Role.GENERAL
_RETAIN_QA = ("knowmem/retain_qa", "knowmem/retain2_qa")
SETS: dict[str, tuple[_Part, ...]] = {
    "knowmem": (_Part(("knowmem/forget_qa",), _FORGET), _Part(_RETAIN_QA, None)),
    "knowmem_icl": (
        _Part(("knowmem/forget_qa_icl",), _FORGET),
        _Part(tuple(f"{stem}_icl" for stem in _RETAIN_QA), None),
    ),
    "verbmem": (_Part(("verbmem/forget",), _FORGET, Split.TEST),),
    "privleak": (
        _Part(("privleak/forget",), _FORGET, Split.TEST),
        _Part(("privleak/retain", "privleak/retain2"), Role.RETAIN, Split.TEST),
        _Part(("privleak/holdout",), _GENERAL, Split.TEST),
    ),
    "raw": (
        _Part(("raw/forget",), _FORGET),
        _Part(("raw/retain1",), Role.RETAIN, Split.TRAIN),
        _Part(("raw/retain2",), Role.RETAIN, Split.TEST),
    ),
    "holdout": (_Part(("raw/holdout",), _GENERAL, Split.TEST),),
}


def read(
    *,
    name: str = "muse",
    root: str | None = None,
    corpus: str | None = None,
    sets: Sequence[str] = ("knowmem", "raw"),
    retain_role: str = "retain",
) -> Source:
    """Reads MUSE's sets. Every question and every document is a subject of its own: MUSE names none.

    | set | becomes | role | split |
    |---|---|---|---|
    | knowmem (and knowmem_icl, its few-shot examples) | questions | forget, `retain_role` | open |
    | verbmem | question = prompt, answer = its true continuation | forget | test |
    | privleak | passages | forget, retain, general (holdout) | test |
    | raw | passages | forget; retain1 (for unlearning); retain2 (for evaluation) | open; train; test |
    | holdout | passages that no model was trained on | general | test |

    `meta.set` is the set and `meta.part` the file, such as forget_qa. Layout unverified: no published file was at hand;
    file names and keys are those of the files in its authors' development repository, where sets of passages are lists
    of texts.

    Args:
        name: Of the source.
        root: Folder with the sets as folders (knowmem/forget_qa.json, raw/forget.txt, or the hub's Parquet shards), or
            hf:muse-bench/MUSE-Books, hf:muse-bench/MUSE-News.
        corpus: books or news, if `root` holds both as folders (hp and bbc in older copies).
        sets: Which sets.
        retain_role: Role of the retain questions of knowmem. Those of Books are about the same novels: neighbor
            may describe them better than retain.

    Raises:
        ConfigError: No root, an unknown corpus, set or role.
        DataError: Missing or malformed files.

    Source: arXiv 2407.06460 and the layout of its repository; roles of holdout and privleak are our choice.
    """
    if corpus is not None and corpus not in CORPORA:
        raise ConfigError(f"{name}: corpus={corpus} is unknown. {did_you_mean(corpus, CORPORA)}")
    if retain_role not in tuple(ROLES):
        raise ConfigError(f"{name}: unknown role '{retain_role}'. {did_you_mean(retain_role, ROLES)}")
    for chosen in sets:
        if chosen not in SETS:
            raise ConfigError(f"{name}: sets: unknown set '{chosen}'. {did_you_mean(chosen, SETS)}")
    folders = {"knowmem_icl": "knowmem", "holdout": "raw"}
    folder = resolve_root(root, name, ORIGIN, [f"{folders.get(s, s)}/*" for s in sets])
    older = {"books": "hp", "news": "bbc"}
    for below in (corpus, older.get(corpus or "")):
        if below and (folder / below).is_dir():
            folder = folder / below
            break
    found: list[tuple[str, _Part, tuple[Path, ...]]] = []
    for chosen in sets:
        parts = [(part, look(folder, *part.stems, suffixes=SUFFIXES)) for part in SETS[chosen]]
        if not any(files for _, files in parts):
            stems = [stem for part, _ in parts for stem in part.stems]
            raise DataError(missing(folder, stems, f"MUSE's set {chosen}", SUFFIXES))
        found += [(chosen, part, files) for part, files in parts if files]

    def stream() -> Iterator[Record]:
        for chosen, part, files in found:
            number = 0
            for file in files:
                for row in _rows(file):
                    number += 1
                    stem = part.stems[0].replace("/", "-")
                    role = part.role or Role(retain_role)
                    yield RECORDS.get(chosen, _passage)(
                        file, row, f"{name}-{stem}-{number:05d}", role, part, chosen
                    )

    return Source(
        name,
        stream,
        tuple(f for *_, files in found for f in files),
        licence="CC-BY-4.0 (the dataset card; the texts of Books and News belong to their publishers)",
        origin=ORIGIN,
        verified=False,
    )


def _rows(file: Path) -> Iterator[Row]:
    if file.suffix != ".txt":
        yield from rows(file, texts=True)
        return
    number = 0
    for number, piece in enumerate(pieces((line for _, line in text_lines(file)), PIECE), 1):
        yield Row(number, f"piece {number}", {"text": piece})
    if not number:
        raise DataError(f"{file} is empty: it has no text.")


def _meta(part: _Part, chosen: str) -> dict[str, str]:
    return {"set": chosen, "part": part.stems[0].partition("/")[2]}


def _question(file: Path, row: Row, identity: str, role: Role, part: _Part, chosen: str) -> Example:
    return _pair(identity, role, text(file, row, "question"), text(file, row, "answer"), part, chosen)


def _continuation(file: Path, row: Row, identity: str, role: Role, part: _Part, chosen: str) -> Example:
    return _pair(identity, role, text(file, row, "prompt"), text(file, row, "gt"), part, chosen)


def _pair(identity: str, role: Role, question: str, answer: str, part: _Part, chosen: str) -> Example:
    return Example(
        id=identity,
        role=role,
        question=question,
        answer=answer,
        subject=identity,
        source=f"muse/{chosen}",
        split=str(part.split),
        meta=_meta(part, chosen),
    )


def _passage(file: Path, row: Row, identity: str, role: Role, part: _Part, chosen: str) -> Passage:
    return Passage(
        id=identity,
        role=role,
        text=text(file, row, "text"),
        subject=identity,
        source=f"muse/{chosen}",
        split=str(part.split),
        meta=_meta(part, chosen),
    )


RECORDS: dict[str, Callable[[Path, Row, str, Role, _Part, str], Record]] = {
    "knowmem": _question,
    "knowmem_icl": _question,
    "verbmem": _continuation,
}
