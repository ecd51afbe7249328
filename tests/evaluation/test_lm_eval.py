"""Tasks of lm-evaluation-harness: our path against its own HFLM and `simple_evaluate`, item by item."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lm_eval
import numpy as np
import pytest
import torch
import transformers as tf

from harmonize.data.example import Example
from harmonize.data.render import Renderer
from harmonize.errors import ConfigError, DataError, HarmonizeError, ModelError
from harmonize.evaluation.choices import judge_choices
from harmonize.evaluation.harness import tasks as harness
from harmonize.evaluation.harness.local import read_docs
from harmonize.evaluation.harness.surface_lm import SurfaceLM, hflm
from harmonize.evaluation.harness.tasks import apart, load
from harmonize.evaluation.paired import MCNEMAR, paired_test
from harmonize.evaluation.pairing import keyed, scores
from harmonize.evaluation.parts import lm_eval as part_module
from harmonize.evaluation.parts.choices import HEADER, LETTERS, Wmdp, choice_scores
from harmonize.evaluation.parts.lm_eval import LmEval
from harmonize.evaluation.report import Report
from harmonize.evaluation.suite import NotMeasured, Passes, Scene, measure_parts
from harmonize.evaluation.surface import ModelSurface
from harmonize.guards.instruction import Instruction
from tests.evaluation import worlds
from tests.evaluation.parts.scenes import measure, write_rows

CLOSE = 1e-4  # nats


@pytest.fixture(scope="module")
def stories(shared: Path) -> SimpleNamespace:
    folder = shared / "models" / "stories260k"
    tokenizer = tf.AutoTokenizer.from_pretrained(folder)
    return SimpleNamespace(
        model=tf.AutoModelForCausalLM.from_pretrained(folder).eval(), renderer=Renderer(tokenizer)
    )


@pytest.fixture(scope="module")
def merging(shared: Path) -> SimpleNamespace:
    """A random model with a tokenizer that merges letters, so that boundaries matter; it reads 64 tokens."""
    tokenizer = tf.AutoTokenizer.from_pretrained(shared / "models" / "gpt2_tokenizer")
    torch.manual_seed(0)
    config = tf.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        initializer_range=0.5,
    )
    return SimpleNamespace(model=tf.LlamaForCausalLM(config).eval(), renderer=Renderer(tokenizer))


@pytest.fixture
def local(shared: Path) -> dict[str, str]:
    data = shared / "data"
    return {"mmlu": str(data / "mmlu"), "wmdp": str(data / "wmdp_cyber"), "arc": str(data / "arc_easy")}


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    part_module._load.cache_clear()
    yield


def both(loaded: Any, batch_size: int = 16) -> tuple[SurfaceLM, Any]:
    with apart():
        theirs = hflm(loaded.model, loaded.renderer.tokenizer, batch_size)
    return SurfaceLM(ModelSurface(loaded), batch_size), theirs


def asked(*arguments: Any) -> list[Any]:
    return [SimpleNamespace(args=a, task_name="") for a in arguments]


def test_it_gives_what_simple_evaluate_gives(
    stories: Any, local: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["mmlu_social_sciences", "wmdp_cyber", "arc_easy"]
    part = LmEval(tasks=names, local=local, limit=12, num_fewshot=1, batch_size=16)
    stories.model.train()
    before = (random.getstate()[1][:3], np.random.get_state()[1][:3].tolist())
    with pytest.raises(DataError, match=r"no rows of split 'train', which arc_easy takes its few-shot"):
        measure(part, stories)
    part = LmEval(tasks=names, local=local, limit=12, batch_size=16)
    report = measure(part, stories)
    assert stories.model.training, "the mode is restored"
    stories.model.eval()
    assert before == (random.getstate()[1][:3], np.random.get_state()[1][:3].tolist())

    loaded = load(names, "p", local=local)
    monkeypatch.setattr(
        "lm_eval.evaluator.add_env_info", lambda _: None
    )  # seconds, and nothing of it is read
    with apart():
        theirs = hflm(stories.model, stories.renderer.tokenizer, 16)
        items = [loaded.groups["mmlu_social_sciences"], loaded.tasks["wmdp_cyber"], loaded.tasks["arc_easy"]]
        found = lm_eval.simple_evaluate(model=theirs, tasks=items, limit=12)
    assert found is not None
    for name, values in found["results"].items():
        for metric in ("acc", "acc_norm"):
            if f"{metric},none" in values:
                ours = report.metrics[f"{name}_{metric}"]
                assert ours.value == values[f"{metric},none"], (name, metric)
                assert ours.stderr == pytest.approx(values[f"{metric}_stderr,none"])
                assert 0 <= ours.ci_low <= ours.value <= ours.ci_high <= 1
    own = {s["example_id"]: s for s in report.samples}
    assert len(own) == sum(len(s) for s in found["samples"].values()) == 36
    for name, samples in found["samples"].items():
        for s in samples:
            mine = own[f"{name}/{s['doc_id']}"]
            lls = [r[0] for r in s["filtered_resps"]]
            assert mine["log_probs"] == pytest.approx(lls, abs=CLOSE + 5e-5)  # samples are rounded
            assert int(np.argmax(mine["log_probs"])) == int(np.argmax(lls))
            assert mine["score"] == s["acc"] == mine["figures"][f"{name}_acc"]
    assert report.metrics["wmdp_cyber_acc"].higher_is_better is False
    assert report.metrics["arc_easy_acc_norm"].higher_is_better is True
    assert report.metrics["mmlu_social_sciences_acc"].n == 12
    assert {s["role"] for s in report.samples} == {"forget", "general"}
    assert any("rows for 1 of its 12 tasks" in n for n in report.notes)


@pytest.mark.parametrize("which", ["stories", "merging"])
def test_requests_are_answered_as_hflm_answers_them(which: str, request: pytest.FixtureRequest) -> None:
    ours, theirs = both(request.getfixturevalue(which), 5)
    long = "Once upon a time there was a cat who liked to sit on the mat. " * 60
    some = asked(
        ("Question: What is warm?\nAnswer:", " the sun"),
        ("Question: What is warm?\nAnswer:", " the sun and the fire"),
        ("Question: What is warm?\nAnswer:", " A"),
        ("Question: What is warm?\nAnswer:", " B"),
        ("He answer", "ed her"),  # merged across the boundary
        ("A space at the end ", "goes over"),
        ("", " no context"),
        (long, " and slept"),
        (long, " and then it went home"),
        ("Short", f" {long[:80]}"),
    )
    with apart():
        expected = theirs.loglikelihood(some)
    found = ours.loglikelihood(some)
    for got, want in zip(found, expected, strict=True):
        assert got[0] == pytest.approx(want[0], abs=CLOSE) and got[1] == want[1]
    assert ours.cut == 2
    with apart():
        whole = asked((long,), ("Once upon a time",))
        rolled = theirs.loglikelihood_rolling(whole)
        written = asked(
            *[(t, {"until": ["\n", "."], "max_gen_toks": 12}) for t in ("Once upon", long, "One day")]
        )
        said = theirs.generate_until(written)
    assert ours.loglikelihood_rolling(whole) == pytest.approx(rolled, rel=1e-5)
    assert ours.generate_until(written) == said


def test_what_cannot_be_asked_is_told(merging: Any) -> None:
    ours, _ = both(merging)
    with pytest.raises(DataError, match="merges 'ness' into the text before it"):
        ours.loglikelihood(asked(("happi", "ness")))
    with pytest.raises(DataError, match="model reads at most 64"):
        ours.loglikelihood(asked(("a", " word" * 65)))
    with pytest.raises(DataError, match="up to 64 new tokens"):
        ours.generate_until(asked(("a", {"max_gen_toks": 64})))
    with pytest.raises(NotMeasured, match="samples its answers"):
        ours.generate_until(asked(("a", {"do_sample": True, "temperature": 1.0})))
    with pytest.raises(NotMeasured, match="no probabilities"):
        SurfaceLM(SimpleNamespace(renderer=merging.renderer), 4).loglikelihood(asked(("a", " b")))


def test_a_question_is_read_once_for_all_its_options(stories: Any) -> None:
    ours, _ = both(stories)
    read: list[int] = []
    hook = stories.model.register_forward_pre_hook(
        lambda _m, _a, kw: read.append(kw["input_ids"].numel()), with_kwargs=True
    )
    question = "Once upon a time there was a little girl who went out to the park to play"
    ours.loglikelihood(asked(*[(question, f" with {w}") for w in ("Tom", "Sam", "her cat", "a ball")]))
    hook.remove()
    n = len(ours.tok_encode(question))
    assert read[0] == n and sum(read) < 2 * n


def test_wmdp_is_asked_and_scored_as_in_lm_eval(stories: Any, local: dict[str, str]) -> None:
    loaded = load(["wmdp_cyber"], "p", local={"wmdp": local["wmdp"]})
    suite = worlds.suite(batch_size=16)
    items = Wmdp(root=local["wmdp"])._items(worlds.suite(max_examples=None))[:40]
    scene = Scene(Passes(ModelSurface(stories)), worlds.corpus(), suite, "wmdp")
    headers = {e.id: HEADER.format(topic="cybersecurity") for e in items}
    mine = choice_scores(scene, items, LETTERS, headers)
    task = loaded.tasks["wmdp_cyber"]
    with apart():
        task.build_all_requests(limit=40)
        answers = SurfaceLM(ModelSurface(stories), 16).loglikelihood(task.instances)
    number = {e.id: i for i, e in enumerate(items)}
    assert 0 < len(mine.samples) <= 40
    for s in mine.samples:
        i = number[s["example_id"]]
        e = items[i]
        assert e.question.strip() in task.instances[4 * i].args[0]
        theirs = [a[0] for a in answers[4 * i : 4 * i + 4]]
        assert s["log_probs"] == pytest.approx(theirs, abs=CLOSE + 5e-5)
        assert s["output"] == e.choices[int(np.argmax(theirs))]


def test_the_utility_axis_asks_as_arc_does(stories: Any, local: dict[str, str]) -> None:
    loaded = load(["arc_easy"], "p", local={"arc": local["arc"]})
    task = loaded.tasks["arc_easy"]
    with apart():
        task.build_all_requests(limit=10)
    docs = [task.eval_docs[i] for i in range(10)]
    items = [
        Example(
            id=str(i),
            role="general",
            subject=str(i),
            question=d["question"],
            answer=d["choices"]["text"][0],
            choices=tuple(d["choices"]["text"]),
            answer_index=d["choices"]["label"].index(d["answerKey"]),
        )
        for i, d in enumerate(docs)
    ]
    records = judge_choices(ModelSurface(stories), items, 16)
    answers = iter(SurfaceLM(ModelSurface(stories), 16).loglikelihood(task.instances))
    for record, doc in zip(records, docs, strict=True):
        lls = [next(answers) for _ in doc["choices"]["text"]]
        assert record.details["log_probs"] == pytest.approx([v for v, _ in lls], abs=CLOSE + 5e-5)
        result = task.process_results(doc, lls)
        assert (record.score, record.details["score_norm"]) == (result["acc"], result["acc_norm"])


def mmlu_folder(folder: Path, rows: int = 3) -> Path:
    for split, n in (("test", rows), ("dev", 2)):
        lines = [f'"{split} {i} is?",one{i},two,three,"four, or more",{"ABCD"[i % 4]}' for i in range(n)]
        path = folder / split / f"us_foreign_policy_{split}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n")
    return folder


def test_prompts_are_those_of_the_harness(tmp_path: Path) -> None:
    folder = str(mmlu_folder(tmp_path))
    loaded = load(["mmlu_us_foreign_policy"], "p", local={"mmlu": folder}, num_fewshot=1)
    task = loaded.tasks["mmlu_us_foreign_policy"]
    with apart():
        task.build_all_requests()
    listed = "\nA. one{0}\nB. two\nC. three\nD. four, or more\nAnswer:"
    assert task.instances[4].args == (
        "The following are multiple choice questions (with answers) about us foreign policy.\n\n"
        f"dev 0 is?{listed.format(0)} A\n\ntest 1 is?{listed.format(1)}",
        " A",
    )
    assert [task.doc_to_target(d) for d in task.eval_docs] == [0, 1, 2]
    one = load(["mmlu_us_foreign_policy"], "p", local={"mmlu": folder}).digest(None)
    assert one == load(["mmlu_us_foreign_policy"], "p", local={"mmlu": folder}).digest(None)
    others = {loaded.digest(None), load(["mmlu_us_foreign_policy"], "p", local={"mmlu": folder}).digest(2)}
    assert len({one, *others}) == 3


def test_files_with_the_columns_of_the_hub(tmp_path: Path, stories: Any) -> None:
    rows = [
        {
            "activity_label": "Cooking",
            "ctx_a": f"A man has {n} eggs.",
            "ctx_b": "he",
            "ctx": "",
            "endings": ["eats [title] them.", "sings to the wall for a very long time."],
            "label": "0",
        }
        for n in (2, 3)
    ]
    file = write_rows(tmp_path / "hella.jsonl", rows)
    part = LmEval(tasks=["hellaswag"], local={"hellaswag": str(file)}, batch_size=4)
    report = measure(part, stories, name="lm_eval")
    assert report.metrics["hellaswag_acc_norm"].n == 2
    assert report.samples[0]["question"] == "Cooking: A man has 2 eggs. He"
    assert (
        report.samples[0]["attack"] == "lm_eval/hellaswag" and report.samples[0]["reference"] == "eats. them."
    )
    # two runs pair, item by item, and their figures follow from the samples
    left = keyed(report.samples)
    one = scores("hellaswag_acc", left)
    assert one is not None and sum(v for v, _ in one.values()) / 2 == report.metrics["hellaswag_acc"].value
    values = [v for v, _ in one.values()]
    assert paired_test(values, values, ["a", "b"]).test == MCNEMAR
    write_rows(file, [{"ctx_a": "x", "endings": ["a", "b"], "label": "0"}])
    part_module._load.cache_clear()
    with pytest.raises(
        DataError, match=r"rows are not as hellaswag needs them .*They have: ctx_a, endings, label"
    ):
        part.check(worlds.corpus(), worlds.suite())


def test_tasks_of_your_own(tmp_path: Path, stories: Any) -> None:
    data = write_rows(tmp_path / "rows.jsonl", [{"q": "Two and two?", "o": ["four", "five"], "a": 0}])
    yaml = tmp_path / "mine" / "sums.yaml"
    yaml.parent.mkdir()
    text = (
        f"task: sums\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {data}}}}}\ntest_split: test\n"
        "output_type: multiple_choice\ndoc_to_text: '{{q}}'\ndoc_to_choice: o\ndoc_to_target: a\n"
    )
    yaml.write_text(text)
    report = measure(LmEval(tasks=["sums"], include=str(yaml.parent)), stories)
    assert report.metrics["sums_acc"].n == 1 and report.samples[0]["question"] == "Two and two?"
    yaml.write_text(text + "process_docs: !function utils.docs\n")
    part_module._load.cache_clear()
    with pytest.raises(ConfigError, match="calls Python code of its folder"):
        measure(LmEval(tasks=["sums"], include=str(yaml.parent)), stories)


def test_guards_stand_around_it_and_hflm_refuses_them(stories: Any, tmp_path: Path) -> None:
    local = {"mmlu": str(mmlu_folder(tmp_path))}
    settings: dict[str, Any] = {"tasks": ["mmlu_us_foreign_policy"], "local": local, "batch_size": 8}
    guarded = Instruction.opened({"text": "Be brief."}, stories, {}, None)
    seen = measure(LmEval(**settings), guarded).samples
    plain = measure(LmEval(**settings), stories).samples
    told = measure(LmEval(**settings, forget=["mmlu*"]), stories, instruction="Be brief.").samples
    for a, b, c in zip(seen, plain, told, strict=True):
        assert a["log_probs"] != b["log_probs"]
        assert a["log_probs"] == pytest.approx(c["log_probs"], abs=1e-3), "as an instructed teacher reads it"
    corpus, suite = worlds.corpus(), worlds.suite()
    report = measure_parts({"e": LmEval(**settings, backend="hflm")}, guarded, corpus, suite, Report({}))
    assert report.metrics["mmlu_us_foreign_policy_acc"].value is None and not report.failures
    assert "without its guard" in report.notes[0]
    stories.model.train()
    slow = measure(LmEval(**settings, backend="hflm"), stories).samples
    assert stories.model.training
    stories.model.eval()
    assert [s["output"] for s in slow] == [s["output"] for s in plain]


def test_chat_template(merging: Any, tmp_path: Path) -> None:
    local = {"mmlu": str(mmlu_folder(tmp_path))}
    part = LmEval(tasks=["mmlu_us_foreign_policy"], local=local, apply_chat_template=True, num_fewshot=1)
    with pytest.raises(ModelError, match="apply_chat_template=false"):
        measure(part, merging)
    tokenizer = type(merging.renderer.tokenizer).from_pretrained(merging.renderer.tokenizer.name_or_path)
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}"
        "<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    lm = SurfaceLM(ModelSurface(SimpleNamespace(model=merging.model, renderer=Renderer(tokenizer))), 4)
    turns = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    assert lm.apply_chat_template(turns) == "<user>u<assistant>"
    loaded = SimpleNamespace(model=merging.model, renderer=Renderer(tokenizer))
    report = measure(part, loaded)
    assert report.metrics["mmlu_us_foreign_policy_acc"].n == 3 and "lost their beginning" in report.notes[-1]


def test_settings_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = LmEval(local={"mmlu": "nowhere"}, limit=0, num_fewshot=-1, backend="hf").problems("p")
    assert [f.partition(":")[0] for f in found] == [
        "p.tasks", "p.local.mmlu=nowhere", "p.num_fewshot=-1", "p.limit=0", "p.backend=hf",
    ]  # fmt: skip
    folder = str(mmlu_folder(tmp_path))
    with pytest.raises(DataError, match="there are no rows for 'mmlu_virology'"):
        load(["mmlu_virology"], "p", local={"mmlu": folder})
    with pytest.raises(ConfigError, match=r"p.local.arc belongs to none of the tasks"):
        load(["mmlu_us_foreign_policy"], "p", local={"mmlu": folder, "arc": folder})
    with pytest.raises(
        ConfigError, match=r"none for 'mmlu_econometrics'\. Name them: \+\+p\.local\.mmlu_econometrics="
    ):
        load(["mmlu_social_sciences"], "p", local={"mmlu_sociology": folder})
    by_group = load(["mmlu_social_sciences"], "p", local={"mmlu_social_sciences": folder})
    assert list(by_group.tasks) == ["mmlu_us_foreign_policy"] and "1 of its 12 tasks" in by_group.notes[0]
    by_tag = load(["mmlu_social_sciences_tasks"], "p", local={"mmlu": folder})
    assert list(by_tag.tasks) == ["mmlu_us_foreign_policy"] and not by_tag.groups
    arc = {"dataset_path": "allenai/ai2_arc", "dataset_name": "ARC-Challenge"}
    assert read_docs(arc, folder) == {}
    with pytest.raises(ConfigError, match="named twice"):
        load(["mmlu_us_foreign_policy", "mmlu_social_sciences"], "p", local={"mmlu": folder})
    root = Path(lm_eval.__file__).parent / "tasks" / "arc"
    small = harness.TaskManager(include_defaults=False, include_path=[str(root)])
    monkeypatch.setattr(harness, "_everything", lambda extra: small)
    with pytest.raises(ConfigError, match=r"no task 'arc_esy'\. Did you mean 'arc_easy'"):
        load(["arc_esy"], "p", local={})

    def unreachable(**_: Any) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr("datasets.load_dataset", unreachable)
    with pytest.raises(
        DataError,
        match=r"allenai/ai2_arc of the hub.*no route to host.*\+\+p\.local\.arc_easy=<folder or file>",
    ):
        load(["arc_easy"], "p", local={})
    monkeypatch.setattr(part_module, "installed", lambda: False)
    assert "pip install 'harmonize[lm-eval]'" in LmEval(tasks=["mmlu"]).problems("p")[0]
    with pytest.raises(HarmonizeError, match=r"harmonize\[lm-eval\]"):
        LmEval(tasks=["mmlu"]).check(worlds.corpus(), worlds.suite())


def test_a_figure_of_a_text_that_is_generated(tmp_path: Path, stories: Any) -> None:
    data = write_rows(
        tmp_path / "rows.jsonl", [{"q": "Once upon a", "a": "time"}, {"q": "One day, a", "a": "x"}]
    )
    yaml = tmp_path / "mine" / "say.yaml"
    yaml.parent.mkdir()
    yaml.write_text(
        json.dumps(
            {
                "task": "say",
                "dataset_path": "json",
                "dataset_kwargs": {"data_files": {"test": str(data)}},
                "test_split": "test",
                "output_type": "generate_until",
                "doc_to_text": "{{q}}",
                "doc_to_target": "{{a}}",
                "generation_kwargs": {"until": [",", "."], "max_gen_toks": 4},
                "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
            }
        )
    )
    report = measure(LmEval(tasks=["say"], include=str(yaml.parent)), stories)
    said = {s["question"]: s for s in report.samples}
    assert (
        said["Once upon a"]["output"].strip().startswith("time") and report.metrics["say_exact_match"].n == 2
    )
    assert all(s["verdict"] in ("correct", "wrong") for s in report.samples)
