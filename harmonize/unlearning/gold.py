"""The figures of the gold model: all that a run needs of it, so that a study loads it once."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from harmonize import warm
from harmonize.data.corpus import Corpus
from harmonize.evaluation.beside import GOLD
from harmonize.models.load import LoadedModel
from harmonize.unlearning.figures import Evaluations, Figures
from harmonize.unlearning.targets import load_target, model_identity, model_path


def gold_figures(
    cfg: Any, corpus: Corpus, evaluations: Evaluations, loaded: LoadedModel, axes: Sequence[str] | None
) -> Figures | None:
    """What `model.gold` knows, and lets parts of the suite look into it; None where no gold model is named.

    Args:
        cfg: Configuration of `harmonize unlearn`.
        corpus: The data set.
        evaluations: Measures it, or finds its figures.
        loaded: The target model.
        axes: What is measured, as in `Evaluations.run`.
    """
    name = cfg.model.gold
    if not name:
        return None

    def stand(digest: str) -> None:
        evaluations.stand_beside(GOLD, digest, lambda: load_target(cfg, corpus, name))

    def measured() -> tuple[str, Figures]:
        gold = load_target(cfg, corpus, name)
        stand(gold.digest)
        return gold.digest, evaluations.cached(gold, "gold model", cfg.split, axes=axes)

    key: list[Any] | None = None
    if warm.keeping():
        model = model_identity(cfg, model_path(cfg, corpus, name))
        key = None if model is None else [model, evaluations.content(loaded, cfg.split, axes=axes)]
    digest, figures = warm.keep("figures of gold", key, measured, lend=copy.deepcopy)
    stand(digest)
    return figures
