"""Where a source's files are: a local folder or, if the user names it, the hub; and which file is whose."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from harmonize.data.example import ROLES, Role
from harmonize.errors import ConfigError, DataError, did_you_mean

HUB = "hf:"
ROW_SUFFIXES = (".jsonl", ".json", ".parquet", ".csv", ".tsv")
# Data only: what a hub repository holds besides (scripts above all) is never fetched.
DATA_SUFFIXES = (*ROW_SUFFIXES, ".txt")
_HUB_NAME = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
_SHOWN = 12

Paths = str | Sequence[str] | None


def resolve_root(root: str | None, source: str, origin: str = "", stems: Sequence[str] = ("*",)) -> Path:
    """The folder that holds a source's files.

    Args:
        root: A folder (or a file), or `hf:owner/name` or `hf:owner/name@revision` for a data set of the hub. Only
            the latter causes a request; what was fetched before is used without one if HF_HUB_OFFLINE=1.
        source: Name of the source, for messages.
        origin: Where the corpus is published, for messages.
        stems: Which data files to fetch from the hub, as patterns without their suffix.

    Raises:
        ConfigError: No root, or a hub name that is none.
        DataError: No such folder, or the hub does not give the files.
    """
    if not root:
        where = f" ({origin})" if origin else ""
        raise ConfigError(
            f"{source}: root is missing: the folder with its files{where}. "
            "Type source.root=<folder>, or source.root=hf:owner/name for the hub."
        )
    if root.startswith(HUB):
        return _fetch(root, source, stems)
    folder = Path(root).expanduser()
    if not folder.exists():
        hint = ""
        if folder.parent.is_dir():
            names = [p.name for p in folder.parent.iterdir() if not p.name.startswith(".")]
            hint = " " + did_you_mean(folder.name, names, limit=_SHOWN)
        raise DataError(
            f"{source}: root={root}: there is no such folder.{hint} A data set of the hub is written hf:owner/name."
        )
    return folder


def look(folder: Path, *stems: str, suffixes: Sequence[str] = ROW_SUFFIXES) -> tuple[Path, ...]:
    """The file, or the shards (`stem-00000-of-00002.parquet`), of the first stem that is there; () if none is.

    Args:
        folder: Where to look.
        stems: Paths below it without suffix, in order of preference; one with a suffix is taken as it is.
        suffixes: Tried in order.
    """
    for stem in stems:
        for name in (stem,) if Path(stem).suffix in (*suffixes, ".txt") else (f"{stem}{s}" for s in suffixes):
            if (path := folder / name).is_file():
                return (path,)
        parent = (folder / stem).parent
        if parent.is_dir() and (shards := sorted(parent.glob(f"{Path(stem).name}-?????-of-?????.*"))):
            return tuple(p for p in shards if p.suffix in suffixes)
    return ()


def need(folder: Path, *stems: str, what: str, suffixes: Sequence[str] = ROW_SUFFIXES) -> tuple[Path, ...]:
    """As `look`, for files that a source cannot do without.

    Raises:
        DataError: Naming what was looked for, the nearest name, and what the folder holds.
    """
    if found := look(folder, *stems, suffixes=suffixes):
        return found
    raise DataError(missing(folder, stems, what, suffixes))


def missing(folder: Path, stems: Sequence[str], what: str, suffixes: Sequence[str] = ROW_SUFFIXES) -> str:
    """The message for files that are not there."""
    names = sorted(listing(folder))
    scored = [
        (difflib.SequenceMatcher(None, stem.lower(), Path(name).stem.lower()).ratio(), name)
        for stem in stems
        for name in names
    ]
    close = max(scored, default=(0.0, ""))
    hint = f" Did you mean '{close[1]}'?" if close[0] >= 0.5 else ""
    shown = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
    wanted = " or ".join(stems)
    return f"{folder} has no {wanted} ({', '.join(suffixes)}): {what}.{hint} The folder holds: {shown or 'nothing'}."


def listing(folder: Path) -> Iterator[str]:
    """Names of files in a folder and its sub-folders (two levels), hidden ones left out."""
    if folder.is_file():
        yield folder.name
        return
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from (f"{path.name}/{p.name}" for p in path.iterdir() if p.is_file())
        else:
            yield path.name


def role_files(
    source: str,
    root: str | None,
    role: Role | str | None,
    named: Mapping[str, Paths],
    suffixes: Sequence[str],
    mixed: str | None = None,
) -> list[tuple[Path, Role | None]]:
    """Which files a generic source reads, and the role of each: None where the rows carry it.

    Named paths (a file, a folder, a pattern such as `*.txt`, or a list of these; below `root` if there is one) come
    first. Without any, `root` is read: with `role` all of it; without, its files and sub-folders named after roles
    (and the file `mixed`, whose rows carry theirs).

    Raises:
        ConfigError: Nothing to read, or an unknown role.
        DataError: A path that does not exist or holds no such files.
    """
    if role is not None and role not in tuple(ROLES):
        raise ConfigError(f"{source}: unknown role '{role}'. {did_you_mean(str(role), ROLES)}")
    base = resolve_root(root, source) if root else Path()
    found: list[tuple[Path, Role | None]] = []
    for key, given in named.items():
        for path in [given] if isinstance(given, str) else given or ():
            own = Role(key) if key in tuple(ROLES) else (Role(role) if role else None)
            found += [(file, own) for file in _expand(base / Path(path).expanduser(), source, suffixes)]
    if found:
        return _once(found, source)
    if not root:
        keys = ", ".join(f"source.{key}=<path>" for key in named)
        raise ConfigError(f"{source}: nothing to read. Type source.root=<folder>, or one of {keys}.")
    if role is not None:
        return [(file, Role(role)) for file in _expand(base, source, suffixes)]
    if base.is_file():
        if mixed:
            return [(base, None)]
        raise ConfigError(
            f"{source}: root={root} is one file, and nothing says what it is for. Type source.role=forget "
            f"(or {', '.join(ROLES[1:])})."
        )
    for key in ROLES:
        single = [file for suffix in suffixes if (file := base / f"{key}{suffix}").is_file()]
        below = _expand(base / key, source, suffixes) if (base / key).is_dir() else []
        found += [(file, key) for file in (*single, *below)]
    if mixed:
        found = [
            *((file, None) for suffix in suffixes if (file := base / f"{mixed}{suffix}").is_file()),
            *found,
        ]
    if found:
        return found
    what = f"files named after roles (forget{suffixes[0]}, ...) or sub-folders of such names"
    raise DataError(
        missing(base, [mixed or "forget", *ROLES], what, suffixes)
        + " To read all of it as one role, type source.role=forget."
    )


def unique_stems(files: Iterable[Path]) -> dict[Path, str]:
    """A short name for each file, for ids: its stem, with its folder's where two files share one."""
    files = list(dict.fromkeys(files))
    names = {f: f.stem for f in files}
    for depth in (1, 2, 3):
        counts = Counter(names.values())
        names = {
            f: n if counts[n] == 1 else "-".join((*f.parts[-1 - depth : -1], f.stem))
            for f, n in names.items()
        }
    counts = Counter(names.values())  # the same stem with two suffixes in one folder
    return {f: n if counts[n] == 1 else f"{n}-{f.suffix[1:]}" for f, n in names.items()}


def _expand(path: Path, source: str, suffixes: Sequence[str]) -> list[Path]:
    if path.is_file():
        return [path]
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.suffix.lower() in suffixes and p.is_file())
        files = [p for p in files if not any(part.startswith(".") for part in p.relative_to(path).parts)]
        if not files:
            raise DataError(missing(path, ["*"], f"{source} reads such files", suffixes))
        return files
    if any(c in path.name for c in "*?["):
        if files := sorted(p for p in path.parent.glob(path.name) if p.is_file()):
            return files
        raise DataError(f"{source}: no file matches {path}.")
    raise DataError(missing(path.parent, [path.name], f"{source} was told to read it", ("a file or folder",)))


def _once(found: list[tuple[Path, Role | None]], source: str) -> list[tuple[Path, Role | None]]:
    roles: dict[Path, Role | None] = {}
    for file, role in found:
        if file in roles and roles[file] != role:
            raise ConfigError(f"{source}: {file} is named for two roles, {roles[file]} and {role}.")
        roles[file] = role
    return list(roles.items())


def _fetch(root: str, source: str, stems: Sequence[str]) -> Path:
    match = _HUB_NAME.fullmatch(root.removeprefix(HUB))
    if match is None:
        raise ConfigError(
            f"{source}: root={root} is no hub name; write hf:owner/name or hf:owner/name@revision."
        )
    name, revision = match.groups()
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    wanted = [stem + suffix for stem in stems for suffix in DATA_SUFFIXES]
    try:
        return Path(snapshot_download(name, repo_type="dataset", revision=revision, allow_patterns=wanted))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(
            f"{source}: {root} could not be fetched ({reason}). Check the name and the connection, or download the "
            "files once and name their folder: source.root=<folder>."
        ) from None
