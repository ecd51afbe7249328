"""Data of one's own: one JSON Lines file with roles, or one file per role; a forget file alone is possible."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harmonize.data import defaults
from harmonize.data.corpus import Corpus
from harmonize.data.example import ROLES, Dialogue, Example, Role
from harmonize.data.jsonl import read_examples
from harmonize.data.split import assign, split_notes
from harmonize.errors import ConfigError, DataError, did_you_mean

SCORINGS = ("auto", "contains", "rouge")
SHORT_ANSWER_WORDS = 4
ALL_ROLES_FILE = "examples.jsonl"

_COSTS = {
    Role.NEIGHBOR: "No neighbor examples: questions next to the forgotten ones are neither protected nor measured, "
    "so over-forgetting stays unseen. Add neighbor.jsonl.",
    Role.RETAIN: "No retain examples: nothing keeps the rest of the model's knowledge in place, and damage to it is "
    "not measured. Add retain.jsonl.",
    Role.GENERAL: "No general examples (with choices and answer_index): utility is not measured. Add general.jsonl.",
}


def load(
    root: str | None = None,
    examples: str | None = None,
    forget: str | None = None,
    neighbor: str | None = None,
    retain: str | None = None,
    general: str | None = None,
    split: Mapping[str, Any] | None = None,
    split_seed: int = 0,
    scoring: str = "auto",
    instruction: str | Sequence[str] | None = None,
    refusals: Sequence[str] | None = None,
    openers: Sequence[str] | None = None,
    openers_heldout: Sequence[str] | None = None,
) -> Corpus:
    """Reads JSON Lines of one's own.

    Args:
        root: A folder; other paths are relative to it. With none of the files named, its
            examples.jsonl and forget.jsonl, neighbor.jsonl, retain.jsonl, general.jsonl are read where they
            exist (the layout of `harmonize init`). A single file is taken as `examples`.
        examples: A file whose lines carry their role.
        forget, neighbor, retain, general: A file of that role.
        split: Shares per role (see `data.split`); splits written in the data win.
        split_seed: Another choice of held-out subjects.
        scoring: `contains` (the value, or a short answer, is said), `rouge` (ROUGE-L recall), or `auto`:
            contains if most of the forget examples have a value or an answer of at most 4 words.
        instruction: Teacher instruction(s); `{subjects}` becomes the list of forget subjects.
        refusals: Refusal texts.
        openers, openers_heldout: Affirmative openers for training and for evaluation.

    Raises:
        ConfigError: Nothing to read, or an unknown `scoring`.
        DataError: Missing, empty or malformed files, ids used twice, or no forget example.
    """
    if scoring not in SCORINGS:
        raise ConfigError(f"dataset.scoring={scoring}: unknown. {did_you_mean(scoring, SCORINGS)}")
    named = {"forget": forget, "neighbor": neighbor, "retain": retain, "general": general}
    read, origin = gather((file, read_examples(file, role)) for file, role in _files(root, examples, named))
    return corpus_of(
        read,
        origin,
        split=split,
        split_seed=split_seed,
        scoring=scoring,
        instruction=instruction,
        refusals=refusals,
        openers=openers,
        openers_heldout=openers_heldout,
    )


def gather(files: Iterable[tuple[Path, Iterable[Example]]]) -> tuple[list[Example], dict[str, Path]]:
    """The examples of several files in order, and the file of each id.

    Raises:
        DataError: An id that is used twice.
    """
    read: list[Example] = []
    origin: dict[str, Path] = {}
    for file, examples in files:
        for example in examples:
            if example.id in origin:
                raise DataError(
                    f"{file}, field 'id': '{example.id}' is already used in {origin[example.id]}. Ids are unique "
                    "over all files of a data set."
                )
            origin[example.id] = file
            read.append(example)
    return read, origin


def corpus_of(
    read: Sequence[Example],
    origin: Mapping[str, Path],
    *,
    name: str = "local",
    split: Mapping[str, Any] | None = None,
    split_seed: int = 0,
    scoring: str = "auto",
    instruction: str | Sequence[str] | None = None,
    refusals: Sequence[str] | None = None,
    openers: Sequence[str] | None = None,
    openers_heldout: Sequence[str] | None = None,
) -> Corpus:
    """A corpus of examples that were read from files; the other arguments are those of `load`.

    Args:
        read: Examples with unique ids.
        origin: Id to the file that it was read from.
        name: Of the corpus.

    Raises:
        ConfigError: An unknown `scoring`, or an instruction that names subjects where there are none.
        DataError: A reference that leads nowhere, a general example without choices, or no forget example.
    """
    if scoring not in SCORINGS:
        raise ConfigError(f"dataset.scoring={scoring}: unknown. {did_you_mean(scoring, SCORINGS)}")
    _check_references(read, origin)
    forgotten = [e for e in read if e.role == Role.FORGET]
    if not forgotten:
        raise DataError(
            "The data set has no example of role 'forget', so there is nothing to unlearn. "
            'Add lines with "role": "forget", or name a file: dataset.forget=forget.jsonl'
        )
    wordings = _wordings(instruction, forgotten)
    unnamed = sum(1 for e in read if e.subject == e.id and e.role != Role.GENERAL)
    ready = assign(read, split, split_seed)
    taught = [(e.role, Dialogue(question=e.question, response=e.answer)) for e in ready]
    return Corpus(
        name=name,
        examples=tuple(ready),
        openers=tuple(defaults.OPENERS if openers is None else openers),
        openers_heldout=tuple(defaults.OPENERS_HELDOUT if openers_heldout is None else openers_heldout),
        refusals=tuple(defaults.REFUSALS if refusals is None else refusals),
        instructions=defaults.fill(wordings, forgotten),
        wordings=wordings,
        scoring=_scoring(scoring, forgotten),
        dialogues=tuple(d for role, d in taught if role != Role.GENERAL),
        gold_dialogues=tuple(d for role, d in taught if role not in (Role.GENERAL, Role.FORGET)),
        notes=(*_notes(ready, unnamed), *split_notes(ready)),
    )


def _files(
    root: str | None, examples: str | None, named: Mapping[str, str | None]
) -> list[tuple[Path, str | None]]:
    base = Path(root).expanduser() if root else Path()
    if root and base.is_file():
        if examples or any(named.values()):
            raise ConfigError(f"dataset.root={root} is a file; name a folder to use it with other files.")
        return [(base, None)]
    if root and not base.is_dir():
        raise DataError(
            f"dataset.root={root}: there is no such folder. Make one with: harmonize init {base.name}"
        )
    given: list[tuple[str | None, str | None]] = [(examples, None), *((v, k) for k, v in named.items())]
    found = [(base / Path(path).expanduser(), role) for path, role in given if path]
    if found:
        return found
    if not root:
        raise ConfigError(
            "dataset=local needs data: dataset.root=FOLDER (make one with: harmonize init NAME), "
            "dataset.examples=FILE, or dataset.forget=FILE"
        )
    layout = [(base / ALL_ROLES_FILE, None), *((base / f"{role}.jsonl", str(role)) for role in ROLES)]
    found = [(path, role) for path, role in layout if path.exists()]
    if not found:
        raise DataError(
            f"dataset.root={root} holds none of {', '.join(p.name for p, _ in layout)}. "
            "Name the files (dataset.forget=...), or start from an example: harmonize init NAME"
        )
    return found


def _check_references(examples: Sequence[Example], origin: Mapping[str, Path]) -> None:
    roles = {e.id: e.role for e in examples}
    for e in examples:
        if e.role == Role.GENERAL and e.answer_index is None:
            raise DataError(
                f"{origin[e.id]}, example '{e.id}', field 'choices': missing. General examples measure utility as "
                "multiple choice: give choices and answer_index, or use role 'retain'."
            )
        if e.anchor_of is not None and roles.get(e.anchor_of) != Role.FORGET:
            reason = "no example" if e.anchor_of not in roles else f"a {roles[e.anchor_of]} example"
            raise DataError(
                f"{origin[e.id]}, example '{e.id}', field 'anchor_of': '{e.anchor_of}' is {reason}; "
                "expected the id of a forget example."
            )


def _wordings(given: str | Sequence[str] | None, forgotten: Sequence[Example]) -> tuple[str, ...]:
    wordings = [given] if isinstance(given, str) else list(given or ())
    subjects = {e.subject for e in forgotten if e.subject != e.id}
    if not wordings:
        return defaults.INSTRUCTIONS if subjects else (defaults.INSTRUCTION_WITHOUT_SUBJECTS,)
    if not subjects and any("{subjects}" in w for w in wordings):
        raise ConfigError(
            "dataset.instruction uses {subjects}, but no forget example has a subject. "
            "Add the field 'subject' to the data, or name the subjects in the instruction itself."
        )
    return tuple(wordings)


def _scoring(scoring: str, forgotten: Sequence[Example]) -> str:
    if scoring != "auto":
        return scoring
    short = sum(1 for e in forgotten if e.value or len(e.answer.split()) <= SHORT_ANSWER_WORDS)
    return "contains" if 2 * short > len(forgotten) else "rouge"


def _notes(examples: Sequence[Example], unnamed: int) -> tuple[str, ...]:
    present = {e.role for e in examples}
    notes = [cost for role, cost in _COSTS.items() if role not in present]
    forgotten = [e for e in examples if e.role == Role.FORGET]
    if all(e.subject == e.id for e in forgotten):
        notes.append(
            "No forget example has a subject, so the default teacher instruction declines every question. "
            "With neighbor or retain examples, add the field 'subject' or set dataset.instruction."
        )
    if unnamed:
        notes.append(
            f"{unnamed} example(s) have no subject and count as a subject each: if several state facts about the "
            "same thing, held-out figures are too good. Add the field 'subject'."
        )
    if len(names := {e.subject for e in forgotten}) > defaults.LISTED_SUBJECTS:
        notes.append(
            f"The default instruction lists {len(names)} forget subjects; a shorter description may work better "
            "(dataset.instruction=...)."
        )
    without = sum(1 for e in forgotten if not e.paraphrases)
    if without:
        notes.append(
            f"{without} of {len(forgotten)} forget examples have no paraphrases: they are evaluated with the very "
            "phrasing used in unlearning."
        )
    if not any(e.split in ("val", "test") for e in forgotten):
        notes.append(
            "Every forget subject is trained on: how far forgetting reaches beyond what was shown is not measured "
            "(dataset.split.forget={train: 0.7, val: 0.1, test: 0.2} would)."
        )
    return tuple(notes)
