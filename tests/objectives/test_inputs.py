import subprocess
import sys

import pytest
import torch

from harmonize.errors import ConfigError
from harmonize.models.head import Head
from harmonize.objectives.distill import pull, push
from harmonize.objectives.inputs import call, list_sizes, needs, needs_teacher, settings_of
from harmonize.objectives.likelihood import cross_entropy
from harmonize.objectives.outputs import Outputs
from harmonize.testing.fakes import GivenTeacher, batch_of, outputs_of


def test_needs_come_from_parameter_names() -> None:
    assert needs(cross_entropy) == {"label_log_probs", "row", "offset", "n_rows"}
    assert needs_teacher(pull) and needs_teacher(push) and not needs_teacher(cross_entropy)
    assert list_sizes([(pull, {"k": 7}), (push, {"k": 3, "k_teacher": 9})]) == (3, 9)


def test_only_what_is_asked_for_is_computed() -> None:
    class Untouchable:
        exact = True

        def __getattr__(self, name: str):
            raise AssertionError(f"cross entropy asked the teacher for {name}")

    batch = batch_of([2, 3])
    outputs = Outputs(batch, torch.randn(5, 8), Head(torch.eye(8)), Untouchable())
    call(cross_entropy, outputs, {})


@pytest.mark.parametrize("dense", [True, False])
def test_fields_are_shared_between_objectives(dense: bool) -> None:
    batch, student, teacher = batch_of([2, 3]), torch.randn(5, 8), torch.randn(5, 8)
    products = []

    class Counting(Head):
        def logits(self, hidden):
            products.append("logits")
            return super().logits(hidden)

        def select(self, *arguments, **options):
            products.append("select")
            return super().select(*arguments, **options)

    calls = [(pull, {"k": 3}), (push, {"k": 4, "k_teacher": 2})]
    outputs = Outputs(
        batch,
        student[batch.cache_index],
        Counting(torch.eye(8)),
        GivenTeacher(teacher),
        sizes=list_sizes(calls),
        dense=dense,
    )
    shared = [call(function, outputs, s) for function, s in calls]
    assert products == (["logits"] if dense else ["select"])
    alone = [call(function, outputs_of(batch, student, teacher, dense=not dense), s) for function, s in calls]
    torch.testing.assert_close(shared, alone)


def test_wide_lists_use_sorting(monkeypatch) -> None:
    batch, student, teacher = batch_of([4]), torch.randn(4, 30), torch.randn(4, 30)
    narrow = outputs_of(batch, student, teacher).get("student_top_in_teacher_top", {"k": 9, "k_teacher": 11})
    monkeypatch.setattr("harmonize.objectives.outputs._WIDE", 1)
    wide = outputs_of(batch, student, teacher).get("student_top_in_teacher_top", {"k": 9, "k_teacher": 11})
    assert torch.equal(narrow, wide) and bool(wide.any()) and not bool(wide.all())


def test_lists_longer_than_the_vocabulary_are_cut() -> None:
    outputs = outputs_of(batch_of([2]), torch.randn(2, 5), torch.randn(2, 5))
    assert outputs.get("teacher_top", {"k": 100}).shape == (2, 5)
    call(push, outputs, {"k": 100, "k_teacher": 2})


def test_unknown_settings_and_fields_name_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'temperature'"):
        settings_of(pull, {"temprature": 2.0})

    def wants(student_logit, row, n_rows):
        return row, row

    with pytest.raises(ConfigError, match="Did you mean 'student_logits'"):
        call(wants, outputs_of(batch_of([1]), torch.randn(1, 4), torch.randn(1, 4)), {})
    with pytest.raises(ConfigError, match="needs the teacher"):
        call(pull, Outputs(batch_of([1]), torch.randn(1, 4), Head(torch.eye(4))), {})


def test_columns_of_the_batch_pass_through() -> None:
    batch = batch_of([2])
    batch.extra["difficulty"] = torch.tensor([3.0])

    def weighted(label_log_probs, row, n_rows, difficulty, *, power=1.0):
        return label_log_probs.sum()[None] * difficulty**power, torch.ones(1)

    outputs = outputs_of(batch, torch.randn(2, 4), torch.randn(2, 4))
    assert call(weighted, outputs, {"power": 2.0})[0].item() == pytest.approx(
        9 * outputs.get("label_log_probs").sum().item()
    )


def test_objectives_import_torch_alone() -> None:
    code = (
        "import sys, harmonize.objectives.distill, harmonize.objectives.likelihood, harmonize.objectives.inputs\n"
        "print([m for m in ('transformers', 'lightning', 'peft', 'omegaconf', 'harmonize.models') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
