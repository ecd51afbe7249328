"""What the tests of rewriters share: one small model that replies in JSON, and servers."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


def _beside(name: str) -> ModuleType:
    """A module of that name beside this file; rooms of tests are no packages."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def replying() -> ModuleType:
    """A model that replies in JSON, and what it replies to."""
    return _beside("replying")


@pytest.fixture(scope="session")
def processes() -> ModuleType:
    """Server processes."""
    return _beside("processes")


@pytest.fixture(scope="module")
def bad(processes: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A server that misbehaves as the question asks it to."""
    server = processes.Misbehaving(tmp_path_factory.mktemp("server") / "log.jsonl")
    yield server
    server.stop()


@pytest.fixture(scope="session")
def json_model(replying: ModuleType, shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the trained model."""
    folder = tmp_path_factory.mktemp("replying") / "model"
    replying.train(shared / "models" / "stories260k", folder)
    return folder
