"""Benchmarks by their names in lm-evaluation-harness, asked of the model in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from functools import lru_cache
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

from harmonize.config.rules import at_least, one_of
from harmonize.data.corpus import Corpus, content_hash
from harmonize.data.example import Role
from harmonize.errors import HarmonizeError, ModelError
from harmonize.evaluation.harness import MISSING, installed
from harmonize.evaluation.report import Report
from harmonize.evaluation.suite import NotMeasured, Part, Scene
from harmonize.tracking.metric import Metric

if TYPE_CHECKING:
    from harmonize.evaluation.harness.tasks import Loaded

SURFACE, HFLM = "surface", "hflm"
BACKENDS = (SURFACE, HFLM)
_AT = "suite.parts.lm_eval"


@dataclass(frozen=True)
class LmEval(Part):
    """Tasks of lm-evaluation-harness, with its prompts, metrics and standard errors: `<task>_<metric>`.

    Args:
        tasks: Names of its tasks, groups or tags, such as mmlu, wmdp_cyber, arc_easy, hellaswag.
        local: Task, or beginning of task names, to the folder or file with its rows; other tasks read the hub.
        include: Folder with task YAMLs of your own.
        num_fewshot: Examples before each question; null is what a task says, or none.
        limit: Only the first rows of each task; null is the suite's max_examples.
        batch_size: Rows of one forward pass; null is the suite's.
        apply_chat_template: Put the prompts into the model's chat template.
        forget: Patterns of names, as typed in `tasks`, whose figures unlearning is to bring down.
        backend: surface (any model, guarded or not; a question is read once for all its options) or hflm (the
            harness's own class on the bare model: slow, to compare with).
        unsafe_code: Allow tasks that run what the model writes, and Python code beside the YAMLs of `include`.

    Source: lm-evaluation-harness 0.4.13 (code). `lm_eval.evaluate` is called, which `simple_evaluate` calls once it
        has model and tasks, with its seed for few-shot examples.
    """

    tasks: Sequence[str] = ()
    local: Mapping[str, str | None] | None = None
    include: str | None = None
    num_fewshot: int | None = None
    limit: int | None = None
    batch_size: int | None = None
    apply_chat_template: bool = False
    forget: Sequence[str] = ("wmdp*",)
    backend: str = SURFACE
    unsafe_code: bool = False

    def problems(self, at: str) -> list[str]:
        """The package, names, paths that are there, and numbers in their range."""
        found = [] if installed() else [f"{at} {MISSING}."]
        if not self.tasks or isinstance(self.tasks, str):
            found.append(f"{at}.tasks: expected a list of names. For example {at}.tasks=[mmlu,arc_easy].")
        for key, path in self._local().items():
            if not Path(path).expanduser().exists():
                found.append(
                    f"{at}.local.{key}={path}: there is no such file or folder. Correct it, or use "
                    f"{at}.local.{key}=null to read the hub."
                )
        if self.include is not None and not Path(self.include).expanduser().is_dir():
            found.append(f"{at}.include={self.include}: there is no such folder. Use {at}.include=null.")
        if self.num_fewshot is not None:
            found += at_least(f"{at}.num_fewshot", self.num_fewshot, 0)
        for key in ("limit", "batch_size"):
            if (value := getattr(self, key)) is not None:
                found += at_least(f"{at}.{key}", value, 1)
        return found + one_of(f"{at}.backend", self.backend, BACKENDS)

    def check(self, corpus: Corpus, suite: Any) -> str:
        """Reads the tasks and their rows."""
        settings = [self.apply_chat_template, self.backend, list(self.forget), self.batch_size]
        return content_hash(self._loaded().digest(self.limited(suite)), settings)

    def figures(self) -> dict[str, bool]:
        """Those of the tasks, where they can be read."""
        try:
            loaded = self._loaded()
        except HarmonizeError:
            return {}
        role = {name: self._role(typed) for name, typed in loaded.named.items()}
        role |= {g: role[v.get_all_tasks()[0].task_name] for g, v in loaded.groups.items()}
        return {_figure(n, m, k): up != (role[n] == Role.FORGET) for n, m, k, up in loaded.figures()}

    def measure(self, scene: Scene) -> Report:
        """One run of the harness; tasks that read the teacher's instruction apart from the others."""
        loaded, report = self._loaded(), Report({})
        report.notes += loaded.notes
        by_role: dict[str, set[str]] = {}
        for name in self.tasks:
            by_role.setdefault(self._role(name), set()).add(name)
        with _model(self.backend, scene, self._batch(scene.suite)) as lm:
            if self.apply_chat_template and not scene.renderer.tokenizer.chat_template:
                raise ModelError(
                    "apply_chat_template=true, but the tokenizer has no chat template. Use "
                    f"{_AT}.apply_chat_template=false."
                )
            for role, names in by_role.items():
                told = scene.instruction if role in scene.instruct_roles else None
                found = _evaluate(lm, loaded.chosen(names), told, self, scene.suite)
                _add(report, found, loaded, scene, role)
            if cut := getattr(lm, "cut", 0):
                report.notes.append(
                    f"{cut} requests of the part '{scene.part}' are longer than the {lm.max_length} tokens that the "
                    "model reads; they lost their beginning, as in lm-eval."
                )
        return report

    def limited(self, suite: Any) -> int | None:
        """Rows of a task at most."""
        limit = self.limit if self.limit is not None else suite.max_examples
        return None if limit is None else int(limit)

    def _local(self) -> dict[str, str]:
        return {str(k): str(v) for k, v in (self.local or {}).items() if v is not None}

    def _role(self, name: str) -> str:
        return str(Role.FORGET if any(fnmatch(name, p) for p in self.forget) else Role.GENERAL)

    def _batch(self, suite: Any) -> int:
        return int(self.batch_size or suite.batch_size)

    def _loaded(self) -> Loaded:
        if not installed():
            raise ModelError(f"The part 'lm_eval' {MISSING}.")
        return _load(
            tuple(self.tasks),
            tuple(sorted(self._local().items())),
            self.include,
            self.num_fewshot,
            self.unsafe_code,
        )


@lru_cache(maxsize=2)
def _load(
    tasks: tuple[str, ...],
    local: tuple[tuple[str, str], ...],
    include: str | None,
    num_fewshot: int | None,
    unsafe_code: bool,
) -> Loaded:
    from harmonize.evaluation.harness.tasks import load

    return load(
        tasks,
        _AT,
        local=dict(local),
        include=include,
        num_fewshot=num_fewshot,
        unsafe_code=unsafe_code,
    )


@contextmanager
def _model(backend: str, scene: Scene, batch_size: int) -> Iterator[Any]:
    """The model as the harness sees it; its modules leave in the mode they came in."""
    from harmonize.evaluation.harness.surface_lm import SurfaceLM, hflm
    from harmonize.evaluation.harness.tasks import apart

    if backend == SURFACE:
        yield SurfaceLM(scene.surface, batch_size, scene.progress)
        return
    model = getattr(scene.surface, "model", None)
    if model is None:
        raise NotMeasured("backend=hflm needs a model; use backend=surface")
    if hasattr(scene.surface, "guard"):
        raise NotMeasured("backend=hflm would ask the model without its guard; use backend=surface")
    before = {module: module.training for module in model.modules()}
    try:
        with apart():
            lm = hflm(model, scene.renderer.tokenizer, batch_size)
        yield lm
    finally:
        for module, training in before.items():
            module.training = training


def _evaluate(lm: Any, chosen: dict[str, Any], told: str | None, part: LmEval, suite: Any) -> Any:
    """The harness's results."""
    import lm_eval

    from harmonize.evaluation.harness.tasks import SEED, apart

    for task in chosen["tasks"].values():
        task.set_fewshot_seed(seed=SEED)
    with apart():
        return lm_eval.evaluate(
            lm,
            chosen,
            limit=part.limited(suite),
            bootstrap_iters=int(suite.bootstrap),
            system_instruction=told,
            apply_chat_template=part.apply_chat_template,
            fewshot_as_multiturn=part.apply_chat_template,
            confirm_run_unsafe_code=part.unsafe_code,
        )


def _add(report: Report, found: Any, loaded: Loaded, scene: Scene, role: str) -> None:
    """Figures and samples of a run of the harness."""
    within = _totals(loaded, set(found["results"]))
    samples = [
        sample
        for name, some in found["samples"].items()
        for sample in _samples(name, loaded.tasks[name], some, scene, role, within.get(name, ()))
    ]
    report.samples += samples
    shares: dict[str, list[tuple[float, str]]] = {}
    for sample in samples:
        for figure, value in sample["figures"].items():
            shares.setdefault(figure, []).append((value, sample["subject"]))
    for name, values in found["results"].items():
        up = found["higher_is_better"].get(name) or {}
        for key, value in values.items():
            metric, comma, kind = key.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            figure, error = _figure(name, metric, kind), values.get(f"{metric}_stderr,{kind}")
            report.metrics[figure] = _measured(
                scene,
                figure,
                Metric(
                    float(value),
                    int(values.get("sample_len") or 0),
                    higher_is_better=(up.get(metric) is not False) != (role == Role.FORGET),
                    stderr=float(error) if isinstance(error, int | float) else None,
                ),
                shares.get(figure, ()),
            )


def _measured(scene: Scene, name: str, found: Metric, shares: Sequence[tuple[float, str]]) -> Metric:
    """With an interval: by bootstrap where the figure is the mean over its rows, else by the standard error."""
    if shares:
        own = scene.mean(name, [v for v, _ in shares], [s for _, s in shares], found.direction)
        if abs((own.value or 0.0) - (found.value or 0.0)) < 1e-9:
            return replace(found, ci_low=own.ci_low, ci_high=own.ci_high)
    if found.stderr is None or found.value is None:
        return found
    around = NormalDist().inv_cdf(0.5 + scene.suite.confidence / 2) * found.stderr
    return replace(found, ci_low=found.value - around, ci_high=found.value + around)


def _figure(name: str, metric: str, kind: str) -> str:
    return f"{name}_{metric}" if kind == "none" else f"{name}_{metric}_{kind}"


def _totals(loaded: Loaded, names: set[str]) -> dict[str, list[tuple[str, str]]]:
    """Task to the (group, metric) whose figure is a mean over its rows."""
    found: dict[str, list[tuple[str, str]]] = {}
    for name, group in loaded.groups.items():
        for config in group.aggregate_metric_list or ():
            if name in names and config.weight_by_size:
                for task in group.get_all_tasks():
                    found.setdefault(task.task_name, []).append((name, config.metric))
    return found


def _samples(
    name: str,
    task: Any,
    samples: Sequence[Mapping[str, Any]],
    scene: Scene,
    role: str,
    totals: Sequence[tuple[str, str]],
) -> list[dict[str, Any]]:
    """One sample a row: what was said or chosen, and the row's share in each figure."""
    rows: dict[int, dict[str, Any]] = {}
    for s in samples:
        numbers = {m: float(s[m]) for m in s["metrics"] if isinstance(s.get(m), int | float | bool)}
        figures = {_figure(name, m, s["filter"]): v for m, v in numbers.items()}
        figures |= {_figure(g, m, s["filter"]): numbers[m] for g, m in totals if m in numbers}
        if (row := rows.get(s["doc_id"])) is not None:  # the same answers, filtered in another way
            row["figures"] |= figures
            continue
        score = next(iter(numbers.values()), 0.0)
        row = {
            "question": _asked(task, s),
            "reference": str(s["target"]),
            "output": "",
            "verdict": "correct" if score == 1.0 else "wrong" if numbers else "answered",
            "score": score,
            "figures": figures,
        }
        if task.OUTPUT_TYPE == "multiple_choice":
            options = [str(o) for o in task.doc_to_choice(s["doc"])]
            values = [float(r[0]) for r in s["filtered_resps"]]
            row["log_probs"] = [round(v, 4) for v in values]
            own = values[: len(options)]
            row["output"] = options[max(range(len(own)), key=own.__getitem__)]
            if isinstance(s["target"], int) and 0 <= s["target"] < len(options):
                row["reference"] = options[s["target"]]
        elif task.OUTPUT_TYPE == "generate_until":
            row["output"] = str(s["filtered_resps"][0])
        else:
            row["log_probs"] = [round(float(_first(r)), 4) for r in s["filtered_resps"]]
        rows[s["doc_id"]] = row
    return [scene.sample(name, f"{name}/{doc}", f"{name}/{doc}", role, **row) for doc, row in rows.items()]


def _first(response: Any) -> float:
    return float(response[0] if isinstance(response, Sequence) else response)


def _asked(task: Any, sample: Mapping[str, Any]) -> str:
    """The question alone, without examples before it, where the task's prompt is one text."""
    text = task.doc_to_text(sample["doc"]) if hasattr(task, "doc_to_text") else None
    return text if isinstance(text, str) and text else str(sample["arguments"][0][0])
