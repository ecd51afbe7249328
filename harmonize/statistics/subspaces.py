"""Subspaces of second moments: the directions that outputs mostly lie along, and where forget and retain differ.

Pure functions, in float64 on the device of what they are given. d outputs of a layer, r rank.
"""

from __future__ import annotations

import torch
from torch import Tensor

from harmonize.errors import ModelError


def top_directions(matrix: Tensor, rank: int) -> Tensor:
    """[d, d] symmetric -> [d, r] orthonormal eigenvectors of the r largest eigenvalues, largest first, float64.

    Each is turned so that its largest entry is positive, for which of the two a library returns is chance. With r
    above d there are d.
    """
    vectors = torch.linalg.eigh(matrix.double()).eigenvectors.flip(1)[:, : int(rank)]
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    return vectors * torch.where(largest < 0, -1.0, 1.0)


def rila(
    weight: Tensor,
    forget_covariance: Tensor,
    retain_covariance: Tensor,
    rank: int,
    *,
    beta: float = 0.7,
) -> tuple[Tensor, Tensor]:
    """Start of an adapter along the outputs that forget rows have and retain rows have not.

    Formula: B = Q, A = Q^T W, Q = top r eigenvectors of (1 - beta) C_forget - beta C_retain, C second moments of the
        layer's outputs
    Needs: statistics; second moments of the adapted layers' outputs on the rows of both sides
    Costs: a forward pass over the training rows beforehand and one [out, out] matrix per layer and side on disk, which
        later runs find; a second adapter's products in every layer

    Args:
        weight: [d, in] W of the layer.
        forget_covariance, retain_covariance: [d, d] second moments of the layer's outputs.
        rank: r.
        beta: Weight of what is to be left alone, from 0 to 1.

    Returns:
        A [r, in] and B [d, r], float64.

    Raises:
        ModelError: A rank above d.

    Source: REGLU's RILA, arXiv 2604.17396 (code: beta 0.7 on TOFU, 0.5 on WMDP). There a row's vector is the sum of the
    outputs over all its tokens, of 256 rows; here every answer position is one, of all training rows. The 1e-4 added to
    both diagonals there moves no eigenvector.
    """
    size = int(forget_covariance.shape[0])
    if rank > size:
        raise ModelError(
            f"peft.r={rank} is more than the {size} outputs of a layer. Use peft.r={size} or less."
        )
    difference = (1 - beta) * forget_covariance.double() - beta * retain_covariance.double()
    directions = top_directions(difference, rank)
    return directions.T @ weight.double(), directions
