"""The guarded way from a config to code."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from harmonize.config.instantiate import call, check_parameters, resolve
from harmonize.errors import ConfigError


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "harmonize.config.paths.os.system",
        "harmonize.config.paths:os.system",
        "harmonize.config.paths.Path",
        "harmonizer.anything",
        "torch.load",
    ],
)
def test_foreign_targets_are_refused(target: str) -> None:
    with pytest.raises(ConfigError, match="--allow"):
        resolve(target)


def test_the_person_at_the_keyboard_may_allow_more(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve("math.sqrt", allow=["math"])(4.0) == 2.0
    monkeypatch.setenv("HARMONIZE_ALLOW", "json,math")
    assert resolve("math:sqrt")(9.0) == 3.0


def test_a_prefix_is_a_whole_package_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARMONIZE_ALLOW", "mat")
    with pytest.raises(ConfigError, match="outside"):
        resolve("math.sqrt")


def test_misspelt_targets_name_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'conf_dir'"):
        resolve("harmonize.config.paths.conf_dirr")
    with pytest.raises(ConfigError, match="expected a function or class"):
        resolve("harmonize.data.example.ROLES")


def test_parameters_are_compared_with_the_signature() -> None:
    problems = check_parameters(
        {"_target_": "torch.optim.AdamW", "lr": 1e-3, "weigt_decay": 0.1}, extra=["params"], where="optimizer"
    )
    assert len(problems) == 1
    assert "optimizer.weigt_decay" in problems[0] and "weight_decay" in problems[0]
    assert check_parameters({"_target_": "harmonize.config.paths.share"}, where="x") == [
        "x.kind is missing: harmonize.config.paths.share needs it. Add +x.kind=<value>."
    ]


def test_call_passes_what_code_supplies() -> None:
    folder = call(
        {"_target_": "harmonize.config.paths.share", "name": "ignored"}, skip=("name",), kind="conf"
    )
    assert (folder / "unlearn.yaml").is_file()
    with pytest.raises(ConfigError, match="kinds"):
        call({"_target_": "harmonize.config.paths.share", "kinds": 1}, kind="conf")


def test_what_an_option_says_of_itself_is_no_parameter() -> None:
    node = {"_target_": "harmonize.config.paths.share", "description": "d", "paper": "p", "evidence": "code"}
    assert (call(node, kind="conf") / "unlearn.yaml").is_file()
    assert check_parameters({**node, "kind": "conf", "fidelity": "f"}) == []
    assert "descripton" in check_parameters({**node, "kind": "conf", "descripton": "d"})[0]
    # a target that has such a parameter gets it
    own = {"_target_": "argparse:ArgumentParser", "description": "d", "evidence": "code"}
    assert call(own, allow=["argparse"]).description == "d"


def test_an_allowed_module_may_lie_in_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [p for p in sys.path if p])
    Path("lying_here.py").write_text("def double(x):\n    return 2 * x\n")
    with pytest.raises(ConfigError, match="--allow lying_here"):
        resolve("lying_here.double")
    assert str(tmp_path) not in sys.path, "what is refused changes nothing"
    assert resolve("lying_here.double", allow=["lying_here"])(4) == 8
    assert sys.path[-1] == str(tmp_path), "last, so that it hides nothing installed"
    with pytest.raises(ConfigError, match=r"Did you mean 'lying_here'.*PYTHONPATH"):
        resolve("lying_hear.double", allow=["lying_hear"])
    with pytest.raises(ConfigError, match="Did you mean 'double'"):
        resolve("lying_here.duble", allow=["lying_here"])
