"""Views: turning a drawn example into the row that is trained on, plain or with the answer already opened.

Views belong to the data, so every method can train on them and no objective knows of them. Which view an
example gets is a function of (seed, epoch, example id).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from harmonize.data.batch import Row
from harmonize.data.corpus import Corpus
from harmonize.data.example import Example
from harmonize.data.prefill import prefix_is_trained, unit_hash
from harmonize.data.render import Renderer
from harmonize.data.responses import alternate_for, random_row, sources_of, variants
from harmonize.errors import DataError

TeacherTarget = Callable[[str], tuple[int, ...]]
CacheStart = Callable[[str], int]


def refusal_for(corpus: Corpus, example: Example) -> str:
    """The refusal that this example is answered with: fixed per example, spread over the list.

    Raises:
        DataError: The data set brings no refusals.
    """
    if not corpus.refusals:
        raise DataError(
            f"The data set '{corpus.name}' has no refusal texts, but a role answers with 'refusal'. "
            "Give some (dataset.refusals=[...]) or use method.response.<role>=reference."
        )
    return corpus.refusals[int(unit_hash("refusal", example.id) * len(corpus.refusals))]


class RowFactory:
    """Makes rows of examples.

    Args:
        corpus: Openers and refusals come from here.
        renderer: Token ids.
        prefill: The `dataset.prefill` configuration.
        response: Role to response source, or to several (`harmonize.data.responses`): then every view of an example
            is one row for each, the first with the others as its companions.
        seed: Of the run.
        max_length: Longest sequence the model can read, in tokens; None = unlimited.
        teacher_target, cache_start: The teacher's own answer and its first cache row, by example id; needed
            for the response `teacher` and for objectives that read the teacher.
    """

    def __init__(
        self,
        corpus: Corpus,
        renderer: Renderer,
        prefill: Any,
        response: Mapping[str, str | Sequence[str]],
        seed: int,
        max_length: int | None = None,
        teacher_target: TeacherTarget | None = None,
        cache_start: CacheStart | None = None,
    ) -> None:
        self.corpus, self.renderer, self.prefill = corpus, renderer, prefill
        self.sources = {role: sources_of(value) for role, value in response.items()}
        self.seed, self.max_length = seed, max_length
        self._teacher_target, self._cache_start = teacher_target, cache_start
        self.mode = getattr(prefill.mode, "value", str(prefill.mode))
        self._found: dict[str, list[tuple[str, tuple[int, ...]]]] = {}
        self._openers = tuple(renderer.answer_ids(o) for o in corpus.openers) if prefill.openers else ()

    def target(self, example: Example, source: str, epoch: int = 0) -> tuple[int, ...]:
        """Ids of the whole response from one source, end of turn included."""
        if source == "teacher":
            if self._teacher_target is None:
                raise ValueError("the response 'teacher' needs a teacher cache")
            return self._teacher_target(example.id)
        return self.renderer.target_ids(text_of(source, self.corpus, example, epoch))

    def candidates(self, example: Example) -> list[tuple[str, tuple[int, ...]]]:
        """Every (view, prefill ids) this example may be shown with in training, beyond plain."""
        known = self._found.get(example.id)
        if known is not None:
            return known
        found = [("opener", ids) for ids in self._openers]
        if self.prefill.prefixes and (
            example.role != "forget" or prefix_is_trained(example.fact_id, self.prefill.heldout_share)
        ):
            prefixes = {self.renderer.answer_prefix(example, d) for d in self.prefill.depths}
            found += [("prefix", ids) for ids in sorted(prefixes, key=lambda p: (len(p), p)) if ids]
        self._found[example.id] = found
        return found

    def views(self, example: Example, epoch: int) -> list[Row]:
        """The row of this example in this epoch; several to choose the worst of where the mode asks for it.

        Raises:
            DataError: The sequence is longer than the model can read.
        """
        if self.mode == "none" or example.role not in self.prefill.roles:
            return [self.row(example, epoch=epoch)]
        key = (self.seed, "view", epoch, example.id)
        if unit_hash(*key) >= self.prefill.share:
            return [self.row(example, epoch=epoch)]
        kinds: dict[str, list[tuple[int, ...]]] = {}
        for view, ids in self.candidates(example):
            kinds.setdefault(view, []).append(ids)
        if not kinds:
            return [self.row(example, epoch=epoch)]
        if self.mode == "worst_of_n" and example.role == "forget":
            everything = [(view, ids) for view, group in kinds.items() for ids in group]
            everything.sort(key=lambda c: unit_hash(*key, c[0], c[1]))
            return [self.row(example, *c, epoch=epoch) for c in everything[: self.prefill.n]]
        names = sorted(kinds)
        view = names[int(unit_hash(*key, "kind") * len(names))]
        group = kinds[view]
        return [self.row(example, view, group[int(unit_hash(*key, "which") * len(group))], epoch)]

    def every_row(self, example: Example, opened: bool = False) -> list[Row]:
        """Every row of this example that training may show, in any epoch; `opened` adds all prefilled views."""
        shown: list[tuple[str, tuple[int, ...]]] = [("plain", ())]
        if opened or (self.mode != "none" and example.role in self.prefill.roles):
            shown += self.candidates(example)
        epochs = range(variants(example, self.sources[example.role]))
        return [self.row(example, *view, epoch=epoch) for epoch in epochs for view in shown]

    def row(self, example: Example, view: str = "plain", prefill: Sequence[int] = (), epoch: int = 0) -> Row:
        """One row, with companions where the role answers from several sources.

        A response that begins with the prefill continues after it; any other follows whole.
        """
        first, *others = (
            self._from_source(example, source, view, tuple(prefill), epoch)
            for source in self.sources[example.role]
        )
        return replace(first, companions=tuple(others)) if others else first

    def _from_source(
        self, example: Example, source: str, view: str, opened: tuple[int, ...], epoch: int
    ) -> Row:
        prompt = self.renderer.prompt_ids(example.question)
        # the teacher scores one response of an example: the first
        scored = self._cache_start is not None and source == self.sources[example.role][0]
        start = self._cache_start(example.id) if scored and self._cache_start else -1
        if source == "random":
            own = self.renderer.target_ids(example.answer)
            prompt, target = random_row(example, self.renderer, len(prompt), len(own))
            view, opened, start = "plain", (), -1
        else:
            target = self.target(example, source, epoch)
        if opened and target[: len(opened)] == opened:
            target = target[len(opened) :]
            start = start + len(opened) if start >= 0 else -1
        row = Row(
            example_id=example.id,
            role=str(example.role),
            subject=example.subject,
            request_id=example.request_id,
            prompt=prompt,
            prefill=opened,
            target=target,
            view=view,
            response=source,
            cache_start=start,
        )
        if self.max_length is not None and row.length > self.max_length:
            raise DataError(
                f"Example '{example.id}' needs {row.length} tokens (question, prefill and answer), but the model "
                f"reads at most {self.max_length}. Shorten its answer or leave it out."
            )
        return row


def text_of(source: str, corpus: Corpus, example: Example, epoch: int = 0) -> str:
    """The response from a source that is a text of the data's.

    Raises:
        DataError: The data has none.
    """
    return _TEXTS[source](corpus, example, epoch)


_TEXTS: dict[str, Callable[[Corpus, Example, int], str]] = {
    "reference": lambda corpus, example, epoch: example.answer,
    "refusal": lambda corpus, example, epoch: refusal_for(corpus, example),
    "alternate": lambda corpus, example, epoch: alternate_for(example, epoch),
    "random": lambda corpus, example, epoch: example.answer,
}
