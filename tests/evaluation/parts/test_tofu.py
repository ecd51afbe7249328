"""TOFU's figures at both known ends, the record of a retain model, and its files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harmonize.errors import DataError
from harmonize.evaluation.parts.tofu import Tofu, read_sets
from tests.evaluation import oracle
from tests.evaluation.parts.scenes import measure, renderer, values, write_rows

COLOURS = ("red", "blue", "green", "black", "white", "amber")


def rows(name: str, count: int, paraphrased: bool = True):
    for i in range(count):
        yield {
            "question": f"Which hat has {name}{i} ?",
            "answer": f"{name}{i} has a {COLOURS[i % 3]} hat",
            **(
                {"paraphrased_answer": f"a {COLOURS[i % 3]} hat is what {name}{i} has"} if paraphrased else {}
            ),
            "perturbed_answer": [f"a {c} hat is what {name}{i} has" for c in COLOURS[3:]],
        }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    read_sets.cache_clear()
    for stem, count in (("forget01", 40), ("retain", 60), ("real_authors", 12), ("world_facts", 12)):
        write_rows(
            tmp_path / f"{stem}_perturbed.json",
            list(rows(stem.replace("_", ""), count, stem in ("forget01", "retain"))),
        )
    return tmp_path


def texts(folder: Path) -> list[str]:
    return [
        t
        for some in read_sets(str(folder), "forget01").values()
        for i in some
        for t in (i.question, i.answer, i.paraphrase, *i.wrong)
    ]


def answering(folder: Path, *sets: str):
    """A model that knows the answers of these sets, in both wordings."""
    made = renderer(texts(folder))
    found = read_sets(str(folder), "forget01")
    told = [
        (made.prompt_ids(i.question), text)
        for name in sets
        for i in found[name]
        for text in dict.fromkeys((i.answer, i.paraphrase))
    ]
    return oracle.loaded(made, told)


ALL = ("forget", "retain", "real_authors", "world_facts")


def test_a_model_that_memorised_everything_scores_one(folder: Path) -> None:
    part = Tofu(root=str(folder))
    found = values(measure(part, answering(folder, *ALL)))
    for name in ALL:
        assert found[f"tofu_{name}_rouge_l_recall"] == 1.0
        assert found[f"tofu_{name}_probability"] == pytest.approx(1.0, abs=1e-4)
    for name in ALL[1:]:
        # the first words of the paraphrase are the same as those of the wrong answers, the rest is certain
        assert found[f"tofu_{name}_truth_ratio"] > 0.999
    assert found["tofu_forget_truth_ratio"] < 1e-3
    assert found["tofu_forget_extraction_strength"] == 1.0
    assert found["tofu_model_utility"] > 0.999
    assert found["tofu_forget_quality_log10"] is None


def test_a_model_that_knows_nothing_is_at_chance(folder: Path) -> None:
    blank = answering(folder)
    chance = 1 / len(blank.renderer.tokenizer)
    report = measure(Tofu(root=str(folder)), blank)
    found = values(report)
    for name in ("forget", "retain"):
        assert found[f"tofu_{name}_probability"] == pytest.approx(chance)
        assert found[f"tofu_{name}_rouge_l_recall"] == 0.0
    assert found["tofu_real_authors_probability"] == pytest.approx(0.25)  # one of four
    assert found["tofu_forget_truth_ratio"] == pytest.approx(1.0)
    assert found["tofu_retain_truth_ratio"] == pytest.approx(0.0, abs=1e-9)
    assert found["tofu_model_utility"] == 0.0
    assert found["tofu_forget_extraction_strength"] == 0.0
    assert any("suite.reference=<run folder>" in n for n in report.notes)


def test_forget_quality_tells_who_saw_the_forget_set(folder: Path) -> None:
    part = Tofu(root=str(folder))
    gold = measure(part, answering(folder, *ALL[1:]))
    kept = gold.rows["part"]
    again = measure(part, answering(folder, *ALL[1:]), reference=kept)
    assert values(again)["tofu_forget_quality_log10"] == 0.0 and values(again)["tofu_forget_ks"] == 0.0
    target = measure(part, answering(folder, *ALL), reference=kept)
    assert values(target)["tofu_forget_ks"] == 1.0
    metric = target.metrics["tofu_forget_quality_log10"]
    assert metric.value < -20 and metric.n == 40 and metric.higher_is_better


def test_figures_are_hand_worked(tmp_path: Path) -> None:
    """One certain question a set: everything can be written down."""
    read_sets.cache_clear()
    for stem in ("forget01", "retain", "real_authors", "world_facts"):
        write_rows(
            tmp_path / f"{stem}_perturbed.json",
            [{"question": f"Who is {stem} ?", "answer": "red hat", "perturbed_answer": ["red cap", "blue"]}],
        )
    made = renderer(texts(tmp_path))
    known = [(made.prompt_ids(f"Who is {s} ?"), "red hat") for s in ("forget01", "retain", "world_facts")]
    found = values(measure(Tofu(root=str(tmp_path)), oracle.loaded(made, known)))
    # P(red hat) = 1, (P(red) P(cap))^(1/2) and P(blue) are nothing; real_authors is not known: all alike
    assert found["tofu_world_facts_probability"] == pytest.approx(1.0)
    assert found["tofu_real_authors_probability"] == pytest.approx(1 / 3)
    assert found["tofu_retain_truth_ratio"] == pytest.approx(1.0)
    assert found["tofu_real_authors_truth_ratio"] == pytest.approx(0.0, abs=1e-9)


def test_prompts_are_read_once(folder: Path) -> None:
    loaded = answering(folder, *ALL)
    measure(Tofu(root=str(folder)), loaded, batch_size=8, max_new_tokens=1)
    sets = read_sets(str(folder), "forget01")
    ids = loaded.renderer
    prompts = sum(len(ids.prompt_ids(i.question)) for some in sets.values() for i in some)
    answers = sum(
        len(ids.answer_ids(t)) - 1
        for some in sets.values()
        for i in some
        for t in dict.fromkeys((i.answer, i.paraphrase, *i.wrong))
    )
    # once to generate one token, once for all answers of a question
    assert loaded.model.tokens == 2 * prompts + answers


def test_an_instruction_reaches_forget_questions_alone(folder: Path) -> None:
    loaded = answering(folder, *ALL)
    found = values(measure(Tofu(root=str(folder)), loaded, instruction="a"))
    assert found["tofu_forget_rouge_l_recall"] == 0.0 and found["tofu_retain_rouge_l_recall"] == 1.0


def test_rows_can_be_capped_and_are_of_the_benchmark(folder: Path, shared: Path) -> None:
    report = measure(Tofu(root=str(folder)), answering(folder, *ALL), max_examples=5)
    assert report.metrics["tofu_forget_probability"].n == 5
    read_sets.cache_clear()
    real = read_sets(str(shared / "data" / "tofu"), "forget10")
    assert {k: len(v) for k, v in real.items()} == {
        "forget": 400, "retain": 400, "real_authors": 100, "world_facts": 117,
    }  # fmt: skip
    assert all(len(i.wrong) >= 3 and i.paraphrase for some in real.values() for i in some)
    assert len({i.subject for i in real["forget"]}) == 20


def test_what_is_wrong_with_files_is_told(folder: Path) -> None:
    file = folder / "retain_perturbed.json"
    file.write_text(json.dumps({"question": "a", "answer": " ", "perturbed_answer": ["b"]}) + "\n")
    with pytest.raises(DataError, match=r"retain_perturbed.json, line 1, field 'answer'"):
        read_sets(str(folder), "forget01")
    file.write_text(json.dumps({"question": "a", "answer": "b", "perturbed_answer": []}) + "\n")
    with pytest.raises(DataError, match="'perturbed_answer': expected a list of wrong answers"):
        read_sets(str(folder), "forget01")
    file.unlink()
    with pytest.raises(DataError, match=r"has no retain_perturbed \(.json\): TOFU's perturbed questions"):
        read_sets(str(folder), "forget01")


def test_settings_are_checked(tmp_path: Path) -> None:
    found = Tofu(root=None, forget_set="forget1", truth_ratio_mean="mean").problems("suite.parts.tofu")
    assert len(found) == 3 and "Type suite.parts.tofu.root=<folder>" in found[0]
    assert "forget01" in found[1] and "geometric" in found[2]
    assert not Tofu(root=str(tmp_path)).problems("x")
    assert "no such folder" in Tofu(root=str(tmp_path / "no")).problems("x")[0]
