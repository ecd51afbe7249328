"""What every test room shares."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import absl.logging
import pytest

# absl (of rouge-score) keeps the stderr of its import and closes it when Hydra sets up logging, unless that is
# the process's own; under pytest it is the capture file, which must stay open.
absl.logging.get_absl_handler().python_handler.stream = sys.__stderr__

ROOT = Path(__file__).resolve().parents[1]


def shared_folder() -> Path:
    """The folder of public data and small models: HARMONIZE_SHARED, or `shared` beside the checkout."""
    return Path(os.environ.get("HARMONIZE_SHARED") or ROOT.parent / "shared")


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real data and models for tests; fails with the place looked at, so that no test is silently left out."""
    folder = shared_folder()
    if not folder.is_dir():
        pytest.fail(
            f"{folder} does not exist; set HARMONIZE_SHARED to the folder that holds data/ and models/"
        )
    return folder


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reaches the network."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")


@pytest.fixture
def cache_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A private cache directory for one test."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("HARMONIZE_CACHE", str(folder))
    return folder
