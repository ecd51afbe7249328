"""From a configuration to its data: the whole data set, and the part of it that a run is about."""

from __future__ import annotations

from typing import Any

from harmonize.config.instantiate import call
from harmonize.data.corpus import Corpus
from harmonize.data.requests import in_turn, request_ids
from harmonize.errors import DataError


def read_corpus(cfg: Any) -> Corpus:
    """The configured data set with all its requests.

    Raises:
        DataError: The data cannot be read.
    """
    corpus = call(cfg.dataset, allow=cfg.allow, skip=("name", "prefill"))
    if not isinstance(corpus, Corpus):
        raise DataError(f"{cfg.dataset._target_} returned a {type(corpus).__name__}, expected a Corpus.")
    return corpus


def order_of(cfg: Any, corpus: Corpus) -> tuple[str, ...]:
    """The order in which the requests are forgotten: the configured one, or as they occur."""
    return tuple(cfg.sequence.order or request_ids(corpus))


def read_turn(cfg: Any) -> Corpus:
    """The configured data set as `sequence.request` sees it; all of it where no request is named.

    Raises:
        DataError: The data cannot be read, or has no such request.
    """
    corpus = read_corpus(cfg)
    sequence = cfg.get("sequence")
    if sequence is None or sequence.request is None:
        return corpus
    return in_turn(corpus, sequence.request, order_of(cfg, corpus), sequence.earlier.value)
