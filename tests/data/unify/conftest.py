"""What the tests of rewriters share: one small model that replies in JSON."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def replying() -> ModuleType:
    """The module of that name beside this file."""
    spec = importlib.util.spec_from_file_location("replying", Path(__file__).with_name("replying.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def json_model(replying: ModuleType, shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the trained model."""
    folder = tmp_path_factory.mktemp("replying") / "model"
    replying.train(shared / "models" / "stories260k", folder)
    return folder
