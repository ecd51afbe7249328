"""Tasks of lm-evaluation-harness by name, over the hub's data or local files; imports `lm_eval`."""

from __future__ import annotations

import json
import logging
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import datasets
import lm_eval.api.model
import lm_eval.api.task
import lm_eval.models.huggingface
import numpy as np
from lm_eval.api.group import Group
from lm_eval.api.task import Task
from lm_eval.config.group import GroupConfig
from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED
from lm_eval.tasks import TaskManager

from harmonize.console import say
from harmonize.data.corpus import content_hash
from harmonize.errors import ConfigError, DataError, HarmonizeError, did_you_mean
from harmonize.evaluation.harness.local import evaluated, read_docs

SEED = DEFAULT_OTHER_SEED
"""Of the harness's own draws, such as of few-shot examples."""


@dataclass
class Loaded:
    """Tasks that are ready to be run.

    Attributes:
        tasks, groups: By name, groups with their tasks and sub-groups.
        named: Name of a task to the name that the user typed for it.
        notes: What a reader should know.
    """

    tasks: dict[str, Task]
    groups: dict[str, Group]
    named: dict[str, str]
    notes: list[str] = field(default_factory=list)

    def chosen(self, names: set[str]) -> dict[str, Any]:
        """Some of what the user typed, as `lm_eval.evaluate` takes it."""
        tasks = {t: task for t, task in self.tasks.items() if self.named[t] in names}
        kept = {g: v for g, v in self.groups.items() if any(t.task_name in tasks for t in v.get_all_tasks())}
        return {"tasks": tasks, "groups": kept}

    def digest(self, limit: int | None) -> str:
        """Content key of prompts, metrics, and the first rows of each task."""
        parts: list[Any] = []
        for name, task in self.tasks.items():
            config = {k: v for k, v in task.dump_config().items() if k not in ("custom_dataset", "metadata")}
            docs = [doc for _, doc in task.doc_iterator(limit=limit)]
            shown = list(task.fewshot_docs() or ()) if task.get_config("num_fewshot") else []
            parts.append([name, _text(config), _text(docs), _text(shown)])
        groups = [[g.name, g.child_names] for g in self.groups.values()]
        return content_hash(lm_eval.__version__, parts, groups)

    def figures(self) -> Iterator[tuple[str, str, str, bool]]:
        """(task or group, metric, filter, whether higher is better) of all that is reported."""
        for name, task in self.tasks.items():
            for metric in task.aggregation():
                for kind in task._filters:
                    yield name, metric, kind.name, task.higher_is_better().get(metric) is not False
        for name, group in self.groups.items():
            for metric in {c.metric for c in group.aggregate_metric_list or ()}:
                yield name, metric, "none", True


@contextmanager
def apart() -> Iterator[None]:
    """Inside, the harness neither logs nor draws bars, and has its own random numbers from its own seeds."""
    state, arrays = random.getstate(), np.random.get_state()
    random.seed(DEFAULT_RANDOM_SEED)
    np.random.seed(SEED)
    log = logging.getLogger("lm_eval")
    level, bars = log.level, datasets.are_progress_bars_disabled()
    modules: Sequence[Any] = (lm_eval.api.task, lm_eval.api.model, lm_eval.models.huggingface)
    before = [module.tqdm for module in modules]
    try:
        log.setLevel(logging.CRITICAL)
        datasets.disable_progress_bars()
        for module, tqdm in zip(modules, before, strict=True):
            module.tqdm = partial(_unseen, tqdm)
        yield
    finally:
        random.setstate(state)
        np.random.set_state(arrays)
        log.setLevel(level)
        if not bars:
            datasets.enable_progress_bars()
        for module, tqdm in zip(modules, before, strict=True):
            module.tqdm = tqdm


def _tasks_in(item: Task | Group) -> list[Task]:
    return item.get_all_tasks() if isinstance(item, Group) else [item]


def _unseen(bar: Any, *given: Any, **settings: Any) -> Any:
    return bar(*given, **{**settings, "disable": True})


def load(
    names: Sequence[str],
    at: str,
    *,
    local: Mapping[str, str],
    include: str | None = None,
    num_fewshot: int | None = None,
    unsafe_code: bool = False,
) -> Loaded:
    """Reads tasks with their rows.

    Args:
        names: Of tasks, groups or tags. at: Where they stand in the configuration.
        local: Name of a task, or of what its name begins with (`mmlu`), to the folder or file with its rows.
        include: Folder with task YAMLs of one's own.
        num_fewshot: Examples before each question; None is what the task says, or none.
        unsafe_code: Allow tasks that run what a model writes, and code in `include`.

    Raises:
        ConfigError: An unknown task, a local name that no task takes, code that was not allowed.
        DataError: Rows that are missing or malformed, or a hub that does not give them.
    """
    if include is not None and not unsafe_code:
        _no_code(Path(include).expanduser(), at)
    with apart():
        manager = _manager(names, include)
        unknown = [n for n in names if n not in manager.task_index]
        if unknown:
            raise ConfigError(
                [
                    f"{at}.tasks: lm-eval has no task '{n}'. {did_you_mean(n, manager.all_tasks, 8)}"
                    for n in unknown
                ]
            )
        found = Loaded({}, {}, {})
        builder = _Builder(manager, local, at, num_fewshot, found.notes)
        for name in names:
            for item in builder.build(name):
                for task in _tasks_in(item):
                    if task.task_name in found.tasks:
                        raise ConfigError(
                            f"{at}.tasks: {task.task_name} is named twice, by '{found.named[task.task_name]}' and "
                            f"'{name}'. Leave one of them out."
                        )
                    found.tasks[task.task_name] = task
                    found.named[task.task_name] = name
                if isinstance(item, Group):
                    found.groups |= {g.name: g for g in (item, *item.get_all_groups())}
        if idle := [key for key in local if key not in builder.used]:
            raise ConfigError(
                f"{at}.local.{idle[0]} belongs to none of the tasks ({', '.join(names)}). Remove it: "
                f"{at}.local.{idle[0]}=null."
            )
        for name, task in found.tasks.items():
            if getattr(task, "UNSAFE_CODE", False) and not unsafe_code:
                raise ConfigError(
                    f"{at}.tasks: {name} runs code that the model writes. Leave it out, or allow it: "
                    f"{at}.unsafe_code=true."
                )
            if getattr(task, "MULTIMODAL", False):
                raise ConfigError(f"{at}.tasks: {name} shows pictures or sounds. Leave it out.")
            _few_shots(name, task, num_fewshot, found.notes)
    return found


def _few_shots(name: str, task: Task, wanted: int | None, notes: list[str]) -> None:
    fixed = task.get_config("num_fewshot")
    if wanted is not None and fixed == 0 and wanted:
        notes.append(
            f"{name} is defined without examples in lm-eval, so num_fewshot={wanted} leaves it as it is."
        )
    elif wanted is not None:
        task.set_config(key="num_fewshot", value=wanted)
    elif fixed is None:
        task.set_config(key="num_fewshot", value=0)


@dataclass
class _Builder:
    manager: TaskManager
    local: Mapping[str, str]
    at: str
    num_fewshot: int | None
    notes: list[str]
    used: set[str] = field(default_factory=set)
    typed: str | None = None  # the key of what is being built

    def build(self, name: str) -> list[Task | Group]:
        """What stands behind a name; rows of local tasks come from files."""
        leaves = set(_leaves(self.manager, name))
        self.typed = self._key(name)
        if self.typed is None and not any(self._key(leaf) for leaf in leaves):
            return self._of_the_hub(name)
        kept = self._locally(name)
        there = {t.task_name for item in kept for t in _tasks_in(item)}
        if not there:
            raise DataError(
                f"{self.at}.local: there are no rows for '{name}' in {', '.join(self.local.values())}."
            )
        if there != leaves:
            self.notes.append(
                f"{name}: there are local rows for {len(there)} of its {len(leaves)} tasks; the others are left out, "
                "so its total is not the published figure."
            )
        return kept

    def _key(self, name: str) -> str | None:
        """The longest key of `local` that a task's name is, or begins with."""
        own = [k for k in self.local if name == k or name.startswith(f"{k}_")]
        return max(own, key=len, default=None)

    def _of_the_hub(self, name: str) -> list[Task | Group]:
        leaves = [self.manager.task_index[t].cfg or {} for t in _leaves(self.manager, name)]
        sources = sorted({str(c["dataset_path"]) for c in leaves if c.get("dataset_path")})
        remote = [s for s in sources if s not in _FORMATS]
        if remote:
            shown = ", ".join(remote[:4]) + (f" and {len(remote) - 4} more" if len(remote) > 4 else "")
            say(f"{name}: reading {shown} from the hub, or from what it gave before ...")
        try:
            loaded = self.manager.load([name])
        except HarmonizeError:
            raise
        except Exception as error:  # of datasets, the hub's client, or the task's own code
            why = _short(error)
            if not remote:
                raise DataError(f"lm-eval's task '{name}' cannot be read ({why}).") from error
            raise DataError(
                f"lm-eval's task '{name}' needs {shown} of the hub, which is neither reachable nor kept here ({why}). "
                f"Name local files instead: ++{self.at}.local.{name}=<folder or file>."
            ) from error
        children = {t.task_name for g in loaded["groups"].values() for t in g.get_all_tasks()}
        inner = {s.name for g in loaded["groups"].values() for s in g.get_all_groups()}
        return [
            *(g for g in loaded["groups"].values() if g.name not in inner),
            *(t for n, t in loaded["tasks"].items() if n not in children),
        ]

    def _locally(self, name: str) -> list[Task | Group]:
        entry = self.manager.task_index.get(name)
        if entry is None:
            raise ConfigError(
                f"{self.at}.local: '{name}' is written inside its group, so its rows cannot be local. Leave it out."
            )
        config = dict(entry.cfg or {})
        if entry.kind.name == "TAG":
            return [item for child in sorted(entry.tags) for item in self._locally(child)]
        if entry.kind.name == "GROUP":
            group = Group.from_config(
                {k: v for k, v in config.items() if k in GroupConfig.__dataclass_fields__}
            )
            for child in _children(config):
                for item in self._locally(child):
                    group.add(item)
            return [group] if len(group) else []
        task = self._task(name, config)
        return [task] if task is not None else []

    def _task(self, name: str, config: Mapping[str, Any]) -> Task | None:
        key = self._key(name) or self.typed
        if key is None:
            raise ConfigError(
                f"{self.at}.local names files for some tasks of a group, but none for '{name}'. Name them: "
                f"++{self.at}.local.{name}=<folder or file>."
            )
        self.used.add(key)
        docs = read_docs({**config, "task": name}, self.local[key])
        split = evaluated(config)
        if not docs.get(split):
            return None
        few = config.get("fewshot_split") or (config.get("fewshot_config") or {}).get("split")
        few = few or config.get("training_split")
        shots = (
            config.get("num_fewshot") if self.num_fewshot is None or config.get("num_fewshot") == 0 else None
        )
        if (self.num_fewshot if shots is None else shots) and few and few not in docs:
            raise DataError(
                f"{self.at}.local.{key}={self.local[key]}: no rows of split '{few}', which {name} takes its few-shot "
                f"examples from. Add them, or use {self.at}.num_fewshot=0."
            )
        parts = {s: datasets.Dataset.from_list(own) for s, own in docs.items()}
        changed: dict[str, Any] = {"task": name, "custom_dataset": lambda **_: parts, "dataset_kwargs": None}
        for part in ("training_split", "validation_split", "fewshot_split"):
            if config.get(part) and config[part] not in docs:
                changed[part] = None
        try:
            # a member of a group extends a task by its name; a task by itself would be taken for a new one
            loaded = self.manager.load([{"group": "local", "task": [changed]}])
        except Exception as error:
            columns = ", ".join(docs[split][0])
            raise DataError(
                f"{self.at}.local.{key}={self.local[key]}: the rows are not as {name} needs them ({_short(error)}). "
                f"They have: {columns}."
            ) from error
        task: Task = loaded["tasks"][name]
        return task


_FORMATS = ("json", "csv", "parquet", "text", "arrow")  # readers of `datasets` for local files


def _short(error: Exception) -> str:
    told = str(error).strip().splitlines()
    return f"{type(error).__name__}: {told[0][:200]}" if told else type(error).__name__


def _children(config: Mapping[str, Any]) -> list[str]:
    listed = config.get("task") or []
    found = [c if isinstance(c, str) else str(c.get("task") or c.get("group")) for c in listed]
    return found if isinstance(listed, list) else [str(listed)]


def _leaves(manager: TaskManager, name: str) -> list[str]:
    """Names of the tasks behind a name."""
    entry = manager.task_index.get(name)
    if entry is None:  # written inside its group
        return []
    if entry.kind.name == "TAG":
        return [leaf for child in sorted(entry.tags) for leaf in _leaves(manager, child)]
    if entry.kind.name == "GROUP":
        return [leaf for child in _children(entry.cfg or {}) for leaf in _leaves(manager, child)]
    return [name]


def _manager(names: Sequence[str], include: str | None) -> TaskManager:
    """Knows the names; reading all of the harness's ten thousand YAMLs takes half a minute, so only if it must."""
    root = Path(lm_eval.tasks.__file__).parent
    near = dict.fromkeys(root / re.split("[_-]", n)[0] for n in names)
    extra = [str(Path(include).expanduser())] if include is not None else []
    folders = (*(str(p) for p in near if p.is_dir()), *extra)
    manager = TaskManager(include_defaults=False, include_path=list(folders)) if extra else _near(folders)
    if all(n in manager.task_index for n in names):
        return manager
    say("Reading lm-eval's list of tasks ...")
    return _everything(extra)


@lru_cache(maxsize=4)
def _near(folders: tuple[str, ...]) -> TaskManager:
    return TaskManager(include_defaults=False, include_path=list(folders))


def _everything(extra: Sequence[str]) -> TaskManager:
    return TaskManager(include_path=list(extra) or None)


def _no_code(folder: Path, at: str) -> None:
    for file in sorted(folder.rglob("*.y*ml")):
        text = file.read_text(encoding="utf-8", errors="replace")
        if "!function" in text or re.search(r"^\s*['\"]?class['\"]?\s*:", text, re.MULTILINE):
            raise ConfigError(
                f"{at}.include={folder}: {file.name} calls Python code of its folder. Read it, then allow it: "
                f"{at}.unsafe_code=true."
            )


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str, ensure_ascii=False)
