"""What is read from texts is what the code does; methods of one's own and of other shapes are read as well."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harmonize.config.instantiate import resolve
from harmonize.config.schema import Evidence
from harmonize.config.sources import sections_of, source_of
from harmonize.errors import ConfigError
from harmonize.objectives import weights
from harmonize.objectives.inputs import needs_teacher, reference_needs, signature
from harmonize.objectives.outputs import BATCH_FIELDS, FIELDS
from harmonize.reporting import catalogue
from harmonize.reporting.catalogue import EVIDENCE, Costs, described_groups, methods, names, option
from harmonize.unlearning.grouping import group_of, trained
from harmonize.unlearning.terms import build_terms
from tests.objectives.table import TABLE

EACH = pytest.mark.parametrize("name", names("method"))


def test_fields_and_columns_are_those_that_objectives_may_name() -> None:
    assert catalogue.fields().keys() == FIELDS.keys()
    for name, read in catalogue.fields().items():
        live = FIELDS[name]
        assert (read["teacher"], read.get("reference")) == (live.teacher, live.reference), name
    assert catalogue.columns() == set(BATCH_FIELDS)
    assert catalogue.weight_fields().keys() == weights.FIELDS.keys() == catalogue._OF_WEIGHTS.keys()
    assert EVIDENCE.keys() == {e.name for e in Evidence}


@pytest.mark.parametrize("name", sorted(TABLE))
def test_signatures_read_are_those_of_the_functions(name: str) -> None:
    function = TABLE[name].function
    source = source_of(f"{function.__module__}.{function.__name__}")
    assert source is not None
    fields, settings = signature(function)
    assert source.inputs == fields and source.settings.keys() == settings.keys()
    assert source.sections["Formula"] and source.summary == function.__doc__.partition("\n")[0]


@EACH
def test_needs_are_those_of_the_terms(name: str) -> None:
    found = option("method", name)
    live = build_terms(found.node["objectives"])
    teacher = any(needs_teacher(t.function) for t in live) or "teacher" in str(found.node["response"])
    kinds = reference_needs((t.function, t.settings) for t in live).kinds
    assert ("teacher" in found.needs) == teacher and ("reference" in found.needs) == bool(kinds)
    assert [t.name for t in found.terms] == [t.name for t in live]
    assert [t.settings.keys() for t in found.terms] == [t.settings.keys() for t in live]


@EACH
def test_every_method_says_where_it_comes_from(name: str) -> None:
    found = option("method", name)
    for key in ("description", "paper", "evidence"):
        assert found.says(key), f"conf/method/{name}.yaml lacks {key}"
    assert found.says("evidence") in EVIDENCE and not found.says("description").endswith(".")
    if found.says("evidence") != "code":
        assert found.says("fidelity"), "what was not read in code says how far it may be compared"
    for term in found.terms:
        assert term.section("Formula"), f"{term.target} has no line 'Formula: ...' in its docstring"
    assert found.formulas, "a method without objectives chooses something that states a formula"


@pytest.mark.parametrize(("group", "name"), [(g, n) for g in described_groups() for n in names(g)])
def test_every_described_option_is_whole(group: str, name: str) -> None:
    found = option(group, name)
    assert found.says("description"), f"conf/{group}/{name}.yaml lacks a description"
    assert not found.says("paper") or found.says("evidence") in EVIDENCE
    for part in found.parts:
        assert part.source is not None, part.target


def test_costs() -> None:
    costs = {m.name: m.costs for m in methods()}
    assert costs["grad_diff"] == Costs(student=1, backward=1, frozen=0, rows=1)
    assert costs["idk_dpo"] == Costs(student=1, backward=1, frozen=1, rows=2)
    assert costs["mollm"] == Costs(student=1, backward=3, frozen=1, rows=1)
    assert costs["ngdiff"].backward == 2
    assert costs["gs_lora"] == Costs(student=1, backward=1, frozen=0, rows=1)


@pytest.mark.parametrize("name", [m.name for m in methods() if "gradient" in m.choices])
def test_backward_passes_are_one_for_each_group(name: str) -> None:
    from harmonize.config.compose import compose_config

    cfg = compose_config("unlearn", [f"method={name}"])
    groups = {group_of(cfg.gradient.groups, *pair) for pair in trained(cfg)}
    assert option("method", name).costs.backward == len(groups) > 1


def test_terms_on_weights_have_no_roles_and_are_a_group_of_their_side(tmp_path: Path) -> None:
    base = "defaults: [gs_lora, override /gradient@_global_.gradient: {}, _self_]\nname: x\n"
    write(tmp_path, {f"method/{g}.yaml": base.format(g) for g in ("mgda", "pcgrad")})
    found = {g: option("method", g, [str(tmp_path)]) for g in ("mgda", "pcgrad")}
    # forget, keep and sparsity apart; the two sides
    assert [found[g].costs.backward for g in ("mgda", "pcgrad")] == [3, 2]
    sparsity = found["mgda"].terms[-1]
    assert sparsity.on_weights and sparsity.unit == "" and "adapters" in found["mgda"].needs


def test_sections_of_a_docstring() -> None:
    text = """Summary.

Formula: a +
    b
Needs: this; that

    Formula: no section of its own

Args:
    x: Costs: nothing of ours
"""
    assert sections_of(text) == {"Formula": "a + b", "Needs": "this; that"}


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def test_methods_of_ones_own_build_on_others(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "method/gentle-one.yaml": "defaults: [mollm, _self_]\nname: gentle\ndescription: Gentler\n"
            "objectives:\n  forget: {weight: 0.25}\n",
            "method/gentler.yaml": "defaults: [gentle-one, override /gradient@_global_.gradient: blur, _self_]\n"
            "name: gentler\nobjectives:\n  forget: {weight: 0.1}\n",
        },
    )
    found = option("method", "gentler", [str(tmp_path)])
    assert found.says("description") == "Gentler" and found.says("paper") == "arXiv 2412.20412"
    assert found.terms[0].weight == 0.1 and found.terms[0].target.endswith("bounded_ascent")
    assert found.choices == {"gradient": "blur"} and found.costs.backward == 2
    assert {"gentle-one", "npo"} < set(names("method", [str(tmp_path)]))
    with pytest.raises(ConfigError, match="Did you mean 'gentler'"):
        option("method", "gentlr", [str(tmp_path)])


OTHERS = {
    # an edit of the weights: no objectives, one option of a group of its own
    "method/negate.yaml": "defaults: [override /graft@_global_.graft: negate, _self_]\nname: negate\n"
    "description: Task vector negated\npaper: arXiv 2212.04089\nevidence: paper\nobjectives: {}\nresponse: {}\n",
    "graft/negate.yaml": "_target_: strange.edits.negate\ndescription: Negation\nevidence: paper\nscale: 1.0\n",
    # a regulariser on weights, and a column of the data
    "method/regular.yaml": "name: regular\ndescription: D\nobjectives:\n"
    "  group: {_target_: strange.edits.group_lasso, weight: 0.1}\n"
    "  hard: {_target_: 'strange.edits:hard', roles: [forget]}\nresponse: {forget: reference}\n",
    "method/broken.yaml": "name: [broken\n",
    # what Hydra will refuse is no reason not to list the others
    "method/odd.yaml": "name: odd\ndefaults: nothing\nresponse: [forget]\nvariants: none\n"
    "objectives: {a: {_target_: nowhere.f, weight: hi, roles: forget}, b: 3}\n",
    "method/empty.yaml": "",
    "method/orphan.yaml": "defaults: [npoo, _self_]\nname: orphan\n",
    "strange/__init__.py": "raise RuntimeError('listing ran a stranger')\n",
    "strange/edits.py": '''
raise RuntimeError('listing ran a stranger')
from harmonize.objectives.reduce import counted, each_sequence

def negate(start, vector, *, scale=1.0):
    """Negates.

    Formula: theta - scale tau
    Needs: a model fine-tuned on the forget set; disk
    Costs: one fine-tuning beforehand
    """

def group_lasso(adapters, *, smooth=0.0):
    """Group lasso."""

@counted(each_sequence)
def hard(label_log_probs, row, n_rows, difficulty): ...
''',
}


def test_other_shapes_of_method_are_read_and_nothing_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, OTHERS)
    monkeypatch.chdir(tmp_path)
    edit = option("method", "negate", ["."])
    assert edit.costs == Costs(0, 0, 0, 0) and [text for _, text in edit.formulas] == ["theta - scale tau"]
    assert edit.needs == {
        "a model fine-tuned on the forget set": "a model fine-tuned on the forget set; disk"
    }
    assert edit.said_needs == ["a model fine-tuned on the forget set; disk"]
    regular = option("method", "regular", ["."])
    assert list(regular.needs) == ["adapters", "difficulty"] and regular.costs.student == 1
    assert [t.unit for t in regular.terms] == ["", "response"] and regular.formulas == []
    assert described_groups(["."]) == sorted([*described_groups(), "graft"])
    odd = option("method", "odd", ["."])
    assert odd.needs == {} and odd.variants == {} and [t.roles for t in odd.terms] == [("forget",)]
    assert odd.costs.rows == 0 and option("method", "empty", ["."]).terms == []
    with pytest.raises(ConfigError, match=r"orphan.yaml: its defaults name 'npoo'. Did you mean 'npo'"):
        option("method", "orphan", ["."])
    with pytest.raises(ConfigError, match=r"broken.yaml is no YAML"):
        option("method", "broken", ["."])


def test_targets_that_cannot_be_read_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"bad.py": "def f(:\n", "shown/__init__.py": "from .inner import g as f\n"})
    write(tmp_path, {"shown/inner.py": "def g(row, *, k=3):\n    '''G.'''\n"})
    monkeypatch.syspath_prepend(str(tmp_path))
    for target in ("bad.f", "nowhere.at.all", "shown.h", "plainname", "x:", "math.sqrt", ""):
        assert source_of(target) is None, target
    found = source_of("shown.f")
    assert found is not None and (found.module, found.name, found.inputs) == ("shown.inner", "g", ("row",))


def test_listing_imports_no_torch() -> None:
    code = (
        "import sys; from harmonize.reporting.catalogue import methods\n"
        "assert all(m.needs is not None and m.costs for m in methods())\n"
        "print({'torch', 'hydra', 'omegaconf'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("name", "what", "overrides"),
    [(m.name, what, o) for m in methods() for what, o in m.variants.items()],
)
def test_variants_compose_and_change_something(name: str, what: str, overrides: str) -> None:
    import shlex

    from omegaconf import OmegaConf

    from harmonize.config.compose import compose_config

    plain: Any = compose_config("unlearn", [f"method={name}"])
    varied = compose_config("unlearn", [f"method={name}", *shlex.split(overrides)])
    assert OmegaConf.to_container(plain) != OmegaConf.to_container(varied)
    for term in option("method", name).terms:
        assert callable(resolve(term.target))
