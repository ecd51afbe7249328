"""Reading what a language model replied: a JSON list of question-answer pairs, wherever in the reply it stands."""

from __future__ import annotations

import json
import re
from typing import Any

from harmonize.data.unify.task import Failure, Pair

UNREADABLE = "unreadable reply"
# Brackets of prose (a citation, a list marker) tried before giving up.
_TRIED = 50
_THOUGHT = re.compile(r"\A.*</think>", re.DOTALL)
# A bracket that opens our list: followed by an object, a text or its end.
_OPENS_LIST = re.compile(r"\[\s*[\[{\"]")
_OPENS_OBJECT = re.compile(r"\{\s*\"")


def parse_reply(reply: str) -> list[Pair] | Failure:
    """The pairs of a reply.

    Accepted around the list: prose, code fences, a thought (up to `</think>`), one object instead of a list, a list
    inside one object. Not accepted: JSON that breaks off, items without a question or an answer, other types.
    What is accepted is our choice.

    Args:
        reply: All of a model's text.
    """
    text = _THOUGHT.sub("", reply)
    decoder = json.JSONDecoder()
    position = 0
    for _ in range(_TRIED):
        found = re.compile(r"[\[{]").search(text, position)
        if found is None:
            break
        start = found.start()
        try:
            value, _ = decoder.raw_decode(text, start)
        except (json.JSONDecodeError, RecursionError):
            # Half of the JSON is no JSON: what stands inside it is not looked at.
            if _OPENS_LIST.match(text, start) or _OPENS_OBJECT.match(text, start):
                break
            position = start + 1
            continue
        items = _items(value)
        if items is not None:
            return _pairs(items)
        position = start + 1
    return Failure(UNREADABLE)


def _items(value: Any) -> list[Any] | None:
    """The list in a decoded value, or None if it is something else (`[1]` of a citation)."""
    if isinstance(value, dict):
        if "question" in value:
            return [value]
        lists = [v for v in value.values() if isinstance(v, list)]
        return _items(lists[0]) if len(lists) == 1 else None
    if isinstance(value, list) and all(isinstance(item, dict) for item in value):
        return value
    return None


def _pairs(items: list[Any]) -> list[Pair] | Failure:
    pairs = []
    for item in items:
        question, answer = (_text(item.get(key)) for key in ("question", "answer"))
        if not question or not answer:
            return Failure(UNREADABLE)
        phrasings = item.get("paraphrases") or []
        if not isinstance(phrasings, list):
            return Failure(UNREADABLE)
        others = dict.fromkeys(t for p in phrasings if (t := _text(p)) and t != question)
        pairs.append(Pair(question, answer, _text(item.get("value")), "", tuple(others)))
    return pairs


def _text(value: Any) -> str:
    """A text on one line; numbers as they are written; nothing for anything else."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    # Half of a surrogate pair is valid in JSON and nowhere else.
    return " ".join(str(value).encode("utf-8", "replace").decode().split())
