"""The card that goes with every exported model: what was done to it, on which data, what it was tested with, limits.

A card is made to be published: no text of the data or the model is in it, and no configured text either (an instruction
may name what is to be forgotten), so not the command.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from harmonize.config.paths import conf_dir
from harmonize.evaluation.proof import ineffective
from harmonize.reporting.columns import GAP, duration, fixed
from harmonize.reporting.escape import clean, markdown
from harmonize.reporting.table import unlearning_time
from harmonize.tracking.loggers import without_home
from harmonize.tracking.metric import METRIC_NAMES, Metric, Metrics
from harmonize.tracking.results import Results

_INTRO = (
    "A language model that was made to forget something. This card says how, and what was found when somebody looked "
    "for what it should have forgotten. No text of the data or of the model is in it."
)
_AXES_NOTE = (
    "Start: the model before unlearning. Teacher: the same with an instruction not to answer. Gold: a model that never "
    "saw the forget set. Intervals are clustered by subject; n is scored answers."
)
_LIMITS = (
    "- Low scores mean that these questions, openings and attacks did not bring the knowledge back. They do not prove "
    "that no other one would: forgetting that withstands what was tried may fail under what was not.",
    "- Figures hold for this data set, this decoding (greedy, where nothing else is said) and these weights. Any "
    "further training, quantisation or merging needs them measured again.",
    "- What was to stay was measured on samples of it. Skills that no question asked about may have suffered.",
)
_NO_GOLD = (
    "- No gold model was measured beside it: how a model answers that never knew is unknown here, and luck cannot be "
    "told from knowledge."
)
_ADAPTER = (
    "- This folder holds an adapter alone. Its base model still knows everything: "
    "whoever takes the adapter off has that."
)
_GUARDED = (
    "The figures above are those of the guarded model. `guard.json` and `guard/` describe the guard, and only "
    "`harmonize` puts it around the weights (`harmonize evaluate model.name_or_path=<this folder>`). Loaded by "
    "anything else, this folder is the model without its guard, and whoever has the weights can leave the guard out: "
    "offer such a model as a service, not as weights."
)
_UNTRIED = (
    "(`harmonize evaluate attack=battery model.name_or_path=<this folder>`). The suite's own openers and answer "
    "prefixes are among the figures above."
)
_SEVERAL = ("battery", "suite")  # options of the group that are no attack of their own
_HUB = "hf:"
_DIGEST = re.compile("`[0-9a-f]{64}`")


def model_card(results: Results, guard: Any = None) -> str:
    """Markdown for the model folder's README, from a run's results.

    Args:
        results: Of the run.
        guard: What stands around the weights (`name`, `about`), or None.
    """
    config = results.config
    method, data = config["method"]["name"], config["dataset"]["name"]
    around = (
        [f"## Guarded: {markdown(guard.name)}", "", markdown(guard.about), "", _GUARDED, ""] if guard else []
    )
    parts = [
        header(f"{method} on {data}", str(config["model"]["name_or_path"]), data, results.metrics),
        [f"# Unlearned with {markdown(method)}", "", _INTRO, ""],
        ["## Method", "", *_method(results), ""],
        ["## Data", "", *_data(results), ""],
        ["## Five axes", "", *_axes(results), ""],
        ["## Attacks", "", *_attacks(results), ""],
        around,
        ["## Limits", "", *_limits(results), ""],
        ["## How it was made", "", *_made(results), ""],
    ]
    return "\n".join(line for part in parts for line in part)


def trained_card(
    name: str, kind: str, config: Mapping[str, Any], data: str, git: Mapping[str, Any] | None = None
) -> str:
    """The card of a target or gold model: it was taught, and nothing was taken from it.

    Args:
        name: Of the data set. kind: target, or gold.
        config: Of `harmonize finetune`. data: Digest of the data set.
        git: As in a result.
    """
    what = "never saw the forget set" if kind == "gold" else "knows the forget set: unlearning starts from it"
    base = "" if config.get("from_scratch") else str(config["model"]["name_or_path"])
    start = markdown(without_home(base)) or "random weights"
    lines = [
        *header(f"{name} {kind}", base, name, {}, kind),
        f"# {markdown(name)}: {kind}",
        "",
        f"Trained with `harmonize finetune`; it {what}. Nothing was unlearned, and no axis was measured here "
        "(`harmonize evaluate` does).",
        "",
        f"- Start: {start}; steps: {config['trainer']['max_steps']}; learning rate: {config['optimizer']['lr']}",
        f"- Data: {markdown(name)}, SHA-256 `{data}`",
        f"- Seed: {config['seed']}; commit: {_commit(git)}",
        "",
    ]
    return "\n".join(lines)


def header(
    name: str, base: str, dataset: str, metrics: Mapping[str, Metric], kind: str = "unlearning"
) -> list[str]:
    """The metadata that the Hugging Face hub reads, five axes included."""
    from huggingface_hub import EvalResult, ModelCardData

    found = [
        EvalResult(
            task_type="text-generation",
            task_name="Unlearning, five axes",
            dataset_type=clean(dataset),
            dataset_name=clean(dataset),
            metric_type=key,
            metric_name=f"{key} ({better.words})",
            metric_value=round(value, 6),
        )
        for key, better in METRIC_NAMES.items()
        if (value := _value(metrics, key)) is not None
    ]
    card = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["harmonize", kind],
        base_model=clean(base.removeprefix(_HUB)) if base.startswith(_HUB) else None,
        model_name=clean(name) if found else None,
        eval_results=found or None,
    )
    return ["---", card.to_yaml(), "---", ""]


def _method(results: Results) -> list[str]:
    config, method = results.config, results.config["method"]
    terms = [
        f"{markdown(name)} (weight {float(term.get('weight', 1)):g}, {markdown(_where(term))})"
        for name, term in (method.get("objectives") or {}).items()
        if isinstance(term, Mapping)
    ]
    chosen = results.extra.get("selection")
    selection = chosen if isinstance(chosen, Mapping) else {}
    start = results.extra.get("start_model")
    views = (config["dataset"].get("prefill") or {}).get("mode", "none")
    lines = [
        f"- {markdown(method['name'])}: {markdown(method.get('description') or method['name'])} "
        f"({markdown(method.get('paper') or 'no paper')}; evidence: {markdown(method.get('evidence') or 'none')})",
        f"- Fidelity: {markdown(method['fidelity'])}" if method.get("fidelity") else None,
        f"- Terms: {', '.join(terms)}" if terms else "- No term was trained",
        f"- Start model: {markdown(without_home(str(config['model']['name_or_path'])))}"
        + (f", weights SHA-256 `{start}`" if start else ""),
        f"- Adapters: {markdown((config.get('peft') or {}).get('peft_type', 'none'))}; prefilled views in training: "
        f"{markdown(views)}",
        f"- Steps: {selection.get('steps', GAP)}, kept: {selection.get('best_step') or 'the last'}; learning rate: "
        f"{(config.get('optimizer') or {}).get('lr', GAP)}",
        f"- Chosen by: {markdown(selection['rule'])}" if selection.get("rule") else None,
    ]
    return [*(line for line in lines if line is not None), *_after(config)]


def _where(term: Mapping[str, Any]) -> str:
    roles = term.get("roles")
    return f"on {', '.join(map(str, roles))}" if roles else "on weights"


def _after(config: Mapping[str, Any]) -> list[str]:
    """What changed the weights after training."""
    groups = {group: config.get(group) or {} for group in ("edit", "repair")}
    done = [
        f"{group} {markdown(str(node.get('name')))}" for group, node in groups.items() if node.get("_target_")
    ]
    return [f"- After training: {', '.join(done)}"] if done else []


def _data(results: Results) -> list[str]:
    whole = results.extra.get("data")
    name = markdown(results.config["dataset"]["name"])
    lines = [f"- Data set: {name}" + (f", SHA-256 `{whole}`" if whole else "")]
    parts = results.extra.get("data_parts")
    rows = [
        [role, part.get("examples"), part.get("trained"), part.get("subjects"), f"`{part.get('sha256')}`"]
        for role, part in (parts.items() if isinstance(parts, Mapping) else ())
        if isinstance(part, Mapping)
    ]
    heads = ["role", "examples", "used in unlearning", "subjects", "SHA-256"]
    return [*lines, "", *_table(heads, rows)] if rows else lines


def _axes(results: Results) -> list[str]:
    lines = _figures(results, [name for name in METRIC_NAMES if name in results.metrics])
    lacking = [name for name in METRIC_NAMES if _value(results.metrics, name) is None]
    if lacking:
        lines += ["", f"Not measured: {', '.join(lacking)}."]
    return [*lines, "", _AXES_NOTE]


def _attacks(results: Results) -> list[str]:
    """What every attack reached here and on the references, what it was allowed, and what was not tried."""
    names = [n for n, own in results.metrics.items() if own.value is not None and _is_attack(n)]
    costs = results.extra.get("attack_costs")
    tried = dict(costs) if isinstance(costs, Mapping) else {}
    lines = _figures(results, names) if names else ["No attack was measured."]
    if idle := ineffective(results.target_metrics or {}, names):
        told = ", ".join(map(markdown, idle))
        lines += ["", f"They fail on the start model, too, and prove nothing here: {told}."]
    if names and not results.target_metrics:
        lines += ["", "The start model was not attacked beside it, so a low figure proves nothing."]
    rows = [
        [
            name,
            spent.get("access"),
            *(spent.get(k) for k in ("queries", "rows", "steps")),
            cost.get("answers"),
        ]
        for name, cost in tried.items()
        if isinstance(cost, Mapping) and isinstance(spent := cost.get("declared"), Mapping)
    ]
    if rows:
        heads = [
            "attack",
            "the attacker has",
            "answers a question",
            "rows read",
            "optimizer steps",
            "answers in all",
        ]
        lines += ["", "What each was allowed:", "", *_table(heads, rows)]
    known = sorted(path.stem for path in (conf_dir() / "attack").glob("*.yaml"))
    if untried := [name for name in known if name not in (*tried, *_SEVERAL)]:
        told = ", ".join(map(markdown, untried))
        lines += ["", f"Not tried, of those that harmonize has: {told} {_UNTRIED}"]
    return lines


def _is_attack(name: str) -> bool:
    """Whether a metric is the success of an attack as a whole, or what draws find."""
    return ("@" not in name and name.startswith(("asr_", "relearn_"))) or "leak@" in name


def _limits(results: Results) -> list[str]:
    peft = results.config.get("peft") or {}
    adapter = str(peft.get("peft_type", "none")).lower() != "none" and peft.get("merge") is False
    return [
        *_LIMITS,
        f"- One run with seed {results.seed}: other seeds give other figures.",
        *([] if results.gold_metrics else [_NO_GOLD]),
        *([_ADAPTER] if adapter else []),
        *(f"- {markdown(without_home(note))}" for note in results.notes),
    ]


def _made(results: Results) -> list[str]:
    """Code and machine."""
    time, hardware = unlearning_time(results), results.hardware
    machine = ", ".join(str(hardware[k]) for k in ("platform", "cpu") if hardware.get(k))
    return [
        f"- Seed: {results.seed}; commit: {_commit(results.git)}",
        f"- Versions: {markdown(', '.join(f'{k} {v}' for k, v in results.versions.items()))}",
        f"- Machine: {markdown(machine)}" + ("" if time is None else f"; unlearning took {duration(time)}"),
        "- Every figure, with configuration and outcomes, is in the run's `results.json`. In a table: "
        "`harmonize reproduce-paper-table`, `harmonize report`.",
        "- Load it: `AutoModelForCausalLM.from_pretrained(<this folder>)`.",
    ]


def _commit(git: Mapping[str, Any] | None) -> str:
    found = git or {}
    return f"{found.get('commit') or 'unknown'}{' with changes' if found.get('dirty') else ''}"


def _figures(results: Results, names: Sequence[str]) -> list[str]:
    """Metrics of this model beside those of the references."""
    beside = {
        "start": results.target_metrics,
        "teacher": results.teacher_metrics,
        "gold": results.gold_metrics,
    }
    shown = {name: block for name, block in beside.items() if block}
    rows = []
    for name in names:
        own = results.metrics[name]
        low, high = own.ci_low, own.ci_high
        interval = GAP if low is None or high is None else f"{fixed(low)} to {fixed(high)}"
        others = [_text(_value(block, name)) for block in shown.values()]
        label = f"{name} {own.direction.symbol}"
        rows.append([label, _text(own.value), interval, own.n, *others])
    confidence = float((results.config.get("suite") or {}).get("confidence", 0.95))
    return _table(["metric", "this model", f"{confidence:.0%} interval", "n", *shown], rows)


def _value(metrics: Mapping[str, Metric] | Metrics | None, name: str) -> float | None:
    own = (metrics or {}).get(name)
    return None if own is None else own.value


def _text(value: float | None) -> str:
    return GAP if value is None else f"{value:.3f}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    body = [f"| {' | '.join(map(_cell, row))} |" for row in rows]
    return [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}", *body]


def _cell(value: object) -> str:
    text = GAP if value is None else str(value)
    return text if _DIGEST.fullmatch(text) else markdown(text)
