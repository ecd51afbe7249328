"""The optimizer of a run, in the form that is fastest where its weights are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch.nn import Parameter
from torch.optim import Optimizer

from harmonize.config.instantiate import call, takes


def build_optimizer(
    node: Mapping[str, Any],
    parameters: Sequence[Parameter] | Sequence[Mapping[str, Any]],
    allow: Sequence[str] = (),
) -> Optimizer:
    """Calls an `optimizer` node.

    An optimizer that has a fused form (torch's own AdamW, Adam and SGD) takes it where all weights are on a GPU: one
    kernel for all of them and no copies. `optimizer.fused=false` keeps torch's other form.

    Args:
        node: `_target_` and settings.
        parameters: What is trained, or groups of it as torch's optimizers take them.
        allow: Further packages whose targets may be called.
    """
    chosen: dict[str, Any] = {}
    trained = [p for part in parameters for p in (part["params"] if isinstance(part, Mapping) else [part])]
    on_gpu = all(p.is_cuda and p.is_floating_point() for p in trained)
    if on_gpu and node.get("fused") is None and "fused" in takes(node, allow):
        chosen["fused"] = True
    optimizer: Optimizer = call(node, params=parameters, allow=allow, skip=("name",), **chosen)
    return optimizer
