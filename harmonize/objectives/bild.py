"""BiLD: distillation of logit differences among the teacher's top k and among the student's top k.

A answer positions, k ids. Logits are raw and fp32; the teacher's carry no gradient.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from harmonize.objectives.reduce import Positions, included, per_row


def bild(
    student_at_teacher_top: Tensor,
    teacher_top: Tensor,
    student_top: Tensor,
    teacher_at_student_top: Tensor,
    row: Tensor,
    offset: Tensor,
    n_rows: int,
    *,
    k: int = 8,
    temperature: float = 3.0,
    positions: Positions = "all",
) -> tuple[Tensor, Tensor]:
    """KL between softmaxes over all pairwise logit differences, teacher-led plus student-led.

    Formula: sum over T and S of KL(softmax(d_t) || softmax(d)), d = all pairwise differences of logits / temperature;
        T = top k of z_t, S = top k of z

    Args:
        student_at_teacher_top, teacher_top: [A, k] logits at the teacher's top k.
        student_top, teacher_at_student_top: [A, k] logits at the student's top k.
        row, offset, n_rows, positions: As in `harmonize.objectives.distill.pull`.
        k: Length of both lists, at least 2.
        temperature: Divides the logits.

    Source: arXiv 2406.13555 and its code (k 8, temperature 3, no factor temperature squared).
    """
    led_by_teacher = _difference_kl(teacher_top, student_at_teacher_top, temperature)
    led_by_student = _difference_kl(teacher_at_student_top, student_top, temperature)
    return per_row(led_by_teacher + led_by_student, row, n_rows, included(offset, positions))


def _difference_kl(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    i, j = torch.triu_indices(teacher.shape[1], teacher.shape[1], offset=1, device=teacher.device)
    teacher, student = teacher.float() / temperature, student.float() / temperature
    log_p = F.log_softmax(teacher[:, i] - teacher[:, j], dim=1)
    log_q = F.log_softmax(student[:, i] - student[:, j], dim=1)
    return (log_p.exp() * (log_p - log_q)).sum(1)
