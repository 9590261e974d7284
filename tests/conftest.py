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


@pytest.fixture(scope="session")
def forge(tmp_path_factory):
    """Starts the tools as processes, see tests/forge.py."""
    from tests.forge import Forge  # not for tests that need torch alone

    with Forge(tmp_path_factory.mktemp("forge")) as started:
        yield started
