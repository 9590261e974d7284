"""The same seed gives the same bits on a CPU."""

import ast
import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from odconv_det.layers import CBAM, ECA, SE
from tests.layers.cases import VARIANTS, image

MODULES = [*VARIANTS, "SE", "CBAM", "ECA"]
FORMATS = {
    "contiguous": torch.contiguous_format,
    "channels_last": torch.channels_last,
}
ROOT = Path(__file__).parents[2]


def _built(name: str, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    features = {"SE": SE, "CBAM": CBAM, "ECA": ECA}
    if name in features:
        return features[name](8)
    layer, options = VARIANTS[name]
    return layer(8, 12, 3, padding=1, **options)


def _tensors(
    name: str, seed: int, memory_format: torch.memory_format
) -> Iterator[Tensor]:
    """All there is: the start, an output, gradients, and what two steps of SGD make."""
    module = _built(name, seed).to(memory_format=memory_format).train()
    yield from module.state_dict().values()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    for _ in range(2):
        x = image(3).to(memory_format=memory_format).requires_grad_()
        optimizer.zero_grad()
        y = module(x)
        y.square().mean().backward()
        optimizer.step()
        yield from (y, x.grad, *(p.grad for p in module.parameters()))
        yield from module.state_dict().values()


def digests(seed: int = 5) -> dict[str, str]:
    """One for each module and layout."""
    found = {}
    for name in MODULES:
        for layout, memory_format in FORMATS.items():
            digest = hashlib.sha256()
            for tensor in _tensors(name, seed, memory_format):
                digest.update(tensor.detach().contiguous().numpy().tobytes())
            found[f"{name}, {layout}"] = digest.hexdigest()
    return found


@pytest.fixture(scope="module")
def here() -> dict[str, str]:
    return digests()


def test_twice_in_a_process(here):
    assert len(here) == 2 * len(MODULES)
    assert digests() == here


def test_in_another_process(here):
    code = (
        f"import torch; torch.set_num_threads({torch.get_num_threads()}); "
        "from tests.layers.test_determinism import digests; print(digests())"
    )
    command = [sys.executable, "-c", code]
    other = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert other.returncode == 0
    assert ast.literal_eval(other.stdout) == here


def test_another_seed_gives_other_bits(here):
    other = digests(seed=6)
    assert [name for name in here if other[name] == here[name]] == []
