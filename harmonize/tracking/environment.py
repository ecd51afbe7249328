"""What a result depends on besides its configuration: code, libraries, machine, memory."""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

LIBRARIES = (
    "harmonize",
    "torch",
    "transformers",
    "lightning",
    "hydra-core",
    "omegaconf",
    "peft",
    "tokenizers",
    "safetensors",
    "numpy",
    "wandb",
    "lm-eval",
)


def git_state(folder: str | Path | None = None) -> dict[str, Any] | None:
    """{commit, dirty} of the repository the package is run from, or None where there is none.

    Args:
        folder: Where to look; None takes the package's own checkout.
    """
    where = Path(folder) if folder is not None else Path(__file__).resolve().parents[2]
    commit = _git(where, "rev-parse", "HEAD")
    if not commit:
        return None
    # An installed package may lie inside somebody else's repository (a virtual environment in a project):
    # that commit says nothing about our code.
    tracked = folder is not None or _git(where, "ls-files", "harmonize/errors.py")
    if not tracked:
        return None
    changes = _git(where, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": bool(changes) if changes is not None else None}


def _git(folder: Path, *arguments: str) -> str | None:
    """Git's answer, or None where git or the repository is missing."""
    environment = os.environ | {"GIT_OPTIONAL_LOCKS": "0"}
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
            env=environment,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def versions() -> dict[str, str]:
    """Python's and the main libraries' versions; those not installed are left out."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, Any]:
    """CPU name and cores, memory in bytes, CUDA devices (only where torch is loaded already).

    No host or user name.
    """
    facts: dict[str, Any] = {
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_name(),
        "cores": _cores(),
        "memory_bytes": _memory(),
        "devices": [],
    }
    torch = sys.modules.get("torch")
    if torch is not None:
        facts["threads"] = torch.get_num_threads()
        if torch.cuda.is_available():
            facts["devices"] = [
                {"name": torch.cuda.get_device_name(i), "memory_bytes": _device_memory(torch, i)}
                for i in range(torch.cuda.device_count())
            ]
    return facts


def reset_peak_memory() -> None:
    """Starts `peak_memory_bytes` anew, where the system can: one process may run many jobs."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        for i in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(i)
    with contextlib.suppress(OSError):  # Linux alone has it, and a container may forbid it
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_bytes() -> int:
    """Highest memory since `reset_peak_memory`: of the CUDA device where one is used, else of this process (resident).

    Where the system cannot start anew it is the highest of the process so far.
    """
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        return int(max(torch.cuda.max_memory_allocated(i) for i in range(torch.cuda.device_count())))
    with contextlib.suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM:")).split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)  # bytes on macOS, KiB elsewhere


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None


def _device_memory(torch: Any, index: int) -> int:
    return int(torch.cuda.get_device_properties(index).total_memory)


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
