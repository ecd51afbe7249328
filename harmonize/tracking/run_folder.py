"""A run is a folder: who may use it, what state it is in, and what in it is sensitive."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shlex
import shutil
import signal
import sys
import traceback
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

from harmonize.errors import ConfigError, HarmonizeError, Interrupted, Rejected, RunError
from harmonize.tracking.files import PRIVATE_FILE, PRIVATE_FOLDER, disk_error, make_folder, write_text
from harmonize.tracking.results import CONFIG, RESULTS, RUN_STATES, SAMPLES, STATUS, plain, read_json
from harmonize.tracking.sequence import SEQUENCE, SEQUENCE_PLOT, SEQUENCE_TABLE

CHECKPOINTS = "checkpoints"
MODEL = "model"
WANDB = "wandb"
TENSORBOARD = "tensorboard"
METRICS_CSV = "metrics.csv"
LOCK = ".lock"

# What a run writes. Only these make a folder occupied and only these are removed by `overwrite=true`:
# whatever else lies in the folder (Hydra's own files, a user's) is neither ours to judge nor ours to delete.
OWN_ENTRIES = (
    *(STATUS, RESULTS, SAMPLES, CONFIG, METRICS_CSV, CHECKPOINTS, MODEL, WANDB, TENSORBOARD),
    *(SEQUENCE, SEQUENCE_TABLE, SEQUENCE_PLOT),
)
SENSITIVE_ENTRIES = (SAMPLES, CHECKPOINTS, WANDB)

_FULL_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}


def now() -> str:
    """The time as ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class RunFolder:
    """One run's folder. `prepare` claims it, `running` keeps its status true whatever happens.

    Args:
        path: The folder (Hydra's run directory).
        command: What started the run, for `status.json`; None takes the command line.
    """

    def __init__(self, path: str | Path, command: str | None = None) -> None:
        self.path = Path(path)
        self.command = command if command is not None else _command_line()
        self.previous_state: str | None = None
        self.next: str | None = None
        self._sensitive: list[str] = []
        self._started: str | None = None
        self._release: Callable[[], object] | None = None

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.path / CONFIG

    @property
    def results(self) -> Path:
        """`results.json`."""
        return self.path / RESULTS

    @property
    def samples(self) -> Path:
        """`samples.jsonl`."""
        return self.path / SAMPLES

    @property
    def checkpoints(self) -> Path:
        """Where resume checkpoints go."""
        return self.path / CHECKPOINTS

    @property
    def model(self) -> Path:
        """Where the exported model goes."""
        return self.path / MODEL

    @property
    def metrics_csv(self) -> Path:
        """Where the CSV logger writes."""
        return self.path / METRICS_CSV

    def prepare(self, resume: bool = False, overwrite: bool = False) -> RunFolder:
        """Makes and claims the folder; call it before anything is computed.

        resume keeps what is there (`previous_state` tells how the earlier run ended); overwrite removes what
        an earlier run wrote. The claim is a lock that ends with `close`, `running`, or the process.

        Raises:
            RunError: Occupied, in use by another process, or not writable.
        """
        if resume and overwrite:
            raise RunError("resume=true and overwrite=true exclude each other: give one of them.")
        make_folder(self.path)
        self._make_private()
        self._claim()
        try:
            occupied = [name for name in OWN_ENTRIES if os.path.lexists(self.path / name)]
            if occupied:
                self.previous_state = self.read_status().get("state")
                if not (resume or overwrite):
                    state = f"its run is '{self.previous_state}'" if self.previous_state else "it holds a run"
                    raise RunError(
                        f"{self.path} is occupied ({state}; found {', '.join(occupied)}). Continue it "
                        "with resume=true, replace it with overwrite=true, or choose another folder with "
                        "job=<name>."
                    )
                if overwrite:
                    self._remove(occupied)
                else:
                    self._sensitive = [str(item) for item in self.read_status().get("sensitive", [])]
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        """Gives the claim back."""
        if self._release is not None:
            self._release()
            self._release = None

    def _make_private(self) -> None:
        facts = self.path.stat()
        ours = facts.st_uid == os.getuid() and not facts.st_mode & 0o1000
        if ours and self.path.resolve() not in (Path.home(), Path.cwd()):
            with suppress(OSError):
                self.path.chmod(PRIVATE_FOLDER)

    def _claim(self) -> None:
        lock = self.path / LOCK
        try:
            handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE)
        except OSError as error:
            raise disk_error(lock, error) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(handle)
            pid = self.read_status().get("pid")
            who = f"process {pid}" if pid else "another process"
            raise RunError(
                f"{self.path} is in use by {who}. Wait for it, or choose another folder with job=<name>."
            ) from error
        except OSError:  # a file system without locks: status.json is the only guard there
            pass
        # Also given back when the object is dropped without `close`.
        self._release = weakref.finalize(self, os.close, handle)

    def _remove(self, names: list[str]) -> None:
        for name in names:
            entry = self.path / name
            try:
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
                else:
                    entry.unlink()
            except OSError as error:
                raise RunError(f"{entry}: cannot be removed ({error.strerror}).") from error

    def read_status(self) -> dict[str, Any]:
        """`status.json` as it is, or {} where there is none that can be read."""
        try:
            found = read_json(self.path / STATUS)
        except RunError:
            return {}
        return found if isinstance(found, dict) else {}

    def mark(
        self,
        state: str,
        error: str | None = None,
        trace: str | None = None,
        found: Mapping[str, float] | None = None,
    ) -> None:
        """Writes `status.json`: state, started, ended, pid, command, error, next, sensitive, and `found`, which are the
        figures of a run that was given up.

        Raises:
            RunError: The disk is full or the folder unwritable.
        """
        if state not in RUN_STATES:
            raise ValueError(f"unknown state {state!r}; one of {', '.join(RUN_STATES)}")
        self._started = self._started or now()
        status: dict[str, Any] = {
            "state": state,
            "started": self._started,
            "ended": None if state == "running" else now(),
            "pid": os.getpid(),
            "command": self.command,
            "error": error,
            "next": self.next,
            "sensitive": self._sensitive,
        }
        if trace:
            status["traceback"] = trace
        if found is not None:
            status["found"] = found
        self.write_json(STATUS, status)

    @contextmanager
    def running(self) -> Iterator[RunFolder]:
        """Marks the run running, then done, failed, rejected or interrupted; what was written stays.

        Set `next` inside to the command a user should try next.

        Raises:
            Interrupted: The user pressed Ctrl-C; the run can be resumed.
            RunError: The disk is full or unwritable (any other error passes through unchanged).
        """
        self.mark("running")
        restore = _terminate_like_ctrl_c()
        try:
            yield self
            self.mark("done")
        except BaseException as error:
            raised = self._outcome(error)
            if raised is error:
                raise
            raise raised from error
        finally:
            restore()
            self.close()

    def _outcome(self, error: BaseException) -> BaseException:
        """Records how the run ended and gives the error to raise."""
        resume = f"{self.command} resume=true"
        if _is_interrupt(error):
            state = "interrupted"
            raised: BaseException = error
            if not isinstance(error, Interrupted):
                raised = Interrupted(
                    f"Interrupted; what was computed is kept in {self.path}. Continue: {resume}"
                )
            self.next = resume
        elif _is_full_disk(error):
            state = "failed"
            raised = _disk_message(self.path, error)
            self.next = resume
        elif isinstance(error, ConfigError | Rejected):
            state, raised = "rejected", error
        else:
            state, raised = "failed", error
            self.next = resume
        known = isinstance(raised, HarmonizeError)
        text = str(raised) if known else f"{type(raised).__name__}: {raised}"
        trace = None if known else "".join(traceback.format_exception(raised))
        try:
            self.mark(
                state, error=text, trace=trace, found=raised.found if isinstance(raised, Rejected) else None
            )
        except RunError as second:  # the first error is the one to show
            raised.add_note(f"The run's state could not be recorded either: {second}")
        return raised

    def write_json(self, name: str, data: Any) -> Path:
        """Writes `data` to the file `name` of the folder, atomically, mode 0600.

        Raises:
            RunError: The disk is full or the folder unwritable.
        """
        text = json.dumps(plain(data), indent=1, ensure_ascii=False, allow_nan=False)
        return self.write_text(name, text + "\n")

    def write_text(self, name: str, text: str) -> Path:
        """Like `write_json`, for text."""
        target = self.path / name
        make_folder(target.parent)
        return write_text(target, text)

    def write_jsonl(self, name: str, rows: list[Mapping[str, Any]] | list[dict[str, Any]]) -> Path:
        """One JSON object a line, atomically, mode 0600."""
        lines = [json.dumps(plain(row), ensure_ascii=False, allow_nan=False) for row in rows]
        return self.write_text(name, "".join(line + "\n" for line in lines))

    def record_sensitive(self, *paths: str | Path) -> None:
        """Notes files outside the folder (a teacher cache, prepared data) that tell what is to be
        forgotten.
        """
        for path in paths:
            text = str(Path(path).resolve())
            if text not in self._sensitive:
                self._sensitive.append(text)
        state = self.read_status().get("state")
        if state in RUN_STATES:
            self.mark(state)

    def sensitive_files(self) -> list[Path]:
        """What `harmonize purge` removes and the closing lines of a run list: samples, resume checkpoints,
        W&B's folder and what `record_sensitive` noted; only what exists.
        """
        return sensitive_files(self.path)


def sensitive_files(folder: str | Path) -> list[Path]:
    """Like `RunFolder.sensitive_files`, for a folder of an earlier run."""
    run = RunFolder(folder)
    noted = run.read_status().get("sensitive", [])
    paths = [run.path / name for name in SENSITIVE_ENTRIES]
    paths += [Path(item) for item in noted if isinstance(item, str)]
    return [path for path in paths if path.exists()]


def _command_line() -> str:
    program = Path(sys.argv[0]).name if sys.argv and sys.argv[0] else "python"
    if program in ("__main__.py", "cli.py"):
        program = "harmonize"
    return shlex.join([program, *sys.argv[1:]])


def _terminate_like_ctrl_c() -> Callable[[], None]:
    """Lets a termination signal (a scheduler's, `kill`) end a run as Ctrl-C does; returns how to undo that."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not the main thread: signals are someone else's
        return lambda: None

    def undo() -> None:
        signal.signal(signal.SIGTERM, before)

    return undo


def _is_interrupt(error: BaseException | None) -> bool:
    """Ctrl-C, also where a library (Lightning) has turned it, or a termination signal, into SystemExit."""
    return isinstance(error, KeyboardInterrupt | Interrupted | SystemExit)


def _is_full_disk(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno in _FULL_DISK
    # safetensors, torch and pyarrow raise errors of their own that carry the operating system's words.
    return not isinstance(error, HarmonizeError) and os.strerror(errno.ENOSPC) in str(error)


def _disk_message(folder: Path, error: BaseException) -> RunError:
    if isinstance(error, OSError):
        return disk_error(error.filename or folder, error)
    return disk_error(folder, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
