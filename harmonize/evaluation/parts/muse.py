"""MUSE (arXiv 2407.06460): verbatim memorisation, knowledge memorisation, privacy leakage, utility."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

from harmonize.data.corpus import Corpus
from harmonize.data.example import Example
from harmonize.data.records import Passage
from harmonize.data.sources import muse
from harmonize.errors import DataError, did_you_mean
from harmonize.evaluation.parts.membership import MIN_K, NO_LEAK, Text, compare_sets, share_problems
from harmonize.evaluation.parts.rows import (
    content_key,
    examples_in,
    limited,
    passages_in,
    read_or_tell,
    root_problems,
    sets_of,
)
from harmonize.evaluation.report import Report
from harmonize.evaluation.suite import Ids, Part, Scene
from harmonize.evaluation.text import rouge_l_f, rouge_l_recall
from harmonize.tracking.direction import Better

VERBMEM, KNOWMEM, PRIVLEAK = "verbmem", "knowmem", "privleak"
_FIGURES: dict[str, dict[str, Better]] = {
    VERBMEM: {"muse_verbmem_f": False},
    KNOWMEM: {"muse_knowmem_f": False, "muse_knowmem_r": True},
    PRIVLEAK: {"muse_privleak": NO_LEAK},
}
SETS = tuple(_FIGURES)
# A greedy continuation goes on with the next question of its own making.
STOPS = ("\n\n", "\nQuestion", "Question:")


@dataclass(frozen=True)
class Muse(Part):
    """`muse_verbmem_f`, `muse_knowmem_f`, `muse_knowmem_r` (utility) and `muse_privleak`.

    ROUGE-L F-measure of greedy continuations in [0, 1] (MUSE prints percent), without stemming, recall beside it
    (`*_recall`). KnowMem shows the few-shot examples of knowmem_icl where they are there. PrivLeak is min-k at `k` on
    the passages of the privleak set; it needs the record of a retrained model (`suite.reference`), never a constant.
    All prompts are running text, without a chat template.

    Args:
        root: Folder with MUSE's sets (as for source=muse).
        corpus: books or news, if `root` holds both.
        sets: Of verbmem, knowmem, privleak; each must be there.
        k: Share of the tokens that min-k reads.
        verbmem_tokens, knowmem_tokens: Length of a continuation; VerbMem cuts the true one to it, BOS counted.
        passage_tokens: Of a privleak passage at most; null reads what the model can.

    Source: arXiv 2407.06460 and its authors' code (its development repository, and public copies of the release): the
        prompts to the letter, the lengths, the score, the splits. The layout is that of the files in that repository;
        no published file was at hand. There the model is read in 8 bit.
    """

    compares: ClassVar[bool] = True

    root: str | None = None
    corpus: str | None = None
    sets: Sequence[str] = SETS
    k: float = 0.4
    verbmem_tokens: int = 128
    knowmem_tokens: int = 32
    passage_tokens: int | None = None

    def problems(self, at: str) -> list[str]:
        """A folder, words that are known, a share."""
        found = root_problems(at, self.root, "MUSE's sets")
        found += [
            f"{at}.sets: unknown set '{s}'. {did_you_mean(str(s), SETS)} For example {at}.sets=[knowmem]."
            for s in self.sets
            if s not in SETS
        ]
        if self.corpus not in (None, *muse.CORPORA):
            found.append(
                f"{at}.corpus={self.corpus}: {did_you_mean(str(self.corpus), muse.CORPORA)} "
                f"For example {at}.corpus=books."
            )
        return found + share_problems(at, self.k, "k")

    def figures(self) -> Mapping[str, Better]:
        """Those of the sets that are read."""
        return {name: up for s in self.sets for name, up in _FIGURES[s].items()}

    def check(self, corpus: Corpus, suite: Any) -> str:
        """Reads the sets."""
        return content_key(self.k, *(r for some in self._data(suite).values() for r in some))

    def measure(self, scene: Scene) -> Report:
        """Continuations, then one pass over the passages."""
        data = self._data(scene.suite)
        report = Report({})
        if VERBMEM in self.sets:
            items = examples_in(data["verbmem/forget"], "MUSE's verbmem")
            prompts = [scene.opened(e.question, str(e.role)) for e in items]
            cut = [_cut(scene, e.answer, self.verbmem_tokens) for e in items]
            self._continued(scene, report, "muse_verbmem_f", items, prompts, cut, self.verbmem_tokens, ())
        if KNOWMEM in self.sets:
            for name, part in (("muse_knowmem_f", "forget_qa"), ("muse_knowmem_r", "retain_qa")):
                items = examples_in(data.get(f"knowmem/{part}", ()), "MUSE's knowmem")
                shown = examples_in(data.get(f"knowmem_icl/{part}_icl", ()), "MUSE's knowmem_icl")
                head = "".join(f"Question: {e.question}\nAnswer: {e.answer}\n\n" for e in shown)
                # with a space at the end, as in MUSE
                asked = [f"{head}Question: {e.question}\nAnswer: " for e in items]
                prompts = [scene.opened(text, str(e.role)) for text, e in zip(asked, items, strict=True)]
                answers = [e.answer for e in items]
                self._continued(scene, report, name, items, prompts, answers, self.knowmem_tokens, STOPS)
        if PRIVLEAK in self.sets:
            forget, holdout = (
                _texts(passages_in(data[f"privleak/{part}"], "MUSE's privleak"))
                for part in ("forget", "holdout")
            )
            found = compare_sets(
                scene,
                forget,
                holdout,
                prefix="muse_",
                k=self.k,
                leak_k=self.k,
                limit=self.passage_tokens,
                kinds=("privleak-forget", "privleak-holdout"),
                attacks=(MIN_K,),
            )
            report.metrics.update(found.metrics)
            report.samples += found.samples
            report.notes += found.notes
            report.rows = found.rows
        return report

    def _continued(
        self,
        scene: Scene,
        report: Report,
        name: str,
        items: Sequence[Example],
        prompts: Sequence[Ids],
        answers: Sequence[str],
        tokens: int,
        stops: Sequence[str],
    ) -> None:
        up = name.endswith("_r")
        said = [_before(s.text, stops) for s in scene.say(prompts, tokens)]
        subjects = [e.subject for e in items]
        scores = [rouge_l_f(s, a, stem=False) for s, a in zip(said, answers, strict=True)]
        recalls = [rouge_l_recall(s, a, stem=False) for s, a in zip(said, answers, strict=True)]
        report.metrics[name] = scene.mean(name, scores, subjects, up)
        report.metrics[f"{name}_recall"] = scene.mean(f"{name}_recall", recalls, subjects, up)
        if not items:
            report.notes.append(f"Not measured: {name}: {self.root} has no such questions.")
        for e, text, answer, score, recall in zip(items, said, answers, scores, recalls, strict=True):
            report.samples.append(
                scene.sample(
                    name.removeprefix("muse_"),
                    e.id,
                    e.subject,
                    str(e.role),
                    question=e.question,
                    reference=answer,
                    output=text,
                    verdict=scene.verdict(text, recall),
                    score=score,
                    recall=recall,
                    figures={name: score, f"{name}_recall": recall},
                )
            )

    def _data(self, suite: Any) -> dict[str, list[Example | Passage]]:
        found = _muse(str(self.root), self.corpus, tuple(self.sets))
        limit = suite.max_examples
        # few-shot examples are part of every prompt, and no rows
        return {
            k: list(v) if k.startswith("knowmem_icl") else limited(v, limit, lambda r: r.id)
            for k, v in found.items()
        }


def _cut(scene: Scene, text: str, tokens: int) -> str:
    return scene.renderer.decode(scene.renderer.opened_ids(text)[:tokens])


def _before(text: str, stops: Sequence[str]) -> str:
    for stop in stops:
        text = text.split(stop)[0]
    return text.strip()


def _texts(passages: Sequence[Passage]) -> list[Text]:
    return [Text(p.id, p.text, p.subject) for p in passages]


@lru_cache(maxsize=4)
def _muse(root: str, corpus: str | None, sets: tuple[str, ...]) -> dict[str, list[Example | Passage]]:
    at = "suite.parts.muse"
    records = list(read_or_tell(lambda: muse.read(root=root, corpus=corpus, sets=sets), at).read())
    if KNOWMEM in sets:
        with suppress(DataError):  # few-shot examples may be left out: the questions are asked without
            records += muse.read(root=root, corpus=corpus, sets=("knowmem_icl",)).read()
    found: dict[str, list[Example | Passage]] = {}
    for key, some in sets_of(records).items():
        found[key] = [r for r in some if isinstance(r, Example | Passage)]
    for needed in ("verbmem/forget",) * (VERBMEM in sets) + ("privleak/forget", "privleak/holdout") * (
        PRIVLEAK in sets
    ):
        if not found.get(needed):
            raise DataError(f"{at}.root={root} has no {needed}. Leave that set out: {at}.sets=[...].")
    return found
