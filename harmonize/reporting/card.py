"""The model card that goes with every exported model: method, data, figures, limits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harmonize.reporting.escape import markdown
from harmonize.tracking.metric import METRIC_NAMES
from harmonize.tracking.results import Results

_LIMITS = (
    "Low scores here mean that these questions, openings and attacks did not bring the knowledge back. "
    "They do not prove that no other one would. Intervals and sample sizes are in `results.json` of the run."
)
_GUARDED = (
    "The figures above are those of the guarded model. `guard.json` and `guard/` describe the guard, and only "
    "`harmonize` puts it around the weights (`harmonize evaluate model.name_or_path=<this folder>`). Loaded by "
    "anything else, this folder is the model without its guard, and whoever has the weights can leave the guard out: "
    "offer such a model as a service, not as weights."
)


def model_card(results: Results, guard: Any = None) -> str:
    """Markdown for the model folder's README, from a run's results. No model text is in it.

    Args:
        results: Of the run.
        guard: What stands around the weights (`name`, `about`), or None.
    """
    config = results.config
    method, data, model = config["method"], config["dataset"], config["model"]
    lines = [
        "---",
        "library_name: transformers",
        "tags: [unlearning, harmonize]",
        "---",
        "",
        f"# Unlearned with {markdown(method['name'])}",
        "",
        f"- Method: {markdown(method['description'] or method['name'])} ({markdown(method['paper'] or 'no paper')})",
        f"- Data set: {markdown(data['name'])}; prefilled views in training: {markdown(data['prefill']['mode'])}",
        f"- Start model: {markdown(model['name_or_path'])}; adapters: {markdown(config['peft']['peft_type'])}",
        *_after(config),
        f"- Seed: {results.seed}; commit: {(results.git or {}).get('commit', 'unknown')}",
        "",
        "| metric | this model | start model | better |",
        "|---|---|---|---|",
    ]
    for name in METRIC_NAMES:
        own = results.metrics.get(name)
        if own is None or own.value is None:
            continue
        before = (results.target_metrics or {}).get(name)
        start = "–" if before is None or before.value is None else f"{before.value:.3f}"
        direction = "higher" if own.higher_is_better else "lower"
        lines.append(f"| {name} | {own.value:.3f} (n={own.n}) | {start} | {direction} |")
    if guard is not None:
        lines += ["", f"## Guarded: {markdown(guard.name)}", "", markdown(guard.about), "", _GUARDED]
    notes = [f"- {markdown(note)}" for note in results.notes]
    lines += ["", "## Limits", "", _LIMITS, *(["", *notes] if notes else []), ""]
    return "\n".join(lines)


def _after(config: Mapping[str, Any]) -> list[str]:
    """What changed the weights after training."""
    groups = {group: config.get(group) or {} for group in ("edit", "repair")}
    done = [
        f"{group} {markdown(str(node.get('name')))}" for group, node in groups.items() if node.get("_target_")
    ]
    return [f"- After training: {', '.join(done)}"] if done else []
