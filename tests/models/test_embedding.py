"""Embeddings: the mean of last hidden states over the text's own tokens, whatever stands beside it in a batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from harmonize.models.embedding import embedding, mean_hidden
from harmonize.models.load import LoadedModel


@pytest.fixture(scope="module")
def loaded(shared: Path) -> LoadedModel:
    from omegaconf import OmegaConf

    from harmonize.config.schema import ModelConfig
    from harmonize.models.load import load_model

    cfg = OmegaConf.structured(ModelConfig)
    return load_model(cfg, path=str(shared / "models" / "stories260k"))


TEXTS = [
    "Once upon a time there was a cat.",
    "A dog.",
    "Lily went to the park with her mother and her friend.",
]


def test_against_transformers_own_hidden_states(loaded: LoadedModel) -> None:
    found = embedding(loaded)(TEXTS)
    for text, vector in zip(TEXTS, found, strict=True):
        ids = torch.tensor([loaded.renderer.text_ids(text)[:-1]])
        with torch.no_grad():
            states = loaded.model(ids, output_hidden_states=True).hidden_states[-1][0]
        expected = states[1:].mean(dim=0)  # without the beginning of sequence
        assert np.allclose(vector, expected.numpy(), atol=1e-5)


def test_batches_and_order_do_not_matter(loaded: LoadedModel) -> None:
    alone = np.stack([embedding(loaded)([text])[0] for text in TEXTS])
    assert np.allclose(embedding(loaded)(TEXTS[::-1])[::-1], alone, atol=1e-5)
    assert np.allclose(embedding(loaded, batch_size=1)(TEXTS), alone, atol=1e-5)


def test_long_sequences_are_cut_and_one_token_always_counts(loaded: LoadedModel) -> None:
    limit = loaded.model.config.max_position_embeddings
    long = [5] * (limit + 50)
    found = mean_hidden(loaded, [long, long[: limit - 1], [7]], skip=[0, 0, 3])
    assert np.allclose(found[0], found[1], atol=1e-5)
    assert np.isfinite(found).all()


def test_the_model_is_left_as_it_was(loaded: LoadedModel) -> None:
    loaded.model.train()
    embedding(loaded)(TEXTS)
    assert loaded.model.training
    assert all(p.grad is None for p in loaded.model.parameters())
    loaded.model.eval()
