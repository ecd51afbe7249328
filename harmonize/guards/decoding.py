"""The decoding guard: a detector of questions, forbidden spans, and a penalty on what comes close to one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from harmonize.config.rules import at_least, one_of, positive, present, share
from harmonize.data.corpus import Corpus
from harmonize.data.example import Example, Role, Split
from harmonize.errors import DataError, ModelError
from harmonize.guards.detector import STATES, Detector, best_threshold, detector_of, prompt_states
from harmonize.guards.guard import FORBIDDEN, Guard, Guarded, Scene
from harmonize.guards.listening import ListeningRenderer
from harmonize.guards.semantic import Closeness, Ids, span_states
from harmonize.guards.trie import Trie, ngrams
from harmonize.models.generate import Adjust
from harmonize.models.load import LoadedModel

if TYPE_CHECKING:
    import numpy as np

_OTHERS = (Role.NEIGHBOR, Role.RETAIN)
_PERMITTED = 512  # spans whose mean state is the centre; more move it little


@dataclass(frozen=True)
class Decoding(Guard):
    """Where a question is about the forget set, forbidden spans cannot be completed, and near ones are unlikely.

    Formula: z - delta relu(cos - tau) for the likeliest candidates, cos the closeness to a forbidden span; no token
        that completes one
    Needs: forget answers; and neighbor or retain questions, to tell forget questions from
    Costs: `candidates` short forward passes per token of a flagged answer, unless delta is 0

    Args:
        detect: Guard only the questions that the detector flags; false guards every question.
        threshold: Probability from which a question is flagged; None chooses it on val (best mean recall).
        states: What the detector reads of a question: the mean of its tokens' embeddings, or of the last hidden states
            (`final`). On the sandbox the former finds forget questions in phrasings that it was not fitted on, the
            latter does not.
        c: Inverse strength of the penalty on the detector's weights.
        match: Forbid the token that would complete a forbidden span.
        ngram: Spans longer than this (in tokens) are forbidden as all of their runs of this length.
        delta: Times how far the closeness exceeds `tau`, taken off a candidate's logit; 0 = no such penalty.
        tau: Closeness (centred cosine) up to which nothing is taken off.
        window: Last tokens of the answer, candidate included, that are compared; None = as many as the longest span.
        candidates: How many of the likeliest tokens are compared in each step.

    Source: GUARD, arXiv 2505.13312 (abstract): a prompt classifier, token matching and semantic matching in decoding.
        The form of each is ours (no parity): logistic regression on the model's own states in the place of an MLP on
        an encoder's, a trie, greedy decoding in the place of beams. The matching item is not retrieved: for a flagged
        question the spans of all forget facts are forbidden.
    """

    detect: bool = True
    threshold: float | None = 0.5
    states: str = "embeddings"
    c: float = 0.01
    match: bool = True
    ngram: int = 4
    delta: float = 10.0
    tau: float = 0.7
    window: int | None = None
    candidates: int = 8
    name: ClassVar[str] = "decoding"
    about: ClassVar[str] = (
        "Questions that a detector takes to be about the forget set are answered with forbidden spans masked. The "
        "weights are untouched by it: without the guard the model answers as it did before. A question that the "
        "detector misses, and a fact that no span was given for, pass unguarded."
    )

    def check(self, corpus: Corpus, instruction: Callable[[], str]) -> None:
        """Answers to forbid, questions of both kinds, and val questions where a threshold is chosen on them.

        Raises:
            DataError: The data lack one of them.
        """
        if not corpus.trained(Role.FORGET) or not _others(corpus):
            raise DataError(
                "guard=decoding tells forget questions from neighbor and retain ones, and the data set "
                f"'{corpus.name}' lacks training examples of one side. Give it some, or use guard=instruction."
            )
        if self.detect and self.threshold is None and not all(_val_questions(corpus)):
            raise DataError(
                f"guard.threshold=null chooses it on val, and the data set '{corpus.name}' holds no forget or no other "
                "questions out for val. Use guard.threshold=0.5."
            )

    def around(self, scene: Scene) -> Guarded:
        """Fits the detector on the questions of unlearning, and collects the spans from its answers."""
        loaded, corpus = scene.loaded, scene.corpus
        forget, others = corpus.trained(Role.FORGET), _others(corpus)
        spans = spans_of(loaded, forget, self.ngram)
        centre = span_states(loaded, spans_of(loaded, others, self.ngram)[:_PERMITTED]).mean(0)
        detector: Detector | None = None
        found, told = self, tuple[str, ...]()
        if self.detect:
            asked = [[loaded.renderer.prompt_ids(e.question) for e in part] for part in (forget, others)]
            detector = detector_of(loaded, asked[0], asked[1], self.states, self.c, scene.cache)
            found, told = self._on_val(loaded, corpus, detector)
        made = DecodingSurface(found, loaded, spans, centre, detector)
        made.notes = told
        return made

    @classmethod
    def opened(
        cls, settings: Mapping[str, Any], loaded: LoadedModel, tensors: Mapping[str, Tensor], secrets: Any
    ) -> Guarded:
        """The same detector and spans; the states of the spans are read anew."""
        arrays = {n: t.double().numpy() for n, t in tensors.items()}
        centre = arrays.pop("centre")
        size = int(loaded.model.config.get_text_config().hidden_size)
        if any(len(a) not in (1, size) for a in (centre, *arrays.values())):
            raise ModelError(
                "The detector in guard/tensors.safetensors does not fit the model beside it: it was fitted to another "
                "one. Export the run again, or evaluate with guard=removed to measure the weights alone."
            )
        spans = [tuple(map(int, ids)) for ids in secrets["spans"]]
        detector = Detector(**arrays) if arrays else None
        return DecodingSurface(cls(**settings), loaded, spans, centre, detector)

    def _on_val(
        self, loaded: LoadedModel, corpus: Corpus, detector: Detector
    ) -> tuple[Decoding, tuple[str, ...]]:
        """The settings with a threshold, and what the detector does on questions that it has not seen."""
        asked = _val_questions(corpus)
        if not all(asked):
            return self, ()
        prompts = [[loaded.renderer.prompt_ids(q) for q in questions] for questions in asked]
        forget, others = (detector(prompt_states(loaded, part, self.states)) for part in prompts)
        threshold = best_threshold(forget, others) if self.threshold is None else self.threshold
        return replace(self, threshold=threshold), (
            f"The guard's detector flags {(forget >= threshold).mean():.0%} of the forget questions and "
            f"{(others >= threshold).mean():.0%} of the neighbor and retain questions of val.",
        )

    @staticmethod
    def problems(cfg: Any) -> list[str]:
        """Ranges, and something that is guarded against."""
        node = present(cfg.guard)
        given = {**asdict(Decoding()), **node}
        problems = positive("guard.c", given["c"]) + share("guard.tau", given["tau"])
        problems += one_of("guard.states", given["states"], STATES)
        if given["threshold"] is not None:
            problems += share("guard.threshold", given["threshold"])
        problems += at_least("guard.ngram", given["ngram"], 1)
        problems += positive("guard.delta", given["delta"]) if given["delta"] else []
        problems += at_least("guard.candidates", given["candidates"], 1)
        if given["window"] is not None:
            problems += at_least("guard.window", given["window"], 1)
        if not problems and not given["match"] and not given["delta"]:
            problems.append(
                "guard.match=false and guard.delta=0 leave nothing that the guard does. Use guard.match=true."
            )
        return problems


class DecodingSurface(Guarded):
    """A model whose next-token logits are changed where its question is flagged."""

    guard: Decoding
    renderer: ListeningRenderer

    def __init__(
        self,
        guard: Decoding,
        loaded: LoadedModel,
        spans: Sequence[Ids],
        centre: np.ndarray,
        detector: Detector | None,
    ) -> None:
        super().__init__(guard, loaded, ListeningRenderer(loaded.renderer))
        self._loaded, self._spans, self.detector = loaded, list(spans), detector
        self._centre = centre.astype("float64")  # as an export keeps it
        self._trie = Trie(self._spans)
        self._window = guard.window or self._trie.longest
        self._close = Closeness(loaded, self._spans, self._centre) if guard.delta else None

    def speaking(self, prompts: Sequence[Sequence[int]], scored: bool = False) -> tuple[Any, Adjust]:
        """The model, and the change of its next-token logits."""
        return self.model, self._adjust(prompts)

    def flagged(self, prompts: Sequence[Sequence[int]]) -> list[bool]:
        """Whether each prompt's question is guarded, whatever opens its answer."""
        if self.detector is None:
            return [True] * len(prompts)
        asked = [self.renderer.split(p)[0] for p in prompts]
        unique = sorted(set(asked))
        if not unique:
            return []
        states = prompt_states(self._loaded, unique, self.guard.states)
        chance = dict(zip(unique, self.detector(states).tolist(), strict=True))
        return [chance[p] >= float(self.guard.threshold or 0.0) for p in asked]

    def settings(self) -> dict[str, Any]:
        """Its keys and values, threshold included."""
        return asdict(self.guard)

    def tensors(self) -> dict[str, Tensor]:
        """Detector and centre."""
        arrays = {**(vars(self.detector) if self.detector else {}), "centre": self._centre}
        return {n: torch.from_numpy(a).double().contiguous() for n, a in arrays.items()}

    def secrets(self) -> Any:
        """The forbidden spans as ids: they are the answers."""
        return {"spans": [list(ids) for ids in self._spans]}

    def _adjust(self, prompts: Sequence[Sequence[int]]) -> Adjust:
        """The change of the next-token logits for these prompts."""
        if self._close is not None:
            self._close.forget()
        wanted = {tuple(p) for p, flag in zip(prompts, self.flagged(prompts), strict=True) if flag}
        opened = {p: self.renderer.split(p)[1] for p in wanted}

        def adjust(logits: Tensor, asked: Sequence[Sequence[int]], said: Sequence[Sequence[int]]) -> Tensor:
            rows = [n for n, p in enumerate(asked) if tuple(p) in wanted]
            answers = {n: (*opened[tuple(asked[n])], *said[n]) for n in rows}
            if self.guard.match:
                for n in rows:
                    if stop := self._trie.forbidden(answers[n]):
                        logits[n, sorted(stop)] = FORBIDDEN
            if self._close is not None and rows:
                self._push_away(logits, answers)
            return logits

        return adjust

    def _push_away(self, logits: Tensor, answers: Mapping[int, Ids]) -> None:
        """Takes delta * relu(closeness - tau) off the likeliest tokens of each row, in place."""
        assert self._close is not None
        rows = list(answers)
        top = logits[rows].topk(min(self.guard.candidates, logits.shape[1]), dim=1).indices.tolist()
        windows = [
            (*answers[n], token)[-self._window :] for n, ids in zip(rows, top, strict=True) for token in ids
        ]
        values = iter(self._close(windows))
        for n, ids in zip(rows, top, strict=True):
            for token in ids:
                logits[n, token] -= self.guard.delta * max(0.0, next(values) - self.guard.tau)


def _others(corpus: Corpus) -> list[Example]:
    """What a forget question is told from."""
    return [e for role in _OTHERS for e in corpus.trained(role)]


def _val_questions(corpus: Corpus) -> tuple[list[str], list[str]]:
    """Questions of val, forget and others."""

    def asked(*roles: Role) -> list[str]:
        facts = [e for role in roles for e in corpus.facts(role, Split.VAL)]
        return [q for e in facts for q in e.phrasings(Split.VAL)]

    return asked(Role.FORGET), asked(*_OTHERS)


def spans_of(loaded: LoadedModel, examples: Sequence[Example], ngram: int) -> list[Ids]:
    """What the answers of some examples state: their values and aliases, or all of an answer that has no value.

    Each in every way it may be cut into ids (`Renderer.span_ids`); no span is longer than `ngram`.
    """
    found: dict[Ids, None] = {}
    for e in examples:
        for text in (e.value or e.answer, *e.aliases):
            for ids in loaded.renderer.span_ids(text, e.answer):
                found |= dict.fromkeys(ngrams(ids, ngram))
    return list(found)
