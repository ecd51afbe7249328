"""RWKU (arXiv 2406.10890): 200 famous people to forget, probes on them and their neighbors, membership, utility."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harmonize.data.corpus import content_hash
from harmonize.data.example import Example, Role
from harmonize.data.records import BLANK, Passage, Record
from harmonize.data.sources.fields import choice, fail, index_of, letters, optional, text, texts
from harmonize.data.sources.files import look, missing, resolve_root
from harmonize.data.sources.rows import Row, rows
from harmonize.data.sources.source import Source
from harmonize.errors import ConfigError, DataError, did_you_mean

ORIGIN = "https://huggingface.co/datasets/jinzhuoran/RWKU"
# For attacks on the model, not for its training: read only if named.
MEMBERSHIP = ("forget_mia", "retain_mia")
_GAP = re.compile(r"_{2,}")
_PROBE = re.compile(r"([^()]+?)\s*(?:\((\w+)\))?")
_TARGET_FOLDER = re.compile(r"\d+_.+")


@dataclass(frozen=True, slots=True)
class _Line:
    """A row with what is known of it."""

    file: Path
    row: Row
    id: str
    set: str
    role: Role


def read(
    *,
    name: str = "rwku",
    root: str | None = None,
    sets: Sequence[str] | None = None,
    targets: Sequence[str] | None = None,
) -> Source:
    """Reads RWKU's sets; the subject of everything about a target is that person, who is also the deletion request.

    | set | becomes | role |
    |---|---|---|
    | forget_level1 (cloze), forget_level2 (questions), forget_level3 (nine kinds of attack) | examples | forget |
    | neighbor_level1 (cloze), neighbor_level2 (questions) | examples, `meta.neighbor` says about what | neighbor |
    | forget_mia, retain_mia (membership inference) | passages | forget, retain |
    | utility_mmlu, utility_truthful | multiple choice | general |
    | utility_triviaqa | questions with aliases (general is multiple choice alone) | retain |

    `meta.set` names the set and `meta.probe` the kind of a probe: cloze, simple_question, and the attacks
    prefix_injection, affirmative_suffix, role_play, multiple_choice, reverse_query, synonym_manipulation,
    context_hint, incontext_learning and cross_lingual (in `meta.language`). RWKU's own split of all of it is test; it
    gives no questions to train on, so splits are left open. Passages of retain_mia are about others than the target,
    who may be targets themselves: each is a subject of its own, and with many targets they contradict what is to be
    forgotten.

    Args:
        name: Of the source.
        root: Folder with the sets as JSON or JSON Lines, one with `All/`, or with a folder a target (`1_Stephen_King`,
            also below `Target/`); or hf:jinzhuoran/RWKU.
        sets: Which sets; null reads those that are there but for membership. Named sets must be there.
        targets: Names of the people to forget; null takes all. Utility sets belong to nobody and are read whole.

    Raises:
        ConfigError: No root, or an unknown set.
        DataError: A set or target that is not there (the nearest is named), missing or malformed files.

    Source: arXiv 2406.10890 for the data; the roles of membership and utility sets are our choice.
    """
    for chosen in sets or ():
        if chosen not in SETS:
            raise ConfigError(f"{name}: sets: unknown set '{chosen}'. {did_you_mean(chosen, SETS)}")
    folder = resolve_root(root, name, ORIGIN, [f"All/{stem}" for s in SETS.values() for stem in s.stems])
    wanted = sets or [key for key in SETS if key not in MEMBERSHIP]
    files = {key: found for key in wanted if (found := _files(folder, SETS[key].stems))}
    if absent := [key for key in sets or () if key not in files] or ([] if files else list(SETS)[:3]):
        raise DataError(missing(folder, absent, "RWKU's sets"))

    def stream() -> Iterator[Record]:
        people: set[str] = set()
        repeated: set[str] = set()
        for key, found in files.items():
            chosen, number = SETS[key], 0
            for file in found:
                for row in rows(file):
                    number += 1
                    line = _Line(file, row, f"{name}-{key}-{number:05d}", key, chosen.role)
                    if (
                        chosen.shared
                    ):  # the same rows come again with every target that has a folder of its own
                        content = content_hash(key, row.data.get("question"), row.data.get("choices"))
                        if len(found) > 1 and content in repeated:
                            continue
                        repeated.add(content)
                    else:
                        person = text(file, row, "subject")
                        people.add(person)
                        if targets is not None and person not in targets:
                            continue
                    yield chosen.record(line)
        for target in targets or ():
            if people and target not in people:
                raise DataError(
                    f"{name}: targets: nothing is about '{target}'. {did_you_mean(target, people)}"
                )

    return Source(
        name,
        stream,
        tuple(dict.fromkeys(f for found in files.values() for f in found)),
        licence="CC-BY-4.0 (passages: Wikipedia, CC-BY-SA; utility sets: MIT and Apache-2.0)",
        origin=ORIGIN,
        notes=(
            "RWKU publishes every probe for evaluation; splits are by target unless you choose otherwise.",
        ),
    )


def _probe(line: _Line) -> Example:
    file, row = line.file, line.row
    match = _PROBE.fullmatch(text(file, row, "type").strip())
    kind, language = match.groups() if match else (row.data["type"], None)
    person = text(file, row, "subject")
    level = optional(file, row, "level") or line.set[-1]
    return Example(
        id=line.id,
        role=line.role,
        question=_GAP.sub(BLANK, text(file, row, "query")),
        answer=text(file, row, "answer", scalars=True),
        subject=person,
        source=f"rwku/{line.set}",
        request_id=person,
        meta={
            "set": line.set,
            "level": int(level) if level.isdecimal() else level,
            "probe": kind.replace(" ", "_").replace("-", "_").lower(),
            **({"language": language} if language else {}),
            **({"neighbor": v} if (v := optional(file, row, "neighbor")) else {}),
        },
    )


def _membership(line: _Line) -> Passage:
    person = text(line.file, line.row, "subject")
    return Passage(
        id=line.id,
        role=line.role,
        text=text(line.file, line.row, "text"),
        subject=person if line.role == Role.FORGET else line.id,
        source=f"rwku/{line.set}",
        request_id=person,
        meta={"set": line.set, "target": person, "ngram": line.row.data.get("ngram")},
    )


def _mmlu(line: _Line) -> Example:
    options = texts(line.file, line.row, "choices", 2)
    index = index_of(line.file, line.row, "answer", letters(options))
    return _general(line, options, index, optional(line.file, line.row, "task", line.id))


def _truthful(line: _Line) -> Example:
    targets = line.row.data.get("mc1_targets")
    if not isinstance(targets, dict):
        fail(line.file, line.row, "mc1_targets", "expected {choices, labels}")
    options = texts(line.file, line.row._replace(data=targets), "choices", 2)
    labels = targets.get("labels")
    if not isinstance(labels, list) or len(labels) != len(options) or labels.count(1) != 1:
        fail(
            line.file,
            line.row,
            "mc1_targets",
            "expected one label per choice, one of them 1 and the others 0",
        )
    # As published the true option always comes first; a hash of the texts puts it anywhere.
    question = text(line.file, line.row, "question")
    order = sorted(range(len(options)), key=lambda i: content_hash(question, options[i]))
    return _general(line, tuple(options[i] for i in order), order.index(labels.index(1)), line.id)


def _general(line: _Line, options: Sequence[str], index: int, subject: str) -> Example:
    return choice(
        line.id,
        line.role,
        text(line.file, line.row, "question"),
        options,
        index,
        subject=subject,
        source=f"rwku/{line.set}",
        meta={"set": line.set},
    )


def _trivia(line: _Line) -> Example:
    answers = [a for a in texts(line.file, line.row, "answers", 1) if a.strip()]
    if not answers:
        fail(line.file, line.row, "answers", "is empty")
    # RWKU dropped which answer is the main one: the one that most of the others contain comes closest. Our choice.
    lowered = [a.lower() for a in answers]
    main = max(range(len(answers)), key=lambda i: (sum(lowered[i] in other for other in lowered), -i))
    return Example(
        id=line.id,
        role=line.role,
        question=text(line.file, line.row, "question"),
        answer=answers[main],
        subject=line.id,
        source=f"rwku/{line.set}",
        aliases=tuple(a for i, a in enumerate(answers) if i != main),
        meta={"set": line.set},
    )


@dataclass(frozen=True, slots=True)
class _Set:
    """How one set is read: the names its file goes by, its role, and what a row becomes."""

    stems: tuple[str, ...]
    role: Role
    record: Callable[[_Line], Record]
    shared: bool = False


SETS: dict[str, _Set] = {
    "forget_level1": _Set(("forget_level1",), Role.FORGET, _probe),
    "forget_level2": _Set(("forget_level2",), Role.FORGET, _probe),
    "forget_level3": _Set(("forget_level3",), Role.FORGET, _probe),
    "neighbor_level1": _Set(("neighbor_level1",), Role.NEIGHBOR, _probe),
    "neighbor_level2": _Set(("neighbor_level2",), Role.NEIGHBOR, _probe),
    "forget_mia": _Set(("forget_mia", "mia_forget"), Role.FORGET, _membership),
    "retain_mia": _Set(("retain_mia", "mia_retain"), Role.RETAIN, _membership),
    "utility_mmlu": _Set(("utility_mmlu", "retain_mmlu", "utility_general"), Role.GENERAL, _mmlu, True),
    "utility_truthful": _Set(
        ("utility_truthful", "truthful", "utility_truthfulness"), Role.GENERAL, _truthful, True
    ),
    "utility_triviaqa": _Set(
        ("utility_triviaqa", "triviaqa", "utility_factuality"), Role.RETAIN, _trivia, True
    ),
}


def _files(folder: Path, stems: tuple[str, ...]) -> tuple[Path, ...]:
    """The file of a set, or its files if every target has a folder of its own."""
    tried = [f"{place}{stem}" for place in ("", "All/") for stem in stems]
    if whole := look(folder, *tried):
        return whole
    below = [p for parent in (folder, folder / "Target") if parent.is_dir() for p in parent.iterdir()]
    people = [p for p in below if p.is_dir() and _TARGET_FOLDER.fullmatch(p.name)]
    people.sort(key=lambda p: int(p.name.partition("_")[0]))
    return tuple(file for person in people for file in look(person, *stems))
