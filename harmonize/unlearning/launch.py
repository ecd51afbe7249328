"""Starting the ranks of a run: `trainer.devices` processes on this machine, each of which is the run.

A run that is a job of a sweep starts its own, so nothing starts the sweep again. Output of the first rank is the run's;
that of the others goes to `rank-<n>.log` of the folder, which stays only if something went wrong.
"""

from __future__ import annotations

import base64
import io
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harmonize import errors
from harmonize.errors import ConfigError, HarmonizeError, Interrupted, Rejected, RunError
from harmonize.tracking.files import PRIVATE_FILE, make_folder
from harmonize.unlearning import ranks

_GRACE_SECONDS = 20.0  # from the end of one rank to that of the others
_POLL_SECONDS = 0.05


def needed(cfg: Any) -> bool:
    """Whether this process is to start the ranks of the run, in place of running it.

    Raises:
        ConfigError: Several machines, and nothing that starts processes on all of them.
    """
    if ranks.asked(cfg) == 1 or ranks.placed():
        return False
    if int(cfg.trainer.num_nodes) > 1:
        raise ConfigError(
            f"trainer.num_nodes={cfg.trainer.num_nodes}: start the command on every machine, with torchrun "
            f"(torchrun --nnodes {cfg.trainer.num_nodes} --nproc-per-node {cfg.trainer.devices} --rdzv-backend c10d "
            "--rdzv-endpoint HOST:PORT -m harmonize unlearn ...) or as SLURM tasks (srun), one a device."
        )
    return True


def run_ranks(cfg: Any, folder: Path) -> dict[str, Any]:
    """Runs `harmonize.unlearning.run.run` on several ranks; returns the metric values.

    Raises:
        HarmonizeError: What the first rank raised; or a rank ended without a word.
        Interrupted: Ctrl-C or a termination signal; it reaches every rank once.
    """
    make_folder(folder)
    world = ranks.asked(cfg)
    with tempfile.TemporaryDirectory() as scratch:
        told = Path(scratch) / "error"
        # the configuration itself, not its overrides: a caller in Python has none
        text = base64.b64encode(pickle.dumps((cfg, folder, sys.argv, told))) + b"\n"
        port = _free_port()
        processes = [_start(rank, world, port, folder, text) for rank in range(world)]
        with _signals_to(processes):
            codes = _ends(processes)
        logs = [folder / f"rank-{n}.log" for n in range(1, world)]
        if any(codes):
            _raise(told, codes, folder)
        for log in logs:
            log.unlink(missing_ok=True)
    from harmonize.tracking.results import read_run

    return {k: m.value for k, m in read_run(folder).results.metrics.items()}


def _start(rank: int, world: int, port: int, folder: Path, text: bytes) -> subprocess.Popen[bytes]:
    out: Any = _stream(sys.stdout)
    err: Any = _stream(sys.stderr)
    if rank:
        handle = os.open(
            folder / f"rank-{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, PRIVATE_FILE
        )
        out = err = handle
    process = subprocess.Popen(
        [sys.executable, "-m", "harmonize.unlearning.launch"],
        stdin=subprocess.PIPE,
        stdout=out,
        stderr=err,
        env={**_without_slurm(), **_place(rank, world, port)},
        start_new_session=True,  # a terminal's Ctrl-C reaches the parent alone, which passes it on once
    )
    if rank:
        os.close(handle)
    assert process.stdin is not None
    process.stdin.write(text)
    process.stdin.flush()  # and stays open: its end tells a rank that the parent is gone
    return process


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _place(rank: int, world: int, port: int) -> dict[str, str]:
    where = {"RANK": rank, "LOCAL_RANK": rank, "NODE_RANK": 0, "WORLD_SIZE": world, "MASTER_PORT": port}
    return {**{k: str(v) for k, v in where.items()}, "MASTER_ADDR": "127.0.0.1"}


def _without_slurm() -> dict[str, str]:
    """The environment of one task of a cluster would tell each rank that it is the only one."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "TORCHELASTIC_"))}


def _stream(stream: Any) -> Any:
    """A stream as a file of the operating system, where it is one; None is the parent's own."""
    try:
        stream.flush()
        return stream.fileno()
    except (AttributeError, ValueError, OSError, io.UnsupportedOperation):
        return None


@contextmanager
def _signals_to(processes: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    def forward(number: int, frame: object) -> None:
        for process in processes:
            if process.poll() is None:
                process.send_signal(number)

    before: dict[int, Any] = {}
    try:
        for number in (int(signal.SIGINT), int(signal.SIGTERM)):
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, forward)
    except ValueError:  # not the main thread: signals are someone else's
        pass
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ends(processes: Sequence[subprocess.Popen[bytes]]) -> list[int]:
    """Waits for all; once one has failed, or the first is done, the others get a while to end by themselves."""
    deadline = float("inf")
    while any(p.poll() is None for p in processes):
        over = any(p.poll() for p in processes) or processes[0].poll() is not None
        if over and deadline == float("inf"):
            deadline = time.monotonic() + _GRACE_SECONDS
        if time.monotonic() > deadline:
            for process in processes:
                process.kill()
        time.sleep(_POLL_SECONDS)
    for process in processes:
        if process.stdin is not None:
            process.stdin.close()
    return [int(p.returncode) for p in processes]


def _raise(told: Path, codes: Sequence[int], folder: Path) -> None:
    """Raises what the first rank raised."""
    if told.exists():
        kind, message, found = pickle.loads(told.read_bytes())  # written by our own process, a moment ago
        if kind == "Rejected":
            raise Rejected(message, found)
        raise getattr(errors, kind, HarmonizeError)(message)
    if codes[0] == 0:
        raise RunError(f"A rank ended with {max(codes, key=abs)}: see rank-*.log in {folder}.")
    raise RunError(
        f"The processes of {folder} ended with {', '.join(map(str, codes))}; the first has shown why above, "
        "the others in rank-*.log there."
    )


def main() -> None:
    """One rank, which reads what to run from its standard input."""
    cfg, folder, argv, told = pickle.loads(base64.b64decode(sys.stdin.buffer.readline()))
    sys.argv = argv
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    from harmonize.config import compose

    compose.register()
    from harmonize.unlearning.run import run

    os.umask(0o077)
    first = os.environ["RANK"] == "0"
    try:
        run(cfg, folder)
    except HarmonizeError as error:
        if first:
            told.write_bytes(pickle.dumps((type(error).__name__, str(error), getattr(error, "found", None))))
        else:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        if first:
            told.write_bytes(pickle.dumps((Interrupted.__name__, "Interrupted.", None)))
        sys.exit(130)


def _leave_with_parent() -> None:
    """A parent that was killed takes its ranks along: each stops after its step, as at Ctrl-C."""
    while os.read(0, 1024):  # past Python's own buffer, whose lock would outlive this thread
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
