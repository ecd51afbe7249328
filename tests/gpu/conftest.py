"""Tests that need a GPU; elsewhere they are skipped, all of them. HARMONIZE_TEST_DEVICE=cpu tries them without one."""

import os

import pytest
import torch


@pytest.fixture(autouse=True)
def gpu() -> torch.device:
    device = torch.device(os.environ.get("HARMONIZE_TEST_DEVICE", "cuda"))
    if device.type == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    return device
