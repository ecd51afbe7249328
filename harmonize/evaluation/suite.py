"""Suites: the five axes plus parts. A part is an evaluator with settings; a suite's YAML names parts under `parts`.

Adding one = one dataclass with `measure(scene)`, and a mapping with its `_target_` in a YAML of `conf/suite/`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

from harmonize.console import counted, warn
from harmonize.data.corpus import Corpus
from harmonize.data.render import Renderer
from harmonize.errors import DataError, HarmonizeError
from harmonize.evaluation.beside import Beside
from harmonize.evaluation.intervals import cluster_interval
from harmonize.evaluation.judge import CORRECT_RECALL
from harmonize.evaluation.likelihood import Pair
from harmonize.evaluation.one_pass import Group, TokenRow, shared_rows, token_rows
from harmonize.evaluation.refusal import RefusalDetector
from harmonize.evaluation.report import Report
from harmonize.evaluation.surface import Progress, Surface, as_surface, context_length
from harmonize.evaluation.text import is_degenerate
from harmonize.tracking.direction import Better
from harmonize.tracking.metric import Metric

Series = Mapping[str, Mapping[str, float]]
"""Figures of single rows: name of the figure -> id of the row -> value."""
Ids = tuple[int, ...]


class NotMeasured(HarmonizeError):
    """What a part asks of a model or of the data is not there; told as a note, not as a failure."""


@dataclass(frozen=True)
class Part:
    """Settings of a part: fields are its keys in a suite's YAML.

    Attributes:
        compares: Whether it reads the record of a reference model (`suite.reference`).
        looks_at: Models beside the measured one that it looks into (`harmonize.evaluation.beside`).
    """

    compares: ClassVar[bool] = False
    looks_at: ClassVar[tuple[str, ...]] = ()

    def problems(self, at: str) -> list[str]:
        """What is wrong with the settings, told while the configuration is checked.

        Args:
            at: Where they stand, such as `suite.parts.tofu`.
        """
        return []

    def check(self, corpus: Corpus, suite: Any) -> str:
        """Reads the part's data, before any model is loaded.

        Returns:
            A content key of the rows that it scores: a reference record must be of the same.

        Raises:
            HarmonizeError: Data that is missing or malformed.
        """
        return corpus.digest

    def figures(self) -> Mapping[str, Better]:
        """The figures it is known for, with their direction: True upwards, False downwards, else `towards` a value.

        They are reported with value None where the part cannot be measured.
        """
        return {}

    def measure(self, scene: Scene) -> Report:
        """Figures, samples and notes of one model.

        Raises:
            NotMeasured: The model or the data lack what the part needs.
            HarmonizeError: Anything else; the other parts of the suite go on.
        """
        raise NotImplementedError


class Said(NamedTuple):
    """A greedy answer: its text, and its length in tokens."""

    text: str
    tokens: int


@dataclass
class Passes:
    """What was asked of one model so far, so that no part asks it again."""

    surface: Surface
    rows: dict[tuple[Ids, Ids], TokenRow] = field(default_factory=dict)
    said: dict[tuple[Ids, int], Said] = field(default_factory=dict)


@dataclass
class Scene:
    """What a part sees: a model, the data, the suite's settings, and what was measured before it.

    Attributes:
        passes: The model, and what it was asked so far.
        corpus: The data set.
        suite: Like `SuiteConfig`.
        part: The part's name in the suite.
        split: `test`; parts are not measured on val.
        seed: Moves the bootstrap alone.
        reference: The rows of the reference model for this part, or None.
        instruction: Read before questions of `instruct_roles` (an instructed teacher), if any.
        samples: Those of the five axes and of the parts before.
        metrics: The same of figures; what is there already needs no second name.
        progress: Called with (done, in all), if anybody looks.
        beside: Other models by name, of those that the part looks at and that are there.
    """

    passes: Passes
    corpus: Corpus
    suite: Any
    part: str
    split: str = "test"
    seed: int = 0
    reference: Series | None = None
    instruction: str | None = None
    instruct_roles: Collection[str] = ()
    samples: Sequence[Mapping[str, Any]] = ()
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    progress: Progress | None = None
    beside: Mapping[str, Beside] = field(default_factory=dict)

    @property
    def surface(self) -> Surface:
        """The model as it is seen from outside."""
        return self.passes.surface

    @property
    def renderer(self) -> Renderer:
        """Its renderer."""
        return self.passes.surface.renderer

    def prompt(self, question: str, role: str = "") -> Ids:
        """Ids of a question up to where its answer begins, with the instruction if the role reads one."""
        told = self.instruction if role in self.instruct_roles else None
        return self.renderer.prompt_ids(question, told)

    def opened(self, text: str, role: str = "") -> Ids:
        """Ids of running text that is to be continued, headed by the instruction if the role reads one."""
        told = self.instruction if role in self.instruct_roles else None
        head = self.renderer.plain.instruction.format(instruction=told) if told else ""
        return self.renderer.opened_ids(head + text)

    def target(self, text: str, where: str) -> Ids:
        """Ids of an answer, without the end of turn.

        Args:
            where: Names the row in the message.

        Raises:
            DataError: It is empty.
        """
        ids = self.renderer.answer_ids(text) if text.strip() else ()
        if not ids:
            raise DataError(
                f"{where}: the answer is empty, so it has no probability. Fill it in, or leave the row out."
            )
        return ids

    def passage(self, text: str, where: str, limit: int | None = None) -> Pair:
        """Running text as a pair: its first id (BOS, where there is one), and the ids that are scored.

        Args:
            limit: Ids at most; also cut to what the model can read.

        Raises:
            DataError: Fewer than two ids.
        """
        ids = self.renderer.text_ids(text)[:-1]
        room = [n for n in (limit, self.context) if n is not None]
        ids = ids[: min(room)] if room else ids
        if len(ids) < 2:
            raise DataError(f"{where}: a text of {len(ids)} tokens has nothing to score. Leave the row out.")
        return ids[:1], ids[1:]

    @property
    def context(self) -> int | None:
        """Tokens that the model can read, where it says so."""
        return context_length(getattr(self.surface, "model", None))

    def rows(self, pairs: Sequence[Pair]) -> list[TokenRow]:
        """Token statistics of (prompt, target) pairs; what an earlier part asked for is not run again.

        Raises:
            NotMeasured: The model gives no token probabilities.
            DataError: A pair does not fit the model's context.
        """
        keys = [(tuple(p), tuple(t)) for p, t in pairs]
        self.check_room(keys)
        new = [k for k in dict.fromkeys(keys) if k not in self.passes.rows]
        if new:
            model, adjust = self._scorer([p for p, _ in new])
            found = token_rows(model, new, self.renderer.pad_id, self.suite.batch_size, adjust)
            self.passes.rows.update(zip(new, found, strict=True))
        return [self.passes.rows[k] for k in keys]

    def shared(self, groups: Sequence[Group]) -> list[list[TokenRow]]:
        """As `rows`, for several targets of one prompt, which is read once. Raises the same."""
        plain = [(tuple(p), tuple(tuple(t) for t in targets)) for p, targets in groups]
        self.check_room([(p, t) for p, targets in plain for t in targets])
        missing: dict[Ids, dict[Ids, None]] = {}
        for prompt, targets in plain:
            for target in targets:
                if (prompt, target) not in self.passes.rows:
                    missing.setdefault(prompt, {})[target] = None
        if missing:
            model, adjust = self._scorer(list(missing))
            new = [(p, list(t)) for p, t in missing.items()]
            found = shared_rows(model, new, self.renderer.pad_id, self.suite.batch_size, adjust)
            for (prompt, some), rows in zip(new, found, strict=True):
                self.passes.rows.update({(prompt, t): r for t, r in zip(some, rows, strict=True)})
        return [[self.passes.rows[p, t] for t in targets] for p, targets in plain]

    def sums(self, groups: Sequence[Group]) -> list[list[float]]:
        """Log-probability of each target of each prompt; of any surface. Raises as `rows` does."""
        if hasattr(self.surface, "speaking"):
            return [[float(r.log_probs.sum()) for r in rows] for rows in self.shared(groups)]
        flat = [(p, t) for p, targets in groups for t in targets]
        values = iter(self.surface.log_probs(flat, self.suite.batch_size))
        return [[next(values) for _ in targets] for _, targets in groups]

    def say(self, prompts: Sequence[Sequence[int]], max_new_tokens: int | None = None) -> list[Said]:
        """Greedy answers, equal prompts asked once.

        Args:
            max_new_tokens: None takes the suite's.
        """
        limit = max_new_tokens or self.suite.max_new_tokens
        keys = [(tuple(p), limit) for p in prompts]
        new = [k for k in dict.fromkeys(keys) if k not in self.passes.said]
        if new:
            found = self.surface.generate([p for p, _ in new], limit, self.suite.batch_size, self.progress)
            self.passes.said |= {
                k: Said(self.renderer.decode(ids), len(ids)) for k, ids in zip(new, found, strict=True)
            }
        return [self.passes.said[k] for k in keys]

    def mean(
        self, name: str, values: Sequence[float], subjects: Sequence[str], up: Better, *, share: bool = True
    ) -> Metric:
        """The mean with its interval clustered by subject; value None where there is nothing.

        Args:
            up: True where higher is better, False where lower is, else `towards` a value.
            share: As in `cluster_interval`: False for values that are not between 0 and 1.
        """
        if not values:
            return Metric.of(None, 0, better=up)
        interval = cluster_interval(
            values,
            subjects,
            confidence=self.suite.confidence,
            resamples=self.suite.bootstrap,
            key=(name, self.seed),
            share=share,
        )
        low, high = interval or (None, None)
        return Metric.of(sum(values) / len(values), len(values), low, high, better=up)

    @cached_property
    def is_refusal(self) -> RefusalDetector:
        """The detector, which knows the data set's refusals."""
        return RefusalDetector(self.corpus.refusals)

    def verdict(self, text: str, score: float) -> str:
        """What kind of answer this is, as the axes have it: refused, correct, degenerate or wrong.

        Args:
            score: ROUGE-L of the answer; from 0.5 on it is correct.
        """
        if self.is_refusal(text):
            return "refused"
        if score >= CORRECT_RECALL:
            return "correct"
        return "degenerate" if is_degenerate(text) else "wrong"

    def sample(self, kind: str, row: str, subject: str, role: str, **figures: Any) -> dict[str, Any]:
        """One line of `samples.jsonl`. `attack` is `<part>/<kind>`, so that nobody takes it for a plain question."""
        return {
            "part": self.part,
            "example_id": row,
            "fact": row,
            "role": role,
            "split": self.split,
            "subject": subject,
            "attack": f"{self.part}/{kind}",
            **figures,
        }

    def _scorer(self, prompts: Sequence[Sequence[int]]) -> tuple[Any, Any]:
        speaking = getattr(self.surface, "speaking", None)
        if speaking is None:
            raise NotMeasured("this model shows no probabilities of single tokens")
        return speaking(prompts, scored=True)  # type: ignore[no-any-return]

    def check_room(self, keys: Sequence[tuple[Ids, Ids]]) -> None:
        """Refuses pairs that the model cannot read. Raises DataError."""
        context = self.context
        longest = max((len(p) + len(t) for p, t in keys), default=0)
        if context is not None and longest > context:
            raise DataError(
                f"Question and answer have {longest} tokens together, but the model reads at most {context}. Leave out "
                "that row, or shorten the instruction."
            )


def measure_parts(
    parts: Mapping[str, Part],
    loaded: Any,
    corpus: Corpus,
    suite: Any,
    report: Report,
    *,
    references: Mapping[str, Series] | None = None,
    beside: Mapping[str, Beside] | None = None,
    split: str = "test",
    seed: int = 0,
    instruction: str | None = None,
    instruct_roles: Collection[str] = (),
    progress: bool = False,
) -> Report:
    """Adds the figures of a suite's parts to those of the five axes.

    A part that fails leaves the others alone: its own figures have value None, a note says why, and
    `report.failures` keeps the error for whoever started it.

    Args:
        parts: By name. loaded: A `LoadedModel`, or any `Surface`.
        report: Of the five axes; it is added to, and returned.
        references: Rows of the reference model, by part. beside: Models that parts may look into, by name.
        split: On val no part is measured: what chooses is the five axes.
        progress: Show a bar for each part.
    """
    if not parts:
        return report
    if split != "test":
        report.notes.append(f"The parts of the suite ({', '.join(parts)}) are measured on split=test alone.")
        return report
    passes = Passes(as_surface(loaded))
    for name, part in parts.items():
        bar: AbstractContextManager[Progress | None] = counted(name) if progress else nullcontext()
        try:
            with bar as told:
                found = part.measure(
                    Scene(
                        passes,
                        corpus,
                        suite,
                        name,
                        split,
                        seed,
                        (references or {}).get(name),
                        instruction,
                        instruct_roles,
                        tuple(report.samples),
                        report.metrics,
                        told,
                        {n: b for n, b in (beside or {}).items() if n in part.looks_at},
                    )
                )
            merge(report, found, name)
        except NotMeasured as why:
            _without(report, part, f"Not measured: part '{name}': {why}.")
        except Exception as error:  # kept for the caller, who raises it when the other parts are written
            report.failures[name] = error
            text = str(error) if isinstance(error, HarmonizeError) else f"{type(error).__name__}: {error}"
            warn(f"Part '{name}' of the suite failed: {text}")
            _without(report, part, f"Part '{name}' failed: {text}")
    return report


def merge(report: Report, found: Report, name: str) -> None:
    """Adds a part's report to another.

    Raises:
        DataError: A figure of that name is there already.
    """
    twice = sorted(set(report.metrics) & set(found.metrics))
    if twice:
        raise DataError(
            f"The part '{name}' reports {twice[0]}, which is there already. Leave one of the two out: "
            f"~suite.parts.{name}."
        )
    report.metrics.update(found.metrics)
    report.samples += found.samples
    report.outcomes.update(found.outcomes)
    report.notes += found.notes
    report.rows.update(found.rows)
    report.curves.update(found.curves)


def _without(report: Report, part: Part, note: str) -> None:
    report.notes.append(note)
    for name, up in part.figures().items():
        report.metrics.setdefault(name, Metric.of(None, 0, better=up))
