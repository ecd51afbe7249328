"""What parts share that look inside a model: is there an inside, which answers, and the states of their tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from harmonize.data.batch import Row, collate
from harmonize.data.example import Example
from harmonize.errors import DataError, ModelError
from harmonize.evaluation.likelihood import Pair
from harmonize.evaluation.questions import ask
from harmonize.evaluation.report import Report
from harmonize.evaluation.suite import NotMeasured, Part, Scene
from harmonize.models.batching import batched
from harmonize.models.body import blocks_of, evaluating, output_layer, unwrapped
from harmonize.models.layers import layer_states
from harmonize.tracking.metric import Metric

R = TypeVar("R")


@dataclass(frozen=True)
class Answer:
    """An answer whose tokens are looked at.

    Attributes:
        example: Of the data. question: In the wording that is asked.
        prompt: Ids of the question.
        before: Ids of the answer up to what is scored. scored: Ids of the scored value (all of an answer without one).
    """

    example: Example
    question: str
    prompt: tuple[int, ...]
    before: tuple[int, ...]
    scored: tuple[int, ...]

    @property
    def pair(self) -> Pair:
        """What is read, and what is scored."""
        return (*self.prompt, *self.before), self.scored


def nothing_yet(part: Part) -> Report:
    """A report in which every figure of the part is still not measured."""
    return Report({name: Metric.of(None, 0, better=up) for name, up in part.figures().items()})


def inner_model(scene: Scene) -> Any:
    """The model whose inside is looked at.

    Raises:
        NotMeasured: There is none to be seen, or a guard stands around it, or it has no layers that are known.
    """
    model: Any = getattr(scene.surface, "model", None)
    if model is None:
        raise NotMeasured("this model shows nothing of its inside")
    guard = getattr(scene.surface, "guard", None)
    if guard is not None and not guard.removes:
        raise NotMeasured(
            "a guard changes what a model says, not what is inside it. To look inside the model under it: guard=removed"
        )
    try:
        blocks_of(model)
        output_layer(unwrapped(model))
    except ModelError as error:
        raise NotMeasured(str(error).rstrip(".")) from error
    return model


def answers_of(scene: Scene, facts: Sequence[Example], most: int | None = None) -> list[Answer]:
    """The facts' true answers, once for each question they are asked with.

    Args:
        most: Scored tokens at most, the first ones.

    Raises:
        DataError: An empty answer, or one that does not fit the model's context.
    """
    found = []
    for q in ask(facts, scene.split, scene.renderer, scene.instruction, scene.instruct_roles):
        found.append(answer_to(scene, q.example, q.text, q.prompt, most))
    return found


def answer_to(
    scene: Scene, example: Example, question: str, prompt: Sequence[int], most: int | None = None
) -> Answer:
    """An example's answer to a question. Raises as `answers_of`."""
    ids = scene.target(example.answer, f"example '{example.id}'")
    start, stop = scene.renderer.value_span(example)
    stop = stop if most is None else min(stop, start + most)
    made = Answer(example, question, tuple(prompt), ids[:start], ids[start:stop])
    context = scene.context
    read, scored = made.pair
    # one place for the token that stands after the last one
    if context is not None and len(read) + len(scored) + 1 > context:
        raise DataError(
            f"Example '{example.id}': question and answer have {len(read) + len(scored)} tokens together, but the "
            f"model reads at most {context}. Leave out that row."
        )
    return made


def with_value(example: Example, value: str) -> Example:
    """The example with another value in its answer; of one without a value the whole answer is replaced."""
    if not example.value:
        return replace(example, answer=value)
    return replace(example, answer=example.answer.replace(example.value, value, 1), value=value)


def each_states(
    scene: Scene, model: Any, answers: Sequence[Answer], reduce: Callable[[Tensor, list[Answer]], list[R]]
) -> list[R]:
    """Runs a function on the states of a batch of answers at a time; nothing else of them is kept.

    Args:
        reduce: Takes states [L + 1, A, H] and the answers, and returns one result for each. A position stands before
            every scored token of an answer and one after the last, answer by answer (`split_states`).
    """
    found: list[Any] = [None] * len(answers)
    pad, device = scene.renderer.pad_id, next(model.parameters()).device

    def length(i: int) -> int:
        read, scored = answers[i].pair
        return len(read) + len(scored)

    def run(some: Sequence[int]) -> list[R]:
        rows = []
        for i in some:
            read, scored = answers[i].pair
            # the padding id stands after the last scored token: where it would be predicted, all have been read
            rows.append(Row(str(i), "forget", "", tuple(read), (*scored, pad)))
        states = layer_states(model, collate(rows, pad).to(device))
        return reduce(states, [answers[i] for i in some])

    # the longest first, which is how rows are collated, too
    order = sorted(range(len(answers)), key=lambda i: (-length(i), i))
    done = 0
    with torch.no_grad(), evaluating(model):
        for part, results in batched(order, scene.suite.batch_size, run):
            for i, result in zip(part, results, strict=True):
                found[i] = result
            done += len(part)
            if scene.progress is not None:
                scene.progress(done, len(answers))
    return found


def split_states(states: Tensor, answers: Sequence[Answer]) -> list[Tensor]:
    """[L + 1, A, H] as one [L + 1, K + 1, H] for each answer."""
    return list(states.split([len(a.scored) + 1 for a in answers], dim=1))
