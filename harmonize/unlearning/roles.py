"""What `harmonize diagnose` measures on one data set: gradients of the roles' losses, and distances between the roles.

Groups are the trained roles as they stand, and the forget rows with their answer already opened (`prefilled`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from harmonize.data.batch import Row
from harmonize.data.example import Example
from harmonize.data.prefill import unit_hash
from harmonize.data.render import Renderer
from harmonize.data.views import RowFactory
from harmonize.models.body import evaluating
from harmonize.models.embedding import mean_hidden
from harmonize.models.load import LoadedModel
from harmonize.unlearning.cosines import add, layer_of, pairwise
from harmonize.unlearning.forward import Forward
from harmonize.unlearning.steps import micro_batches
from harmonize.unlearning.terms import Term, denominators, losses

if TYPE_CHECKING:
    import numpy as np

    from harmonize.models.cache import TeacherCache
    from harmonize.models.reference import Reference

PREFILLED = "prefilled"
ROLES = ("forget", "neighbor", "retain")
GROUPS = (*ROLES, PREFILLED)
Pair = tuple[str, str]
Progress = Callable[[int, int], None]
Frozen = tuple["TeacherCache | None", "Reference | None"]


@dataclass(frozen=True)
class Draws:
    """How rows are drawn: at most `rows` and `share` of each group, `draws` times, without replacement.

    With `value_only` the loss is taken on the tokens of each row's scored value alone.
    """

    rows: int
    share: float
    draws: int
    seed: int
    batch_rows: int = 32
    value_only: bool = False


@dataclass
class Diagnosis:
    """One data set's figures, each a list over draws.

    Attributes:
        name: Of the data set or rendering.
        rows: Group to (rows in a draw, rows to draw from).
        loss: Group to the weighted loss whose gradient was taken.
        cosines: Layer (and `total`) to pair of groups to cosine; NaN where a gradient is zero.
        mmd2: Pair of groups to squared MMD; (group, group) compares two halves of its subjects.
        accuracy: Pair of groups to balanced accuracy of a linear classifier; empty where it cannot be had.
    """

    name: str
    rows: dict[str, tuple[int, int]] = field(default_factory=dict)
    loss: dict[str, list[float]] = field(default_factory=dict)
    cosines: dict[str, dict[Pair, list[float]]] = field(default_factory=dict)
    mmd2: dict[Pair, list[float]] = field(default_factory=dict)
    accuracy: dict[Pair, list[float]] = field(default_factory=dict)


def diagnose(
    name: str,
    loaded: LoadedModel,
    examples: Mapping[str, Sequence[Example]],
    factory: RowFactory,
    plain: RowFactory,
    terms: Sequence[Term],
    draws: Draws,
    frozen: Frozen = (None, None),
    progress: Progress | None = None,
) -> Diagnosis:
    """Draws rows again and again, and measures each draw.

    Args:
        name: For the tables.
        loaded: The start model; it is left as it was.
        examples: Role to what is trained on.
        factory: Makes the rows whose losses are taken.
        plain: Makes the rows that are represented: the data's own answers.
        terms: The losses; each group's are summed with their weights.
        draws: How many rows, how often.
        frozen: Teacher and reference, where a term reads them.
        progress: Called with (draws done, draws in all).
    """
    found = Diagnosis(name)
    pools = _pools(examples, factory)
    sizes = {g: max(min(draws.rows, int(draws.share * len(p))), min(2, len(p))) for g, p in pools.items()}
    found.rows = {g: (sizes[g], len(p)) for g, p in pools.items()}
    names = [n for n, p in loaded.model.named_parameters() if p.requires_grad]
    layers = [layer_of(n) for n in names]
    with evaluating(loaded.model):
        for draw in range(draws.draws):
            chosen = {g: _drawn(p, sizes[g], (draws.seed, draw, g)) for g, p in pools.items()}
            gradients = {}
            for group, drawn in chosen.items():
                rows = [_row(factory, group, e, (draws.seed, draw)) for e in drawn]
                if draws.value_only:
                    rows = [value_only(r, e, loaded.renderer) for r, e in zip(rows, drawn, strict=True)]
                gradients[group], loss = group_gradient(loaded, rows, terms, draws.batch_rows, frozen)
                found.loss.setdefault(group, []).append(loss)
            for layer, values in pairwise(gradients, layers).items():
                for pair, value in values.items():
                    found.cosines.setdefault(layer, {}).setdefault(pair, []).append(value)
            _distances(found, loaded, plain, chosen, (draws.seed, draw))
            if progress is not None:
                progress(draw + 1, draws.draws)
    return found


def group_gradient(
    loaded: LoadedModel,
    rows: Sequence[Row],
    terms: Sequence[Term],
    batch_rows: int = 32,
    frozen: Frozen = (None, None),
) -> tuple[list[Tensor | None], float]:
    """Gradient and value of the weighted losses of some rows, each (term, role) its own mean over all of them.

    Args:
        loaded: The model; all its parameters that require a gradient count.
        rows: Of any length and role.
        terms: Objectives with weights.
        batch_rows: Rows of one forward and backward pass; moves memory alone.
        frozen: Teacher and reference, where a term reads them.
    """
    model, pad = loaded.model, loaded.renderer.pad_id
    forward = Forward(model, terms, *frozen, n_vocab=len(loaded.tokenizer))
    parameters = [p for p in model.parameters() if p.requires_grad]
    batches = micro_batches(forward.place(rows), -(-len(rows) // batch_rows), pad)
    total = denominators(terms, batches)
    weight = {t.name: (t.weight, t.roles) for t in terms}
    gradient: list[Tensor | None] | None = None
    value = 0.0
    for batch in batches:
        batch = batch.to(parameters[0].device)
        outputs = forward(batch)
        parts = [
            loss * weight[term][0] * weight[term][1][role]
            for (term, role), loss in losses(terms, outputs, batch, total).items()
        ]
        if parts:
            loss = torch.stack(parts).sum()
            gradient = add(gradient, torch.autograd.grad(loss, parameters, allow_unused=True))
            value += float(loss.detach())
    return gradient or [None] * len(parameters), value


def value_only(row: Row, example: Example, renderer: Renderer) -> Row:
    """The row with the loss on its scored value alone: what the answer says before it is given, what follows is cut.

    A row that answers with something else, or whose example has no value, stays as it is.
    """
    answer = renderer.target_ids(example.answer)
    given = len(answer) - len(row.target)
    if not example.value or row.target != answer[given:]:
        return row
    before = max(0, len(renderer.answer_prefix(example, 1.0)) - given)
    size = len(renderer.answer_ids(example.value))
    return replace(
        row, prefill=(*row.prefill, *row.target[:before]), target=row.target[before : before + size]
    )


def _pools(examples: Mapping[str, Sequence[Example]], factory: RowFactory) -> dict[str, list[Example]]:
    pools = {role: list(examples[role]) for role in ROLES if examples.get(role)}
    opened = [e for e in pools.get("forget", []) if factory.candidates(e)]
    return {**pools, **({PREFILLED: opened} if opened else {})}


def _drawn(pool: Sequence[Example], size: int, key: tuple[Any, ...]) -> list[Example]:
    return sorted(pool, key=lambda e: unit_hash("diagnose", *key, e.id))[:size]


def _row(factory: RowFactory, group: str, example: Example, key: tuple[Any, ...]) -> Row:
    if group != PREFILLED:
        return factory.row(example)
    # a kind of view first, then one of it, as in training
    kinds: dict[str, list[tuple[int, ...]]] = {}
    for view, ids in factory.candidates(example):
        kinds.setdefault(view, []).append(ids)
    names = sorted(kinds)
    view = names[int(unit_hash("view", *key, example.id) * len(names))]
    return factory.row(
        example, view, kinds[view][int(unit_hash("which", *key, example.id) * len(kinds[view]))]
    )


def _distances(
    found: Diagnosis,
    loaded: LoadedModel,
    plain: RowFactory,
    chosen: Mapping[str, Sequence[Example]],
    key: tuple[Any, ...],
) -> None:
    import numpy as np

    from harmonize.evaluation.distances import classifier_accuracy, median_distance, mmd2

    points = {g: _represent(loaded, [_row(plain, g, e, key) for e in drawn]) for g, drawn in chosen.items()}
    width = median_distance(np.concatenate(list(points.values())))
    for group, drawn in chosen.items():
        # a noise floor: what two halves of the same role are apart
        subjects = sorted({e.subject for e in drawn}, key=lambda s: unit_hash("half", *key, s))
        half = set(subjects[: len(subjects) // 2])
        inside = np.array([e.subject in half for e in drawn])
        if min(inside.sum(), (~inside).sum()) >= 2:
            value = mmd2(points[group][inside], points[group][~inside], width)
            found.mmd2.setdefault((group, group), []).append(value)
    for a, b in combinations(chosen, 2):
        if min(len(chosen[a]), len(chosen[b])) < 2:
            continue
        found.mmd2.setdefault((a, b), []).append(mmd2(points[a], points[b], width))
        n = min(len(chosen[a]), len(chosen[b]))
        accuracy = classifier_accuracy(
            np.concatenate([points[a][:n], points[b][:n]]),
            [0] * n + [1] * n,
            [e.subject for e in (*chosen[a][:n], *chosen[b][:n])],
            seed=int(unit_hash("folds", *key) * 2**31),
        )
        if accuracy is not None:
            found.accuracy.setdefault((a, b), []).append(accuracy)


def _represent(loaded: LoadedModel, rows: Sequence[Row]) -> np.ndarray:
    """Mean last hidden state over all tokens of each row but its beginning of sequence."""
    sequences = [(*r.prompt, *r.prefill, *r.target) for r in rows]
    bos = loaded.tokenizer.bos_token_id
    return mean_hidden(loaded, sequences, [int(ids[0] == bos) for ids in sequences])
