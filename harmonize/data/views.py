"""Views: turning a drawn example into the row that is trained on, plain or with the answer already opened.

Views belong to the data, so every method can train on them and no objective knows of them. Which view an
example gets is a function of (seed, epoch, example id).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from harmonize.data.batch import Row
from harmonize.data.corpus import Corpus
from harmonize.data.example import Example
from harmonize.data.prefill import prefix_is_trained, unit_hash
from harmonize.data.render import Renderer
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
        response: Role to response source (reference, teacher, refusal).
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
        response: Mapping[str, str],
        seed: int,
        max_length: int | None = None,
        teacher_target: TeacherTarget | None = None,
        cache_start: CacheStart | None = None,
    ) -> None:
        self.corpus, self.renderer, self.prefill = corpus, renderer, prefill
        self.response, self.seed, self.max_length = dict(response), seed, max_length
        self._teacher_target, self._cache_start = teacher_target, cache_start
        self.mode = getattr(prefill.mode, "value", str(prefill.mode))
        self._found: dict[str, list[tuple[str, tuple[int, ...]]]] = {}
        self._openers = tuple(renderer.answer_ids(o) for o in corpus.openers) if prefill.openers else ()

    def target_text(self, example: Example) -> str | None:
        """The response as text, or None where the teacher's own answer is asked for."""
        source = self.response[example.role]
        if source == "teacher":
            return None
        return refusal_for(self.corpus, example) if source == "refusal" else example.answer

    def target(self, example: Example) -> tuple[int, ...]:
        """Ids of the whole response, end of turn included."""
        text = self.target_text(example)
        if text is not None:
            return self.renderer.target_ids(text)
        if self._teacher_target is None:
            raise ValueError("the response 'teacher' needs a teacher cache")
        return self._teacher_target(example.id)

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
            return [self.row(example)]
        key = (self.seed, "view", epoch, example.id)
        if unit_hash(*key) >= self.prefill.share:
            return [self.row(example)]
        kinds: dict[str, list[tuple[int, ...]]] = {}
        for view, ids in self.candidates(example):
            kinds.setdefault(view, []).append(ids)
        if not kinds:
            return [self.row(example)]
        if self.mode == "worst_of_n" and example.role == "forget":
            everything = [(view, ids) for view, group in kinds.items() for ids in group]
            everything.sort(key=lambda c: unit_hash(*key, c[0], c[1]))
            return [self.row(example, *c) for c in everything[: self.prefill.n]]
        names = sorted(kinds)
        view = names[int(unit_hash(*key, "kind") * len(names))]
        group = kinds[view]
        return [self.row(example, view, group[int(unit_hash(*key, "which") * len(group))])]

    def row(self, example: Example, view: str = "plain", prefill: Sequence[int] = ()) -> Row:
        """One row. A response that begins with the prefill continues after it; any other follows whole."""
        target = self.target(example)
        start = self._cache_start(example.id) if self._cache_start else -1
        opened = tuple(prefill)
        if opened and target[: len(opened)] == opened:
            target = target[len(opened) :]
            start = start + len(opened) if start >= 0 else -1
        row = Row(
            example_id=example.id,
            role=str(example.role),
            subject=example.subject,
            request_id=example.request_id,
            prompt=self.renderer.prompt_ids(example.question),
            prefill=opened,
            target=target,
            view=view,
            response=self.response[example.role],
            cache_start=start,
        )
        if self.max_length is not None and row.length > self.max_length:
            raise DataError(
                f"Example '{example.id}' needs {row.length} tokens (question, prefill and answer), but the model "
                f"reads at most {self.max_length}. Shorten its answer or leave it out."
            )
        return row
