"""Asking a model that is divided among ranks, of which each holds a share of every layer: a pass takes all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import torch
from torch import distributed as dist
from torch import nn

from harmonize import errors
from harmonize.errors import HarmonizeError, ModelError
from harmonize.models.body import evaluating
from harmonize.models.load import LoadedModel
from harmonize.models.shares import ALONE, Shares
from harmonize.unlearning import ranks
from harmonize.unlearning.setup import SHARDED
from harmonize.unlearning.sharded import is_sharded, shard

T = TypeVar("T")


class Together(Shares):
    """The ranks of this run."""

    def __init__(self) -> None:
        self.rank, self.size = ranks.rank(), ranks.size()

    def together(self, model: nn.Module) -> AbstractContextManager[None]:
        """Inside, forward passes of the model need not be equal in number; it ends for all at once.

        Raises:
            HarmonizeError: What any rank raised, on all of them.
        """
        return _Together(model)

    def of_first(self, value: T) -> T:
        """The first rank's value."""
        return ranks.of_first(value)

    def of_all(self, value: T) -> list[T]:
        """Every rank's value."""
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found

    def to_first(self, found: Sequence[Any]) -> Iterator[Any]:
        """Yields, on the first rank alone, what the others have found, one piece in memory at a time."""
        here = torch.device("cpu")
        if self.rank:
            for piece in (len(found), *found):
                dist.send_object_list([piece], dst=0, device=here)
            return
        for source in range(1, self.size):
            box: list[Any] = [None]
            dist.recv_object_list(box, src=source, device=here)
            for _ in range(box[0]):
                dist.recv_object_list(box, src=source, device=here)
                yield box[0]


def shares_of(model: nn.Module) -> Shares:
    """The ranks, where they hold a model together; else this process alone."""
    return Together() if is_sharded(model) else ALONE


def together(model: nn.Module) -> AbstractContextManager[None]:
    """Inside, this process may ask a model as often as it likes; ranks that hold it together do so at the same time."""
    return shares_of(model).together(model)


def divide(cfg: Any, loaded: LoadedModel) -> None:
    """Shares a run's model among the ranks, of which the first has the weights and the others an empty form.

    Args:
        cfg: Configuration of `harmonize unlearn`.
        loaded: With its adapters.
    """
    loaded.digest = ranks.of_first(loaded.digest if ranks.is_first() else "")
    gpu = torch.cuda.is_available() and cfg.trainer.accelerator != "cpu"
    shard(loaded.model, ("cuda" if gpu else "cpu") if cfg.model.device == SHARDED else None)


class _Together(AbstractContextManager[None]):
    """Before every forward pass the ranks meet; one that has nothing more to ask runs a token along with the others."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self._inside, self._told = model, False, False

    def __enter__(self) -> None:
        # before the hook with which the model gathers its first weights
        before = self.model.register_forward_pre_hook(self._before, prepend=True)
        after = self.model.register_forward_hook(self._after)
        self._hooks = [before, after]

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        for hook in self._hooks:
            hook.remove()
        if error is not None:
            # in the middle of a pass the others wait for weights, not for a word: they end with this process
            if isinstance(error, HarmonizeError) and not self._inside and not self._told:
                self._meet(asks=False, failed=error)
            return
        device = next(self.model.parameters()).device
        with torch.no_grad(), evaluating(self.model):
            while self._meet(asks=False):
                self.model(input_ids=torch.zeros((1, 1), dtype=torch.long, device=device), use_cache=False)

    def _before(self, *_: object) -> None:
        if self._inside:
            raise ModelError(
                "Memory ran out in a forward pass of a model in shares, and the other devices cannot go back in it. "
                "Use a smaller teacher.batch_size or suite.batch_size, or more devices."
            )
        self._meet(asks=True)
        self._inside = True

    def _after(self, *_: object) -> None:
        self._inside = False

    def _meet(self, asks: bool, failed: HarmonizeError | None = None) -> bool:
        """Whether any rank has a forward pass to make."""
        asking, failing = ranks.summed([float(asks), float(failed is not None)])
        if failing:
            found: list[Any] = [None] * ranks.size()
            dist.all_gather_object(found, failed and (type(failed).__name__, str(failed)))
            if failed is None:
                self._told = True
                name, text = next(told for told in found if told)
                raise getattr(errors, name, HarmonizeError)(text)
        return asking > 0
