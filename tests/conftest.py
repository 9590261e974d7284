"""One thread per process: small tensors, and often another test run on the machine."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

import pytest
import torch


@pytest.fixture
def two_threads():
    """As many as the golden numbers were made with: one rounds otherwise."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)
