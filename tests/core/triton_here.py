"""Which tests need triton: those of the kernels, wherever the set-up installs it."""

import platform

import pytest
import torch

VERSION = tuple(map(int, torch.__version__.split(".")[:2]))

needs_triton = pytest.mark.skipif(
    (platform.system(), platform.machine()) != ("Linux", "x86_64") or VERSION < (2, 8),
    reason="triton 3.4 is for Linux on x86-64 and torch 2.8",
)
