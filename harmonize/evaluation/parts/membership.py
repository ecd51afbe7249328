"""Membership inference: can forget texts be told from texts that no model was trained on?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from harmonize.data.corpus import Corpus
from harmonize.data.example import Split
from harmonize.errors import DataError
from harmonize.evaluation.likelihood import Pair
from harmonize.evaluation.parts.rows import content_key, limited
from harmonize.evaluation.report import Report
from harmonize.evaluation.scores.membership import (
    auc,
    auc_interval,
    loss_score,
    min_k_plus_plus_score,
    min_k_score,
    priv_leak,
    reference_score,
    zlib_score,
)
from harmonize.evaluation.suite import Part, Scene, Series
from harmonize.tracking.direction import Better, towards
from harmonize.tracking.metric import Metric

NOTHING_LEFT, NO_LEAK = towards(0.5), towards(0.0)  # of an area, and of PrivLeak

LOSS, ZLIB, REFERENCE, MIN_K, MIN_K_PLUS_PLUS = "loss", "zlib", "reference", "min_k", "min_k_plus_plus"
ATTACKS = (LOSS, ZLIB, REFERENCE, MIN_K, MIN_K_PLUS_PLUS)


@dataclass(frozen=True)
class Text:
    """A text to be judged a member or not; one with a question is scored as its answer."""

    id: str
    text: str
    subject: str
    question: str | None = None


@dataclass(frozen=True)
class Against(Part):
    """What every membership attack needs: forget answers, and texts like them that no model was trained on.

    Args:
        holdout: A JSON or JSON Lines file of {question, answer} or {text}, such as TOFU's holdoutNN.json.
    """

    holdout: str | None = None

    def problems(self, at: str) -> list[str]:
        """A file that is there."""
        if not self.holdout:
            return [
                f"{at}.holdout is missing: a file of questions and answers like the forget set that no model was "
                f"trained on. Type {at}.holdout=<file>, or leave the part out: ~{at}."
            ]
        if not Path(self.holdout).expanduser().is_file():
            return [f"{at}.holdout={self.holdout}: there is no such file. Correct it: {at}.holdout=<file>."]
        return []

    def check(self, corpus: Corpus, suite: Any) -> str:
        """Reads the holdout file."""
        members, others = self.texts(corpus, suite)
        if not members:
            raise DataError("Membership attacks need forget facts that unlearning is shown; there are none.")
        return content_key(*(vars(t) for t in (*members, *others)))

    def texts(self, corpus: Corpus, suite: Any) -> tuple[list[Text], list[Text]]:
        """Forget answers that unlearning is shown, and the others."""
        facts = limited(corpus.facts("forget", Split.TRAIN), suite.max_examples, lambda e: e.fact_id)
        members = [Text(e.id, e.answer, e.subject, e.question) for e in facts]
        return members, limited(read_texts(str(self.holdout)), suite.max_examples, lambda t: t.id)


@dataclass(frozen=True)
class Membership(Against):
    """Five attacks on the forget answers, against questions and answers of the same kind that were never trained on.

    `mia_<attack>_auc`: 0.5 = nothing is left to tell them apart by, 1 = the forget set shows perfectly; below 0.5 it
    stands out as forgotten. `privleak` compares the min-k attack with the reference model's.

    Args:
        holdout: As in `Against`.
        k: Share of the tokens that min-k and min-k++ read.
        privleak_k: The same for `privleak`.

    Source: the attacks' papers (`harmonize.evaluation.scores.membership`); forget against holdout as in MUSE and
        open-unlearning.
    """

    compares: ClassVar[bool] = True

    k: float = 0.2
    privleak_k: float = 0.4

    def problems(self, at: str) -> list[str]:
        """A file that is there, and shares."""
        found = share_problems(at, self.k, "k") + share_problems(at, self.privleak_k, "privleak_k")
        return found + super().problems(at)

    def figures(self) -> Mapping[str, Better]:
        """One of each attack."""
        return {f"mia_{a}_auc": NOTHING_LEFT for a in ATTACKS}

    def measure(self, scene: Scene) -> Report:
        """One forward per batch of both sets."""
        members, others = self.texts(scene.corpus, scene.suite)
        return compare_sets(scene, members, others, k=self.k, leak_k=self.privleak_k)


def share_problems(at: str, value: float, name: str) -> list[str]:
    """A share of tokens, above 0."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 1:
        return []
    return [f"{at}.{name}={value}: expected a share above 0, up to 1. For example {at}.{name}=0.2."]


def pairs_of(scene: Scene, texts: Sequence[Text], limit: int | None = None) -> list[Pair]:
    """What is scored of each text: its answer after its question, or all of it after its first token."""
    return [
        scene.passage(t.text, f"text '{t.id}'", limit)
        if t.question is None
        else (scene.prompt(t.question), scene.target(t.text, f"text '{t.id}'"))
        for t in texts
    ]


def compare_sets(
    scene: Scene,
    members: Sequence[Text],
    others: Sequence[Text],
    *,
    prefix: str = "",
    k: float = 0.2,
    leak_k: float | None = None,
    limit: int | None = None,
    kinds: tuple[str, str] = ("member", "holdout"),
    attacks: Sequence[str] = ATTACKS,
) -> Report:
    """AUC of every attack on two sets of texts, from one pass over both.

    Args:
        members: Higher scores speak for these. others: What they are told from.
        prefix: Of the figures' names.
        leak_k: Report `<prefix>privleak` of min-k at this share; None = not.
        limit: Tokens of a text at most.
        kinds: What the sets are called in the samples.
        attacks: Of `ATTACKS`. `reference` needs the reference model's record.
    """
    texts = [*members, *others]
    rows = scene.rows(pairs_of(scene, texts, limit))
    known: Mapping[str, float] = (scene.reference or {}).get(LOSS, {})
    scores: dict[str, list[float]] = {
        LOSS: [loss_score(r) for r in rows],
        ZLIB: [zlib_score(r, t.text) for r, t in zip(rows, texts, strict=True)],
        MIN_K: [min_k_score(r, k) for r in rows],
        MIN_K_PLUS_PLUS: [min_k_plus_plus_score(r, k) for r in rows],
    }
    if scene.reference is not None:
        scores[REFERENCE] = [reference_score(r, known[t.id]) for r, t in zip(rows, texts, strict=True)]
    report = Report({})
    for attack in attacks:
        name = f"{prefix}mia_{attack}_auc"
        if attack not in scores:
            report.metrics[name] = Metric.of(None, 0, better=NOTHING_LEFT)
            report.notes.append(
                f"Not measured: {name}: it compares with a model that never saw the forget set. Give its record: "
                "suite.reference=<run folder>."
            )
            continue
        report.metrics[name] = area_metric(scene, name, scores[attack], members, others)
    if leak_k is not None:
        scores["privleak"] = [min_k_score(r, leak_k) for r in rows]
        _leak(scene, report, f"{prefix}privleak", scores["privleak"], members, others)
    report.rows = {
        scene.part: {
            n: dict(zip([t.id for t in texts], v, strict=True)) for n, v in scores.items() if n != REFERENCE
        }
    }
    for i, t in enumerate(texts):
        member = i < len(members)
        report.samples.append(
            scene.sample(
                kinds[0] if member else kinds[1],
                t.id,
                t.subject,
                "forget" if member else "",
                question=t.question or "",
                reference=t.text,
                **{f"mia_{n}": v[i] for n, v in scores.items()},
            )
        )
    return report


def area_metric(
    scene: Scene, name: str, values: Sequence[float], members: Sequence[Text], others: Sequence[Text]
) -> Metric:
    """AUC of the scores of both sets, members first, with its interval; value None where a set is empty."""
    left, right = values[: len(members)], values[len(members) :]
    if not left or not right:
        return Metric.of(None, 0, better=NOTHING_LEFT)
    interval = auc_interval(
        left,
        right,
        [t.subject for t in members],
        [t.subject for t in others],
        confidence=scene.suite.confidence,
        resamples=scene.suite.bootstrap,
        key=(name, scene.seed),
    )
    low, high = interval or (None, None)
    return Metric.of(auc(left, right), len(values), low, high, better=NOTHING_LEFT)


def _leak(
    scene: Scene,
    report: Report,
    name: str,
    values: Sequence[float],
    members: Sequence[Text],
    others: Sequence[Text],
) -> None:
    own = area_metric(scene, name, values, members, others)
    base = reference_area(scene.reference, members, others)
    if own.value is None or base is None or base >= 1.0:
        why = (
            "the reference model tells the two sets apart perfectly, which leaves nothing to compare with"
            if base is not None and base >= 1.0
            else "it compares with a model that never saw the forget set. Give its record: suite.reference=<run folder>"
        )
        report.metrics[name] = Metric.of(None, 0, better=NO_LEAK)
        report.notes.append(f"Not measured: {name}: {why}.")
        return
    ends = [v for v in (own.ci_low, own.ci_high) if v is not None]
    turned = sorted(priv_leak(v, base) for v in ends)
    low, high = (turned[0], turned[1]) if len(turned) == 2 else (None, None)
    report.metrics[name] = Metric.of(priv_leak(own.value, base), own.n, low, high, better=NO_LEAK)


def reference_area(reference: Series | None, members: Sequence[Text], others: Sequence[Text]) -> float | None:
    """The reference model's AUC of the `privleak` scores; None without a record of them."""
    known = (reference or {}).get("privleak")
    if not known or not members or not others:
        return None
    return auc([known[t.id] for t in members], [known[t.id] for t in others])


@lru_cache(maxsize=8)
def read_texts(path: str) -> tuple[Text, ...]:
    """Texts of a JSON or JSON Lines file of {question, answer} or {text}; `subject` where it is given.

    Raises:
        DataError: Naming file, row and field.
    """
    from harmonize.data.sources.fields import optional, text
    from harmonize.data.sources.rows import rows

    file = Path(path).expanduser()
    found = []
    for number, row in enumerate(rows(file), 1):
        identity = f"{file.stem}-{number:05d}"
        subject = optional(file, row, "subject", identity)
        if "text" in row.data:
            found.append(Text(identity, text(file, row, "text"), subject))
        else:
            found.append(Text(identity, text(file, row, "answer"), subject, text(file, row, "question")))
    return tuple(found)
