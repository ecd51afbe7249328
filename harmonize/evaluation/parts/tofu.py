"""TOFU (arXiv 2401.06121): probability, ROUGE-L recall and truth ratio of four sets, forget quality, model utility."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from harmonize.data.corpus import Corpus
from harmonize.data.jsonl import read_rows
from harmonize.data.sources.files import missing
from harmonize.data.tofu import RETAIN_OF
from harmonize.errors import DataError, did_you_mean
from harmonize.evaluation.intervals import cluster_means, percentiles
from harmonize.evaluation.parts.rows import content_key, limited, root_problems
from harmonize.evaluation.report import Report
from harmonize.evaluation.scores.memorization import extraction_strength, mean_log_prob, probability
from harmonize.evaluation.scores.tofu import (
    GEOMETRIC,
    MEANS,
    closeness_to_one,
    forget_quality,
    model_utility,
    model_utility_draws,
    option_probability,
    preference_for_truth,
    truth_ratio,
)
from harmonize.evaluation.suite import Part, Scene
from harmonize.evaluation.text import rouge_l_recall
from harmonize.tracking.metric import Metric

if TYPE_CHECKING:
    import numpy as np

FORGET, RETAIN, AUTHORS, FACTS = "forget", "retain", "real_authors", "world_facts"
UTILITY_SETS = (RETAIN, AUTHORS, FACTS)
# The two sets of real knowledge have no paraphrase, and their probability is among the options.
OPTION_SETS = (AUTHORS, FACTS)
_FIGURES = ("probability", "rouge_l_recall", "truth_ratio")
_AUTHOR_ROWS = 20


@dataclass(frozen=True)
class Item:
    """A question with its answer, the answer in other words, and wrong answers of the same form."""

    id: str
    question: str
    answer: str
    paraphrase: str
    wrong: tuple[str, ...]
    subject: str


@dataclass(frozen=True)
class Tofu(Part):
    """All figures of the TOFU paper, on the benchmark's own perturbed files.

    `tofu_<set>_probability`, `_rouge_l_recall`, `_truth_ratio` for forget, retain, real_authors and world_facts;
    `tofu_forget_extraction_strength`; `tofu_model_utility`; and with a reference `tofu_forget_quality_log10` and
    `tofu_forget_ks`.

    Args:
        root: Folder with forgetNN_perturbed.json, retain_perturbed.json, real_authors_perturbed.json and
            world_facts_perturbed.json.
        forget_set: forget01, forget05 or forget10.
        truth_ratio_mean: geometric (the authors' code, as it aggregates) or arithmetic (equation 1 of the paper), over
            wrong answers.
        max_new_tokens: Of a greedy answer; null takes the suite's.

    Source: arXiv 2401.06121 and its authors' code. Left out here: the end of turn as a token of an answer (counted
        there). Intervals are ours, clustered by author (20 rows each).
    """

    compares: ClassVar[bool] = True

    root: str | None = None
    forget_set: str = "forget01"
    truth_ratio_mean: str = GEOMETRIC
    max_new_tokens: int | None = None

    def problems(self, at: str) -> list[str]:
        """A folder, and words that are known."""
        found = root_problems(
            at, self.root, "TOFU's perturbed files", ", or dataset=tofu dataset.root=<folder>"
        )
        if self.forget_set not in RETAIN_OF:
            found.append(
                f"{at}.forget_set={self.forget_set}: {did_you_mean(self.forget_set, RETAIN_OF)} "
                f"For example {at}.forget_set=forget01."
            )
        if self.truth_ratio_mean not in MEANS:
            found.append(
                f"{at}.truth_ratio_mean={self.truth_ratio_mean}: {did_you_mean(self.truth_ratio_mean, MEANS)} "
                f"For example {at}.truth_ratio_mean={GEOMETRIC}."
            )
        return found

    def figures(self) -> dict[str, bool]:
        """The two that summarise the others."""
        return {"tofu_forget_quality_log10": True, "tofu_model_utility": True}

    def check(self, corpus: Corpus, suite: Any) -> str:
        """Reads the four files."""
        return content_key(
            self.truth_ratio_mean, *(vars(i) for items in self._sets(suite).values() for i in items)
        )

    def measure(self, scene: Scene) -> Report:
        """One generation and one pass over all sets."""
        sets = self._sets(scene.suite)
        items = [(name, item) for name, some in sets.items() for item in some]
        prompts = [scene.prompt(i.question, FORGET if name == FORGET else RETAIN) for name, i in items]
        said = scene.say(prompts, self.max_new_tokens)
        targets = [
            [scene.target(t, f"TOFU row '{i.id}'") for t in dict.fromkeys((i.answer, i.paraphrase, *i.wrong))]
            for _, i in items
        ]
        passed = scene.shared([(p, t) for p, t in zip(prompts, targets, strict=True)])
        report = Report({})
        figures: dict[tuple[str, str], list[float]] = {}
        ratios: dict[str, float] = {}
        for (name, item), answer, rows in zip(items, said, passed, strict=True):
            texts = dict.fromkeys((item.answer, item.paraphrase, *item.wrong))
            by_text = dict(zip(texts, rows, strict=True))
            wrong = [mean_log_prob(by_text[w]) for w in item.wrong]
            own = by_text[item.answer]
            ratio = truth_ratio(mean_log_prob(by_text[item.paraphrase]), wrong, self.truth_ratio_mean)
            found = {
                "probability": option_probability(mean_log_prob(own), wrong)
                if name in OPTION_SETS
                else probability(own),
                "rouge_l_recall": rouge_l_recall(answer.text, item.answer),
                "truth_ratio": closeness_to_one(ratio) if name == FORGET else preference_for_truth(ratio),
                "extraction_strength": extraction_strength(own),
            }
            if name == FORGET:
                ratios[item.id] = ratio
            for figure, value in found.items():
                figures.setdefault((name, figure), []).append(value)
            report.samples.append(
                scene.sample(
                    name,
                    item.id,
                    item.subject,
                    FORGET if name == FORGET else "general" if name in OPTION_SETS else RETAIN,
                    question=item.question,
                    reference=item.answer,
                    output=answer.text,
                    verdict=scene.verdict(answer.text, found["rouge_l_recall"]),
                    score=found["rouge_l_recall"],
                    raw_truth_ratio=min(ratio, 1e300),
                    figures={
                        f"tofu_{name}_{f}": v for f, v in found.items() if f in _FIGURES or name == FORGET
                    },
                    **found,
                )
            )
        subjects = {name: [i.subject for i in some] for name, some in sets.items()}
        for (name, figure), values in figures.items():
            if figure in _FIGURES or name == FORGET:
                # of the forget set only the truth ratio is better when it is high: true and wrong are alike then
                up = name != FORGET or figure == "truth_ratio"
                key = f"tofu_{name}_{figure}"
                report.metrics[key] = scene.mean(key, values, subjects[name], up)
        report.metrics["tofu_model_utility"] = _utility(scene, figures, subjects)
        report.rows = {scene.part: {"truth_ratio": {k: min(v, 1e300) for k, v in ratios.items()}}}
        _quality(scene, report, list(ratios.values()))
        return report

    def _sets(self, suite: Any) -> dict[str, list[Item]]:
        found = read_sets(str(self.root), self.forget_set)
        return {name: limited(items, suite.max_examples, lambda i: i.id) for name, items in found.items()}


def _utility(
    scene: Scene, figures: Mapping[tuple[str, str], Sequence[float]], subjects: Mapping[str, Sequence[str]]
) -> Metric:
    nine = [(name, figure) for name in UTILITY_SETS for figure in _FIGURES]
    means = [sum(figures[k]) / len(figures[k]) for k in nine]
    draws: list[np.ndarray] = []
    for name, figure in nine:
        # one key a set: its three figures are drawn over the same rows
        drawn = cluster_means(
            figures[name, figure],
            subjects[name],
            resamples=scene.suite.bootstrap,
            key=("tofu", name, scene.seed),
        )
        if drawn is None:
            break
        draws.append(drawn)
    low, high = (
        percentiles(model_utility_draws(draws), scene.suite.confidence)
        if len(draws) == len(nine)
        else (None, None)
    )
    count = sum(len(figures[name, "probability"]) for name in UTILITY_SETS)
    return Metric(model_utility(means), count, low, high, True)


def _quality(scene: Scene, report: Report, ratios: list[float]) -> None:
    n = len(ratios)
    if scene.reference is None:
        report.metrics["tofu_forget_quality_log10"] = Metric(None, n, None, None, True)
        report.metrics["tofu_forget_ks"] = Metric(None, n, None, None, False)
        report.notes.append(
            "Not measured: tofu_forget_quality_log10: it needs a model that never saw the forget set. Give its record "
            "(suite.reference=<run folder>) or the model (model.gold=<folder>)."
        )
        return
    found = forget_quality(ratios, list(scene.reference["truth_ratio"].values()))
    report.metrics["tofu_forget_quality_log10"] = Metric(found.log10_p, n, None, None, True)
    report.metrics["tofu_forget_ks"] = Metric(found.statistic, n, None, None, False)


@lru_cache(maxsize=4)
def read_sets(root: str, forget_set: str) -> dict[str, list[Item]]:
    """The four sets.

    Raises:
        DataError: A file that is missing, or a row without its fields or with an empty answer.
    """
    folder = Path(root).expanduser()
    return {
        name: _read(folder / f"{stem}_perturbed.json", name)
        for name, stem in (
            (FORGET, forget_set),
            (RETAIN, "retain"),
            (AUTHORS, "real_authors"),
            (FACTS, "world_facts"),
        )
    }


def _read(file: Path, name: str) -> list[Item]:
    if not file.is_file():
        raise DataError(missing(file.parent, [file.stem], "TOFU's perturbed questions", (file.suffix,)))
    items = []
    for number, (line, row) in enumerate(read_rows(file)):
        fields = [row.get("question"), row.get("answer"), row.get("paraphrased_answer") or row.get("answer")]
        wrong = row.get("perturbed_answer")
        for field, value in zip(("question", "answer", "paraphrased_answer"), fields, strict=True):
            if not isinstance(value, str) or not value.strip():
                raise DataError(f"{file}, line {line}, field '{field}': expected text, found {value!r}")
        if (
            not isinstance(wrong, list)
            or not wrong
            or not all(isinstance(w, str) and w.strip() for w in wrong)
        ):
            raise DataError(
                f"{file}, line {line}, field 'perturbed_answer': expected a list of wrong answers"
            )
        question, answer, paraphrase = map(str, fields)
        identity = f"{name}-{number:04d}"
        subject = identity if name in OPTION_SETS else f"{name}-author-{number // _AUTHOR_ROWS:03d}"
        items.append(Item(identity, question, answer, paraphrase, tuple(wrong), subject))
    return items
