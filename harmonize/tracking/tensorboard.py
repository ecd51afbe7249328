"""TensorBoard event files, for those who have it open already."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harmonize.errors import RunError
from harmonize.tracking.files import PRIVATE_FILE, disk_error, make_folder
from harmonize.tracking.metric import Metric
from harmonize.tracking.tracker import Tracker, number


class TensorBoardTracker(Tracker):
    """Numbers as scalars under the same names as in `metrics.csv`; final ones under `final/`.

    See them with `tensorboard --logdir runs/<study>` (any installation of TensorBoard).

    Args:
        folder: Where the event file goes.
        resume_step: A resumed run writes the steps after this one again, and TensorBoard hides what an earlier
            process had written of them; None starts anew.

    Raises:
        RunError: tensorboardX is not installed, or the folder cannot be written.
    """

    def __init__(self, folder: str | Path, resume_step: int | None = None) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise RunError(
                "logger.tensorboard=true needs tensorboardX. Install it with: pip install 'harmonize[tensorboard]', or "
                "leave it out with logger.tensorboard=false"
            ) from error
        self.folder = make_folder(folder)
        self._last = 0
        try:
            purge = None if resume_step is None else resume_step + 1
            self._writer: Any = SummaryWriter(str(self.folder), purge_step=purge)
            for path in self.folder.iterdir():
                path.chmod(PRIVATE_FILE)
        except OSError as error:
            raise disk_error(self.folder, error) from error

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Records numbers at a step."""
        self._last = max(self._last, int(step))
        for name, value in metrics.items():
            self._writer.add_scalar(name, number(value), int(step))

    def summary(self, values: Mapping[str, Any]) -> None:
        """Final numbers at the last step; None is left out."""
        for name, value in values.items():
            found = value.value if isinstance(value, Metric) else value
            if isinstance(found, int | float):
                self._writer.add_scalar(f"final/{name}", float(found), self._last)

    def close(self) -> list[str]:
        """Writes what is left and closes the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        return []
