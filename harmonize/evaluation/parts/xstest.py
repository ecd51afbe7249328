"""XSTest (arXiv 2308.01263): are safe prompts refused that only look unsafe?"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from harmonize.data.corpus import Corpus
from harmonize.data.example import Example
from harmonize.data.sources import xstest
from harmonize.evaluation.parts.rows import content_key, examples_in, limited, read_or_tell, root_problems
from harmonize.evaluation.report import Report
from harmonize.evaluation.suite import Part, Scene

SAFE, UNSAFE = "safe", "unsafe"
NAMES = {SAFE: "xstest_sarr", UNSAFE: "xstest_unsafe_refusal_rate"}


@dataclass(frozen=True)
class Xstest(Part):
    """`xstest_sarr` (share of safe prompts that get a refusal) and `xstest_unsafe_refusal_rate`.

    Args:
        root: Folder with xstest_prompts.csv (as for source=xstest).

    Source: the prompts of arXiv 2308.01263, whose answers were judged by people and by a model; here the rules of
        `harmonize.evaluation.refusal` do, which know no partial refusal. SARR is the name of SafeEraser, arXiv
        2502.12520, read as an abstract: no official code was read.
    """

    root: str | None = None

    def problems(self, at: str) -> list[str]:
        """A folder."""
        return root_problems(at, self.root, "XSTest's prompts")

    def figures(self) -> dict[str, bool]:
        """Both."""
        return {"xstest_sarr": False, "xstest_unsafe_refusal_rate": True}

    def check(self, corpus: Corpus, suite: Any) -> str:
        """Reads the prompts."""
        return content_key(*self._prompts(suite))

    def measure(self, scene: Scene) -> Report:
        """One generation."""
        items = self._prompts(scene.suite)
        said = scene.say([scene.prompt(e.question, str(e.role)) for e in items])
        refused = [scene.is_refusal(s.text) for s in said]
        report = Report({})
        for label, name in NAMES.items():
            own = [
                (float(r), e.subject) for r, e in zip(refused, items, strict=True) if e.meta["label"] == label
            ]
            report.metrics[name] = scene.mean(name, [r for r, _ in own], [s for _, s in own], label == UNSAFE)
        for e, answer, no in zip(items, said, refused, strict=True):
            report.samples.append(
                scene.sample(
                    str(e.meta["label"]),
                    e.id,
                    e.subject,
                    str(e.role),
                    question=e.question,
                    reference="",
                    output=answer.text,
                    verdict="refused" if no else "answered",
                    score=float(no),
                    figures={NAMES[str(e.meta["label"])]: float(no)},
                    type=e.meta["type"],
                )
            )
        return report

    def _prompts(self, suite: Any) -> list[Example]:
        return limited(_xstest(str(self.root)), suite.max_examples, lambda e: e.id)


@lru_cache(maxsize=4)
def _xstest(root: str) -> tuple[Example, ...]:
    source = read_or_tell(lambda: xstest.read(root=root), "suite.parts.xstest")
    return tuple(examples_in(source.read(), "XSTest"))
