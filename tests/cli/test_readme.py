"""What README and docs tell a user to type is right."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from harmonize.cli import COMMANDS
from harmonize.commands.runs import expand, split_arguments
from harmonize.config import compose
from harmonize.config.paths import conf_dir

ROOT = Path(__file__).resolve().parents[2]
# In the README the explanation of a line follows after two or more spaces, or right after the command.
COMMAND = re.compile(r"^    (harmonize [a-z-]+(?: +(?:-\S+(?: job)?|[~+]?[\w./]+=\S+|[a-z_]+(?=\s{2,}|$)))*)")


def commands() -> list[str]:
    lines = (ROOT / "README.md").read_text().splitlines()
    return [m.group(1) for line in lines if (m := COMMAND.match(line))]


def test_the_readme_has_its_commands() -> None:
    assert len(commands()) >= 18


@pytest.mark.parametrize("line", commands())
def test_readme_command_composes(line: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("mydata", "data/tofu", "path/to/model"):
        (tmp_path / folder).mkdir(parents=True)
    _, command, *rest = shlex.split(line)
    assert command in COMMANDS
    if command in compose.COMMANDS:
        for overrides in expand(split_arguments(rest).overrides):
            compose.compose_config(command, overrides)


def test_every_group_and_option_is_documented() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text()
    # methods and attacks have pages of their own, which are generated
    pages = {g: (ROOT / "docs" / f"{g}s.md").read_text() for g in ("method", "attack")}
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", text, flags=re.M))
    for folder in conf_dir().iterdir():
        if folder.is_dir() and folder.name != "hydra":
            for path in folder.glob("*.yaml"):
                told = pages.get(folder.name, rows[folder.name])
                assert re.search(f"`({folder.name}=)?{path.stem}`", told), f"{folder.name}/{path.stem}"
