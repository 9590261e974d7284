"""Hooks, on as much of a runner as they look at."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmengine.dataset import InfiniteSampler
from mmengine.registry import HOOKS
from torch import nn
from torch.utils.data import DataLoader, Dataset

from odconv_det.calibration import inner_norms


class Detector(nn.Module):
    def __init__(self, pretrained):
        super().__init__()
        dynamic = dict(type="ODConv2d", kernel_num=2)
        settings = dict(type="DynamicMobileNetV2", widen_factor=0.25, dynamic=dynamic)
        self.backbone = MODELS.build(settings).eval()
        self.backbone.pretrained = pretrained

    def data_preprocessor(self, data):
        return {"inputs": data["pixels"] / 255}


class Pictures(Dataset):
    """Draws random numbers as augmentation does."""

    def __len__(self):
        return 7

    def __getitem__(self, index):
        torch.rand(3), np.random.rand(3)
        generator = torch.Generator().manual_seed(index)
        return {"pixels": 255 * torch.randn(3, 32, 32, generator=generator)}


def runner(pretrained=True, iteration=0, load_from=None, data=None):
    return SimpleNamespace(
        model=Detector(pretrained),
        train_dataloader=DataLoader(data or Pictures(), batch_size=1),
        iter=iteration,
        _load_from=load_from,
    )


def calibrated(runner):
    norms = inner_norms(runner.model.backbone)
    assert len(norms) == 51
    return [bool(norm.running_mean.any()) for norm in norms]


@pytest.mark.parametrize("images, batches", [(6, 3), (5, 3), (64, 4)])
def test_calibrates_an_inflated_backbone_with_so_many_pairs(images, batches):
    short = runner()
    HOOKS.build(dict(type="CalibrateHook", images=images)).before_train(short)
    assert all(calibrated(short))
    assert {int(n.num_batches_tracked) for n in inner_norms(short.model)} == {batches}
    assert not any(m.training for m in short.model.backbone.modules())


def test_a_sampler_without_an_end_is_left_for_the_training():
    started = runner()
    sampler = InfiniteSampler(Pictures(), shuffle=False)
    started.train_dataloader = DataLoader(Pictures(), 1, sampler=sampler)
    HOOKS.build(dict(type="CalibrateHook")).before_train(started)
    assert all(calibrated(started))
    first = next(iter(started.train_dataloader))["pixels"][0]
    assert torch.equal(first, Pictures()[0]["pixels"])


def test_one_image_is_too_few():
    with pytest.raises(ValueError, match="images must be an int of at least 2, got 1"):
        HOOKS.build(dict(type="CalibrateHook", images=1))


@pytest.mark.parametrize(
    "other", [dict(pretrained=False), dict(iteration=4), dict(load_from="some.pth")]
)
def test_leaves_other_starts_alone(other):
    started = runner(**other)
    HOOKS.build(dict(type="CalibrateHook")).before_train(started)
    assert not any(calibrated(started))


def test_leaves_statistics_of_a_file_alone():
    started = runner()
    inner_norms(started.model)[0].num_batches_tracked.fill_(7)
    HOOKS.build(dict(type="CalibrateHook")).before_train(started)
    assert not any(calibrated(started))


def test_random_numbers_are_as_if_it_had_not_run():
    drawn = []
    for hook in (None, HOOKS.build(dict(type="CalibrateHook"))):
        started = runner()
        torch.manual_seed(1)
        np.random.seed(1)
        random.seed(1)
        if hook:
            hook.before_train(started)
        drawn.append((torch.rand(1).item(), np.random.rand(), random.random()))
    assert drawn[0] == drawn[1]


def test_a_model_without_a_backbone_is_left_alone():
    started = runner()
    started.model = nn.Linear(2, 2)
    HOOKS.build(dict(type="CalibrateHook")).before_train(started)
