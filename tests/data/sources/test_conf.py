"""Every YAML of the group `source` has exactly the parameters of its reader, with the reader's own defaults."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import yaml

import harmonize.data.sources as package
from harmonize.commands.ls import options
from harmonize.config.instantiate import check_parameters, resolve
from harmonize.config.paths import conf_dir

FILES = sorted((conf_dir() / "source").glob("*.yaml"))
NO_READERS = {"__init__", "source", "files", "rows", "fields", "prose"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_a_yaml_is_its_reader_s_signature(path: Path) -> None:
    node = yaml.safe_load(path.read_text())
    target = resolve(node.pop("_target_"))
    signature = inspect.signature(target)
    assert list(node) == list(signature.parameters)
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in signature.parameters.values())
    assert node["name"] == path.stem == target.__module__.rpartition(".")[2]
    for key, parameter in signature.parameters.items():
        default = list(parameter.default) if isinstance(parameter.default, tuple) else parameter.default
        assert node[key] == default or (key, node[key]) == ("root", "???")
    documented = inspect.getdoc(target) or ""
    assert all(key in documented for key in node)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_only_a_root_has_to_be_given(path: Path) -> None:
    node = yaml.safe_load(path.read_text())
    problems = check_parameters(node, where="source")
    assert problems == (
        ["source.root must be given. Add source.root=<value>."] if node["root"] == "???" else []
    )


def test_every_reader_has_a_yaml_and_is_listed() -> None:
    readers = {p.stem for p in Path(package.__path__[0]).glob("*.py")} - NO_READERS
    assert readers == {p.stem for p in FILES}
    listed = dict(options("sources"))
    assert set(listed) == readers and all(listed.values())
    assert {name for name, text in listed.items() if "unverified" in text} == {"muse", "dusk", "blur"}
