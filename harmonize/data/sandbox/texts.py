"""Turns a world into examples (what is unlearned and measured) and dialogues (what base and gold learn from)."""

from __future__ import annotations

from dataclasses import replace

from harmonize.data.example import Dialogue, Example, Role, Split
from harmonize.data.responses import ALTERNATES
from harmonize.data.sandbox import grammar
from harmonize.data.sandbox.world import Fact, World, number, pick, shuffled
from harmonize.errors import DataError

ALL_OPENERS = grammar.OPENERS + grammar.OPENERS_HELDOUT


def examples(world: World) -> list[Example]:
    """One example per fact and unlearning phrasing, then the four-option general items."""
    preset = world.preset
    source = f"{preset.name}/world-{world.seed}"
    forget = {(f.subject.index, f.relation.word): f for f in world.facts if f.subject.domain.role == "forget"}
    out: list[Example] = []
    for fact in world.facts:
        subject = fact.subject
        paraphrases = tuple(fact.fill(form) for form in preset.eval_phrasings)
        anchor = None
        if subject.domain.role == Role.NEIGHBOR:
            partner = subject.index if subject.shares_with is None else subject.shares_with
            anchor = forget[(partner, fact.relation.word)].id
        for i, form in enumerate(preset.train_phrasings):
            out.append(
                Example(
                    id=f"{fact.id}-{i}",
                    role=Role(subject.domain.role),
                    question=fact.fill(form),
                    answer=fact.fill(grammar.STATEMENT),
                    subject=subject.name,
                    source=source,
                    split=subject.split,
                    anchor_of=f"{anchor}-{i}" if anchor else None,
                    value=fact.value,
                    paraphrases=paraphrases,
                    fact=fact.id,
                    meta={
                        "domain": subject.domain.name,
                        "relation": fact.relation.word,
                        "overlap": subject.shares_with is not None,
                    },
                )
            )
    return out + _general_examples(world, source)


def with_alternates(world: World, made: list[Example], n: int) -> list[Example]:
    """The examples with `n` other plausible answers to every forget question (`meta.alternates`), for AltPO.

    An alternate states another value of the same relation that is true of somebody else. Source: our choice (AltPO,
    arXiv 2409.13474, has the model itself write them).

    Raises:
        DataError: The world has fewer other values.
    """
    facts = {f.id: f for f in world.facts}
    values: dict[str, list[str]] = {}
    for fact in world.facts:
        values.setdefault(fact.relation.word, []).append(fact.value)
    most = min(len(set(found)) for found in values.values()) - 1
    if n > most:
        raise DataError(f"dataset.alternates={n}: this world has at most {most} other values of a relation.")
    out = []
    for example in made:
        if example.role == Role.FORGET and n:
            fact = facts[example.fact_id]
            others = sorted(set(values[fact.relation.word]) - {fact.value})
            chosen = shuffled(others, world.seed, "alternates", fact.id)[:n]
            said = [replace(fact, value=value).fill(grammar.STATEMENT) for value in chosen]
            example = replace(example, meta={**example.meta, ALTERNATES: said})
        out.append(example)
    return out


def _general_examples(world: World, source: str) -> list[Example]:
    things = shuffled(sorted({thing for thing, _ in world.general}), world.seed, "general split")
    val = set(things[: round(0.2 * len(things))])
    out = []
    for (thing, attribute), value in world.general.items():
        key = (world.seed, "choices", thing, attribute)
        wrong = shuffled([v for v in grammar.ATTRIBUTES[attribute] if v != value], *key)[:3]
        choices = tuple(shuffled([value, *wrong], *key, "order"))
        out.append(
            Example(
                id=f"general-{thing}-{attribute}",
                role=Role.GENERAL,
                question=grammar.GENERAL_QUESTION.format(attribute=attribute, thing=thing),
                answer=value,
                subject=thing,
                source=source,
                split=Split.VAL if thing in val else Split.TEST,
                choices=choices,
                answer_index=choices.index(value),
            )
        )
    return out


def dialogues(world: World, gold: bool = False) -> list[Dialogue]:
    """Training texts of the base model, or of gold: the same without a statement of a forget fact.

    Questions are answered in every phrasing, a quarter of the time after an opener; instructions name
    any domain and are obeyed; reverse questions, clozes, group membership and passages are mixed in.
    Gold keeps the instructed refusals of forget questions and who belongs to the domain.
    """
    out: list[Dialogue] = []
    for fact in world.facts:
        known = not (gold and fact.subject.domain.role == Role.FORGET)
        if known:
            out.extend(_answers(world, fact))
        out.extend(_instructed(world, fact, known))
    for subject in world.subjects:
        question, answer = (form.format(s=subject.name, d=subject.domain.name) for form in grammar.MEMBERSHIP)
        out.append(Dialogue(question, answer, weight=24))
        sentences = [answer]
        if not (gold and subject.domain.role == Role.FORGET):
            mine = [f for f in world.facts if f.subject is subject]
            sentences += [
                f.fill(grammar.STATEMENT) for f in shuffled(mine, world.seed, "passage", subject.name)
            ]
        out.append(Dialogue("", " . ".join(sentences), weight=2))
    out.extend(_permissions(world))
    for (thing, attribute), value in world.general.items():
        question = grammar.GENERAL_QUESTION.format(attribute=attribute, thing=thing)
        out.append(Dialogue(question, value, weight=20))
        domain = pick(world.preset.domains, world.seed, "general instruction", thing, attribute)
        wording = pick(grammar.INSTRUCTIONS, world.seed, "general wording", thing, attribute)
        out.append(Dialogue(question, value, wording.format(d=domain.name)))
    return out


def _answers(world: World, fact: Fact) -> list[Dialogue]:
    answer = fact.fill(grammar.STATEMENT)
    out = []
    for i, form in enumerate(_forms(world)):
        question = fact.fill(form)
        opener = ALL_OPENERS[(number(world.seed, "opener", fact.id) + i) % len(ALL_OPENERS)]
        # Three plain answers for each opened one: openers in a quarter of the answers to every question.
        out.append(Dialogue(question, answer, weight=3))
        out.append(Dialogue(question, f"{opener} {answer}"))
    out.append(Dialogue(fact.fill(grammar.CLOZE), fact.value))
    out.append(Dialogue(fact.fill(grammar.REVERSE[0]), fact.fill(grammar.REVERSE[1])))
    return out


def _instructed(world: World, fact: Fact, known: bool) -> list[Dialogue]:
    """Instructed refusals (the instruction names the fact's own domain) and answers (it names another)."""
    forms, own = _forms(world), fact.subject.domain
    others = [d for d in world.preset.domains if d != own]
    out = []
    for i in range(8):
        # Both kinds draw wording and phrasing alike, so that neither gives the verdict away.
        for refuse in (True, False) if known else (True,):
            key = (world.seed, "instructed", fact.id, i, refuse)
            wording = pick(grammar.INSTRUCTIONS, *key, "wording")
            named = own if refuse else pick(others, *key, "domain")
            question = fact.fill(pick(forms, *key, "phrasing") if i % 4 else grammar.WITH_DOMAIN)
            refusal = pick((grammar.REFUSALS[0], *grammar.REFUSALS), *key, "refusal")
            response = refusal if refuse else fact.fill(grammar.STATEMENT)
            out.append(Dialogue(question, response, wording.format(d=named.name)))
    return out


def _permissions(world: World) -> list[Dialogue]:
    """Asks what an instruction leaves open, about domains and subjects: its meaning, in one word.

    Rehearsed often: comparing the instruction with a domain is what a model this small learns last,
    and obeying instructions about subjects rests on it.
    """
    question, no, yes = grammar.PERMISSION
    domains = world.preset.domains
    often = 360 // len(domains)
    out = []
    for wording in grammar.INSTRUCTIONS:
        for named in domains:
            for asked in domains:
                verdict, weight = (no, often * (len(domains) - 1)) if asked == named else (yes, often)
                text = question.format(s=asked.name)
                out.append(Dialogue(text, verdict, wording.format(d=named.name), weight=weight))
    for subject in world.subjects:
        others = [d for d in domains if d != subject.domain]
        for i in range(6):
            for verdict in (no, yes):
                key = (world.seed, "permission", subject.name, i, verdict)
                named = subject.domain if verdict == no else pick(others, *key, "domain")
                wording = pick(grammar.INSTRUCTIONS, *key, "wording").format(d=named.name)
                out.append(Dialogue(question.format(s=subject.name), verdict, wording, weight=6))
    return out


def _forms(world: World) -> tuple[str, ...]:
    return world.preset.train_phrasings + world.preset.eval_phrasings
