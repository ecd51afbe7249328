"""Running the jobs of a sweep: what is done is found by content, what failed is tried again, several processes share.

A job's folder is the one that `harmonize unlearn -m` would give it, so either may have made it. A job is done where a
finished run of the study has its resolved configuration, whatever its folder is called.
"""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harmonize.config import names
from harmonize.config.compositions import Compositions
from harmonize.data.corpus import content_hash
from harmonize.errors import ConfigError, HarmonizeError, Interrupted, RunError
from harmonize.reporting.study import flatten, is_ignored
from harmonize.runners import runner
from harmonize.sweeps.plan import Job
from harmonize.tracking.files import make_folder, write_text
from harmonize.tracking.locks import is_held
from harmonize.tracking.results import CONFIG, RESULTS, STATUS, Results, plain, read_json, read_results
from harmonize.tracking.run_folder import LOCK, RunFolder

LOG = "log.txt"
WAITING, RUNNING, DONE, FAILED, REJECTED = "waiting", "running", "done", "failed", "rejected"
_INDEX = ".jobs"


@dataclass
class Entry:
    """One job and how it stands.

    Attributes:
        job: The job.
        key: Content key of its resolved configuration.
        folder: Where it runs.
        state: waiting, running (in another process), done, failed, or rejected (given up below its floor).
        tries: How often this process tried it.
        error: Why the last try failed.
    """

    job: Job
    key: str
    folder: Path
    state: str = WAITING
    tries: int = 0
    error: str = ""

    def results(self) -> Results | None:
        """What the run found, or None where it failed."""
        return read_results(self.folder / RESULTS) if self.state == DONE else None


def content_key(config: Mapping[str, Any]) -> str:
    """Key of what a run computes: its resolved configuration without what only says where and how it runs."""
    return content_hash(sorted((k, v) for k, v in flatten(plain(config)) if not is_ignored(k, seeds=False)))


@dataclass
class Queue:
    """The jobs of one study.

    Args:
        study: Folder of the study.
        retries: How often this process tries a job again that failed.
        config_dirs: The user's own configuration folders.
    """

    study: Path
    retries: int = 1
    config_dirs: Sequence[str] = ()
    _found: dict[str, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._compositions = Compositions(self.config_dirs)

    def entries(self, jobs: Sequence[Job], note: Callable[[int, int], None] | None = None) -> list[Entry]:
        """The jobs with their folders and states.

        Raises:
            ConfigError: A job's configuration is wrong; all problems of all jobs at once, or those of the first alone
                where it has any, because most mistakes are every job's and composing hundreds takes a minute.
        """
        self._scan()
        entries, problems = [], []
        for i, job in enumerate(jobs):
            if note:
                note(i, len(jobs))
            try:
                entries.append(self._entry(job))
            except ConfigError as error:
                problems += error.problems
                if i == 0:
                    break
        if problems:
            raise ConfigError(list(dict.fromkeys(problems)))
        return entries

    def _scan(self) -> None:
        """Folders of the study by content, as each run itself says it."""
        self._found.clear()
        for path in sorted(self.study.glob(f"*/{CONFIG}")):
            with contextlib.suppress(Exception):  # a half-written or foreign file is no run of ours
                done = _state(path.parent) == DONE
                config = _config(path.parent, done)
                if isinstance(config, dict):
                    key = content_key(config)
                    if done or key not in self._found:
                        self._found[key] = path.parent

    def _entry(self, job: Job) -> Entry:
        from harmonize.unlearning.setup import plain_config

        overrides = [*job.overrides, f"study={self.study.name}", f"paths.runs={self.study.parent}"]
        known = self._remembered(job)
        if known is None:
            cfg = self._compositions.compose(job.command, overrides)
            known = [content_key(plain_config(cfg)), _job_name(job, cfg)]
            self._remember(job, known)
        key, name = known
        folder = self._found.get(key)
        if folder is None:
            folder = self.study / name
            taken = folder in self._found.values() or any(folder.glob(CONFIG))
            if taken:  # other content under that name: a default has changed since
                folder = folder.with_name(f"{folder.name}-{key[:8]}")
        entry = Entry(job, key, folder)
        self.refresh(entry)
        return entry

    def _remembered(self, job: Job) -> list[str] | None:
        """Key and folder name of a job that was composed before by this version of configuration and code."""
        path = self.study / _INDEX / _index_name(job)
        with contextlib.suppress(OSError):
            known = path.read_text(encoding="utf-8").split()
            return known if len(known) == 2 else None
        return None

    def _remember(self, job: Job, known: Sequence[str]) -> None:
        folder = self.study / _INDEX
        make_folder(folder)
        write_text(folder / _index_name(job), " ".join(known) + "\n")

    def refresh(self, entry: Entry) -> None:
        """Reads how a job stands."""
        state = _state(entry.folder)
        if state == DONE:
            entry.state = DONE
        elif in_use(entry.folder):
            entry.state = RUNNING
        elif state == REJECTED and _status(entry.folder).get("found"):
            entry.state = REJECTED
            entry.error = str(_status(entry.folder).get("error") or "")
        elif state in (FAILED, REJECTED) and entry.tries > self.retries:
            entry.state = FAILED
            entry.error = str(_status(entry.folder).get("error") or "")
        else:
            entry.state = WAITING

    def run(self, entry: Entry) -> None:
        """Runs one job in this process, its output in the folder's `log.txt`.

        Raises:
            Interrupted: The user pressed Ctrl-C; the job is resumed next time.
        """
        entry.tries += 1
        state = _state(entry.folder)
        again = {"interrupted": ["resume=true"], "running": ["resume=true"]}.get(state, ["overwrite=true"])
        overrides = [
            *entry.job.overrides,
            f"study={self.study.name}",
            f"paths.runs={self.study.parent}",
            "trainer.enable_progress_bar=false",
            f"job={entry.folder.name}",
        ]
        make_folder(entry.folder)
        try:
            with _captured(entry.folder / LOG), _command_line(entry.job.command, overrides):
                runner(entry.job.command)(
                    self._compositions.compose(entry.job.command, [*overrides, *(again if state else [])]),
                    entry.folder,
                )
        except (Interrupted, KeyboardInterrupt) as error:
            raise Interrupted(
                f"Interrupted in {entry.folder}; the same command goes on where it stopped."
            ) from error
        except RunError as error:
            if in_use(entry.folder):  # another process was quicker, which is no failure
                entry.tries, entry.state = entry.tries - 1, RUNNING
                return
            entry.error = str(error)
        except HarmonizeError as error:
            entry.error = str(error)
        except Exception as error:  # our own bug: its traceback is in the log, and the sweep goes on
            entry.error = f"{type(error).__name__}: {error}"
            with (entry.folder / LOG).open("a", encoding="utf-8") as log:
                traceback.print_exc(file=log)
        self.refresh(entry)
        if entry.state == WAITING and entry.tries > self.retries:
            entry.state = FAILED


def in_use(folder: Path) -> bool:
    """Whether a process holds the run folder."""
    return is_held(folder / LOCK, lambda: _status(folder).get("state") == RUNNING)


def _job_name(job: Job, cfg: Any) -> str:
    """The folder name that a Hydra sweep of the job's overrides gives."""
    given = dict(text.split("=", 1) for text in job.overrides if "=" in text)
    head = []
    for key in names.head(job.command):
        value = given.get(key)
        if value is None:  # an experiment may choose it
            value = str(getattr(cfg[key], "name", cfg[key]))
        head.append(f"seed{value}" if key == "seed" else value)
    return names.job_name(job.command, head, list(job.overrides), sweep=True)


def _index_name(job: Job) -> str:
    """Where the key of a job is remembered, for this version of configuration and code."""
    return content_hash(job.command, job.overrides, _conf_digest())[:32]


def _config(folder: Path, done: bool) -> Any:
    """What a run was made of: of a finished one in its results, which are read ten times faster than its YAML."""
    from omegaconf import OmegaConf

    if done:
        return read_json(folder / RESULTS)["config"]
    return OmegaConf.to_container(OmegaConf.load(folder / CONFIG), resolve=True)


def _status(folder: Path) -> dict[str, Any]:
    return RunFolder(folder, command="").read_status()


def _state(folder: Path) -> str:
    found = str(_status(folder).get("state") or "") if (folder / STATUS).is_file() else ""
    return found if found != DONE or (folder / RESULTS).is_file() else ""


def _conf_digest() -> str:
    """Key of the shipped configuration and of the code that composes it."""
    import harmonize.config
    from harmonize.config.paths import conf_dir

    files = [*conf_dir().rglob("*.yaml"), *Path(str(harmonize.config.__file__)).parent.rglob("*.py")]
    return content_hash([(str(p), p.stat().st_mtime_ns, p.stat().st_size) for p in sorted(files)])


@contextlib.contextmanager
def _captured(path: Path) -> Iterator[None]:
    """What the job prints goes to its log."""
    with (
        path.open("a", encoding="utf-8") as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
    ):
        path.chmod(0o600)
        yield


@contextlib.contextmanager
def _command_line(command: str, overrides: Sequence[str]) -> Iterator[None]:
    """The command that would run a job alone, which its status and its hints repeat."""
    before = sys.argv
    sys.argv = ["harmonize", command, *overrides]
    try:
        yield
    finally:
        sys.argv = before
