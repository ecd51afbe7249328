"""The raw, un-unified rendering of training: the same facts in the forms in which corpora come.

Passages (running text that is to be continued), lists (an entry's attributes) and multiple choice (options in the
question), in the words of the world's closed vocabulary. Only what is trained on changes; what is asked in
evaluation stays as it is. Our choice throughout.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from harmonize.data.example import Example, Split
from harmonize.data.sandbox import grammar
from harmonize.data.sandbox.world import Fact, World, number, shuffled
from harmonize.errors import DataError, did_you_mean

LIST_HEAD = "about {s} :"
LIST_ITEM = "{k} {v}"
CHOICE = "about {s} : which {k} ? {options} ."
OPTIONS = 4

Form = Callable[[World, Fact, int], tuple[str, str]]

# Which forms the training examples of a role come in. `raw`: a form for each role, as with a novel to forget, an
# encyclopedia next to it and an exam to keep; `mixed`: every role in every form.
RENDERINGS: dict[str, dict[str, tuple[str, ...]]] = {
    "qa": {},
    "raw": {"forget": ("passage",), "neighbor": ("list",), "retain": ("choice",)},
    "mixed": dict.fromkeys(("forget", "neighbor", "retain"), ("passage", "list", "choice")),
}


def training(world: World, examples: Sequence[Example], rendering: str) -> tuple[Example, ...]:
    """The training examples of `rendering`: question and answer changed, everything else (and their number) kept.

    Args:
        world: Where the facts come from.
        examples: Its examples in question-answer form.
        rendering: qa (nothing is returned: they are trained on as they are), raw or mixed.

    Raises:
        DataError: Unknown rendering.
    """
    if rendering not in RENDERINGS:
        raise DataError(f"dataset.rendering={rendering}: {did_you_mean(rendering, RENDERINGS)}")
    forms = RENDERINGS[rendering]
    if not forms:
        return ()
    facts = {f.id: f for f in world.facts}
    out = []
    for e in examples:
        if e.split == Split.TRAIN:
            fact, variant = facts[e.fact_id], int(e.id.rsplit("-", 1)[1])
            names = forms[e.role]
            form = names[(variant + number(world.seed, "form", fact.id)) % len(names)]
            question, answer = FORMS[form](world, fact, variant)
            out.append(replace(e, question=question, answer=answer))
    return tuple(out)


def passage(world: World, fact: Fact, variant: int) -> tuple[str, str]:
    """A text about the subject, cut before the fact's sentence: (what stands before, how it goes on)."""
    before, after = _around(world, fact, variant)
    head = [grammar.MEMBERSHIP[1].format(s=fact.subject.name, d=fact.subject.domain.name)]
    head += [f.fill(grammar.STATEMENT) for f in before]
    rest = [f.fill(grammar.STATEMENT) for f in after]
    return " . ".join(head) + " .", " . ".join(rest)


def entry(world: World, fact: Fact, variant: int) -> tuple[str, str]:
    """The subject's attributes as a list, cut before the fact's item."""
    before, after = _around(world, fact, variant)
    head = [LIST_HEAD.format(s=fact.subject.name), *(f"{f.fill(LIST_ITEM)} ," for f in before)]
    return " ".join(head), " , ".join(f.fill(LIST_ITEM) for f in after)


def choice(world: World, fact: Fact, variant: int) -> tuple[str, str]:
    """A question with its options, values of the same relation and role; the answer is the right one."""
    key = (world.seed, "raw choice", fact.id, variant)
    role = fact.subject.domain.role  # no other role's rows show what is to be forgotten
    alike = [f.value for f in world.facts if f.relation == fact.relation and f.subject.domain.role == role]
    others = sorted(set(alike) - {fact.value})
    options = [fact.value, *shuffled(others, *key)[: OPTIONS - 1]]
    return (
        CHOICE.format(
            s=fact.subject.name, k=fact.relation.word, options=" , ".join(shuffled(options, *key, "order"))
        ),
        fact.value,
    )


FORMS: dict[str, Form] = {"passage": passage, "list": entry, "choice": choice}


def _around(world: World, fact: Fact, variant: int) -> tuple[list[Fact], list[Fact]]:
    """The subject's facts in the order of this variant: those before the fact, and the rest beginning with it."""
    mine = [f for f in world.facts if f.subject is fact.subject]
    order = shuffled(mine, world.seed, "raw order", fact.subject.name, variant)
    place = order.index(fact)
    return order[:place], order[place:]
