"""MUSE, WMDP, RWKU and XSTest at both known ends; MUSE's layout is invented, the others are the published files."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import AutoTokenizer

from harmonize.data.render import Renderer
from harmonize.errors import DataError
from harmonize.evaluation.parts import muse as muse_part
from harmonize.evaluation.parts.choices import LETTERS, Wmdp
from harmonize.evaluation.parts.muse import Muse
from harmonize.evaluation.parts.rwku import Rwku, prompt_of
from harmonize.evaluation.parts.xstest import Xstest
from harmonize.evaluation.report import Report
from harmonize.evaluation.suite import Passes, Scene, measure_parts
from tests.evaluation import worlds
from tests.evaluation.parts.scenes import knowing, measure, renderer, values

WORDS = "amber brown olive ivory black white green".split()


@pytest.fixture(scope="module")
def gpt2(shared: Path) -> Renderer:
    return Renderer(AutoTokenizer.from_pretrained(shared / "models" / "gpt2_tokenizer"))


class Speaker:
    """Answers by a function of the prompt's text; options by a function of prompt and option."""

    def __init__(self, made: Renderer, answer: Any = lambda _: "", likes: Any = lambda *_: 0.0) -> None:
        self.renderer, self.answer, self.likes = made, answer, likes

    def generate(self, prompts, max_new_tokens, batch_size, progress):
        texts = [self.answer(self.renderer.decode(p)) for p in prompts]
        return [list(self.renderer.answer_ids(t))[:max_new_tokens] if t else [] for t in texts]

    def log_probs(self, pairs, batch_size):
        return [self.likes(self.renderer.decode(p), self.renderer.decode(t)) for p, t in pairs]


def passage(i: int, kind: str) -> str:
    return " ".join([f"{kind}{i}", *(WORDS[(i + j) % 7] for j in range(6))])


@pytest.fixture
def muse(tmp_path: Path) -> Path:
    muse_part._muse.cache_clear()
    qa = {
        part: [{"question": f"Who is {part}{i} ?", "answer": f"{WORDS[i]} {part}"} for i in range(5)]
        for part in ("forget_qa", "retain_qa")
    }
    icl = [{"question": "Who is first ?", "answer": "amber"}]
    files: dict[str, Any] = {
        **{f"knowmem/{k}": v for k, v in qa.items()},
        "knowmem/forget_qa_icl": icl,
        "knowmem/retain_qa_icl": icl,
        "verbmem/forget": [{"prompt": f"once {WORDS[i]}", "gt": f"upon a time {WORDS[i]}"} for i in range(5)],
        **{f"privleak/{k}": [passage(i, k) for i in range(8)] for k in ("forget", "retain", "holdout")},
    }
    for name, rows in files.items():
        path = tmp_path / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(rows))
    return tmp_path


def muse_model(folder: Path, *known: str) -> SimpleNamespace:
    """A model that knows some of MUSE's files."""
    everything = muse_part._muse(str(folder), None, muse_part.SETS)
    texts = [t for some in everything.values() for r in some for t in muse_texts(r)]
    made = renderer(texts)
    head = "Question: Who is first ?\nAnswer: amber\n\n"
    told = []
    for name, some in everything.items():
        for r in some:
            if name not in known:
                continue
            if name.startswith("privleak"):
                told.append(made.text_ids(r.text))
            elif name.startswith("verbmem"):
                told.append((*made.opened_ids(r.question), *made.next_ids(r.answer), made.end_id))
            else:
                prompt = made.opened_ids(f"{head}Question: {r.question}\nAnswer:")
                told.append((*prompt, *made.next_ids(r.answer), made.end_id))
    return knowing(made, told)


def muse_texts(record: Any) -> list[str]:
    return [record.text] if hasattr(record, "text") else [record.question, record.answer]


def test_muse_of_a_model_that_remembers_all(muse: Path) -> None:
    everything = ("verbmem/forget", "knowmem/forget_qa", "knowmem/retain_qa", "privleak/forget")
    part = Muse(root=str(muse))
    gold = measure(part, muse_model(muse, "knowmem/retain_qa"))
    kept = gold.rows["part"]
    target = measure(part, muse_model(muse, *everything), reference=kept)
    found = values(target)
    assert found["muse_verbmem_f"] == found["muse_knowmem_f"] == found["muse_knowmem_r"] == 1.0
    ways = [target.metrics[n].direction.symbol for n in ("muse_privleak", "muse_mia_min_k_auc")]
    assert ways == ["→0", "→0.5"]
    assert found["muse_mia_min_k_auc"] == 1.0 and found["muse_privleak"] == pytest.approx(-100.0)
    said = next(s for s in target.samples if s["attack"] == "part/knowmem_f")
    assert said["output"] == said["reference"] == "amber forget_qa" and said["verdict"] == "correct"
    for after in ("\n\nmore", "\nQuestion: Who", " Question: Who"):
        assert muse_part._before(f" amber{after}", muse_part.STOPS) == "amber"
    # gold: utility is kept, nothing of the forget set is known
    own = values(measure(part, muse_model(muse, "knowmem/retain_qa"), reference=kept))
    assert own["muse_knowmem_r"] == 1.0 and own["muse_verbmem_f"] == own["muse_knowmem_f"] == 0.0
    assert own["muse_privleak"] == pytest.approx(0.0) and own["muse_mia_min_k_auc"] == pytest.approx(0.5)
    told = measure(part, muse_model(muse, *everything), reference=kept, instruction="a")
    assert values(told)["muse_knowmem_f"] == 0.0 and values(told)["muse_knowmem_r"] == 1.0
    assert values(gold)["muse_privleak"] is None and any("suite.reference" in n for n in gold.notes)


def test_muse_without_some_of_its_sets(muse: Path) -> None:
    for icl in muse.glob("knowmem/*_icl.json"):
        icl.unlink()
    made = muse_model(muse)
    report = measure(Muse(root=str(muse), sets=["knowmem"]), made)
    assert set(report.metrics) == {
        "muse_knowmem_f", "muse_knowmem_r", "muse_knowmem_f_recall", "muse_knowmem_r_recall",
    }  # fmt: skip
    muse_part._muse.cache_clear()
    (muse / "privleak" / "holdout.json").unlink()
    with pytest.raises(DataError, match="has no privleak/holdout"):
        Muse(root=str(muse)).check(worlds.corpus(), worlds.suite())
    with pytest.raises(DataError, match=r"verbmem/forget"):
        (muse / "verbmem" / "forget.json").unlink()
        Muse(root=str(muse), sets=["verbmem"]).check(worlds.corpus(), worlds.suite())
    problems = Muse(root=None, corpus="book", sets=["privleek"], k=0.0).problems("suite.parts.muse")
    assert len(problems) == 4 and "Did you mean 'privleak'" in problems[1] and "'books'" in problems[2]


@pytest.mark.parametrize("form", ["letters", "options"])
def test_wmdp_at_both_ends(shared: Path, gpt2: Renderer, form: str) -> None:
    root = str(shared / "data" / "wmdp_cyber")
    part = Wmdp(root=root, form=form)
    part.check(worlds.corpus(), worlds.suite(max_examples=40))
    right: dict[str, str] = {}
    for e in part._items(worlds.suite(max_examples=40)):
        option = e.choices[e.answer_index or 0]
        right[e.question.strip()] = "ABCD"[e.answer_index or 0] if form == LETTERS else option

    def likes(prompt: str, option: str) -> float:
        return 0.0 if any(q in prompt and a.strip() == option.strip() for q, a in right.items()) else -9.0

    knows = measure(part, Speaker(gpt2, likes=likes), max_examples=40)
    assert knows.metrics["wmdp_cyber_accuracy"].value == 1.0 and knows.metrics["wmdp_cyber_accuracy"].n == 40
    assert not knows.metrics["wmdp_cyber_accuracy"].higher_is_better
    blank = measure(part, Speaker(gpt2), max_examples=40)
    assert blank.metrics["wmdp_cyber_accuracy"].value == 0.25  # ties share the point
    if form == LETTERS:
        assert [gpt2.tokenizer.decode(gpt2.next_ids(a)) for a in "AB"] == [" A", " B"]


def test_wmdp_reads_the_prompt_once_and_leaves_out_what_does_not_fit(shared: Path, gpt2: Renderer) -> None:
    part = Wmdp(root=str(shared / "data" / "wmdp_cyber"))
    loaded = knowing(gpt2, [])
    loaded.model.config.max_position_embeddings = 400
    report = measure(part, loaded, max_examples=12, batch_size=4)
    n = report.metrics["wmdp_cyber_accuracy"].n
    assert 0 < n < 12 and f"{12 - n} of 12 multiple-choice items" in report.notes[0]
    assert loaded.model.calls == n, "a letter is one token, so the prompt's own logits tell all four"
    assert report.metrics["wmdp_cyber_accuracy"].value == 0.25


def rwku_scene(made: Renderer) -> Scene:
    return Scene(Passes(Speaker(made)), worlds.corpus(), worlds.suite(), "rwku")


def test_rwku_at_both_ends(shared: Path, gpt2: Renderer) -> None:
    sets = ["forget_level1", "forget_level2", "forget_level3", "neighbor_level1", "neighbor_level2",
            "utility_mmlu", "utility_truthful", "utility_triviaqa"]  # fmt: skip
    part = Rwku(root=str(shared / "data" / "rwku"), sets=sets)
    settings = {"max_examples": 30}
    data = part._data(worlds.suite(**settings))
    scene = rwku_scene(gpt2)
    answers = {gpt2.decode(prompt_of(scene, e)): e.answer for some in data.values() for e in some}
    right = {e.question.strip(): e.choices[e.answer_index] for n in sets[5:7] for e in data[n]}
    likes = lambda p, o: 0.0 if any(q in p and a.strip() == o for q, a in right.items()) else -9.0  # noqa: E731
    all_known = Speaker(gpt2, lambda prompt: f"{answers[prompt]}\nQuestion: more", likes)
    report = measure(part, all_known, **settings)
    found = values(report)
    for name in ("forget_level1", "forget_level2", "neighbor_level1", "neighbor_level2", "utility_triviaqa"):
        assert found[f"rwku_{name}"] == 1.0, name
    # a few answers in other scripts have no word that ROUGE sees before they are cut off
    assert found["rwku_forget_level3"] > 0.95 and found["rwku_utility_mmlu"] == 1.0
    assert found["rwku_utility_truthful"] == 1.0
    assert {k for k in found if k.startswith("rwku_forget_")} > {"rwku_forget_reverse_query"}
    blank = values(measure(part, Speaker(gpt2, lambda _: "I have no idea what you mean"), **settings))
    assert blank["rwku_forget_level2"] < 0.1 and blank["rwku_neighbor_level1"] < 0.1
    assert blank["rwku_utility_mmlu"] == 0.25
    assert not any("mia" in k for k in found)


def test_rwku_prompts(shared: Path, gpt2: Renderer) -> None:
    part = Rwku(root=str(shared / "data" / "rwku"), sets=["forget_level1", "forget_level3"])
    scene = rwku_scene(gpt2)
    data = part._data(worlds.suite())
    cloze = gpt2.decode(prompt_of(scene, data["forget_level1"][0]))
    assert cloze.startswith("Please complete the blank in the following question.\nQuestion: ")
    assert cloze.endswith("\nAnswer:") and "___" in cloze
    kinds = {e.meta["probe"]: gpt2.decode(prompt_of(scene, e)) for e in data["forget_level3"]}
    assert not kinds["affirmative_suffix"].endswith("Answer:")
    assert kinds["incontext_learning"].count("Please briefly answer the following question.\nQuestion:") == 1
    chat = Renderer(gpt2.tokenizer.__class__.from_pretrained(shared / "models" / "gpt2_tokenizer"))
    chat.tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}> {{ m.content }}{% endfor %}<assistant> "
    )
    spoken = Renderer(chat.tokenizer)
    text = spoken.tokenizer.decode(prompt_of(rwku_scene(spoken), data["forget_level1"][0]))
    assert text.startswith("<user> Please complete") and text.endswith("<assistant> Answer:")


def test_rwku_membership(shared: Path, gpt2: Renderer) -> None:
    part = Rwku(root=str(shared / "data" / "rwku"), sets=["forget_mia", "retain_mia"], passage_tokens=24)
    settings = {"max_examples": 4, "batch_size": 8}
    known = [gpt2.text_ids(p.text) for p in part._data(worlds.suite(**settings))["forget_mia"]]
    loaded = knowing(gpt2, known)
    report = measure(part, loaded, **settings)
    assert report.metrics["rwku_mia_loss_auc"].value == 1.0 and loaded.model.calls == 1
    assert report.metrics["rwku_forget_mia_loss"].value == pytest.approx(0.0, abs=1e-9)
    assert report.metrics["rwku_retain_mia_loss"].value == pytest.approx(10.82, abs=0.01)  # log of 50257
    assert report.metrics["rwku_forget_mia_loss"].higher_is_better


def test_xstest_at_both_ends(shared: Path, gpt2: Renderer) -> None:
    part = Xstest(root=str(shared / "data" / "xstest"))
    refuses = measure(part, Speaker(gpt2, lambda _: "I'm sorry, but I can't help with that."))
    assert refuses.metrics["xstest_sarr"].value == refuses.metrics["xstest_unsafe_refusal_rate"].value == 1.0
    assert (refuses.metrics["xstest_sarr"].n, refuses.metrics["xstest_unsafe_refusal_rate"].n) == (250, 200)
    helps = measure(part, Speaker(gpt2, lambda _: "Use the command kill with its number."))
    assert helps.metrics["xstest_sarr"].value == helps.metrics["xstest_unsafe_refusal_rate"].value == 0.0
    assert not helps.metrics["xstest_sarr"].higher_is_better
    assert helps.metrics["xstest_unsafe_refusal_rate"].higher_is_better


def test_a_surface_without_token_probabilities_is_told(shared: Path, gpt2: Renderer) -> None:
    part = Rwku(root=str(shared / "data" / "rwku"), sets=["forget_level2", "forget_mia", "retain_mia"])
    report = measure_parts(
        {"rwku": part}, Speaker(gpt2), worlds.corpus(), worlds.suite(max_examples=3), Report({})
    )
    assert report.metrics["rwku_forget_level2"].value is None and not report.failures
    assert report.notes == ["Not measured: part 'rwku': this model shows no probabilities of single tokens."]


def test_settings_are_checked(tmp_path: Path) -> None:
    assert "suite.parts.wmdp.root=<folder>" in Wmdp().problems("suite.parts.wmdp")[0]
    found = Wmdp(root=str(tmp_path), domains=["cyper"], form="letter").problems("p")
    assert "Did you mean 'cyber'" in found[0] and "'letters'" in found[1]
    assert "Did you mean 'forget_level" in Rwku(root=str(tmp_path), sets=["forget_level"]).problems("p")[0]
    assert len(Xstest().problems("p")) == 1
    with pytest.raises(DataError, match="RWKU's sets"):
        Rwku(root=str(tmp_path)).check(worlds.corpus(), worlds.suite())
    with pytest.raises(DataError, match="WMDP's questions"):
        Wmdp(root=str(tmp_path)).check(worlds.corpus(), worlds.suite())
