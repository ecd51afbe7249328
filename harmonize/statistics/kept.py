"""Statistics by content: found on disk where any run has taken them before, taken and kept otherwise."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harmonize.console import counted, warn
from harmonize.data.batch import Row
from harmonize.data.corpus import content_hash
from harmonize.errors import DataError, ModelError, RunError, did_you_mean
from harmonize.models.head import Head
from harmonize.models.load import LoadedModel, tensors_digest
from harmonize.models.lora import has_adapters
from harmonize.models.store import (
    CorruptFolder,
    read_folder,
    read_header,
    save_tensor,
    tensors_of,
    write_folder,
)
from harmonize.models.teacher import model_numerics, read_arrays
from harmonize.statistics.passes import KINDS, Statistic, fit_stats, settings_of, trained_parameters

FORMAT = "statistics-1"  # part of the key
FOLDER = "statistics"


class Statistics:
    """Statistics of a model as it stands when it is handed over, over the rows of roles.

    The key is the content of everything a statistic depends on: weights (and adapters, if there are), ids of the rows,
    kind, settings, and how the model computes.

    Args:
        loaded: The model. Take statistics before an optimizer moves it.
        rows: Role to the rows of all its training examples.
        cache_dir: The package's cache folder; statistics lie in `statistics/` there.
        given: A folder of statistics made elsewhere (one of them, or a folder of several), looked at first.
        batch_size: Rows of one forward pass.
        record: Told every folder that is read or written; they tell of the data.

    Raises:
        ModelError: `given` holds a statistic of another model.
        RunError: `given` holds none.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        rows: Callable[[str], Sequence[Row]],
        cache_dir: str | Path,
        *,
        given: str | Path | None = None,
        batch_size: int = 64,
        record: Callable[[Path], object] | None = None,
    ) -> None:
        self.loaded, self.rows, self.batch_size = loaded, rows, batch_size
        self.folder = Path(cache_dir) / FOLDER
        self._record = record or (lambda path: None)
        # taken now: the model may be trained later on
        self._weights, self._adapters = loaded.digest, _adapters(loaded.model)
        self._given = _headers(Path(given)) if given else {}
        for path, header in self._given.items():
            self._refuse_other(path, header)

    def get(self, kind: str, roles: str | Sequence[str], **settings: Any) -> Statistic:
        """A statistic over all rows of these roles together.

        Args:
            kind: fisher, mean_gradient or covariance (`harmonize.statistics.passes`).
            roles: One role or several.
            settings: Of that pass (`layers`, `centered`, `group_rows`).

        Returns:
            Names to tensors on the CPU; large ones are mapped from disk.

        Raises:
            DataError: A role without training examples.
            ModelError: An unknown kind or setting, or a pattern that matches nothing.
            RunError: The cache cannot be written.
        """
        chosen = _settings(kind, settings)
        names = [roles] if isinstance(roles, str) else list(roles)
        rows = [row for role in names for row in self._rows(role)]
        model = self.loaded.model
        head = Head.of(model, n_vocab=len(self.loaded.tokenizer))
        about = {
            "kind": kind,
            "roles": names,
            "settings": chosen,
            "weights": self._weights,
            "adapters": self._adapters,
            "rows": content_hash([(r.prompt, r.prefill, r.target) for r in rows]),
        }
        if (found := self._from_elsewhere(about)) is not None:
            return found
        measured = list(trained_parameters(model))
        key = content_hash(FORMAT, about, measured, *model_numerics(model, head))
        folder = self.folder / key[:32]

        def fill(work: Path) -> None:
            with counted(f"{kind.replace('_', ' ')} of {'+'.join(names)}") as progress:
                taken = fit_stats(
                    kind,
                    model,
                    head,
                    rows,
                    self.loaded.renderer.pad_id,
                    batch_size=self.batch_size,
                    progress=progress,
                    **chosen,
                )
            for name, value in taken.items():
                save_tensor(work, name, value)

        arrays = read_arrays(folder, key)
        if arrays is None:
            write_folder(folder, key, fill, about, names={"model": self.loaded.name})
            arrays = read_arrays(folder, key)
        if arrays is None:
            raise RunError(f"The cache {folder} was damaged while it was being written. Start the run again.")
        self._record(folder)
        return tensors_of(arrays)

    def _from_elsewhere(self, about: Mapping[str, Any]) -> Statistic | None:
        """A statistic of the folder that was given, if it has this one."""
        for path, known in self._given.items():
            if known["about"] == about:
                try:
                    arrays = read_folder(path, known["key"])
                except (FileNotFoundError, CorruptFolder) as error:
                    raise RunError(f"The statistic {path} is damaged ({error}). Copy it again.") from error
                self._record(path)
                return tensors_of(arrays)
        if self._given:
            warn(
                f"statistics.path has no {about['kind']} of {'+'.join(about['roles'])} over these rows with these "
                "settings; it is taken anew."
            )
        return None

    def _refuse_other(self, path: Path, header: Mapping[str, Any]) -> None:
        about = header["about"]
        if about["weights"] != self._weights:
            raise ModelError(
                f"{path} holds the {about['kind']} of another model (weights {about['weights'][:12]}, while those of "
                f"'{self.loaded.name}' are {self._weights[:12]}). Take it from this model, or leave it out: "
                "statistics.path=null."
            )

    def _rows(self, role: str) -> Sequence[Row]:
        rows = self.rows(role)
        if not rows:
            raise DataError(
                f"A statistic is taken over the role '{role}', which has no training examples. Give the data set some, "
                "or name other roles."
            )
        return rows


def _settings(kind: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a pass, defaults filled in, so that spelling one out makes no new key."""
    if kind not in KINDS:
        raise ModelError(f"'{kind}' is no statistic. {did_you_mean(kind, KINDS)}")
    known = settings_of(kind)
    for name in given:
        if name not in known:
            raise ModelError(f"'{name}' is no setting of the statistic {kind}. {did_you_mean(name, known)}")
    return {
        name: list(value) if isinstance(value, tuple) else value for name, value in {**known, **given}.items()
    }


def _adapters(model: Any) -> str:
    """Content of the adapters, which `model_digest` leaves out."""
    if not has_adapters(model):
        return ""
    state = model.state_dict()
    names = sorted(n for n in state if ".lora_" in n or ".modules_to_save." in n)
    return tensors_digest({n: state[n] for n in names})


def _headers(root: Path) -> dict[Path, dict[str, Any]]:
    """Headers of the statistics in a folder, or of the one that it is."""
    folder = root.expanduser()
    found = {}
    for path in [folder, *sorted(p for p in folder.glob("*") if p.is_dir())] if folder.is_dir() else []:
        try:
            header = read_header(path)
        except FileNotFoundError:
            continue
        except CorruptFolder as error:
            raise RunError(f"The statistic {path} is damaged ({error}). Copy it again.") from error
        if "about" in header:
            found[path] = header
    if not found:
        raise RunError(
            f"statistics.path={root}: no statistics are there. Name a folder such as "
            "<cache_dir>/statistics, or one of those in it."
        )
    return found
