"""TOFU (Maini et al. 2024, arXiv 2401.06121) from its own JSON-lines files: 200 authors, 20 questions each."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harmonize.data import defaults
from harmonize.data.corpus import Corpus, content_hash
from harmonize.data.example import Dialogue, Example, Role
from harmonize.data.jsonl import read_rows
from harmonize.data.requests import deal, one_each
from harmonize.data.split import assign, split_notes
from harmonize.errors import ConfigError, DataError, did_you_mean

QUESTIONS_PER_AUTHOR = 20
RETAIN_OF = {"forget01": "retain99", "forget05": "retain95", "forget10": "retain90"}
GENERAL_FILES = ("world_facts_perturbed", "real_authors_perturbed")
EACH_AUTHOR = "authors"
# Refusals are short and the loss is a mean over tokens: read once they would hardly count. Our choice.
REFUSAL_WEIGHT = 2
# Short, since every teacher prompt carries it and small models have small contexts. Our wording.
INSTRUCTION = "You do not know {subjects}."
_LOWER = r"(?:de|del|della|la|le|van|von|der|den|bin|ibn|al|el|da|das|do|dos|di|ben)"
_NAME = re.compile(rf"[A-Z][\w'’.-]*(?: (?:{_LOWER} )*[A-Z][\w'’-]*)+")
_NAME_SHARE = 0.6


@dataclass(frozen=True)
class _Row:
    """One question of the benchmark; `index` counts from 0 in the order of TOFU's full.json."""

    index: int
    question: str
    answer: str

    @property
    def author(self) -> int:
        return self.index // QUESTIONS_PER_AUTHOR


def load(
    root: str | None = None,
    forget_set: str = "forget01",
    neighbors: int = 2,
    retain_authors: int | None = 8,
    split: Mapping[str, Any] | None = None,
    split_seed: int = 0,
    instruction: str | Sequence[str] | None = None,
    refusals: int | Sequence[str] = 4,
    refusal_share: float = 0.6,
    finetune_paraphrases: bool = False,
    openers: Sequence[str] | None = None,
    openers_heldout: Sequence[str] | None = None,
    general_items: int | None = None,
    requests: int | str = 1,
) -> Corpus:
    """Reads TOFU; the subject of a question is its author, so splits keep authors whole.

    Forget are the authors of `forget_set`; neighbors are the authors just before them in TOFU's order;
    retain are the first others; general are the perturbed world_facts and real_authors items with four
    options (the answer and three perturbed ones, ordered by a content hash). Which authors are
    neighbors is our choice: TOFU names none.

    Args:
        root: Folder with forgetNN.json, its retainNN.json, and where present the *_perturbed.json files
            (evaluation phrasings) and idontknow.jsonl (refusals).
        forget_set: forget01, forget05 or forget10, measured against retain99, retain95 or retain90.
        neighbors: Number of neighbor authors.
        retain_authors: Number of retain authors; null takes all.
        split: Shares per role. By default all forget authors are trained on (a request names all of
            them) and 30 % of the neighbor and retain authors are held out.
        split_seed: Which authors are held out.
        instruction: Teacher instruction(s); `{subjects}` becomes the names of the forgotten authors.
        refusals: Refusal texts, or how many of idontknow.jsonl to take.
        refusal_share: Share of the finetuning dialogues that carry an instruction to know nothing of
            named authors, answered by a refusal when the question is about one of them and truthfully
            otherwise. For models too small to follow an instruction by themselves; 0 for none.
        finetune_paraphrases: Also finetune on the paraphrased questions, where there are any. A small model
            that knows only the original phrasing has nothing to forget when it is asked in another one.
        openers, openers_heldout: Affirmative openers for training and for evaluation.
        general_items: Cap on the general items; null takes all.
        requests: Deletion requests that the forgotten authors are dealt out to (A, B, C, ...), for
            `harmonize sequence`; `authors` makes one of each, called by its name.

    Raises:
        ConfigError: An unknown forget set, or counts that the data cannot give.
        DataError: Missing or malformed files, or more requests than forgotten authors.

    Source: arXiv 2401.06121 for the data; the roles and the in-context refusals are our choice.
    """
    folder = _folder(root)
    if not 0 <= refusal_share < 1:
        raise ConfigError(f"dataset.refusal_share={refusal_share} must be at least 0 and below 1, e.g. 0.6")
    examples = assign(
        [*examples_of(folder, forget_set, neighbors, retain_authors), *general_of(folder, general_items)],
        split,
        split_seed,
    )
    examples = _requested(examples, requests, split_seed)
    forget_names = list(dict.fromkeys(e.subject for e in examples if e.role == Role.FORGET))
    texts = refusals_of(folder, refusals)
    wordings = _as_list(instruction) or [INSTRUCTION]
    trained = [e for e in examples if e.role != Role.GENERAL]
    dialogues = _dialogues(trained, wordings[0], forget_names, texts, refusal_share, finetune_paraphrases)
    secret = {(q, e.answer) for e in trained if e.role == Role.FORGET for q in (e.question, *e.paraphrases)}
    return Corpus(
        name="tofu",
        examples=tuple(examples),
        openers=tuple(defaults.OPENERS if openers is None else openers),
        openers_heldout=tuple(defaults.OPENERS_HELDOUT if openers_heldout is None else openers_heldout),
        refusals=texts,
        instructions=defaults.fill(wordings, (e for e in examples if e.role == Role.FORGET)),
        wordings=tuple(wordings),
        scoring="rouge",
        dialogues=dialogues,
        gold_dialogues=tuple(d for d in dialogues if (d.question, d.response) not in secret),
        notes=(*_notes(examples), *split_notes(examples)),
    )


def _requested(examples: list[Example], requests: int | str, seed: int) -> list[Example]:
    if requests == EACH_AUTHOR:
        return one_each(examples)
    if not isinstance(requests, int):
        raise ConfigError(
            f"dataset.requests={requests}: expected a number or '{EACH_AUTHOR}'. For example dataset.requests=2."
        )
    return deal(examples, requests, seed)


def examples_of(folder: Path, forget_set: str, neighbors: int, retain_authors: int | None) -> list[Example]:
    """Forget, neighbor and retain questions, without splits; the arguments are those of `load`.

    Raises:
        ConfigError: An unknown forget set, or counts that the data cannot give.
        DataError: Missing or malformed files.
    """
    if forget_set not in RETAIN_OF:
        raise ConfigError(f"forget_set={forget_set} is unknown. {did_you_mean(forget_set, RETAIN_OF)}")
    kept = _rows(folder / f"{RETAIN_OF[forget_set]}.json", 0)
    forgotten = _rows(folder / f"{forget_set}.json", len(kept))
    authors = _choose_authors(kept, forgotten, neighbors, retain_authors)
    names = {
        a: author_name([(r.question, r.answer) for r in rows])
        for a, rows in _by_author(kept + forgotten).items()
    }
    counts = Counter(names.values())
    subject = {a: n if n and counts[n] == 1 else f"author-{a:03d}" for a, n in names.items()}
    phrasings = _paraphrases(folder, forget_set)
    return [
        Example(
            id=f"tofu-{r.index:04d}",
            role=authors[r.author],
            question=r.question,
            answer=r.answer,
            subject=subject[r.author],
            source="tofu",
            paraphrases=phrasings.get(r.question, ()),
            meta={"author": r.author},
        )
        for r in forgotten + kept
        if r.author in authors
    ]


def author_name(pairs: Sequence[tuple[str, str]]) -> str | None:
    """The person that questions and answers are about: the capitalised sequence of two or more words
    that most of the pairs contain (at least 60 %), or None if there is no clear one.

    Source: our choice; TOFU's files do not name the author of a row.
    """
    found: Counter[str] = Counter()
    for pair in pairs:
        found.update({name for text in pair for name in _capitalised(text)})
    ranked = sorted(found.items(), key=lambda item: (-item[1], len(item[0]), item[0]))
    if not ranked or ranked[0][1] < _NAME_SHARE * len(pairs):
        return None
    return ranked[0][0]


def _capitalised(text: str) -> set[str]:
    return {re.sub(r"['’]s?$", "", m.group(0)) for m in _NAME.finditer(text)}


def _folder(root: str | None) -> Path:
    if not root:
        raise ConfigError(
            "dataset.root is missing: the folder with TOFU's JSON-lines files "
            "(https://huggingface.co/datasets/locuslab/TOFU). Type dataset.root=path/to/tofu"
        )
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise DataError(
            f"dataset.root={root}: there is no such folder. Expected TOFU's JSON-lines files in it."
        )
    return folder


def _rows(file: Path, first: int) -> list[_Row]:
    rows = []
    for offset, (line, row) in enumerate(read_rows(file)):
        for name in ("question", "answer"):
            if not isinstance(row.get(name), str) or not row[name].strip():
                raise DataError(
                    f"{file}, line {line}, field '{name}': expected text, found {row.get(name)!r}"
                )
        rows.append(_Row(first + offset, row["question"], row["answer"]))
    if len(rows) % QUESTIONS_PER_AUTHOR:
        raise DataError(
            f"{file} has {len(rows)} rows; expected whole authors of "
            f"{QUESTIONS_PER_AUTHOR} questions, as TOFU has them."
        )
    return rows


def _by_author(rows: Sequence[_Row]) -> dict[int, list[_Row]]:
    found: dict[int, list[_Row]] = {}
    for r in rows:
        found.setdefault(r.author, []).append(r)
    return found


def _choose_authors(
    kept: Sequence[_Row], forgotten: Sequence[_Row], neighbors: int, retain: int | None
) -> dict[int, Role]:
    available = sorted(_by_author(kept))
    if neighbors < 1 or (retain is not None and retain < 1):
        raise ConfigError(
            "dataset.neighbors and dataset.retain_authors must be at least 1 (or null for all retain)"
        )
    wanted = neighbors + (1 if retain is None else retain)
    if wanted > len(available):
        raise ConfigError(
            f"dataset.neighbors={neighbors} and dataset.retain_authors={retain} ask for {wanted} authors, but the "
            f"retain file has {len(available)}. Lower them."
        )
    near, others = available[len(available) - neighbors :], available[: len(available) - neighbors]
    return {
        **dict.fromkeys(sorted(_by_author(forgotten)), Role.FORGET),
        **dict.fromkeys(near, Role.NEIGHBOR),
        **dict.fromkeys(others[:retain], Role.RETAIN),
    }


def _paraphrases(folder: Path, forget_set: str) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for name in ("retain_perturbed", f"{forget_set}_perturbed"):
        file = folder / f"{name}.json"
        if not file.exists():
            continue
        for _, row in read_rows(file):
            question, other = row.get("question"), row.get("paraphrased_question")
            if isinstance(question, str) and isinstance(other, str) and other.strip() not in ("", question):
                found[question] = (other,)
    return found


def general_of(folder: Path, cap: int | None) -> list[Example]:
    """The perturbed world_facts and real_authors items as multiple choice, at most `cap` of them.

    Raises:
        DataError: Malformed files.
    """
    examples: list[Example] = []
    for name in GENERAL_FILES:
        file = folder / f"{name}.json"
        if not file.exists():
            continue
        for number, (line, row) in enumerate(read_rows(file)):
            question, answer, wrong = (row.get(k) for k in ("question", "answer", "perturbed_answer"))
            if not (isinstance(question, str) and isinstance(answer, str) and isinstance(wrong, list)):
                raise DataError(f"{file}, line {line}: expected question, answer and a list perturbed_answer")
            options = sorted({answer, *map(str, wrong)}, key=lambda o: content_hash(question, o))
            identity = f"{name.removesuffix('_perturbed')}-{number:03d}"
            examples.append(
                Example(
                    id=identity,
                    role=Role.GENERAL,
                    question=question,
                    answer=answer,
                    subject=identity,
                    source=f"tofu/{name}",
                    choices=tuple(options),
                    answer_index=options.index(answer),
                )
            )
    if cap is not None:
        keep = set(sorted((e.id for e in examples), key=content_hash)[:cap])
        examples = [e for e in examples if e.id in keep]
    return examples


def refusals_of(folder: Path, wanted: int | Sequence[str]) -> tuple[str, ...]:
    """Refusal texts: those given, or the first `wanted` of idontknow.jsonl."""
    if not isinstance(wanted, int):
        return tuple(wanted)
    file = folder / "idontknow.jsonl"
    if not file.exists():
        return defaults.REFUSALS
    lines = [
        line.strip() for line in file.read_text(encoding="utf-8").splitlines()
    ]  # plain text, despite its name
    return tuple(line for line in lines if line)[: max(1, wanted)] or defaults.REFUSALS


def _dialogues(
    examples: Sequence[Example],
    wording: str,
    forget_names: Sequence[str],
    refusals: Sequence[str],
    share: float,
    paraphrases: bool,
) -> tuple[Dialogue, ...]:
    """Every question with its answer, then instructed ones so that they make up `share` of all.

    Instructed dialogues go round the questions in hash order. Every other round names the forgotten
    authors (the instruction of the teacher); the rounds between name one or two authors drawn by hash, half
    of the time with the question's own author among them, so that what is learned is to follow the instruction.
    """
    asked = [(e, q) for e in examples for q in (e.question, *(e.paraphrases if paraphrases else ()))]
    weight = {e.id: _weight(e, paraphrases) for e in examples}
    plain = [Dialogue(question=q, response=e.answer, weight=weight[e.id]) for e, q in asked]
    subjects = sorted({e.subject for e in examples})
    order = sorted(asked, key=lambda pair: content_hash("instructed", pair[0].id, pair[1]))
    instructed = []
    for j in range(round(len(plain) * share / (1 - share))):
        (e, question), turn = order[j % len(order)], j // len(order)
        key = content_hash("dialogue", e.id, question, turn)
        named = list(forget_names) if turn % 2 == 0 else _named(e.subject, subjects, key)
        response, times = e.answer, weight[e.id]
        if e.subject in named:
            times *= REFUSAL_WEIGHT
            response = refusals[int(content_hash("refusal", e.id), 16) % len(refusals)]
        instruction = wording.replace("{subjects}", defaults.join_names(named))
        instructed.append(Dialogue(question, response, instruction, times))
    return (*plain, *instructed)


def _weight(example: Example, paraphrases: bool) -> int:
    """How often an example's dialogues are read in an epoch: alike for every example, however many phrasings
    it has, and twice for the forget ones, which alone are mostly refused under an instruction and must yet be
    answered without. Our choice: with equal weights a small model refuses some of them either way.
    """
    return (1 if example.paraphrases or not paraphrases else 2) * (2 if example.role == Role.FORGET else 1)


def _named(own: str, subjects: Sequence[str], key: str) -> list[str]:
    """One or two subjects drawn by `key`, half of the time `own` among them."""
    draw = int(key, 16)
    others = [s for s in subjects if s != own]
    first = (draw >> 8) % len(others)
    second = (first + 1 + (draw >> 72) % (len(others) - 1)) % len(others)
    include, pair, swap = (bool(draw >> bit & 1) for bit in range(3))
    named = [own, others[first]] if include else [others[first], others[second]]
    named = named if pair else named[:1]
    return named[::-1] if swap else named


def _as_list(value: str | Sequence[str] | None) -> list[str]:
    return [value] if isinstance(value, str) else list(value or ())


def _notes(examples: Sequence[Example]) -> tuple[str, ...]:
    notes = []
    for role in (Role.FORGET, Role.NEIGHBOR, Role.RETAIN):
        own = [e for e in examples if e.role == role]
        without = sum(1 for e in own if not e.paraphrases)
        if without:
            notes.append(
                f"{without} of {len(own)} {role} questions have no paraphrase in TOFU's files: they are "
                "evaluated with the phrasing used in unlearning."
            )
    if not any(e.role == Role.GENERAL for e in examples):
        notes.append(
            "world_facts_perturbed.json and real_authors_perturbed.json are missing: utility is not measured."
        )
    return tuple(notes)
