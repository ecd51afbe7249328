"""What attacks on the weights share: which matrices, adapters merged meanwhile, and everything put back bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from harmonize.data.corpus import Corpus
from harmonize.data.render import Renderer
from harmonize.evaluation.attacks import Cost
from harmonize.evaluation.attacks.texts import check_counts, some
from harmonize.evaluation.metrics import MetricSpec, Where, accuracy
from harmonize.evaluation.questions import plain_queries
from harmonize.evaluation.records import Query, Question
from harmonize.models.body import unwrapped
from harmonize.models.lora import has_adapters


@dataclass(frozen=True, kw_only=True)
class WeightAttack:
    """An attack that gives every weight matrix of the blocks another value, at one or more strengths.

    Embeddings, head, norms and biases stay. Adapters are merged meanwhile, as in a model that is handed over.

    Args:
        max_facts: As in `TextAttack`.
    """

    name: str
    max_facts: int | None = None

    def __post_init__(self) -> None:
        check_counts(self.name, max_facts=self.max_facts)

    @property
    def changes(self) -> dict[str, Callable[[str, Tensor], Tensor]]:
        """Stage to a function of a matrix's name and value [out, in], in float32."""
        raise NotImplementedError

    @property
    def queries_per_question(self) -> int:
        """The plain question, once per stage."""
        return max(1, len(self.changes))

    @property
    def cost(self) -> Cost:
        """Queries, with the weights at hand."""
        return Cost(self.queries_per_question, access="weights")

    def metrics(self) -> list[MetricSpec]:
        """Each stage."""
        return stage_metrics(self.name, self.changes)

    def inapplicable(self, model: Any) -> str:
        """Why it cannot be tried on this model, as the end of a sentence; empty where it can."""
        return (
            "" if matrices(model) else "its blocks have no floating-point matrices (is it loaded quantised?)"
        )

    def queries(self, corpus: Corpus, renderer: Renderer, questions: Sequence[Question]) -> list[Query]:
        """The plain questions."""
        return plain_queries(some(questions, self.max_facts), renderer, self.name)

    @contextmanager
    def stages(
        self, model: Any, corpus: Corpus, renderer: Renderer, questions: Sequence[Question]
    ) -> Iterator[Iterator[str]]:
        """Each stage starts from the model as it was."""
        with merged(model), restored(matrices(model)) as before:

            def each() -> Iterator[str]:
                for stage, change in self.changes.items():
                    with torch.inference_mode(False), torch.no_grad():
                        for name, (parameter, transposed) in matrices(model).items():
                            value = before[name].to(parameter.device).float()
                            value = value.T if transposed else value
                            new = change(name, value)
                            parameter.copy_(new.T if transposed else new)
                    yield stage

            yield each()


def stage_metrics(name: str, stages: Iterable[str]) -> list[MetricSpec]:
    """The rate at every stage, of facts used in unlearning."""
    why = "no forget fact is used in unlearning (split train), or this model does not lend its weights"
    found = []
    for stage in stages:
        where = Where("forget", trained=True, attacks=(name,), variants=(stage,))
        found.append(MetricSpec(f"asr_{name}@{stage}", accuracy, where, False, why))
    return found


def matrices(model: nn.Module) -> dict[str, tuple[nn.Parameter, bool]]:
    """Name to (weight, whether it is stored [in, out]) of every linear layer but the head and adapters."""
    whole: Any = unwrapped(model)
    head = whole.get_output_embeddings()
    tied = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    tied |= {id(p) for p in head.parameters()} if head is not None else set()
    found: dict[str, tuple[nn.Parameter, bool]] = {}
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        kind = type(module).__name__
        if (
            isinstance(weight, nn.Parameter)
            and weight.dim() == 2
            and weight.is_floating_point()
            and id(weight) not in tied
            and (isinstance(module, nn.Linear) or kind == "Conv1D")
            and ".lora_" not in f".{name}"
        ):
            found[name.replace(".base_layer", "")] = (weight, kind == "Conv1D")
    return found


@contextmanager
def restored(chosen: dict[str, tuple[nn.Parameter, bool]]) -> Iterator[dict[str, Tensor]]:
    """Yields copies of the weights in main memory; at the end they are what they were, bit for bit."""
    before = {name: p.detach().to("cpu", copy=True) for name, (p, _) in chosen.items()}
    try:
        yield before
    finally:
        with torch.no_grad():
            for name, (p, _) in chosen.items():
                p.copy_(before[name])


@contextmanager
def merged(model: Any) -> Iterator[None]:
    """Adapters, if there are any, are part of the weights inside; after, both are apart as before, bit for bit."""
    if not has_adapters(model):
        yield
        return
    with restored(matrices(model)):
        model.merge_adapter()
        try:
            yield
        finally:
            model.unmerge_adapter()
