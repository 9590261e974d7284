"""Hooks, on as much of a runner as they look at."""

from types import SimpleNamespace

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.registry import HOOKS
from torch import nn

from odconv_det.calibration import inner_norms


class Detector(nn.Module):
    def __init__(self, inflated):
        super().__init__()
        dynamic = dict(type="ODConv2d", kernel_num=2)
        settings = dict(type="DynamicMobileNetV2", widen_factor=0.25, dynamic=dynamic)
        self.backbone = MODELS.build(settings).eval()
        self.backbone.inflated = inflated

    def data_preprocessor(self, data):
        return {"inputs": data["pixels"] / 255}


def runner(inflated=True, iteration=0, load_from=None):
    generator = torch.Generator().manual_seed(0)
    loader = [
        {"pixels": 255 * torch.randn(2, 3, 32, 32, generator=generator)}
        for _ in range(5)
    ]
    return SimpleNamespace(
        model=Detector(inflated),
        train_dataloader=loader,
        iter=iteration,
        _load_from=load_from,
    )


def calibrated(runner):
    norms = inner_norms(runner.model.backbone)
    assert len(norms) == 51
    return [bool(norm.running_mean.any()) for norm in norms]


def test_calibrates_an_inflated_backbone_with_so_many_batches():
    short = runner()
    HOOKS.build(dict(type="CalibrateHook", batches=3)).before_train(short)
    assert all(calibrated(short))
    assert {int(n.num_batches_tracked) for n in inner_norms(short.model)} == {3}
    assert not any(m.training for m in short.model.backbone.modules())


@pytest.mark.parametrize(
    "other", [dict(inflated=False), dict(iteration=4), dict(load_from="some.pth")]
)
def test_leaves_other_starts_alone(other):
    started = runner(**other)
    HOOKS.build(dict(type="CalibrateHook")).before_train(started)
    assert not any(calibrated(started))


def test_a_model_without_a_backbone_is_left_alone():
    started = runner()
    started.model = nn.Linear(2, 2)
    HOOKS.build(dict(type="CalibrateHook")).before_train(started)
