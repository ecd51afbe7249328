"""Worst-of-n prefills: the inner maximisation over candidate openings of the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch.nn import Module

from harmonize.data.batch import Row, collate
from harmonize.data.example import Example
from harmonize.data.render import Renderer
from harmonize.models.body import answer_hidden
from harmonize.models.head import Head


class WorstPrefill:
    """Chooses, per place, the candidate under which the current student says most of the true answer.

    The score of a candidate is the mean log-probability of the true answer's tokens after the prefill
    (of those that the prefill did not supply), from one no-gradient forward over all candidates of a step.

    Args:
        examples: By id.
        renderer: Token ids.
        every: Probe on every such step; on the others the first candidate is taken, a random one.
        pad_id: Fills padded columns.

    Source: arXiv 2604.15482 is reported to have an inner maximisation over prefills; its form is our choice.
    """

    def __init__(
        self, examples: Mapping[str, Example], renderer: Renderer, pad_id: int, every: int = 1
    ) -> None:
        self.examples, self.renderer, self.pad_id, self.every = examples, renderer, pad_id, max(1, every)

    def __call__(self, model: Module, head: Head, places: Sequence[Sequence[Row]], step: int) -> list[Row]:
        """One row per place; whether to probe depends on the step alone, so a resumed run probes the same ones."""
        if step % self.every:
            return [place[0] for place in places]
        open_places = [i for i, place in enumerate(places) if len(place) > 1]
        probes = [self._probe(row) for i in open_places for row in places[i]]
        scores = self._scores(model, head, probes)
        chosen = [place[0] for place in places]
        at = 0
        for i in open_places:
            group = scores[at : at + len(places[i])]
            chosen[i] = places[i][max(range(len(group)), key=group.__getitem__)]
            at += len(places[i])
        return chosen

    def _probe(self, row: Row) -> Row:
        answer = self.renderer.answer_ids(self.examples[row.example_id].answer)
        if answer[: len(row.prefill)] == row.prefill:
            answer = answer[len(row.prefill) :]
        return replace(row, target=answer, cache_start=-1)

    def _scores(self, model: Module, head: Head, probes: Sequence[Row]) -> list[float]:
        training = model.training
        model.eval()
        # collate sorts by length; numbering the rows finds them again
        numbered = [replace(row, pair_id=i) for i, row in enumerate(probes)]
        with torch.no_grad():
            batch = collate(numbered, self.pad_id).to(next(model.parameters()).device)
            log_probs = head.log_probs(answer_hidden(model, batch), batch.labels)
            total = torch.zeros(batch.n_rows, device=log_probs.device).index_add_(0, batch.row, log_probs)
            mean = total / torch.bincount(batch.row, minlength=batch.n_rows)
        model.train(training)
        scores = [0.0] * len(probes)
        for place, value in zip(batch.pair_id.tolist(), mean.tolist(), strict=True):
            scores[place] = value
        return scores
