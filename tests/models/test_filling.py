"""Writing a teacher's arrays: in the order of the requests, whatever the order in which they were read."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import numpy as np
import pytest
import torch

from harmonize.models import filling
from harmonize.models.filling import fill_teacher
from harmonize.models.frozen import TeacherRequest
from harmonize.models.head import Head
from harmonize.models.shares import ALONE
from harmonize.models.store import read_folder, write_folder

TARGETS = [(4, 5), (6,), (7, 8, 9)]


class Reads:
    """A teacher that reads its requests backwards."""

    model, shares = None, ALONE

    def batches(self, requests, done=None):
        for i in reversed(range(len(requests))):
            yield [i], [self.states(i)]

    @staticmethod
    def states(i: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(i)
        return torch.randn(len(TARGETS[i]), 8, generator=generator).half()


@pytest.mark.parametrize("mode", ["hidden", "topk"])
@pytest.mark.parametrize("aside", [False, True])
def test_arrays_are_in_the_order_of_the_requests(mode: str, aside: bool, tmp_path: Path, monkeypatch) -> None:
    real = filling._writing
    monkeypatch.setattr(filling, "_writing", lambda files, **_: real(files, aside))
    head = Head(torch.randn(20, 8, generator=torch.Generator().manual_seed(9)))
    requests = [TeacherRequest(f"e{i}", "forget", (3,), t) for i, t in enumerate(TARGETS)]
    here = fill_teacher(tmp_path, Reads(), head, requests, mode, 4, None)
    states = torch.cat([Reads.states(i) for i in range(3)])
    ids, values = head.canonical_top(states, 4)
    expected = {"top_ids": ids.int(), "top_values": values, "hidden": states}
    assert set(here) == (set(expected) if mode == "hidden" else {"top_ids", "top_values"})
    for name, found in here.items():
        torch.testing.assert_close(found, expected[name])  # products of other batches round otherwise
        assert np.array_equal(np.load(tmp_path / f"{name}.npy"), found.numpy())
    assert np.load(tmp_path / "offsets.npy").tolist() == [0, 2, 3, 6]
    assert np.load(tmp_path / "targets.npy").tolist() == [4, 5, 6, 7, 8, 9]


def test_what_is_large_stays_on_the_disk(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(filling, "RAM_BYTES", 10)
    head = Head(torch.randn(20, 8))
    requests = [TeacherRequest(f"e{i}", "forget", (3,), t) for i, t in enumerate(TARGETS)]
    assert fill_teacher(tmp_path, Reads(), head, requests, "hidden", 4, None) == {}
    states = torch.cat([Reads.states(i) for i in range(3)])
    assert np.array_equal(np.load(tmp_path / "hidden.npy"), states.numpy())


def test_a_failure_while_writing_is_told(tmp_path: Path) -> None:
    class Full:
        def __setitem__(self, place, value):
            raise OSError("no space")

    with pytest.raises(OSError, match="no space"), filling._writing({"x": Full()}, aside=True) as write:  # type: ignore[dict-item]
        write(np.array([0]), {"x": torch.zeros(1)})


def test_more_arrays_than_files_may_be_open(tmp_path: Path) -> None:
    def fill(work: Path) -> None:
        for i in range(60):
            np.save(work / f"x{i:03d}.npy", np.arange(i))

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 30, hard))
    try:
        write_folder(tmp_path / "many", "key", fill)
        found = read_folder(tmp_path / "many", "key")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert [len(found[f"x{i:03d}"]) for i in range(60)] == list(range(60))
