"""Copies between the host and a device that nobody waits for: from and to pinned memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

import torch
from torch import Tensor

_ALIGNED = 16  # bytes


def in_one_copy(tensors: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Tensors on another device, as views of one. A copy from pageable memory would wait for all that is queued."""
    sizes = [-(-v.nbytes // _ALIGNED) * _ALIGNED for v in tensors.values()]
    packed = torch.empty(sum(sizes), dtype=torch.uint8, pin_memory=device.type == "cuda")
    for part, v in zip(packed.split(sizes), tensors.values(), strict=True):
        part[: v.nbytes].view(v.dtype).copy_(v.reshape(-1))
    there = packed.to(device, non_blocking=True).split(sizes)
    return {
        name: part[: v.nbytes].view(v.dtype).reshape(v.shape)
        for part, (name, v) in zip(there, tensors.items(), strict=True)
    }


def sent(value: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on a device; to a GPU from pinned memory."""
    if device.type == "cuda":
        value = value.pin_memory()
    return value.to(device, non_blocking=True)


def fetching(tensors: Mapping[str, Tensor]) -> Callable[[], dict[str, Tensor]]:
    """A function that fetches tensors to the host, in whichever thread, and waits for them.

    Those of a GPU come as they are now, on a stream of their own: what is queued later is not waited for.
    """
    device = next((v.device for v in tensors.values() if v.is_cuda), None)
    if device is None:
        return lambda: {name: v.detach() for name, v in tensors.items()}
    made = torch.cuda.current_stream(device).record_event()

    def fetch() -> dict[str, Tensor]:
        stream = _stream(device)
        with torch.cuda.stream(stream):
            stream.wait_event(made)
            here = {
                name: torch.empty(v.shape, dtype=v.dtype, pin_memory=True).copy_(v, non_blocking=True)
                for name, v in tensors.items()
            }
            stream.synchronize()
        return here

    return fetch


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)
