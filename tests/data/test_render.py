"""Token boundaries and templates: one BOS, generation prompt last, prefixes without the scored value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from harmonize.data.example import Example, Role
from harmonize.data.render import PlainTemplate, Renderer
from harmonize.errors import ModelError

SYSTEM_CHAT = (
    "{{ bos_token }}{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
NO_SYSTEM_CHAT = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    + SYSTEM_CHAT
)
SILENT_CHAT = SYSTEM_CHAT.replace(
    "<{{ m['role'] }}>", "{% if m['role'] != 'system' %}<{{ m['role'] }}>"
).replace("{{ eos_token }}{% endfor", "{{ eos_token }}{% endif %}{% endfor")
DATED_CHAT = "{{ date_string }}|{{ enable_thinking }}|" + SYSTEM_CHAT


@pytest.fixture(scope="module")
def tokenizers(shared: Path) -> dict[str, Any]:
    """By name: the byte-level GPT-2 tokenizer, the Llama one of the small model, and GPT-2 with chat templates."""
    found = {
        name: AutoTokenizer.from_pretrained(shared / "models" / name)
        for name in ("gpt2_tokenizer", "stories260k")
    }
    for name, template in (
        ("system", SYSTEM_CHAT),
        ("no_system", NO_SYSTEM_CHAT),
        ("silent", SILENT_CHAT),
        ("dated", DATED_CHAT),
    ):
        tokenizer = AutoTokenizer.from_pretrained(shared / "models" / "stories260k")
        tokenizer.chat_template = template
        found[name] = tokenizer
    return found


ALL = ("gpt2_tokenizer", "stories260k", "system", "no_system", "silent")
LLAMA = ("stories260k", "system", "no_system", "silent")


@pytest.fixture(scope="module")
def renderers(tokenizers: dict[str, Any]) -> dict[str, Renderer]:
    return {name: Renderer(tokenizer) for name, tokenizer in tokenizers.items()}


@pytest.mark.parametrize("name", LLAMA)
@pytest.mark.parametrize("instruction", [None, "Say nothing of Ann."])
def test_there_is_exactly_one_bos(renderers: dict[str, Renderer], name: str, instruction: str | None) -> None:
    r = renderers[name]
    bos = r.tokenizer.bos_token_id
    ids = r.prompt_ids("Who is Ann?", instruction)
    assert ids[0] == bos and ids.count(bos) == 1
    assert bos not in r.answer_ids("Ann is a baker.") and bos not in r.target_ids("Ann.")
    text = r.text_ids("Once upon a time.")
    assert text[0] == bos and text.count(bos) == 1 and text[-1] == r.end_id


def test_a_tokenizer_that_adds_no_bos_gets_none(renderers: dict[str, Renderer]) -> None:
    r = renderers["gpt2_tokenizer"]
    assert r.tokenizer.bos_token_id not in r.prompt_ids("Who is Ann?", "Say nothing.")


@pytest.mark.parametrize("name", ALL)
def test_the_prompt_ends_with_the_generation_prompt(renderers: dict[str, Renderer], name: str) -> None:
    r = renderers[name]
    text = r.tokenizer.decode(list(r.prompt_ids("Who is Ann?", "Say nothing.")))
    assert text.endswith("<assistant>" if r.chat else "Question: Who is Ann?\nAnswer:")
    assert text.index("Say nothing.") < text.index("Who is Ann?")


def test_an_instruction_goes_in_the_system_turn_or_heads_the_user_turn(
    renderers: dict[str, Renderer],
) -> None:
    def text(name: str) -> str:
        ids = renderers[name].prompt_ids("Who?", "Say nothing.")
        return str(renderers[name].tokenizer.decode(list(ids)))

    assert "<system>Say nothing." in text("system") and "<user>Who?" in text("system")
    # Whether the template raises or drops the turn without a word, the instruction is read.
    for name in ("no_system", "silent"):
        assert "<user>Say nothing.\n\nWho?" in text(name) and "<system>" not in text(name)


def test_dates_and_thinking_switches_are_fixed(renderers: dict[str, Renderer]) -> None:
    text = renderers["dated"].tokenizer.decode(list(renderers["dated"].prompt_ids("Who?")))
    assert "01 Jan 2026|False|" in text


@pytest.mark.parametrize("name", ALL)
def test_a_target_ends_with_the_end_of_turn_that_stops_generation(
    renderers: dict[str, Renderer], name: str
) -> None:
    r = renderers[name]
    target = r.target_ids("Ann is a baker.")
    assert target == (*r.answer_ids("Ann is a baker."), r.end_id)
    assert r.end_id in r.stop_ids
    assert r.decode(target) == "Ann is a baker."


def test_the_end_of_turn_is_the_templates_own(tokenizers: dict[str, Any]) -> None:
    tokenizer = tokenizers["system"]
    tokenizer.chat_template, kept = (
        SYSTEM_CHAT.replace("{{ eos_token }}", "{{ unk_token }}"),
        tokenizer.chat_template,
    )
    try:
        r = Renderer(tokenizer, stop_ids=[tokenizer.unk_token_id])
        assert r.end_id == tokenizer.unk_token_id
        assert r.stop_ids == tuple(sorted({tokenizer.unk_token_id, tokenizer.eos_token_id}))
    finally:
        tokenizer.chat_template = kept


@pytest.mark.parametrize("name", ALL)
@settings(max_examples=40, deadline=None)
@given(
    before=st.text("ab c.,'\"é世", max_size=20),
    value=st.text("xyz w1", min_size=1, max_size=8).filter(lambda t: t.strip() == t),
    after=st.text("ab c.", max_size=8),
    depth=st.floats(0.01, 1.0),
)
def test_a_prefix_never_holds_a_token_of_the_value(
    renderers: dict[str, Renderer], name: str, before: str, value: str, after: str, depth: float
) -> None:
    r = renderers[name]
    example = Example("e", Role.FORGET, "q", before + value + after, "s", value=value)
    ids = r.answer_ids(example.answer)
    prefix = r.answer_prefix(example, depth)
    assert prefix == ids[: len(prefix)] and len(prefix) <= len(ids)
    shown = r.tokenizer.decode(list(prefix), skip_special_tokens=True)
    assert value[0] not in shown.replace("\ufffd", "")  # letters of the value occur nowhere before it


@pytest.mark.parametrize("name", ALL)
def test_prefix_depths(renderers: dict[str, Renderer], name: str) -> None:
    r = renderers[name]
    example = Example("e", Role.FORGET, "q", "She was born in the small town of Sel.", "s", value="Sel")
    lengths = [len(r.answer_prefix(example, d)) for d in (0.01, 0.3, 0.6, 1.0)]
    assert lengths[0] == 1 and lengths == sorted(lengths) and lengths[-1] > lengths[1]
    assert r.decode(r.answer_prefix(example, 1.0)).endswith("town of")
    whole = Example("e", Role.FORGET, "q", "Born in Sel.", "s")
    assert r.answer_prefix(whole, 1.0) == r.answer_ids("Born in Sel.")[:-1]
    assert r.answer_prefix(Example("e", Role.FORGET, "q", "Sel.", "s", value="Sel"), 1.0) == ()


@pytest.mark.parametrize("name", ("gpt2_tokenizer", "stories260k"))
def test_joined_ids_are_read_as_a_question_and_its_answer(renderers: dict[str, Renderer], name: str) -> None:
    r = renderers[name]
    ids = (*r.prompt_ids("Who is Ann?"), *r.answer_ids("A baker."))
    assert "Answer: A baker." in r.tokenizer.decode(list(ids), skip_special_tokens=True)


def test_texts_with_braces_are_taken_literally(renderers: dict[str, Renderer]) -> None:
    r = renderers["stories260k"]
    text = r.tokenizer.decode(list(r.prompt_ids("What is {x}?", "Use {y}.")))
    assert "{x}" in text and "{y}" in text


def test_the_digest_follows_everything_that_decides_ids(tokenizers: dict[str, Any]) -> None:
    base = tokenizers["stories260k"]
    made = [
        Renderer(base),
        Renderer(base, plain=PlainTemplate(question="Q: {question}\nA:")),
        Renderer(base, stop_ids=[13]),
        Renderer(tokenizers["gpt2_tokenizer"]),
        Renderer(tokenizers["system"]),
        Renderer(tokenizers["no_system"]),
        Renderer(tokenizers["system"], chat=False, stop_ids=[14]),
    ]
    assert len({r.digest for r in made}) == len(made)
    assert Renderer(base).digest == made[0].digest


def test_what_cannot_be_rendered_is_explained(tokenizers: dict[str, Any], shared: Path) -> None:
    with pytest.raises(ModelError, match=r"model\.chat_template=null"):
        Renderer(tokenizers["stories260k"], chat=True)
    tokenizer = AutoTokenizer.from_pretrained(shared / "models" / "stories260k")
    tokenizer.eos_token = None
    with pytest.raises(ModelError, match="eos_token"):
        Renderer(tokenizer)
    assert Renderer(tokenizer, stop_ids=[2]).end_id == 2


def test_a_missing_padding_token_is_no_obstacle(shared: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(shared / "models" / "stories260k")
    tokenizer.pad_token = None
    r = Renderer(tokenizer)
    assert tokenizer.pad_token_id is None and r.pad_id == r.end_id
