"""Several devices: one process (rank) each, which run the same code and meet where this module says so.

Rows are divided by the sampler; losses are summed and gradients averaged; what is to be decided (by a look at val) is
decided by the first rank for all; it alone measures and writes. Meetings go through main memory (gloo), whatever the
gradients go through, and may last as long as an evaluation does.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

T = TypeVar("T")

_LONGEST = timedelta(days=7)  # a rank that dies ends the others by closing its connections, not by this
_BUCKET = 64 * 2**20  # bytes of one all-reduce


def asked(cfg: Any) -> int:
    """Processes that a configuration asks for."""
    return int(cfg.trainer.devices) * int(cfg.trainer.num_nodes)


def placed() -> bool:
    """Whether this process was started as one of several: by us, by torchrun, or as one task of several of SLURM."""
    return "LOCAL_RANK" in os.environ or int(os.environ.get("SLURM_NTASKS", "1")) > 1


def join(cuda: bool) -> None:
    """Meets the other ranks; does nothing where there is one process alone.

    Args:
        cuda: Whether gradients are on GPUs; each rank of a machine takes its own.
    """
    if not placed() or dist.is_initialized():
        return
    from lightning.fabric.plugins.environments import SLURMEnvironment

    if "LOCAL_RANK" in os.environ:
        rank, world, local = (int(os.environ[k]) for k in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    else:
        slurm = SLURMEnvironment()
        os.environ.setdefault("MASTER_ADDR", slurm.main_address)
        os.environ.setdefault("MASTER_PORT", str(slurm.main_port))
        rank, world, local = slurm.global_rank(), slurm.world_size(), slurm.local_rank()
    if cuda:
        torch.cuda.set_device(local)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if cuda else "gloo", rank=rank, world_size=world, timeout=_LONGEST
    )


def _met() -> bool:
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if _met() else 0


def size() -> int:
    """Number of processes."""
    return dist.get_world_size() if _met() else 1


def is_first() -> bool:
    """Whether this process is the one that measures and writes."""
    return rank() == 0


def wait() -> None:
    """Until every rank is here."""
    if size() > 1:
        dist.all_reduce(torch.zeros(1))


def any_of(flag: bool) -> bool:
    """Whether any rank says so; the same answer on all."""
    if size() == 1:
        return flag
    found = torch.tensor([float(flag)])
    dist.all_reduce(found)
    return bool(found.item())


def of_first(value: T) -> T:
    """The first rank's value, on all ranks."""
    if size() == 1:
        return value
    # device: objects travel as bytes, by the way of the meetings
    found = [value]
    dist.broadcast_object_list(found, src=0, device=torch.device("cpu"))
    return found[0]


def summed(values: Sequence[float]) -> list[float]:
    """Sums over ranks, place by place."""
    if size() == 1:
        return list(values)
    found = torch.tensor(list(values), dtype=torch.float64)
    dist.all_reduce(found)
    return [float(v) for v in found.tolist()]


def average(tensors: Sequence[Tensor]) -> None:
    """Averages tensors over ranks, in place, a bucket at a time."""
    world = size()
    if world == 1:
        return
    bucket: list[Tensor] = []
    held = 0
    for tensor in [*tensors, None]:
        if bucket and (tensor is None or held > _BUCKET or tensor.dtype != bucket[0].dtype):
            flat = torch.cat([t.reshape(-1) for t in bucket])
            dist.all_reduce(flat)
            flat /= world
            for part, whole in zip(flat.split([t.numel() for t in bucket]), bucket, strict=True):
                whole.copy_(part.view_as(whole))
            bucket, held = [], 0
        if tensor is not None:
            bucket.append(tensor)
            held += tensor.numel() * tensor.element_size()


def average_gradients(parameters: Sequence[torch.nn.Parameter]) -> None:
    """Averages `.grad` over ranks; a parameter that no rank has a gradient of stays without one.

    A rank without one (no row of a term that reaches the parameter) counts as zero.
    """
    if size() == 1:
        return
    have = summed([float(p.grad is not None) for p in parameters])
    used = [p for p, n in zip(parameters, have, strict=True) if n]
    for parameter in used:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    average([p.grad for p in used if p.grad is not None])
