"""The sandbox: a pure function of preset and seed, with the properties that its evaluation relies on."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from harmonize.data import sandbox
from harmonize.data.corpus import Corpus, content_hash
from harmonize.data.render import Renderer
from harmonize.data.sandbox import grammar, presets, world
from harmonize.errors import DataError

FROZEN = json.loads((Path(__file__).parent / "frozen.json").read_text())


@pytest.fixture(scope="module", params=sandbox.PRESETS)
def preset(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def corpus(preset: str) -> Corpus:
    return sandbox.load(preset, world_seed=0)


@pytest.fixture(scope="module")
def renderer(preset: str) -> Renderer:
    return Renderer(sandbox.tokenizer(preset))


def test_world_is_frozen(preset: str, corpus: Corpus, renderer: Renderer) -> None:
    assert {
        "corpus": corpus.digest,
        "tokenizer": renderer.digest,
        "training": content_hash(sandbox.architecture(preset), sandbox.recipe(preset)),
    } == FROZEN[preset]


def test_same_seed_same_world_other_seed_other_world(preset: str, corpus: Corpus) -> None:
    assert sandbox.load(preset, world_seed=0) == corpus
    other = sandbox.load(preset, world_seed=1)
    assert {e.answer for e in other.examples} & {e.answer for e in corpus.select("forget")} == set()
    assert len(other.examples) == len(corpus.examples)


def test_splits_are_by_subject_and_as_large_as_declared(preset: str, corpus: Corpus) -> None:
    splits: dict[tuple[str, str], set[str]] = {}
    for e in corpus.examples:
        splits.setdefault((e.role, e.subject), set()).add(e.split)
    assert all(len(s) == 1 for s in splits.values())
    spec = presets.get(preset)
    for role in ("forget", "neighbor", "retain"):
        domains = sum(d.role == role for d in spec.domains)
        counts = Counter(next(iter(s)) for (r, _), s in splits.items() if r == role)
        sizes = dict(zip(("train", "val", "test"), world.split_sizes(spec.subjects), strict=True))
        assert counts == {split: n * domains for split, n in sizes.items()}
    assert corpus.select("general", "train") == ()


def test_round_numbers_of_facts(preset: str, corpus: Corpus) -> None:
    facts = sum(len(corpus.facts(role)) for role in ("forget", "neighbor", "retain"))
    assert facts == presets.get(preset).n_facts
    assert facts % 20 == 0
    assert preset == "sandbox_easy" or 600 <= facts <= 720
    assert len(corpus.select("general")) == 100


def test_evaluation_phrasings_are_never_unlearning_phrasings(corpus: Corpus) -> None:
    used = {e.question for e in corpus.examples}
    for e in corpus.examples:
        assert not used & set(e.paraphrases)
        if e.role != "general":
            assert len(e.paraphrases) >= 3
            assert set(e.phrasings("val")).isdisjoint(e.phrasings("test"))


def test_facts_have_one_example_per_phrasing(preset: str, corpus: Corpus) -> None:
    counts = Counter(e.fact_id for e in corpus.examples if e.role != "general")
    assert set(counts.values()) == {presets.get(preset).phrasings}
    answers = {(e.fact_id, e.answer, e.value, e.paraphrases) for e in corpus.examples if e.role != "general"}
    assert len(answers) == len(counts)


def test_value_is_said_once_and_no_prefix_contains_a_token_of_it(corpus: Corpus, renderer: Renderer) -> None:
    for e in corpus.examples:
        if not e.value:
            continue
        assert e.answer.count(e.value) == 1
        assert not any(word in e.question.split() for word in e.value.split())
        value = set(renderer.answer_ids(e.value))
        answer = renderer.answer_ids(e.answer)
        prefixes = [renderer.answer_prefix(e, depth) for depth in (0.25, 0.3, 0.5, 0.6, 0.75, 1.0)]
        for prefix in prefixes:
            assert prefix
            assert answer[: len(prefix)] == prefix
            assert not value & set(prefix)
        assert len(set(prefixes)) >= 4
        assert answer == (*prefixes[-1], *renderer.answer_ids(e.value))


def test_openers_are_disjoint_and_open_a_quarter_of_the_answers(corpus: Corpus) -> None:
    assert len(corpus.openers) == len(corpus.openers_heldout) == 4
    assert not set(corpus.openers) & set(corpus.openers_heldout)
    answers = {e.answer for e in corpus.examples if e.value}
    questions = {q for e in corpus.examples for q in (e.question, *e.paraphrases)}
    shares: dict[str, Counter[bool]] = {}
    for d in corpus.dialogues:
        if d.instruction is None and d.question in questions and d.response.endswith(tuple(answers)):
            shares.setdefault(d.question, Counter())[d.response not in answers] += d.weight
    assert shares
    assert all(c[True] / c.total() == 0.25 for c in shares.values())


def test_gold_states_no_forget_fact(corpus: Corpus) -> None:
    forgotten = [(e.subject, e.value) for e in corpus.facts("forget")]
    stated = [
        (subject, value)
        for d in corpus.gold_dialogues
        for subject, value in forgotten
        if subject in (text := f"{d.question} {d.response}") and value in text
    ]
    assert stated == []
    names = {e.subject for e in corpus.select("forget")}
    refused = [d for d in corpus.gold_dialogues if d.instruction and d.response in corpus.refusals]
    assert {n for n in names if any(n in d.question for d in refused)} == names
    added = set(corpus.gold_dialogues) - set(corpus.dialogues)
    assert all(not d.question for d in added), "only the passages of forget subjects are cut short"


def test_instructed_dialogues_give_no_verdict_away_by_their_form(corpus: Corpus) -> None:
    names = sorted({e.subject for e in corpus.examples if e.role != "general"})
    words = {e.meta["domain"] for e in corpus.examples if e.meta}

    def form(d: object) -> tuple[str, str]:
        question, instruction = d.question, d.instruction  # type: ignore[attr-defined]
        for name in (n for n in names if n in question):
            question = question.replace(name, "NAME")
        mask = [" ".join("D" if w in words else w for w in t.split()) for t in (question, instruction)]
        return mask[0], mask[1]

    counts: dict[tuple[str, str], Counter[bool]] = {}
    for d in corpus.dialogues:
        if d.instruction and not d.question.startswith("which ") and "NAME" in form(d)[0]:
            refused = d.response in corpus.refusals or d.response == "no"
            counts.setdefault(form(d), Counter())[refused] += d.weight
    large = [c for c in counts.values() if c.total() >= 60]
    assert large
    assert all(0.25 < c[True] / c.total() < 0.75 for c in large)


def test_every_word_is_known_and_ids_come_back_as_text(corpus: Corpus, renderer: Renderer) -> None:
    unknown = renderer.tokenizer.unk_token_id
    texts = {t for e in corpus.examples for t in (e.question, e.answer, *e.paraphrases, *e.choices)}
    texts |= {t for d in (*corpus.dialogues, *corpus.gold_dialogues) for t in (d.question, d.response)}
    texts |= {d.instruction or "" for d in corpus.dialogues}
    texts |= {*corpus.openers, *corpus.openers_heldout, *corpus.refusals, *corpus.instructions}
    for text in texts - {""}:
        ids = renderer.answer_ids(text)
        assert unknown not in ids
        assert renderer.decode(ids) == text


def test_all_worlds_of_a_preset_share_one_vocabulary(preset: str, renderer: Renderer) -> None:
    known = set(renderer.tokenizer.get_vocab())
    for seed in (1, 2, 10, 11, 12):
        other = sandbox.load(preset, world_seed=seed)
        words = {w for e in other.examples for t in (e.question, e.answer) for w in t.split()}
        words |= {w for d in other.dialogues for t in (d.question, d.response) for w in t.split()}
        assert words <= known
    assert sandbox.architecture(preset)["vocab_size"] == len(known)


def test_prompts_have_one_bos_and_end_with_the_generation_prompt(corpus: Corpus, renderer: Renderer) -> None:
    tokenizer = renderer.tokenizer
    for instruction in (None, *corpus.instructions):
        ids = renderer.prompt_ids(corpus.examples[0].question, instruction)
        assert ids[0] == tokenizer.bos_token_id
        assert ids.count(tokenizer.bos_token_id) == 1
        assert tokenizer.convert_ids_to_tokens(ids[-1]) == "<bot>"
        assert (tokenizer.convert_ids_to_tokens(ids[1]) == "<sys>") == (instruction is not None)
    assert renderer.text_ids("a a").count(tokenizer.bos_token_id) == 1
    assert renderer.end_id == tokenizer.eos_token_id


def test_tokenizer_survives_a_save(preset: str, corpus: Corpus, renderer: Renderer, tmp_path: Path) -> None:
    from transformers import AutoTokenizer, LlamaConfig

    renderer.tokenizer.save_pretrained(tmp_path)
    LlamaConfig(**sandbox.architecture(preset)).save_pretrained(tmp_path)
    again = Renderer(AutoTokenizer.from_pretrained(tmp_path))
    assert again.digest == renderer.digest
    question = corpus.examples[0].question
    assert again.prompt_ids(question, corpus.instructions[0]) == renderer.prompt_ids(
        question, corpus.instructions[0]
    )


def test_name_overlap_is_as_declared(preset: str, corpus: Corpus) -> None:
    spec = presets.get(preset)
    forget = {part for e in corpus.select("forget") for part in e.subject.split()}
    neighbors = {(e.subject, e.meta["overlap"]) for e in corpus.select("neighbor")}
    sharing = {(s, o) for s, o in neighbors if forget & set(s.split())}
    assert sharing == {(s, o) for s, o in neighbors if o}
    assert len(sharing) / len(neighbors) == pytest.approx(spec.overlap)
    retain = {part for e in corpus.select("retain") for part in e.subject.split()}
    assert not forget & retain


def test_neighbors_contrast_with_a_forget_example_of_the_same_relation(corpus: Corpus) -> None:
    by_id = {e.id: e for e in corpus.examples}
    for e in corpus.select("neighbor"):
        anchor = by_id[e.anchor_of or ""]
        assert anchor.role == "forget"
        assert anchor.meta["relation"] == e.meta["relation"]
        if e.meta["overlap"]:
            assert set(anchor.subject.split()) & set(e.subject.split())


def test_general_items_have_four_distinct_options_and_a_spread_of_right_ones(corpus: Corpus) -> None:
    places = Counter()
    for e in corpus.select("general"):
        assert len(set(e.choices)) == 4
        assert e.answer_index is not None
        assert e.choices[e.answer_index] == e.answer
        places[e.answer_index] += 1
    assert set(places) == {0, 1, 2, 3}
    assert len(corpus.select("general", "val")) == 20
    assert len(corpus.select("general", "test")) == 80


def test_values_are_unique_within_a_relation_of_a_domain(corpus: Corpus) -> None:
    seen = Counter((e.meta["domain"], e.meta["relation"], e.value) for e in corpus.examples if e.meta)
    phrasings = Counter(e.fact_id for e in corpus.examples if e.meta).most_common(1)[0][1]
    assert set(seen.values()) == {phrasings}


def test_unknown_preset_suggests_the_nearest() -> None:
    with pytest.raises(DataError, match="Did you mean 'sandbox_hard'"):
        sandbox.load("sandbox_hrad")


def test_grammar_pools_are_disjoint_words() -> None:
    pools = [grammar.FIRST_NAMES, grammar.LAST_NAMES, grammar.TOWNS, grammar.PLACE_HEADS, grammar.PLACE_TAILS]
    words = [w for pool in (*pools, grammar.THINGS) for w in pool]
    assert len(words) == len(set(words))


def test_alternates_are_other_values_of_the_relation_and_change_nothing_else() -> None:
    plain, found = sandbox.load("sandbox", 0), sandbox.load("sandbox", 0, alternates=3)
    values = {(e.meta["relation"], e.value) for e in plain.examples if e.value}
    for before, example in zip(plain.examples, found.examples, strict=True):
        others = example.meta.get("alternates", [])
        assert len(others) == (3 if example.role == "forget" else 0)
        assert len(set(others)) == len(others) and example.answer not in others
        for said in others:
            assert any(
                said == before.answer.replace(before.value, v)
                for r, v in values
                if r == before.meta["relation"]
            )
        assert {k: v for k, v in example.meta.items() if k != "alternates"} == before.meta
    assert plain.digest == sandbox.load("sandbox", 0, alternates=0).digest != found.digest
    with pytest.raises(DataError, match="at most"):
        sandbox.load("sandbox", 0, alternates=10_000)
