"""Is a question about what is to be forgotten? Logistic regression on the model's own states of the question.

n questions, H hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from harmonize.data.corpus import content_hash
from harmonize.errors import RunError
from harmonize.models.embedding import mean_hidden
from harmonize.models.load import LoadedModel, model_digest
from harmonize.models.lora import has_adapters
from harmonize.models.store import write_folder
from harmonize.models.teacher import read_arrays

if TYPE_CHECKING:
    import numpy as np

FORMAT = "guard-detector-1"  # part of the key
STATES: tuple[str, ...] = ("embeddings", "final")
Ids = tuple[int, ...]


@dataclass(frozen=True)
class Detector:
    """A line through standardised states.

    Attributes:
        mean, scale: [H] of the training questions.
        weight: [H]. bias: [1].
    """

    mean: np.ndarray
    scale: np.ndarray
    weight: np.ndarray
    bias: np.ndarray

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """[n, H] -> [n] probability that a question is about the forget set."""
        import numpy as np

        logit = ((features - self.mean) / self.scale) @ self.weight + self.bias
        return np.asarray(1.0 / (1.0 + np.exp(-np.clip(logit, -500, 500))))


def fit_detector(features: np.ndarray, labels: Sequence[int], c: float) -> Detector:
    """Logistic regression, both classes weighing alike.

    Args:
        features: [n, H]. labels: 1 for forget questions, 0 for others; both occur.
        c: Inverse strength of the penalty on the weights.
    """
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    x = np.asarray(features, dtype=np.float64)
    mean, scale = x.mean(0), x.std(0)
    scale = np.where(scale > 0, scale, 1.0)
    model = LogisticRegression(C=c, class_weight="balanced", max_iter=1000)
    model.fit((x - mean) / scale, np.asarray(labels))
    return Detector(mean, scale, model.coef_[0].astype(np.float64), model.intercept_.astype(np.float64))


def best_threshold(forget: np.ndarray, others: np.ndarray) -> float:
    """The probability that tells two sets apart with the best mean recall, in the middle of its gap.

    Of equally good gaps the one nearest to 0.5 is taken.
    """
    import numpy as np

    values = np.unique(np.concatenate([forget, others, [0.0, 1.0]]))
    cuts = (values[1:] + values[:-1]) / 2
    recall = [(np.mean(forget >= t) + np.mean(others < t)) / 2 for t in cuts]
    best = max(recall)
    return float(min((t for t, r in zip(cuts, recall, strict=True) if r >= best), key=lambda t: abs(t - 0.5)))


def prompt_states(loaded: LoadedModel, prompts: Sequence[Sequence[int]], states: str) -> np.ndarray:
    """[n, H] mean over the tokens of each prompt, without the beginning of sequence.

    Args:
        loaded: The model that is asked.
        prompts: Token ids.
        states: Of `STATES`: the tokens' embeddings (what is asked about, in whatever order), or the last hidden states.
    """
    bos = loaded.renderer.tokenizer.bos_token_id
    heads = [int(len(p) > 1 and p[0] == bos) for p in prompts]
    if states == "final":
        return mean_hidden(loaded, prompts, heads)
    table = loaded.model.get_input_embeddings()
    found = []
    with torch.no_grad():
        for prompt, head in zip(prompts, heads, strict=True):
            ids = torch.tensor([list(prompt[head:])], device=table.weight.device)
            found.append(table(ids)[0].float().mean(0).cpu())
    return torch.stack(found).numpy()


def detector_of(
    loaded: LoadedModel,
    forget: Sequence[Ids],
    others: Sequence[Ids],
    states: str,
    c: float,
    cache: Path | None,
) -> Detector:
    """The detector of a model, fitted or found.

    Args:
        loaded: The model whose states are read.
        forget, others: Prompts of each kind of question.
        states, c: As in `prompt_states` and `fit_detector`.
        cache: The package's cache folder, or None to fit anew and keep nothing.

    Raises:
        RunError: The cache cannot be written.
    """
    import numpy as np

    def fit() -> Detector:
        labels = [1] * len(forget) + [0] * len(others)
        return fit_detector(prompt_states(loaded, [*forget, *others], states), labels, c)

    if cache is None or has_adapters(loaded.model):  # a digest does not cover adapters
        return fit()
    # the weights as they are now: training may have moved them since `loaded.digest` was taken
    numerics = [str(loaded.model.dtype), str(next(loaded.model.parameters()).device.type)]
    key = content_hash(FORMAT, model_digest(loaded.model), numerics, list(forget), list(others), states, c)
    folder = Path(cache) / "guards" / key[:32]

    def fill(work: Path) -> None:
        for name, array in vars(fit()).items():
            np.save(work / f"{name}.npy", array)

    found: dict[str, Any] | None = read_arrays(folder, key)
    if found is None:
        write_folder(folder, key, fill, names={"model": loaded.name})
        found = read_arrays(folder, key)
    if found is None:
        raise RunError(f"The cache {folder} was damaged while it was being written. Start the run again.")
    return Detector(**{name: np.asarray(array) for name, array in found.items()})
