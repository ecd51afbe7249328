"""Whether a model in training obeys the instructions of its own training texts: refuses where it should, only there."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from harmonize.data.batch import Row, collate
from harmonize.data.corpus import content_hash
from harmonize.data.example import Dialogue
from harmonize.models.head import Head, answer_hidden
from harmonize.models.load import LoadedModel
from harmonize.unlearning.finetune import dialogue_rows


class Obedience:
    """Share of instructed texts that a model would begin as they begin: with a refusal, or with an answer.

    Several refusals are equally right, so what counts is the kind of the likeliest first token.

    Args:
        loaded: The model, read anew at every call.
        dialogues: Its training texts; those with an instruction count.
        refusals: Every text that is a refusal.
        n: Texts of each kind, drawn by a hash of their content.
    """

    def __init__(
        self, loaded: LoadedModel, dialogues: Sequence[Dialogue], refusals: Sequence[str], n: int = 256
    ) -> None:
        self.loaded = loaded
        stated = {d.response for d in dialogues if d.question and d.instruction is None}
        refused = set(refusals)
        instructed = sorted(
            {d for d in dialogues if d.instruction}, key=lambda d: content_hash(d.question, d.instruction)
        )
        declined = [d for d in instructed if d.response in refused][:n]
        answered = [d for d in instructed if d.response in stated - refused][:n]
        self.rows: list[Row] = []
        if declined and answered:
            self.rows = dialogue_rows([*declined, *answered], loaded.renderer, None)
        self.openings = torch.tensor(sorted({r.target[0] for r in self.rows[: len(declined)]}))

    @torch.no_grad()
    def __call__(self) -> float:
        """The share, from 0 to 1; 1 where there is nothing to obey."""
        if not self.rows:
            return 1.0
        model = self.loaded.model
        training = model.training
        model.eval()
        head = Head.of(model, n_vocab=len(self.loaded.tokenizer))
        device = next(model.parameters()).device
        openings, right = self.openings.to(device), 0
        for i in range(0, len(self.rows), 128):
            batch = collate(self.rows[i : i + 128], self.loaded.renderer.pad_id).to(device)
            first = batch.offset == 0
            said = head.logits(answer_hidden(model, batch)[first]).argmax(1)
            wanted = batch.labels[first]
            right += int((torch.isin(said, openings) == torch.isin(wanted, openings)).sum())
        model.train(training)
        return right / len(self.rows)
