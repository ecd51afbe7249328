"""What a result says about the code and the machine."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
from pathlib import Path

import pytest

from harmonize.tracking import environment


def test_git_state(tmp_path: Path) -> None:
    assert environment.git_state(tmp_path) is None

    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
        subprocess.run(["git", *identity, "-C", str(tmp_path), *arguments], check=True, capture_output=True)

    git("init", "-q")
    assert environment.git_state(tmp_path) is None  # no commit yet
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-q", "-m", "first")
    state = environment.git_state(tmp_path)
    assert state is not None
    assert len(state["commit"]) == 40
    assert state["dirty"] is False
    (tmp_path / "a").write_text("2")
    changed = environment.git_state(tmp_path)
    assert changed is not None
    assert changed["dirty"] is True


def test_without_git(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert environment.git_state() is None


def test_versions_and_hardware() -> None:
    found = environment.versions()
    assert found["python"] == platform.python_version()
    assert "torch" in found
    facts = environment.hardware()
    assert facts["cores"] >= 1
    assert facts["memory_bytes"] > 2**20
    assert facts["cpu"]
    assert socket.gethostname() not in facts.values()
    assert environment.peak_memory_bytes() > 2**20


def test_peak_memory_grows() -> None:
    before = environment.peak_memory_bytes()
    block = bytearray(os.urandom(1)) * (before + 2**24)
    assert environment.peak_memory_bytes() >= len(block)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux starts the peak anew")
def test_the_peak_of_a_job_is_its_own() -> None:
    environment.reset_peak_memory()
    before = environment.peak_memory_bytes()
    block = bytearray(64 << 20)
    block[::4096] = b"x" * len(block[::4096])
    assert environment.peak_memory_bytes() >= before + (60 << 20)
    del block
    environment.reset_peak_memory()
    assert environment.peak_memory_bytes() < before + (40 << 20)
