"""GCG: a suffix of the question, searched for with gradients, under which the model begins the true answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from harmonize.data.corpus import Corpus
from harmonize.data.prefill import unit_hash
from harmonize.data.render import Renderer
from harmonize.evaluation.attacks import Cost, Meter
from harmonize.evaluation.attacks.texts import asked, check_counts, scored_words, some, tells
from harmonize.evaluation.likelihood import rows_that_fit
from harmonize.evaluation.records import Query, Question
from harmonize.models.batching import batched
from harmonize.models.body import evaluating, unwrapped
from harmonize.models.stems import takes_logits_to_keep


@dataclass(frozen=True, kw_only=True)
class GCG:
    """Greedy coordinate gradient: a suffix for each question, searched on the model, then typed as text.

    What the suffix is to bring about is the beginning of the true answer, up to and without its scored value (the
    first opener, where nothing stands before the value), so that it cannot carry the value; its tokens are none of the
    value's. Each step takes one gradient with respect to the suffix and tries `candidates` exchanges of one token.

    Formula: min over suffixes s of -log p(beginning of the answer | question s)
    Costs: 1 answer, and up to `budget` rows forward (one in `candidates` + 1 with a backward pass), per question

    Args:
        length: Tokens of the suffix.
        steps: Exchanges. candidates: Tried in each step. top: Tokens per place that candidates are drawn from.
        budget: Most rows that are read for one question; the search stops before it would read more.
        seed: Of the first suffix and of the candidates, together with the fact.
        max_facts: As in `TextAttack`; each fact is asked in one phrasing.

    Source: arXiv 2307.15043 (recalled; in scripts of others that were read: 200 steps, 512 candidates, top 256). A
        suffix per question, the target without the value, and keeping a suffix unless one is better are ours.
    """

    length: int = 6
    steps: int = 8
    candidates: int = 24
    top: int = 32
    budget: int = 256
    seed: int = 0
    max_facts: int | None = 24
    name: str = "gcg"

    def __post_init__(self) -> None:
        check_counts(self.name, length=self.length, steps=self.steps, candidates=self.candidates)
        check_counts(self.name, top=self.top, budget=self.budget, max_facts=self.max_facts)

    @property
    def queries_per_question(self) -> int:
        """The question with its suffix."""
        return 1

    @property
    def cost(self) -> Cost:
        """One query, and the rows of the search."""
        return Cost(1, rows=self.budget, access="weights")

    def queries(self, corpus: Corpus, renderer: Renderer, questions: Sequence[Question]) -> list[Query]:
        """None without looking at a model (`search`)."""
        return []

    def search(
        self, surface: Any, corpus: Corpus, questions: Sequence[Question], batch_size: int
    ) -> list[Query]:
        """Question by question; a suffix that would tell a scored word is not asked."""
        renderer, model = surface.renderer, surface.model
        meter = Meter(self.name, self.cost)
        found = []
        with evaluating(model), torch.inference_mode(False), torch.enable_grad():
            for q in some(questions, self.max_facts, 1):
                target = renderer.answer_prefix(q.example, 1.0) or _opened(corpus, renderer)
                seam = _seam(renderer, q)
                if not target or seam is None:
                    continue
                allowed = _allowed(renderer, q, model)
                ids = self._suffix(model, (*seam, target), allowed, q, meter, batch_size)
                suffix = renderer.decode(ids)
                if not tells(suffix, scored_words(q.example)):
                    found.append(asked(q, renderer, self.name, f"{q.text} {suffix}", "suffix"))
        return found

    def _suffix(
        self,
        model: nn.Module,
        around: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]],
        allowed: Tensor,
        q: Question,
        meter: Meter,
        batch_size: int,
    ) -> list[int]:
        """The best suffix that the budget finds."""
        key = int(unit_hash(self.name, self.seed, q.example.fact_id, q.text) * 2**53)
        generator = torch.Generator().manual_seed(key)
        best = allowed[torch.randint(len(allowed), (self.length,), generator=generator)]
        lowest: float | None = None
        for _ in range(self.steps):
            if not meter.rows_for(q.key, 1 + self.candidates):
                break
            loss, gradient = _gradient(model, around, best)
            lowest = loss if lowest is None else lowest
            # [length, allowed]: how much the loss falls, to first order, with each token in each place
            gain = -gradient[:, allowed]
            likely = gain.topk(min(self.top, len(allowed)), dim=1).indices
            places = torch.randint(self.length, (self.candidates,), generator=generator)
            ranks = torch.randint(likely.shape[1], (self.candidates,), generator=generator)
            tried = best.repeat(self.candidates, 1)
            tried[torch.arange(self.candidates), places] = allowed[likely[places, ranks]]
            losses = _losses(model, around, tried, batch_size)
            at = int(losses.argmin())
            if float(losses[at]) < lowest:
                best, lowest = tried[at], float(losses[at])
        return [int(i) for i in best]


Around = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


def _rows(around: Around, suffixes: Tensor) -> tuple[Tensor, int]:
    """[B, L] ids of head, suffix, tail and target, and where the suffix begins."""
    head, tail, target = (torch.tensor(part, dtype=torch.long) for part in around)
    n = len(suffixes)
    parts = [head.expand(n, -1), suffixes, torch.cat([tail, target]).expand(n, -1)]
    return torch.cat(parts, dim=1), len(head)


def _target_loss(model: nn.Module, target: Sequence[int], rows: int, **inputs: Tensor) -> Tensor:
    """[B] mean negative log-likelihood of the last columns."""
    length = len(target)
    keep = {"logits_to_keep": length + 1} if takes_logits_to_keep(model) else {}
    logits = model(use_cache=False, **inputs, **keep).logits[:, -length - 1 : -1].float()
    labels = torch.tensor(target, device=logits.device).expand(rows, -1)
    return -logits.log_softmax(-1).gather(-1, labels.unsqueeze(-1)).squeeze(-1).mean(1)


def _gradient(model: nn.Module, around: Around, suffix: Tensor) -> tuple[float, Tensor]:
    """Loss of one suffix, and its gradient [length, V] by the one-hot choice of each token, up to a factor."""
    whole: Any = unwrapped(model)
    embed = whole.get_input_embeddings()
    table = embed.weight
    ids, start = _rows(around, suffix.unsqueeze(0))

    def run(part: Sequence[Tensor]) -> tuple[float, Tensor]:
        embedded = embed(torch.stack(list(part)).to(table.device)).detach().requires_grad_(True)
        loss = _target_loss(model, around[2], len(part), inputs_embeds=embedded).sum()
        (gradient,) = torch.autograd.grad(loss, embedded)
        piece = gradient[0, start : start + len(suffix)]
        return float(loss.detach()), (piece @ table.detach().T).float().cpu()

    ((_, found),) = batched([ids[0]], 1, run)  # one row, which fits or is told not to
    return found


@torch.no_grad()
def _losses(model: nn.Module, around: Around, suffixes: Tensor, batch_size: int = 256) -> Tensor:
    """[B] loss of each suffix."""
    device = next(model.parameters()).device
    ids, _ = _rows(around, suffixes)

    def run(part: Sequence[Tensor]) -> Tensor:
        return _target_loss(model, around[2], len(part), input_ids=torch.stack(list(part)).to(device)).cpu()

    def fit(_: Sequence[Tensor]) -> int:
        return rows_that_fit(model, len(around[2]) + 1)

    return torch.cat([found for _, found in batched(list(ids), batch_size, run, fit)])


def _seam(renderer: Renderer, q: Question) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """The prompt's ids before and after the place where a suffix goes: the end of the user's turn."""
    plain = renderer.prompt_ids(q.text, q.instruction)
    other = renderer.prompt_ids("a", q.instruction)
    # what follows the turn is the same whatever the turn says
    shared = 0
    while shared < min(len(plain), len(other)) and plain[-1 - shared] == other[-1 - shared]:
        shared += 1
    return (plain[: len(plain) - shared], plain[len(plain) - shared :]) if shared < len(plain) else None


def _opened(corpus: Corpus, renderer: Renderer) -> tuple[int, ...]:
    return renderer.answer_ids(corpus.openers[0]) if corpus.openers else ()


def _allowed(renderer: Renderer, q: Question, model: nn.Module) -> Tensor:
    """Ids that a suffix may hold: whole vocabulary without special tokens, empty text and the value's own tokens."""
    tokenizer = renderer.tokenizer
    e = q.example
    texts = (e.value, *e.aliases) if e.value else tuple(scored_words(e))
    own = {i for text in texts for ids in renderer.span_ids(text, e.answer) for i in ids}
    barred = {*tokenizer.all_special_ids, *renderer.stop_ids, renderer.pad_id, *own}
    whole: Any = unwrapped(model)
    size = min(len(tokenizer), whole.get_input_embeddings().weight.shape[0])
    return torch.tensor([i for i in range(size) if i not in barred], dtype=torch.long)
