"""The one place where text becomes token ids: prompts, prefills and answers, each tokenised once and joined as ids.

Joining text and tokenising again would move token boundaries, so training, the teacher cache, evaluation and
attacks all build their sequences here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import jinja2

from harmonize.data.corpus import content_hash
from harmonize.data.example import Example
from harmonize.errors import ModelError

_FIXED_CHAT_ARGUMENTS = {"date_string": "01 Jan 2026", "enable_thinking": False}


@dataclass(frozen=True)
class PlainTemplate:
    """Turns for tokenizers without a chat template. `{instruction}` and `{question}` are filled in."""

    instruction: str = "{instruction}\n\n"
    question: str = "Question: {question}\nAnswer:"


class Renderer:
    """Renders questions and answers of one tokenizer as token ids.

    Args:
        tokenizer: A Hugging Face tokenizer; its chat template is used where it has one.
        stop_ids: Ids that end a generation (every configured EOS). Defaults to the tokenizer's own.
        plain: Turns used when the tokenizer has no chat template.
        chat: Whether to use the chat template; None means if there is one.

    Raises:
        ModelError: The tokenizer has no end-of-sequence token, or `chat=True` without a chat template.
    """

    def __init__(
        self,
        tokenizer: Any,
        stop_ids: Iterable[int] | None = None,
        plain: PlainTemplate | None = None,
        chat: bool | None = None,
    ) -> None:
        has_chat = bool(getattr(tokenizer, "chat_template", None))
        if chat and not has_chat:
            raise ModelError(
                "model.chat_template=true, but the tokenizer has no chat template. "
                "Use model.chat_template=null to take the plain one."
            )
        self.tokenizer = tokenizer
        self.chat = has_chat if chat is None else chat
        self.plain = plain or PlainTemplate()
        stops = set(stop_ids or ())
        if tokenizer.eos_token_id is not None:
            stops.add(int(tokenizer.eos_token_id))
        if not stops:
            raise ModelError(
                "The tokenizer has no end-of-sequence token, so answers would never end. "
                "Set eos_token in its tokenizer_config.json."
            )
        self.stop_ids: tuple[int, ...] = tuple(sorted(stops))
        bos = tokenizer.bos_token_id
        self._bos = int(bos) if bos is not None and tokenizer("a")["input_ids"][:1] == [bos] else None
        first_piece = tokenizer.convert_ids_to_tokens(self._encode("a")[:1])
        adds_space = bool(first_piece) and str(first_piece[0]).startswith("\u2581")
        self._space = "" if adds_space else " "
        self._lead = "" if self.chat else self._space
        self.end_id = self._end_of_turn()
        self.pad_id = int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self.end_id)
        self._prompts = lru_cache(maxsize=65536)(self._render_prompt)
        self._answers = lru_cache(maxsize=65536)(self._render_answer)

    @property
    def digest(self) -> str:
        """Content key of everything that decides the ids: vocabulary, template, boundaries."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        model = backend.to_str() if backend is not None else sorted(self.tokenizer.get_vocab().items())
        template = (
            self.tokenizer.chat_template if self.chat else [self.plain.instruction, self.plain.question]
        )
        return content_hash(model, template, self.stop_ids, self.end_id, self._bos, self._lead)

    def prompt_ids(self, question: str, instruction: str | None = None) -> tuple[int, ...]:
        """Ids of the turn(s) before the answer, ending with the generation prompt; exactly one BOS."""
        return self._prompts(question, instruction)

    def answer_ids(self, text: str) -> tuple[int, ...]:
        """Ids of an answer, an opener or a refusal as the assistant would write it, without end of turn."""
        return self._answers(text)

    def target_ids(self, text: str) -> tuple[int, ...]:
        """Ids of a whole answer with its end of turn: the positions that carry a loss."""
        return (*self._answers(text), self.end_id)

    def text_ids(self, text: str) -> tuple[int, ...]:
        """Ids of running text, with BOS and end, for plain language modelling."""
        return (*self._with_bos(self._encode(text)), self.end_id)

    def opened_ids(self, text: str) -> tuple[int, ...]:
        """Ids of running text that goes on: with BOS and without an end."""
        return self._with_bos(self._encode(text))

    def next_ids(self, text: str) -> tuple[int, ...]:
        """Ids of a text that follows running text after a space."""
        return tuple(self._encode(self._space + text))

    def conversation(self, turns: Sequence[Mapping[str, str]], generation: bool = True) -> str:
        """Text of a conversation in the chat template, without a system turn where the template knows none.

        Args:
            turns: Each with `role` and `content`.
            generation: End with the generation prompt; otherwise the last turn stays open, to be continued.

        Raises:
            ModelError: The tokenizer has no chat template.
        """
        if not self.tokenizer.chat_template:
            raise ModelError("The tokenizer has no chat template, so a conversation has no text.")
        how: dict[str, Any] = {"add_generation_prompt": generation, "continue_final_message": not generation}
        apply = partial(self.tokenizer.apply_chat_template, tokenize=False, **how, **_FIXED_CHAT_ARGUMENTS)
        try:
            return str(apply([dict(t) for t in turns]))
        except jinja2.TemplateError:
            return str(apply([dict(t) for t in turns if t["role"] != "system"]))

    def answer_prefix(self, example: Example, depth: float) -> tuple[int, ...]:
        """The first part of the true answer as a prefill; never a token of the scored value.

        Args:
            depth: Share of the tokens before the value (of the answer, if all of it is scored), in (0, 1].

        Returns:
            At least one id, or none if no token comes before the value.
        """
        ids = self.answer_ids(example.answer)
        room = self._room(example, ids)
        if room < 1:
            return ()
        return ids[: max(1, min(room, round(depth * room)))]

    def value_span(self, example: Example) -> tuple[int, int]:
        """Which of `answer_ids(example.answer)` hold a part of the scored value: from, and up to.

        All of them where an example has no value, or a slow tokenizer cannot say.
        """
        text = self._lead + example.answer
        start = text.find(example.value) if example.value else -1
        if start < 0 or not getattr(self.tokenizer, "is_fast", False):
            return 0, len(self.answer_ids(example.answer))
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        stop = start + len(example.value)
        inside = [i for i, (a, b) in enumerate(encoded["offset_mapping"]) if a < stop and b > start]
        return inside[0], inside[-1] + 1

    def span_ids(self, text: str, answer: str = "") -> tuple[tuple[int, ...], ...]:
        """Every way in which a text may stand in an answer as ids: at its beginning, after a space, and as in `answer`.

        Args:
            text: A value, or any other part of an answer.
            answer: One that the text stands in; its ids may be cut otherwise there, with a neighbouring mark in one.
        """
        found = {tuple(self._encode(text)), tuple(self._encode(f" {text}"))}
        whole = self._lead + answer
        start = whole.find(text)
        if start >= 0 and getattr(self.tokenizer, "is_fast", False):
            encoded = self.tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)
            stop = start + len(text)
            inside = [a < stop and b > start for a, b in encoded["offset_mapping"]]
            found.add(tuple(i for i, own in zip(encoded["input_ids"], inside, strict=True) if own))
        return tuple(sorted(ids for ids in found if ids))

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated ids without special tokens and surrounding space."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    def _room(self, example: Example, ids: Sequence[int]) -> int:
        if not example.value:
            return len(ids) - 1
        text = self._lead + example.answer
        start = text.find(example.value)
        if start < 0:
            return 0
        if not getattr(self.tokenizer, "is_fast", False):
            raise ModelError(
                "Answer prefixes need a fast tokenizer (tokenizer.json), to know where the scored value begins. "
                "Convert the tokenizer, or use dataset.prefill.prefixes=false dataset.prefill.eval_depths=[]."
            )
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return sum(1 for _, end in encoded["offset_mapping"] if end <= start)

    def _render_prompt(self, question: str, instruction: str | None) -> tuple[int, ...]:
        if not self.chat:
            head = self.plain.instruction.format(instruction=instruction) if instruction else ""
            text = head + self.plain.question.format(question=question)
            return self._with_bos(self._encode(text))
        return self._with_bos(self._encode(self._chat_text(question, instruction)))

    def _chat_text(self, question: str, instruction: str | None) -> str:
        user = {"role": "user", "content": question}
        if instruction:
            try:
                text = self._apply([{"role": "system", "content": instruction}, user])
            except Exception:  # templates signal a missing system role with any jinja error
                text = ""
            if instruction in text:
                return text
            user = {"role": "user", "content": f"{instruction}\n\n{question}"}
        return self._apply([user])

    def _apply(self, messages: list[dict[str, str]], generation: bool = True) -> str:
        return str(
            self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=generation, **_FIXED_CHAT_ARGUMENTS
            )
        )

    def _render_answer(self, text: str) -> tuple[int, ...]:
        return tuple(self._encode(self._lead + text))

    def _encode(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _with_bos(self, ids: Sequence[int]) -> tuple[int, ...]:
        body = list(ids)
        if self._bos is None:
            return tuple(body)
        while body and body[0] == self._bos:
            body = body[1:]
        return (self._bos, *body)

    def _end_of_turn(self) -> int:
        """The id that closes an assistant turn: the first stop id after the answer in the chat template."""
        fallback = self.tokenizer.eos_token_id
        fallback = self.stop_ids[0] if fallback is None else int(fallback)
        if not self.chat:
            return fallback
        marker = "harmonize"
        turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": marker}]
        text = self._apply(turns, generation=False)
        if marker not in text:
            return fallback
        tail = self._encode(text[text.rfind(marker) + len(marker) :])
        return next((i for i in tail if i in self.stop_ids), fallback)
