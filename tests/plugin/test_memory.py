"""What the backbones save for backward, in bytes: a count, so the same everywhere.

Two images of 320 x 320 and BatchNorm in eval mode, against MMDetection's own networks
as they are.
"""

from functools import cache

import pytest
import torch
from analysis.authors import use_authors_algorithm
from analysis.measure import saved_bytes
from mmdet.models.backbones import MobileNetV2, ResNet
from torch import nn

from odconv_det import unfold_batch_norms
from odconv_det.plugin.backbones import ODMobileNetV2, ODResNet

NETWORKS = {
    "resnet50": (ResNet, ODResNet, dict(depth=50, frozen_stages=1)),
    "mobilenetv2": (MobileNetV2, ODMobileNetV2, dict(frozen_stages=2)),
}
# The release's algorithm over the static network, as measured with the release itself:
# other numbers would mean that the counter counts something else.
AUTHORS = {
    ("resnet50", 1): 2.40,
    ("resnet50", 4): 2.78,
    ("mobilenetv2", 1): 1.56,
    ("mobilenetv2", 4): 1.68,
}


@cache
def saved(name, kernel_num):
    """Bytes of each variant; ``kernel_num=0`` is the static network."""
    static, dynamic, options = NETWORKS[name]
    x = torch.randn(2, 3, 320, 320, generator=torch.Generator().manual_seed(0))
    if kernel_num == 0:
        network = static(**options, norm_eval=True)
        network.train()
        return dict(static=saved_bytes(network, x))
    network = dynamic(**options, norm_eval=True, kernel_num=kernel_num).train()
    counts = dict(folded=saved_bytes(network, x))
    unfold_batch_norms(network)
    counts["unfolded"] = saved_bytes(network, x)
    use_authors_algorithm(network)
    counts["authors"] = saved_bytes(network, x)
    return counts


def ratio(name, kernel_num, variant):
    return saved(name, kernel_num)[variant] / saved(name, 0)["static"]


def test_the_counter_counts_a_map_once_and_no_parameter():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 5, 1))
    x = torch.zeros(2, 3, 8, 8)
    # The input, and what is behind the ReLU, which that and the convolution keep.
    assert saved_bytes(network, x) == 4 * (x.numel() + 2 * 4 * 8 * 8)


@pytest.mark.parametrize("name, kernel_num", AUTHORS)
def test_the_authors_algorithm_saves_what_it_does_in_the_release(name, kernel_num):
    expected = pytest.approx(AUTHORS[name, kernel_num], abs=0.02)
    assert ratio(name, kernel_num, "authors") == expected


@pytest.mark.parametrize("name, kernel_num", AUTHORS)
def test_with_the_norms_folded_at_most_60_percent_of_static_is_saved(name, kernel_num):
    assert ratio(name, kernel_num, "folded") <= 0.60


@pytest.mark.parametrize("name, kernel_num", AUTHORS)
def test_with_nothing_folded_at_most_105_percent_of_static_is_saved(name, kernel_num):
    assert ratio(name, kernel_num, "unfolded") <= 1.05
