"""One thread per process: small tensors, and often another test run on the machine."""

import importlib.util
import os
import random
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

import numpy as np
import pytest
import torch

TOOLS = Path(__file__).parent / "tools"
MMDETECTION = ("mmengine", "mmcv", "mmdet")


def pytest_addoption(parser):
    parser.addoption(
        "--torch-only",
        action="store_true",
        help="where MMDetection is not installed: leave out the files that import it",
    )


def pytest_configure(config):
    if config.option.torch_only and any(map(importlib.util.find_spec, MMDETECTION)):
        raise pytest.UsageError("--torch-only: MMDetection is installed, test it all")


def pytest_report_header(config):
    if config.option.torch_only:
        return "torch only: the tools and files that import MMDetection are left out"
    return None


def pytest_ignore_collect(collection_path, config):
    """Leave out the tools, which need cv2, Pillow, ... besides."""
    return (config.option.torch_only and collection_path == TOOLS) or None


def pytest_pycollect_makemodule(module_path, parent):
    if parent.config.option.torch_only:
        return TorchOnlyModule.from_parent(parent, path=module_path)
    return None


class TorchOnlyModule(pytest.Module):
    """A file of tests; empty if its import ends at MMDetection, which is not there."""

    def collect(self):
        try:
            return super().collect()
        except self.CollectError as error:
            missing = getattr(error.__cause__, "name", None) or ""
            if missing.partition(".")[0] in MMDETECTION:
                return []
            raise


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    """What a test draws does not depend on the tests before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call():
    """Nor on whether it had to build what the tests of its file share."""
    torch.manual_seed(1)


@pytest.fixture
def mmdetection(request):
    """Of a test that needs it without importing it."""
    if request.config.option.torch_only:
        pytest.skip("needs MMDetection")


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
