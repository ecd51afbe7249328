"""The wheel alone, in an empty folder: every command finds its configuration."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("harmonize", "hydra_plugins", "conf", "sweeps", "experiments", "pyproject.toml", "README.md")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as a user gets it, unpacked from a wheel that was built from a copy of the sources."""
    home = tmp_path_factory.mktemp("wheel")
    copy = home / "source"
    copy.mkdir()
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, copy / name)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(home), str(copy)]
    subprocess.run([*pip, *build], check=True, capture_output=True, text=True)
    wheel = next(home.glob("harmonize-*.whl"))
    target = home / "site"
    subprocess.run(
        [*pip, "install", "--no-deps", "--no-index", "--target", str(target), str(wheel)], check=True
    )
    return target


def harmonize(installed: Path, folder: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "harmonize", *argv]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_commands_work_from_a_wheel_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    shared = installed / "harmonize" / "_share"
    assert {p.name for p in shared.iterdir()} == {"conf", "sweeps", "experiments"}
    where = [sys.executable, "-c", "import harmonize; print(harmonize.__file__)"]
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    found = subprocess.run(
        where, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert found.strip().startswith(str(installed)), "the checkout must not answer for the wheel"
    for argv, text in (
        (["ls", "methods"], "bidirectional"),
        (["ls", "experiments"], "main_books"),
        (["unlearn", "--cfg", "job"], "harmonize.objectives.distill.push"),
        (["evaluate", "--cfg", "job"], "five_axes"),
        (["finetune", "--help"], "optimizer"),
        (["validate", "dataset=sandbox_easy"], "is sound"),
    ):
        done = harmonize(installed, tmp_path, *argv)
        assert done.returncode == 0, done.stderr
        assert text in done.stdout
    assert list(tmp_path.iterdir()) == [], "asking writes nothing"


def test_both_console_scripts_are_declared(installed: Path) -> None:
    scripts = next(installed.glob("harmonize-*.dist-info")) / "entry_points.txt"
    text = scripts.read_text()
    assert "harmonize = harmonize.cli:main" in text
    assert "reproduce-paper-table = harmonize.cli:reproduce_paper_table" in text
