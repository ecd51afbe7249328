"""What there is to choose from, as data: methods and options with their sources, formulas, needs and costs.

`harmonize ls`, `harmonize show` and docs/methods.md are views of it. What an option is stands in its own YAML, what a
function computes in its docstring; what a method needs and costs follows from the parameters that its functions name,
and is stated nowhere. Only texts are read: neither torch nor a stranger's module is imported.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from harmonize.config.instantiate import ABOUT, parameters
from harmonize.config.paths import conf_dir
from harmonize.config.sources import Source, file_of, source_of, tree_of
from harmonize.errors import ConfigError, did_you_mean
from harmonize.unlearning.grouping import NO_ROLE, group_of

METHOD = "method"
EVIDENCE: dict[str, str] = {
    "code": "the formula and its defaults stand in published code that was read",
    "paper": "in the paper's text",
    "several": "in several secondary sources",
    "note": "in one secondary source",
    "abstract": "the paper's abstract alone was read",
    "ours": "a reading or a design of ours",
}
# What an objective averages over, by the rule that its decorator `counted` names.
UNITS: dict[str, str] = {"each_sequence": "response", "each_pair": "pair"}
_OF_REFERENCE = {
    "log_probs": "log-probabilities of the responses",
    "hidden": "final hidden states",
    "layer": "hidden states after a block",
}
_OF_WEIGHTS = {
    "adapters": ("adapters", "adapters (peft=lora)"),
    "retain_subspace": ("statistics", "second moments of the adapted layers' outputs on retain rows"),
}
_OF_RESPONSES = {
    "refusal": ("refusals", "refusal texts of the data set"),
    "alternate": ("alternates", "other plausible answers, meta.alternates of the data"),
}


@dataclass(frozen=True)
class Part:
    """A function or class that a method or an option names.

    Attributes:
        at: Config path below the group, such as `objectives.forget`; empty for the option itself.
        target: Its `_target_`.
        settings: The keys that go to it.
        weight, roles: Of an objective, as written.
    """

    at: str
    target: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    weight: Any = None
    roles: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The last part of where it stands: the name of a term."""
        return self.at.rpartition(".")[2]

    @property
    def source(self) -> Source | None:
        """Its definition, where that can be read."""
        return source_of(self.target)

    def section(self, name: str) -> str:
        """A section of its docstring, or nothing."""
        return self.source.sections.get(name, "") if self.source else ""

    @property
    def unit(self) -> str:
        """What an objective averages over: position, first position, response or pair; empty without rows."""
        if "row" not in self.reads:
            return ""
        for decorator in self.source.decorators if self.source else ():
            rule = decorator.removeprefix("counted(").partition("(")[0].rstrip(")")
            if rule in UNITS:
                return UNITS[rule]
        return "first position" if self.settings.get("positions") == "first" else "position"

    @property
    def reads(self) -> dict[str, Mapping[str, Any]]:
        """Inputs of an objective with what each is (`objectives.outputs.Field`); none of a column of the batch."""
        return {name: fields().get(name, {}) for name in (self.source.inputs if self.source else ())}

    @property
    def on_weights(self) -> bool:
        """Whether an objective reads trained weights in the place of outputs: it has no roles then."""
        return bool(self.reads.keys() & weight_fields())


@dataclass(frozen=True)
class Costs:
    """What a step of training costs, and where rows come twice.

    Attributes:
        student: Forward passes of the student; 0 for a method that does not train.
        backward: Backward passes through each of them.
        frozen: Forward passes of frozen models with `teacher.cache=none`; with a cache there are none.
        rows: Rows that one drawn example becomes, the largest number of any role.
    """

    student: int
    backward: int
    frozen: int
    rows: int


@dataclass(frozen=True)
class Option:
    """One option of a group.

    Attributes:
        group, name: `group=name` chooses it.
        node: Its keys, those of the options that it builds on included.
        choices: Group to option that it chooses elsewhere.
        dirs: The user's own configuration folders.
    """

    group: str
    name: str
    node: Mapping[str, Any]
    choices: Mapping[str, str] = field(default_factory=dict)
    dirs: tuple[str, ...] = ()

    def says(self, key: str) -> str:
        """One of the keys that say what it is: description, paper, evidence, fidelity."""
        return str(self.node.get(key) or "")

    @property
    def variants(self) -> dict[str, str]:
        """What a known variant of a method is, to the overrides that give it."""
        return {str(what): str(overrides) for what, overrides in _mapping(self.node.get("variants")).items()}

    @property
    def response(self) -> dict[str, list[str]]:
        """Role to the sources that its rows answer from, of a method."""
        return {str(role): _listed(value) for role, value in _mapping(self.node.get("response")).items()}

    @property
    def parts(self) -> list[Part]:
        """Every function that it names itself."""
        return list(_parts(self.node, ""))

    @property
    def chosen(self) -> list[Option]:
        """The options of other groups that it chooses."""
        return [option(group, name, self.dirs) for group, name in self.choices.items()]

    @property
    def formulas(self) -> list[tuple[Part, str]]:
        """Its own parts and those of chosen options that state a formula."""
        parts = [*self.parts, *(p for o in self.chosen for p in o.parts)]
        return [(p, p.section("Formula")) for p in parts if p.section("Formula")]

    @property
    def terms(self) -> list[Part]:
        """Objectives of a method."""
        return [p for p in self.parts if p.at.startswith("objectives.")]

    @property
    def needs(self) -> dict[str, str]:
        """What must be there, one word each with what of it."""
        return dict(_needs(self))

    @property
    def said_needs(self) -> list[str]:
        """The same in words."""
        return [what if what.startswith(word) else f"{word} ({what})" for word, what in self.needs.items()]

    @property
    def costs(self) -> Costs:
        """Of a method."""
        terms = self.terms
        read = [f for t in terms for f in t.reads.values()]
        frozen = {kind for f in read for kind in ("teacher", "reference") if f.get(kind)}
        rows = map(len, self.response.values())
        return Costs(int(bool(terms)), self._gradient_groups(), len(frozen), max(rows, default=0))

    def _gradient_groups(self) -> int:
        if not self.terms:
            return 0
        gradient = option("gradient", self.choices.get("gradient", "sum"), self.dirs)
        rule = gradient.node.get("groups")
        if rule is None:
            return 1
        answered = self.response
        pairs = [(t.name, role) for t in self.terms for role in t.roles or answered if role in answered]
        pairs = [pair for pair in pairs if pair[0] not in {t.name for t in self.terms if t.on_weights}]
        pairs += [(t.name, NO_ROLE) for t in self.terms if t.on_weights]
        return len({group_of(rule, *pair) for pair in pairs})


def methods(dirs: Sequence[str] = ()) -> list[Option]:
    """Every method, by name."""
    return [option(METHOD, name, dirs) for name in names(METHOD, dirs)]


def names(group: str, dirs: Sequence[str] = ()) -> list[str]:
    """Options of a group, those of the user's own folders included."""
    return sorted({p.stem for root in _roots(dirs) for p in (root / group).glob("*.yaml")})


def option(group: str, name: str, dirs: Sequence[str] = ()) -> Option:
    """An option as its files state it; no override is applied.

    Raises:
        ConfigError: There is none of that name, or its file cannot be read.
    """
    node, choices = _load(group, name, tuple(map(str, dirs)), ())
    return Option(group, name, node, choices, tuple(map(str, dirs)))


def described_groups(dirs: Sequence[str] = ()) -> list[str]:
    """Groups beside `method` whose options say how their source was read."""
    folders = {p.name for root in _roots(dirs) for p in root.iterdir() if p.is_dir()} - {METHOD, "hydra"}
    return sorted(g for g in folders if any(option(g, n, dirs).says("evidence") for n in names(g, dirs)))


@lru_cache(maxsize=1)
def fields() -> dict[str, dict[str, Any]]:
    """The fields that objectives may name, with the keywords of their registration in `objectives.outputs`."""
    found = _registered("harmonize.objectives.outputs")
    for given in found.values():
        given["teacher"] = bool(given.get("teacher") or given.get("teacher_k"))
    return found


@lru_cache(maxsize=1)
def weight_fields() -> dict[str, dict[str, Any]]:
    """The same of `objectives.weights`, for objectives on trained weights."""
    return _registered("harmonize.objectives.weights")


def _registered(module: str) -> dict[str, dict[str, Any]]:
    path = file_of(module)
    functions = [n for n in ast.walk(tree_of(path)) if isinstance(n, ast.FunctionDef)] if path else []
    return {
        node.name: {k.arg: ast.literal_eval(k.value) for k in mark.keywords if k.arg}
        for node in functions
        for mark in node.decorator_list
        if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "_field"
    }


@lru_cache(maxsize=1)
def columns() -> frozenset[str]:
    """Columns that every batch has, as `objectives.outputs` lists them."""
    path = file_of("harmonize.objectives.outputs")
    for node in tree_of(path).body if path else ():
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "BATCH_FIELDS":
            return frozenset(ast.literal_eval(node.value))
    return frozenset()


def _roots(dirs: Sequence[str]) -> list[Path]:
    """The user's folders first, as Hydra looks for them."""
    return [*map(Path, dirs), conf_dir()]


def _load(
    group: str, name: str, dirs: tuple[str, ...], seen: tuple[str, ...]
) -> tuple[dict[str, Any], dict[str, str]]:
    path = next((p for root in _roots(dirs) if (p := root / group / f"{name}.yaml").is_file()), None)
    if path is None:
        raise ConfigError(
            f"{group}={name}: no such {group}. {did_you_mean(name, names(group, dirs), limit=40)}"
        )
    try:
        own = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    node: dict[str, Any] = {}
    choices: dict[str, str] = {}
    own = dict(_mapping(own))
    defaults = own.pop("defaults", None)
    for entry in defaults if isinstance(defaults, list) else ():
        if isinstance(entry, Mapping):
            for key, value in entry.items():
                chosen = str(key).removeprefix("override ").partition("@")[0].strip("/")
                choices[chosen] = str(value)
        elif not set("/@") & set(str(entry)) and entry not in ("_self_", name, *seen):
            if entry not in (known := names(group, dirs)):
                raise ConfigError(
                    f"{path}: its defaults name '{entry}'. {did_you_mean(entry, known, limit=40)}"
                )
            below, further = _load(group, str(entry), dirs, (*seen, name))
            node, choices = _merged(node, below), {**further, **choices}
    return _merged(node, own), choices


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(under)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = _merged(result[key], value) if both else value
    return result


def _mapping(value: Any) -> Mapping[str, Any]:
    """What should be a mapping; a listing passes over what is none, as composing it tells."""
    return value if isinstance(value, Mapping) else {}


def _listed(value: Any) -> list[Any]:
    """One value, several, or the keys of a mapping, as a list."""
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple | Mapping) else [value]


def _parts(node: Any, at: str) -> Iterator[Part]:
    if not isinstance(node, Mapping):
        return
    if isinstance(node.get("_target_"), str):
        given = parameters(node, skip=(*ABOUT, "name", "weight", "roles") if at else (*ABOUT, "name"))
        weight = node.get("weight", 1.0) if at.startswith("objectives.") else None
        yield Part(at, node["_target_"], given, weight, tuple(map(str, _listed(node.get("roles")))))
    for key, value in node.items():
        yield from _parts(value, f"{at}.{key}" if at else str(key))


def _needs(option: Option) -> Iterator[tuple[str, str]]:
    answers = {source for sources in option.response.values() for source in sources}
    read = {name: f for term in option.terms for name, f in term.reads.items()}
    of_teacher = {"answers": "teacher" in answers, "logits": any(f.get("teacher") for f in read.values())}
    if any(of_teacher.values()):
        yield "teacher", "its " + " and ".join(what for what, is_read in of_teacher.items() if is_read)
    kinds = {str(f["reference"]) for f in read.values() if f.get("reference")}
    if kinds:
        yield "reference", ", ".join(_OF_REFERENCE.get(k, k) for k in sorted(kinds))
    for source, (word, what) in _OF_RESPONSES.items():
        if source in answers:
            yield word, what
    whole = {name for term in option.terms if term.on_weights for name in term.reads}
    yield from (_OF_WEIGHTS[name] for name in weight_fields() if name in whole)
    for term in option.terms:
        for name in term.reads.keys() - fields().keys() - columns() - weight_fields().keys():
            yield name, f"read by {term.target}"
    for part in [*option.parts, *(p for o in option.chosen for p in o.parts)]:
        if said := part.section("Needs"):
            yield said.partition(";")[0], said
