"""Any surface (a model, a guarded model) as an `LM` of lm-evaluation-harness; imports `lm_eval`.

Ids are those of the harness's own HFLM: context and continuation are tokenised as one text and cut where the context
alone ends, so the context's ids are the same for every continuation and are read once for all of them, whatever the
tokenizer merges at the boundary.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from lm_eval.api.model import TemplateLM
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import (
    handle_stop_sequences,
    normalize_gen_kwargs,
    postprocess_generated_text,
    resolve_max_length,
)
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from harmonize.errors import DataError
from harmonize.evaluation.one_pass import shared_log_probs
from harmonize.evaluation.suite import NotMeasured
from harmonize.evaluation.surface import Progress, Surface

Ids = tuple[int, ...]

# What HFLM takes where neither model nor task says otherwise.
_CONTEXT, _NEW_TOKENS = 2048, 256


class SurfaceLM(TemplateLM):
    """Answers the harness's requests from a surface.

    Every continuation of one context is scored with the context's keys and values computed once. A request that is
    longer than the model reads loses its beginning, as in HFLM; `cut` counts them.

    Args:
        surface: The model as it is seen from outside; it is neither moved nor changed.
        batch_size: Continuations, or prompts, of one forward pass.
        progress: Called with (contexts done, contexts in all), if anybody looks.
    """

    def __init__(self, surface: Surface, batch_size: int, progress: Progress | None = None) -> None:
        super().__init__()
        self.surface, self.renderer, self.batch_size, self.progress = (
            surface,
            surface.renderer,
            batch_size,
            progress,
        )
        self.tokenizer = surface.renderer.tokenizer
        config = getattr(getattr(surface, "model", None), "config", None)
        self.max_length: int = resolve_max_length(config, self.tokenizer, default=_CONTEXT)
        self.cut = 0
        # a question is tokenised for each of its options
        self._opened = lru_cache(maxsize=4096)(self.renderer.opened_ids)

    @property
    def eot_token_id(self) -> int:
        """The id that ends a text."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """The id that stands before a continuation without context: BOS, or the end where there is none."""
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else int(bos)

    @property
    def tokenizer_name(self) -> str:
        """Names the tokenizer in the harness's cache of requests, which is not used."""
        return self.renderer.digest

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Ids of a text: with what the tokenizer puts before one, or without."""
        if add_special_tokens is False:
            return list(self.tokenizer(string, add_special_tokens=False)["input_ids"])
        return list(self._opened(string))

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """A conversation in the model's template; a system turn that it does not know is left out, as in HFLM."""
        return self.renderer.conversation(chat_history, add_generation_prompt)

    def loglikelihood(self, requests: Any, disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """(log-probability of the continuation, whether every token of it is the first choice) of each request."""
        found: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        return found

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, Sequence[int], Sequence[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        if not hasattr(self.surface, "speaking"):
            raise NotMeasured("this model shows no probabilities of single tokens")
        pairs = [self._fitted(tuple(context), tuple(said), what) for what, context, said in requests]
        groups: dict[Ids, dict[Ids, None]] = {}
        for context, said in pairs:
            groups.setdefault(context, {})[said] = None
        model, adjust = self.surface.speaking(list(groups), scored=True)
        answers = shared_log_probs(
            model,
            [(context, list(some)) for context, some in groups.items()],
            self.renderer.pad_id,
            self.batch_size,
            adjust,
            self.progress,
        )
        known = {
            (context, said): answer
            for (context, some), own in zip(groups.items(), answers, strict=True)
            for said, answer in zip(some, own, strict=True)
        }
        return [known[pair] for pair in pairs]

    def _fitted(self, context: Ids, said: Ids, what: Any) -> tuple[Ids, Ids]:
        """Without what is too much at the beginning: the last id is predicted, not read."""
        if not said:
            shown = repr(what[1]) if what else "a text"
            raise DataError(
                f"The tokenizer merges {shown} into the text before it, so it has no token to score. Use another "
                "target delimiter in the task, or another model."
            )
        room = self.max_length + 1 - len(said)
        if room < 1:
            raise DataError(
                f"A continuation has {len(said)} tokens, but the model reads at most {self.max_length}. Leave out "
                "the task."
            )
        self.cut += len(context) > room
        return context[-room:], said

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = True) -> list[float]:
        """Log-probability of each whole text, in windows of what the model can read."""
        windows: list[tuple[None, list[int], list[int]]] = []
        counts = []
        for request in requests:
            own = get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            before = len(windows)
            windows += [(None, *make_disjoint_window(window)) for window in own]
            counts.append(len(windows) - before)
        values = iter(self._loglikelihood_tokens(windows))
        return [sum(next(values)[0] for _ in range(n)) for n in counts]

    def generate_until(self, requests: Any, disable_tqdm: bool = True) -> list[str]:
        """Greedy answers, cut before the first stop text."""
        found = [""] * len(requests)
        limits: dict[int, list[int]] = {}
        settings = [normalize_gen_kwargs(request.args[1], _NEW_TOKENS) for request in requests]
        for i, wanted in enumerate(settings):
            if wanted.get("do_sample"):
                raise NotMeasured("a task that samples its answers is not supported, greedy ones are")
            limits.setdefault(int(wanted["max_gen_toks"]), []).append(i)
        end = self.tokenizer.decode([self.eot_token_id], skip_special_tokens=False)
        for limit, own in limits.items():
            room = self.max_length - limit
            if room < 1:
                raise DataError(
                    f"A task asks for up to {limit} new tokens, but the model reads at most {self.max_length} with "
                    "the prompt. Leave out the task."
                )
            prompts = [tuple(self.tok_encode(requests[i].args[0])) for i in own]
            self.cut += sum(len(p) > room for p in prompts)
            said = self.surface.generate([p[-room:] for p in prompts], limit, self.batch_size, self.progress)
            for i, ids in zip(own, said, strict=True):
                stop = handle_stop_sequences(settings[i].get("until"), eos=end)
                text = self.tokenizer.decode(list(ids), skip_special_tokens=True)
                found[i] = postprocess_generated_text(text, stop, None)
        return found


def hflm(model: Any, tokenizer: Any, batch_size: int) -> Any:
    """The harness's own class on a model in memory, with a tokenizer of its own (HFLM adds a padding token)."""
    return HFLM(pretrained=model, tokenizer=copy.deepcopy(tokenizer), batch_size=batch_size)
