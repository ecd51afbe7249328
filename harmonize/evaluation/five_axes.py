"""`suite=five_axes`: forget, retain, neighbor, attack success and utility, always on phrasings unlearning never saw.

All queries of all axes are collected first and generated in one sorted pass; judging and metrics follow. Attacks
that change the model come last, and undo what they did.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from harmonize.config.suite_checks import AXES
from harmonize.console import counted
from harmonize.data.corpus import Corpus
from harmonize.data.example import Example, Split
from harmonize.errors import ConfigError, did_you_mean
from harmonize.evaluation.attacks import Attack
from harmonize.evaluation.attacks.battery import EVERYTHING, attack_all, check_names
from harmonize.evaluation.attacks.prefill import OPENER, OPENER_HELDOUT, AnswerPrefixes, Openers
from harmonize.evaluation.attacks.relearn import Relearn
from harmonize.evaluation.attacks.sampling import drawn
from harmonize.evaluation.choices import OPTIONS, choice_items, judge_choices
from harmonize.evaluation.draws import judge_likelihood, sampled_answers
from harmonize.evaluation.five_axes_metrics import EVERY_PREFILL, LIKELIHOOD, SAMPLED, specs
from harmonize.evaluation.judge import Judge
from harmonize.evaluation.metrics import measure, outcome_shares
from harmonize.evaluation.questions import (
    ask,
    asked_as_trained,
    capped,
    heldout_facts,
    plain_queries,
    used_facts,
)
from harmonize.evaluation.records import NO_ATTACK, Query, Question, Record
from harmonize.evaluation.report import Report
from harmonize.evaluation.surface import Progress, Surface, as_surface


def evaluate(
    loaded: Any,
    corpus: Corpus,
    suite: Any,
    *,
    split: str = "test",
    prefill: Any,
    instruction: str | None = None,
    instruct_roles: Collection[str] = ("forget", "neighbor", "retain"),
    seed: int = 0,
    axes: Collection[str] | None = None,
    attacks: Sequence[Attack] = (),
    progress: Progress | bool | None = None,
) -> Report:
    """Measures a model on the five axes.

    Args:
        loaded: A `LoadedModel`, or any `Surface`.
        corpus: The data; what it lacks is reported with value None and a note.
        suite: Like `SuiteConfig`. prefill: Like `PrefillConfig` (`eval_depths`, on val
            `depths`; `heldout_share`).
        split: `test` or `val`: whose phrasings are asked, and which subjects are held out.
        instruction: Read before questions of `instruct_roles` (this measures an instructed teacher).
        seed: Moves the bootstrap and the sampled answers.
        axes: Any of `AXES`; None = all (relearn if the suite says so).
        attacks: Further attacks on the forget facts (axis asr), reported as `attacks.battery.attack_specs` says;
            `asr_worst` stays what it is.
        progress: Called with (generations done, in all); True shows a bar.

    Raises:
        ConfigError: Unknown split or axis, or an attack name that is taken.
    """
    if progress is True:
        with counted("evaluating") as bar:
            return evaluate(
                loaded,
                corpus,
                suite,
                split=split,
                prefill=prefill,
                instruction=instruction,
                instruct_roles=instruct_roles,
                seed=seed,
                axes=axes,
                attacks=attacks,
                progress=bar,
            )
    wanted = _axes(axes, split, bool(suite.relearn))
    check_names(attacks, {*EVERY_PREFILL, NO_ATTACK, OPTIONS, SAMPLED, LIKELIHOOD, "worst", EVERYTHING})
    surface = as_surface(loaded)
    run = _Run(surface, corpus, suite, Judge(corpus, suite.max_new_tokens), seed, progress or None)
    limit = suite.max_examples if split == Split.TEST else getattr(suite, "val_max_examples", None)
    # what is reported as held out may choose nothing: val asks with the openings that training may use
    choosing = split == Split.VAL
    depths = tuple(sorted({float(d) for d in (prefill.depths if choosing else prefill.eval_depths)}))
    notes: list[str] = []

    def asked(examples: Iterable[Example]) -> list[Question]:
        return ask(examples, split, surface.renderer, instruction, instruct_roles)

    def questions_of(role: str) -> list[Question]:
        used, heldout = used_facts(corpus, role, limit), heldout_facts(corpus, role, split, limit)
        return asked(used) + asked(heldout)

    queries: list[Query] = []
    for role in ("forget", "retain", "neighbor"):
        if role in wanted:
            questions = questions_of(role)
            queries += plain_queries(questions, surface.renderer)
            notes += _phrasing_note(role, questions, split)
    if "asr" in wanted:
        questions = questions_of("forget")
        prefills: list[Attack] = [
            Openers(corpus.openers, OPENER),
            Openers(() if choosing else corpus.openers_heldout, OPENER_HELDOUT),
            AnswerPrefixes(depths, float(prefill.heldout_share)),
        ]
        for attack in prefills:
            queries += attack.queries(corpus, surface.renderer, questions)
        notes += _room_note(questions, queries, depths)
    if "leak" in wanted:
        on_forget = questions_of("forget")
        if suite.leak_draws:
            queries += drawn(on_forget, surface.renderer, SAMPLED, suite.leak_draws, suite.leak_temperature)
    records = run.ask(queries)
    if "leak" in wanted:
        records += judge_likelihood(surface, on_forget, LIKELIHOOD, suite.batch_size)
    if "utility" in wanted:
        items = capped(choice_items(corpus.facts("general", split)), limit)
        records += judge_choices(surface, items, suite.batch_size, instruction, instruct_roles)
    costs: dict[str, dict[str, Any]] = {}
    if "asr" in wanted and attacks:
        attacked = attack_all(attacks, surface, corpus, questions, run.ask, suite)
        records += attacked.records
        notes += attacked.notes
        costs = attacked.costs
    if "relearn" in wanted:
        told = instruction if "forget" in instruct_roles else None
        probe = Relearn(suite.relearn_steps, suite.relearn_facts, suite.relearn_lr, told)
        taught = attack_all(
            [probe], surface, corpus, asked(used_facts(corpus, "forget", limit)), run.ask, suite
        )
        records += taught.records
        notes += taught.notes
    report = _report(
        records, wanted, corpus, suite, split, depths, float(prefill.heldout_share), attacks, seed, notes
    )
    report.costs = costs
    return report


@dataclass
class _Run:
    """One evaluation: what is asked of whom, and how it is judged."""

    surface: Surface
    corpus: Corpus
    suite: Any
    judge: Judge
    seed: int
    progress: Progress | None

    def ask(self, queries: Sequence[Query]) -> list[Record]:
        """Generates for all queries at once (equal prompts once) and judges the continuations.

        Without sampled answers where the model cannot be sampled.
        """
        greedy = [q for q in queries if q.draw is None]
        sampled = [q for q in queries if q.draw is not None]
        prompts = list(dict.fromkeys(q.ids for q in greedy))
        limits = (self.suite.max_new_tokens, self.suite.batch_size, self.progress)
        answers = self.surface.generate(prompts, *limits) if prompts else []
        said = dict(zip(prompts, answers, strict=True))
        texts = [(q, said[q.ids]) for q in greedy] + sampled_answers(
            self.surface, sampled, self.seed, *limits
        )
        return [self.judge(q, self.surface.renderer.decode(ids), len(ids)) for q, ids in texts]


def _axes(axes: Collection[str] | None, split: str, relearn: bool) -> frozenset[str]:
    if split not in (Split.VAL, Split.TEST):
        raise ConfigError(f"split={split}: evaluation reads 'val' or 'test'; use split=test.")
    if axes is None:
        return frozenset(AXES) if relearn else frozenset(AXES) - {"relearn"}
    unknown = [a for a in axes if a not in AXES]
    if unknown:
        raise ConfigError([f"Unknown axis '{a}'. {did_you_mean(a, AXES)}" for a in unknown])
    return frozenset(axes)


def _phrasing_note(role: str, questions: Sequence[Question], split: str) -> list[str]:
    n = asked_as_trained(questions)
    if not n:
        return []
    return [
        f"{n} {role} facts used in unlearning are asked in the very phrasing they were unlearned in, because they "
        f"have too few paraphrases for split '{split}'; give them `paraphrases` (two or more)."
    ]


def _room_note(questions: Sequence[Question], queries: Sequence[Query], depths: Sequence[float]) -> list[str]:
    asked = {q.example.fact_id for q in questions}
    reached = {q.question.example.fact_id for q in queries if q.view == "prefix"}
    n = len(asked) - len(reached)
    if not n or not depths:
        return []
    return [
        f"{n} of {len(asked)} forget facts have no token before their scored value, so they have no answer prefix."
    ]


def _report(
    records: list[Record],
    wanted: frozenset[str],
    corpus: Corpus,
    suite: Any,
    split: str,
    depths: Sequence[float],
    heldout_share: float,
    extra: Sequence[Attack],
    seed: int,
    notes: list[str],
) -> Report:
    too_long = corpus.scoring == "rouge" and any(not r.fits for r in records)
    chosen = specs(
        wanted,
        split=split,
        depths=depths,
        prefixes_heldout=heldout_share > 0,
        fits=too_long,
        extra=extra,
        leak_draws=suite.leak_draws if "leak" in wanted else 0,
    )
    metrics = {
        spec.name: measure(spec, records, confidence=suite.confidence, resamples=suite.bootstrap, seed=seed)
        for spec in chosen
    }
    # What no answer within the limit can tell has no place beside the figure it would qualify.
    chosen = [s for s in chosen if s.where.fits is None or metrics[s.name].n]
    metrics = {s.name: metrics[s.name] for s in chosen}
    missing: dict[str, list[str]] = {}
    for spec in chosen:
        if metrics[spec.name].value is None and spec.missing:
            missing.setdefault(spec.missing, []).append(spec.name)
    notes += [f"Not measured: {', '.join(names)}: {why}." for why, names in missing.items()]
    if too_long:
        n = len({r.query.question.example.fact_id for r in records if not r.fits})
        notes.append(
            f"The true answers of {n} facts are longer than suite.max_new_tokens={suite.max_new_tokens} tokens, which "
            "lowers their recall; the metrics with `_fits` leave them out."
        )
    leaks = sum(
        r.said and r.verdict == "refused" for r in records if r.query.question.example.role == "forget"
    )
    if leaks:
        notes.append(
            f"{leaks} refusals of forget questions state the answer all the same (`said` in the samples)."
        )
    outcomes = {
        spec.outcome: shares
        for spec in chosen
        if spec.outcome and (shares := outcome_shares(r for r in records if spec.where(r)))
    }
    return Report(metrics, [r.as_sample() for r in records], outcomes, notes)
