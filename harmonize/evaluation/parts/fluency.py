"""Is what the model said still language? Reads the answers that the five axes collected, at no further cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from harmonize.data.corpus import Corpus
from harmonize.evaluation.records import NO_ATTACK
from harmonize.evaluation.report import Report
from harmonize.evaluation.scores.fluency import is_gibberish, ngram_entropy, repetition
from harmonize.evaluation.suite import NotMeasured, Part, Scene


@dataclass(frozen=True)
class Fluency(Part):
    """`<role>_ngram_entropy`, `<role>_repetition` and `<role>_gibberish_share` of the plain answers.

    Args:
        roles: Whose questions.

    Source: `harmonize.evaluation.scores.fluency`.
    """

    roles: Sequence[str] = ("forget", "neighbor", "retain")

    def figures(self) -> dict[str, bool]:
        """One of each role."""
        return {f"{role}_gibberish_share": False for role in self.roles}

    def check(self, corpus: Corpus, suite: Any) -> str:
        """It has no rows of its own."""
        return corpus.digest

    def measure(self, scene: Scene) -> Report:
        """Means over questions, clustered by subject."""
        report = Report({})
        for role in self.roles:
            said = [
                s for s in scene.samples if s["attack"] == NO_ATTACK and s["role"] == role and "output" in s
            ]
            if not said:
                raise NotMeasured(
                    f"the axis '{role}' collected no answers; it reads those of suite.axes, which must name it"
                )
            texts, subjects = [str(s["output"]) for s in said], [str(s["subject"]) for s in said]
            for name, values, up in (
                ("ngram_entropy", [ngram_entropy(t) for t in texts], True),
                ("repetition", [repetition(t) for t in texts], False),
                ("gibberish_share", [float(is_gibberish(t)) for t in texts], False),
            ):
                key = f"{role}_{name}"
                report.metrics[key] = scene.mean(key, values, subjects, up, share=name != "ngram_entropy")
        return report
