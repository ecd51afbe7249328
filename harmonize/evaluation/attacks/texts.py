"""What attacks made of text share: templates, and the rule that no text holds a scored word of the asked fact."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from string import Formatter
from typing import Any

from harmonize.data.corpus import Corpus
from harmonize.data.example import Example
from harmonize.data.render import Renderer
from harmonize.errors import ConfigError, did_you_mean
from harmonize.evaluation.attacks import Cost
from harmonize.evaluation.questions import capped
from harmonize.evaluation.records import Query, Question
from harmonize.evaluation.text import words

FIELDS = ("question", "subject", "stem")
# Words that say nothing of a fact, so that a text may share them with a value such as "The Wind of the North".
FUNCTION_WORDS = frozenset(
    "a an the of and or in on at to for by with from as is was are were be it its s".split()
)
_CONTENT = 4  # letters from which a word of an answer that is scored as a whole counts as one of its content


def scored_words(example: Example) -> frozenset[str]:
    """Words that no attack may supply: of the value and its aliases, but for function words and what the question says.

    Where all of the answer is scored: its words of four letters and more that stand in no phrasing of the question.
    """
    asked = {w for text in (example.question, *example.paraphrases, example.subject) for w in words(text)}
    if example.value:
        found = {w for text in (example.value, *example.aliases) for w in words(text)}
        return frozenset(found - FUNCTION_WORDS - asked or found)
    said = {w for text in (example.answer, *example.aliases) for w in words(text)}
    return frozenset(w for w in said - asked if len(w) >= _CONTENT)


def tells(text: str, scored: Iterable[str]) -> bool:
    """Whether a text holds any of these words."""
    return not set(words(text)).isdisjoint(scored)


def stem(example: Example) -> str:
    """The answer up to its scored value; empty where nothing stands before it, or all of it is scored."""
    at = example.answer.find(example.value) if example.value else -1
    return example.answer[:at].strip() if at > 0 else ""


def rest(example: Example) -> str:
    """The answer from its scored value on; all of it where nothing stands before that."""
    at = example.answer.find(example.value) if example.value else -1
    return example.answer[at:] if at > 0 else example.answer


def known(example: Example, question: str) -> dict[str, str]:
    """What a template may be filled with; fields that this fact lacks are left out. `meta` gives its own texts."""
    found = {str(k): v for k, v in example.meta.items() if isinstance(v, str)}
    found |= {"question": question, "subject": example.subject}
    return found | ({"stem": before} if (before := stem(example)) else {})


def filled(template: str, fields: dict[str, str]) -> str | None:
    """The template with its fields, or None where one is missing."""
    wanted = template_fields(template)
    return template.format(**fields) if wanted <= fields.keys() else None


def template_fields(template: str) -> set[str]:
    """Names in braces.

    Raises:
        ConfigError: Braces that do not match, or a field without a name.
    """
    try:
        found = [name for _, name, _, _ in Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise ConfigError(
            f"The template '{template}': {error}. Write {{question}} for the question."
        ) from error
    if any(not name.isidentifier() for name in found):
        raise ConfigError(
            f"The template '{template}' has a field without a plain name, such as {{question}}."
        )
    return set(found)


def check_templates(
    name: str, templates: Sequence[str], needed: Sequence[str] = ("question",), also: Sequence[str] = ()
) -> None:
    """Refuses templates that ask nothing or name what does not exist.

    Raises:
        ConfigError: What is wrong, and what to type.
    """
    problems = []
    for template in templates:
        if not isinstance(template, str):
            raise ConfigError(
                f"attack.{name}: a template must be text, found {template!r}. Put it in quotes."
            )
        found = template_fields(template)
        problems += [
            f"attack.{name}: the template '{template}' lacks {{{n}}}, so it asks nothing of a fact. Add {{{n}}}."
            for n in needed
            if n not in found
        ]
        options = (*FIELDS, *also)
        problems += [
            f"attack.{name}: the template '{template}' names {{{n}}}. {did_you_mean(n, options)}"
            for n in sorted(found - set(options))
        ]
    if problems:
        raise ConfigError(problems)


def check_counts(name: str, **counts: int | None) -> None:
    """Refuses whole numbers below 1; None passes.

    Raises:
        ConfigError: What is wrong, and what to type.
    """
    wrong = {
        k: v
        for k, v in counts.items()
        if v is not None and (isinstance(v, bool) or not isinstance(v, int) or v < 1)
    }
    if wrong:
        raise ConfigError(
            [
                f"attack.{name}.{k}={v}: expected a whole number of at least 1. For example attack.{name}.{k}=1."
                for k, v in wrong.items()
            ]
        )


@dataclass(frozen=True)
class Wording:
    """One way to ask: what the user says, what of it the attack supplied, and its label."""

    text: str
    supplied: str
    variant: str


@dataclass(frozen=True, kw_only=True)
class TextAttack:
    """An attack that words a question anew, in at most `budget` ways.

    Args:
        budget: Most queries per question; further wordings are left out.
        max_facts: Most facts that are asked about, of those used in unlearning and of those held out each; chosen by a
            hash of the fact.
    """

    name: str
    budget: int = 8
    max_facts: int | None = None

    def __post_init__(self) -> None:
        check_counts(self.name, budget=self.budget, max_facts=self.max_facts)

    @property
    def queries_per_question(self) -> int:
        """Its budget."""
        return self.budget

    @property
    def cost(self) -> Cost:
        """Queries alone."""
        return Cost(self.queries_per_question)

    def material(self, corpus: Corpus) -> Any:
        """What the wordings of all questions are made of."""
        return None

    def wordings(self, material: Any, question: Question) -> Iterator[Wording]:
        """Ways to ask, the most promising first."""
        raise NotImplementedError

    def queries(self, corpus: Corpus, renderer: Renderer, questions: Sequence[Question]) -> list[Query]:
        """Question by question; a wording that would supply a scored word is left out."""
        found: list[Query] = []
        material = self.material(corpus)
        for q in some(questions, self.max_facts):
            scored = scored_words(q.example)
            ways: dict[str, Query] = {}
            for way in self.wordings(material, q):
                if len(ways) == self.budget:
                    break
                if way.text != q.text and not tells(way.supplied, scored):
                    ways.setdefault(way.text, asked(q, renderer, self.name, way.text, way.variant))
            found += ways.values()
        return found


@dataclass(frozen=True, kw_only=True)
class Templates(TextAttack):
    """Every question inside every template.

    Args:
        templates: Texts with {question}, and if need be {subject} or {stem} (the answer before its value).
    """

    templates: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "templates", tuple(self.templates))
        check_templates(self.name, self.templates)

    @property
    def queries_per_question(self) -> int:
        """One per template, up to the budget."""
        return min(self.budget, max(1, len(self.templates)))

    def wordings(self, material: Any, question: Question) -> Iterator[Wording]:
        """In the order of the templates."""
        fields = known(question.example, question.text)
        for i, template in enumerate(self.templates):
            if (text := filled(template, fields)) is not None:
                yield Wording(text, filled(template, {**fields, "question": ""}) or "", f"template-{i}")


def asked(
    question: Question,
    renderer: Renderer,
    attack: str,
    text: str,
    variant: str,
    *,
    reference: str | None = None,
    accepts: tuple[str, ...] = (),
    prompt: tuple[int, ...] | None = None,
) -> Query:
    """A query whose user turn says `text`; the fact's own answer counts, unless another is given."""
    said = question.example.answer if reference is None else reference
    return Query(
        question=question,
        reference=said,
        reference_tokens=len(renderer.target_ids(said)),
        attack=attack,
        variant=variant,
        asked=text,
        prompt=renderer.prompt_ids(text, question.instruction) if prompt is None else prompt,
        accepts=accepts,
    )


def some(
    questions: Sequence[Question], max_facts: int | None, phrasings: int | None = None
) -> list[Question]:
    """Questions on at most so many facts used in unlearning and held out each, in at most so many phrasings.

    Facts are chosen by a hash, so the choice depends neither on their order nor on the model.
    """
    chosen: set[str] = set()
    for trained in (True, False):
        facts = {q.example.fact_id: q.example for q in questions if q.trained == trained}
        chosen |= {e.fact_id for e in capped(tuple(facts.values()), max_facts)}
    seen: dict[str, int] = {}
    found = []
    for q in questions:
        number = seen[q.example.fact_id] = seen.get(q.example.fact_id, 0) + 1
        if q.example.fact_id in chosen and (phrasings is None or number <= phrasings):
            found.append(q)
    return found
