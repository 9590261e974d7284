"""What is installed."""

from odconv_det.env import Runtime
from tests.bad_inputs.case import Environment

__all__ = ["ENVIRONMENT"]

HEALTHY = {
    "torch": "2.13.0",
    "numpy": "2.2.6",
    "setuptools": "80.9.0",
    "onedl-mmengine": "0.10.12",
    "onedl-mmcv": "2.3.6",
    "onedl-mmdetection": "3.5.1",
    "safetensors": "0.8.0",
}
ENVIRONMENT = [
    Environment(
        "no_operators",
        "mmcv without `mmcv._ext`",
        "mmcv has no operators (mmcv._ext): it was installed without torch. "
        "CFLAGS=-g0 pip install --force-reinstall --no-deps --no-cache-dir "
        "--no-build-isolation onedl-mmcv==2.3.6",
        HEALTHY,
        Runtime(errors={"mmcv._ext": "No module named 'mmcv._ext'"}),
    ),
    Environment(
        "other_operators",
        "`mmcv._ext` of another torch",
        "mmcv's operators do not load: _ext.so: undefined symbol: _ZN2at4. They "
        "were built for another torch. CFLAGS=-g0 pip install --force-reinstall "
        "--no-deps --no-cache-dir --no-build-isolation onedl-mmcv==2.3.6",
        HEALTHY,
        Runtime(errors={"mmcv._ext": "_ext.so: undefined symbol: _ZN2at4"}),
    ),
    Environment(
        "both",
        "both OpenMMLab distributions",
        "onedl-mmcv and mmcv are installed over each other: both provide mmcv. pip "
        "uninstall -y onedl-mmcv mmcv, then install one stack: CFLAGS=-g0 pip "
        "install --no-build-isolation '.[onedl]'",
        HEALTHY | {"mmcv": "2.1.0"},
    ),
    Environment(
        "old_torch",
        "unsupported torch",
        "torch 1.13.1 is too old. pip install 'torch>=...'; mmcv, if it is "
        "installed, must be built again",
        HEALTHY | {"torch": "1.13.1"},
    ),
    Environment(
        "old_driver",
        "an NVIDIA driver too old for torch",
        "There is an NVIDIA driver, but torch for CUDA 13.0 sees no GPU: the driver "
        "may be too old for it. Update the driver; or take a torch for an older CUDA: "
        "pip install torch==2.13.0+cu126 --index-url "
        "https://download.pytorch.org/whl/cu126 (mmcv, if it is installed, must be "
        "built again); or leave the GPU out: export CUDA_VISIBLE_DEVICES=",
        HEALTHY,
        Runtime(torch_cuda="13.0", driver=True),
    ),
    Environment(
        "no_torch",
        "no torch",
        "torch is not installed. pip install torch",
        {"numpy": "2.2.6"},
    ),
    Environment(
        "mixed",
        "parts of both stacks",
        "mmdet does not belong to the rest, which is of the [onedl] stack. pip "
        "uninstall -y mmdet; pip install --no-build-isolation "
        "onedl-mmdetection==3.5.1",
        {name: v for name, v in HEALTHY.items() if name != "onedl-mmdetection"}
        | {"mmdet": "3.3.0"},
    ),
]
