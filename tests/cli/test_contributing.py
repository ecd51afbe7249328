"""The example of CONTRIBUTING.md, as it stands there, in an empty folder: a method that lives outside the package."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from harmonize.data import sandbox

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
FILES = dict(re.findall(r"```\w+\n# (\S+)\n(.*?)```", TEXT, flags=re.DOTALL))
COMMANDS = re.findall(r"^    ((?:python -m pytest|harmonize) .*)$", TEXT, flags=re.MULTILINE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files of the example and nothing else."""
    place = tmp_path_factory.mktemp("mine")
    for name, text in FILES.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)
    return place


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """In place of the sandbox's own model, which takes minutes to make, a random one with its tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    small = {**sandbox.architecture("sandbox_easy"), "hidden_size": 32, "intermediate_size": 48}
    place = tmp_path_factory.mktemp("model")
    LlamaForCausalLM(LlamaConfig(**{**small, "num_hidden_layers": 1})).save_pretrained(place)
    sandbox.tokenizer("sandbox_easy").save_pretrained(place)
    return ["model=hf", f"model.name_or_path={place}", "model.gold=null"]


def run(
    command: str, folder: Path, more: list[str] | None = None, path: tuple[Path, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """A command line; -P keeps the folder off Python's path, as it is for the installed `harmonize`."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, (ROOT, *path))),
        "HARMONIZE_CACHE": str(folder / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    environment.pop("HARMONIZE_ALLOW", None)
    words = shlex.split(command)
    start = [sys.executable, "-P", "-m", "harmonize"] if words[0] == "harmonize" else [sys.executable]
    return subprocess.run(
        [*start, *words[1:], *(more or [])],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def command(name: str) -> str:
    return next(c for c in COMMANDS if c.startswith(name))


def test_the_example_is_about_twenty_lines() -> None:
    assert set(FILES) == {
        "mymethods.py",
        "mine/method/inverted_hinge.yaml",
        "test_mymethods.py",
        "pyproject.toml",
    }
    written = [FILES["mymethods.py"], FILES["mine/method/inverted_hinge.yaml"]]
    assert sum(1 for text in written for line in text.splitlines() if line.strip()) <= 20


def test_its_test_row_passes(folder: Path) -> None:
    done = run(command("python -m pytest"), folder, ["-q", "-p", "no:cacheprovider"])
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout + done.stderr


def test_it_is_listed_and_shown(folder: Path) -> None:
    done = run(command("harmonize show"), folder)
    assert done.returncode == 0, done.stderr
    assert "1 + p - max p of the other tokens" in done.stdout and "evidence: several" in done.stdout
    listed = run("harmonize ls methods --config-dir mine", folder)
    assert "inverted_hinge" in listed.stdout


@pytest.mark.slow
def test_it_unlearns_with_allow(folder: Path, model: list[str]) -> None:
    line = command("harmonize unlearn")
    done = run(line, folder, model)
    assert done.returncode == 0, done.stdout + done.stderr
    job = next((folder / "runs" / "default").iterdir())
    assert job.name.startswith("inverted_hinge_sandbox_easy_seed0")
    assert "term/forget/forget" in (job / "metrics.csv").read_text()
    config = json.loads((job / "results.json").read_text())["config"]["method"]
    assert config["evidence"] == "several" and "No parity" in config["fidelity"]


def test_without_allow_it_is_refused_before_anything_is_loaded(folder: Path) -> None:
    words = [w for w in shlex.split(command("harmonize unlearn")) if w not in ("--allow", "mymethods")]
    done = run(shlex.join(words), folder, ["study=refused"])
    assert done.returncode == 1 and "--allow mymethods" in done.stderr and "Traceback" not in done.stderr
    assert not (folder / "runs" / "refused").exists()


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder on Python's path that holds the module and what pip writes of its entry points."""
    points = tomllib.loads(FILES["pyproject.toml"])["project"]["entry-points"]
    info = tmp_path / "mymethods-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mymethods\nVersion: 1.0\n")
    lines = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in of.items()) for group, of in points.items()]
    (info / "entry_points.txt").write_text("\n".join(lines))
    (tmp_path / "mymethods.py").write_text(FILES["mymethods.py"])
    return tmp_path


@pytest.mark.slow
def test_it_unlearns_with_an_entry_point(
    folder: Path, model: list[str], installed: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    name = tomllib.loads(FILES["pyproject.toml"])["project"]["entry-points"]["harmonize.plugins"]
    target = f"method.objectives.forget._target_={next(iter(name))}"
    words = [w for w in shlex.split(command("harmonize unlearn")) if w not in ("--allow", "mymethods")]
    line = shlex.join([str(folder / w) if w == "mine" else w for w in words])
    refused = run(line, elsewhere, [*model, target])
    assert refused.returncode == 1 and "outside the packages" in refused.stderr
    done = run(line, elsewhere, [*model, target], path=(installed,))
    assert done.returncode == 0, done.stdout + done.stderr
    shown = run(
        f"harmonize show method=inverted_hinge {target} --config-dir {folder / 'mine'}",
        elsewhere,
        path=(installed,),
    )
    assert "1 + p - max p of the other tokens" in shown.stdout
