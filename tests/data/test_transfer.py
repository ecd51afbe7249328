"""Many tensors in one copy are the same tensors."""

import torch

from harmonize.data.transfer import in_one_copy, sent


def test_tensors_of_many_kinds_travel_as_one() -> None:
    tensors = {
        "ids": torch.arange(12).reshape(3, 4),
        "weight": torch.tensor([0.5, -1.0, float("inf")]),
        "bounds": torch.tensor([0, 3, 7], dtype=torch.int32),
        "flag": torch.tensor([True, False]),
        "none": torch.zeros(0, 5, dtype=torch.long),
    }
    found = in_one_copy(tensors, torch.device("cpu"))
    assert list(found) == list(tensors)
    for name, value in tensors.items():
        assert found[name].dtype == value.dtype and torch.equal(found[name], value), name
    assert len({v.untyped_storage().data_ptr() for v in found.values()}) == 1
    assert torch.equal(sent(torch.arange(3), torch.device("cpu")), torch.arange(3))
