"""Marks of tests that not every supported torch or machine can run."""

import platform

import pytest
import torch

__all__ = ["needs_compile", "needs_triton"]

VERSION = tuple(map(int, torch.__version__.split(".")[:2]))

# 2.6 fails; between is not tested.
needs_compile = pytest.mark.skipif(
    VERSION < (2, 13),
    reason="layers in torch.compile are tested with torch 2.13; 2.6 fails",
)

# The set-up installs it there.
needs_triton = pytest.mark.skipif(
    (platform.system(), platform.machine()) != ("Linux", "x86_64") or VERSION < (2, 8),
    reason="triton 3.4 is for Linux on x86-64 and torch 2.8",
)
