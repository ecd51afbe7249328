"""Bidirectional logit distillation: elicit what the instructed teacher says, suppress what the student insists on.

A answer positions, K ids, R rows. All logits are raw (no softmax), fp32; teacher values carry no gradient.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from harmonize.objectives.reduce import Positions, included, per_row


def pull(
    student_at_teacher_top: Tensor,
    teacher_top: Tensor,
    row: Tensor,
    offset: Tensor,
    n_rows: int,
    *,
    k: int = 16,
    delta: float = 1.0,
    temperature: float = 1.0,
    positions: Positions = "all",
) -> tuple[Tensor, Tensor]:
    """Elicits what the teacher says: the student's logits towards the teacher's, at the teacher's top k ids.

    Formula: mean over T of Huber((z - z_t) / temperature), T = top k of z_t

    Args:
        student_at_teacher_top: [A, k] student logits at T.
        teacher_top: [A, k] teacher logits at T.
        row, offset: [A] row and position within the response.
        n_rows: R.
        k: Length of T (decides the two inputs).
        delta: Huber threshold: half the square below, linear with slope delta above.
        temperature: Divides both logits.
        positions: `all`, or `first` for the first response token alone (DUET).

    Returns:
        Per-row sums of the loss per position, and per-row counts of positions, [R] each.

    Source: arXiv 2604.15482 (top-K logits, raw, Huber); k, delta, temperature: our choice.
    """
    loss = _huber(student_at_teacher_top, teacher_top, delta, temperature).mean(1)
    return per_row(loss, row, n_rows, included(offset, positions))


def push(
    student_top: Tensor,
    teacher_at_student_top: Tensor,
    student_top_in_teacher_top: Tensor,
    row: Tensor,
    offset: Tensor,
    n_rows: int,
    *,
    k: int = 16,
    k_teacher: int = 16,
    delta: float = 1.0,
    temperature: float = 1.0,
    positions: Positions = "all",
) -> tuple[Tensor, Tensor]:
    """Suppresses what the student insists on: down to the teacher's level, and never below it.

    Formula: mean over S without T of Huber(relu(z - z_t) / temperature), S = top k of z, T = top k_teacher of z_t;
        0 where S without T is empty

    Args:
        student_top: [A, k] student logits at S (the choice of ids carries no gradient).
        teacher_at_student_top: [A, k] teacher logits at S.
        student_top_in_teacher_top: [A, k] whether the id is in T.
        row, offset: [A] row and position within the response.
        n_rows: R.
        k, k_teacher: Lengths of S and T (decide the inputs).
        delta, temperature, positions: As in `pull`.

    Returns:
        Per-row sums of the loss per position, and per-row counts of positions, [R] each.

    Source: arXiv 2604.15482 (suppression of the student's own top-K); the exact form is our choice.
    """
    outside = ~student_top_in_teacher_top
    # max(z_s, z_t) - z_t is relu(z_s - z_t); clamped at the student so that its gradient is 0 below the teacher
    low = teacher_at_student_top.float()
    loss = _huber(torch.maximum(student_top.float(), low), low, delta, temperature)
    mean = torch.where(outside, loss, 0.0).sum(1) / outside.sum(1).clamp_min(1)
    return per_row(mean, row, n_rows, included(offset, positions))


def _huber(student: Tensor, teacher: Tensor, delta: float, temperature: float) -> Tensor:
    student, teacher = student.float(), teacher.float()
    if temperature != 1.0:
        student, teacher = student / temperature, teacher / temperature
    return F.huber_loss(student, teacher, reduction="none", delta=delta)
