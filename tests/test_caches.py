"""Nothing that the package remembers grows with the shapes that it meets."""

import copy
import importlib.util
import inspect
import pkgutil
from collections.abc import MutableMapping, MutableSequence, MutableSet
from pathlib import Path

import pytest
import torch
from torch import nn

import odconv_det
from odconv_det import ODConv2d, fold_batch_norms, fuse
from odconv_det.folding import _folded_class
from odconv_det.fusion import convolution
from tests.layers.blocks import network
from tests.layers.cases import VARIANTS

PACKAGE = Path(odconv_det.__file__).parent
CONTAINERS = (MutableMapping, MutableSequence, MutableSet)
SIZES = [(height, width) for height in (16, 17, 24, 33) for width in (16, 19, 40)]


def modules():
    """Every module of the package, but for the kernels that need a switch first.

    And the glue to MMDetection, where that is not installed.
    """
    walked = pkgutil.walk_packages(odconv_det.__path__, "odconv_det.")
    names = [found.name for found in walked if "triton_kernels" not in found.name]
    if importlib.util.find_spec("mmengine") is None:
        names = [name for name in names if not name.startswith("odconv_det.plugin")]
    return [importlib.import_module(name) for name in names]


def functools_caches():
    return {
        f"{module.__name__}.{name}": value
        for module in modules()
        for name, value in _own(module)
        if hasattr(value, "cache_parameters")
    }


def remembered():
    """Sizes of the containers of all modules and classes, and of the caches."""
    sizes = {}
    for module in modules():
        for name, value in _own(module):
            path = f"{module.__name__}.{name}"
            if isinstance(value, CONTAINERS):
                sizes[path] = len(value)
            elif hasattr(value, "cache_info"):
                sizes[path] = value.cache_info().currsize
            elif inspect.isclass(value):
                for key, inner in list(vars(value).items()):
                    if isinstance(inner, CONTAINERS):
                        sizes[f"{path}.{key}"] = len(inner)
    return sizes


def _own(module):
    """What stands in the module, and is not imported from elsewhere."""
    for name, value in list(vars(module).items()):
        home = getattr(value, "__module__", module.__name__)
        if not name.startswith("__") and home == module.__name__:
            yield name, value


def held(net):
    """How many entries the containers of the network's modules have in all."""
    return {
        f"{name}.{key}": len(value)
        for name, module in net.named_modules()
        for key, value in vars(module).items()
        if isinstance(value, CONTAINERS)
    }


def test_every_cache_of_functools_has_a_bound():
    found = functools_caches()
    assert "odconv_det.fusion.convolution._works" in found
    assert "odconv_det.folding._folded_class" in found
    bounds = {name: cache.cache_parameters() for name, cache in found.items()}
    assert [name for name, one in bounds.items() if one["maxsize"] is None] == []


def test_no_cache_without_a_bound_is_hidden_in_a_class_or_function():
    files = sorted(PACKAGE.rglob("*.py"))
    assert len(files) > 40
    written = {path.name: path.read_text() for path in files}
    for unbounded in ("functools.cache\n", "lru_cache\n", "maxsize=None"):
        assert [name for name, code in written.items() if unbounded in code] == []


@pytest.mark.parametrize("variant", VARIANTS)
def test_many_shapes_leave_no_trace(variant):
    net = network(variant)
    fused = fuse(copy.deepcopy(net))
    counts = []
    for _ in range(2):
        for height, width in SIZES if counts else SIZES[:1]:
            x = torch.rand(2, 3, height, width)
            net.train()
            sum(y.sum() for y in net(x)).backward()
            net.eval()
            with torch.no_grad():
                net(x)
                fused(x)
        counts.append((remembered(), held(net), held(fused)))
    assert counts[0] == counts[1]


def test_what_is_remembered_by_class_has_a_bound():
    def norm():  # of a class of its own each time
        return type("Norm", (nn.BatchNorm2d,), {})(4)

    for _ in range(100):
        conv = ODConv2d(3, 4, 1, kernel_num=1)
        fold_batch_norms(nn.Sequential(conv, norm()))
    info = _folded_class.cache_info()
    assert info.currsize == info.maxsize < 100


def test_what_is_known_of_a_kind_of_tensor_has_a_bound():
    before = convolution._works.cache_info()
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        for device in ("cpu", "cuda", "meta", "xpu"):
            if device != "cuda":
                convolution.one_call_works(device, dtype)
    after = convolution._works.cache_info()
    assert after.currsize - before.currsize <= 1  # float32 on a CPU
