"""fuse() on whole detectors: the same maps, the same boxes."""

import copy
import itertools

import numpy as np
import pytest
import torch
from mmdet.apis import DetInferencer
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from odconv_det import ODConv2d
from odconv_det.fusion import fuse
from odconv_det.fusion.layout import LAYOUTS
from odconv_det.fusion.modules import Fused
from odconv_det.plugin.backbones import ODMobileNetV2
from tests.calibrated import calibrate, pictures
from tests.configs.test_configs import CONFIGS, batch
from tests.tiny_coco import FEW_ROIS

SMALL = {
    **FEW_ROIS,
    "model.backbone.widen_factor": 0.25,
    "model.backbone.init_cfg": None,
    "model.neck.in_channels": [8, 8, 24, 1280],
    "model.neck.out_channels": 32,
    "model.rpn_head.in_channels": 32,
    "model.rpn_head.feat_channels": 32,
    "model.roi_head.bbox_roi_extractor.out_channels": 32,
    "model.roi_head.bbox_head.in_channels": 32,
    "model.roi_head.bbox_head.fc_out_channels": 16,
    "model.roi_head.mask_roi_extractor.out_channels": 32,
    "model.roi_head.mask_head.in_channels": 32,
    "model.roi_head.mask_head.conv_out_channels": 16,
    "model.roi_head.bbox_head.num_classes": 3,
    "model.roi_head.mask_head.num_classes": 3,
    "model.test_cfg.rcnn.max_per_img": 20,
}


def config():
    file = CONFIGS / "odconv" / "mask-rcnn_mobilenetv2-odconv4x_fpn_1x_coco.py"
    cfg = Config.fromfile(file)
    cfg.merge_from_dict(SMALL)
    return cfg


@pytest.fixture(scope="module")
def detector():
    """A small Mask R-CNN of this package's recipe; not to be changed."""
    torch.manual_seed(0)
    cfg = config()
    init_default_scope("mmdet")
    model = MODELS.build(cfg.model)
    model.init_weights()
    calibrate(model.backbone, 96)
    model.eval()
    # As sure of itself as a trained one: else rounding decides which boxes are best.
    spread_scores(model, model.rpn_head.rpn_cls)
    spread_scores(model, model.roi_head.bbox_head.fc_cls)
    return model


@torch.no_grad()
def spread_scores(model, layer):
    """Scale a classifier so that its logits for some images are of size 2."""
    seen = []
    hook = layer.register_forward_hook(lambda module, args, y: seen.append(y.flatten()))
    model.test_step(batch(96))
    hook.remove()
    layer.weight.mul_(2 / torch.cat(seen).std())


@pytest.fixture(scope="module")
def fused(detector):
    return fuse(copy.deepcopy(detector))


def assert_close(ys, expected, tolerance=1e-4):
    assert len(ys) == len(expected) > 0
    for y, reference in zip(ys, expected, strict=True):
        assert y.shape == reference.shape
        assert (y - reference).abs().max() <= tolerance * reference.abs().max()


def flat(levels):
    return list(itertools.chain.from_iterable(levels))


@torch.no_grad()
def features(model, x):
    maps = model.backbone(x)
    return [*maps, *model.neck(maps)]


@pytest.mark.parametrize("size", [(1, 64, 96), (2, 96, 64), (1, 75, 93)])
def test_backbone_and_neck_give_the_same_maps(detector, fused, size):
    x = pictures(*size)
    assert_close(features(fused, x), features(detector, x))


def test_heads_give_the_same_values(detector, fused):
    with torch.no_grad():
        maps = detector.extract_feat(pictures(2, 96))
        for head in ("rpn_head", "roi_head.mask_head"):
            ours, theirs = fused.get_submodule(head), detector.get_submodule(head)
            x = maps if head == "rpn_head" else maps[0][..., :14, :14]
            ys, expected = ours(x), theirs(x)
            if head == "rpn_head":
                ys, expected = flat(ys), flat(expected)
            else:
                ys, expected = [ys], [expected]
            assert_close(ys, expected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_predicts_the_same_objects(detector, layout):
    torch.manual_seed(3)
    data = batch(96)
    with torch.no_grad():
        found = fuse(copy.deepcopy(detector), layout=layout).test_step(
            copy.deepcopy(data)
        )
        expected = detector.test_step(copy.deepcopy(data))
    assert len(found) == len(expected) == 2
    for one, other in zip(found, expected, strict=True):
        one, other = one.pred_instances, other.pred_instances
        assert len(one) == len(other) >= 5
        assert torch.equal(one.labels, other.labels)
        assert_close([one.scores], [other.scores], 1e-3)
        assert (one.bboxes - other.bboxes).abs().max() < 0.05
        assert (one.masks != other.masks).float().mean() < 0.01


def test_every_convolution_of_the_backbone_is_fused(detector, fused):
    layers = [m for m in detector.backbone.modules() if isinstance(m, ODConv2d)]
    assert len(layers) == 51
    kinds = (ODConv2d, nn.Conv2d, _BatchNorm)
    assert not any(isinstance(m, kinds) for m in fused.backbone.modules())
    assert sum(isinstance(m, Fused) for m in fused.backbone.modules()) == 52
    assert sum(isinstance(m, Fused) for m in fused.neck.modules()) == 8


def test_the_detector_is_still_itself(detector, fused):
    assert isinstance(fused, type(detector))
    assert isinstance(fused.backbone, ODMobileNetV2)
    assert fused.with_neck
    assert fused.with_mask


@pytest.mark.filterwarnings("ignore:Failed to add:UserWarning")
def test_an_inferencer_finds_the_same(detector, tmp_path):
    checkpoint = tmp_path / "weights.pth"
    meta = dict(dataset_meta=dict(classes=("a", "b", "c")))
    torch.save(dict(state_dict=detector.state_dict(), meta=meta), checkpoint)
    cfg = config()
    cfg.test_dataloader.dataset.pipeline[1].scale = (96, 96)
    inferencer = DetInferencer(cfg, str(checkpoint), device="cpu", show_progress=False)
    pixels = np.random.default_rng(0).integers(0, 255, (80, 96, 3), dtype=np.uint8)
    (expected,) = inferencer(pixels, no_save_vis=True)["predictions"]
    fuse(inferencer.model)
    (found,) = inferencer(pixels, no_save_vis=True)["predictions"]
    assert len(expected["scores"]) >= 5
    assert found["labels"] == expected["labels"]
    np.testing.assert_allclose(found["scores"], expected["scores"], atol=1e-3)
    np.testing.assert_allclose(found["bboxes"], expected["bboxes"], atol=0.05)


def test_cannot_be_trained_any_more(fused):
    with pytest.raises(RuntimeError, match="inference"):
        copy.deepcopy(fused).train()


def test_heads_that_are_shared_by_all_levels_give_the_same():
    """RetinaNet's: one tower of convolutions for five maps of five sizes."""
    torch.manual_seed(0)
    init_default_scope("mmdet")
    head = MODELS.build(
        dict(
            type="RetinaHead",
            num_classes=3,
            in_channels=32,
            feat_channels=16,
            stacked_convs=2,
            norm_cfg=dict(type="BN"),
            anchor_generator=dict(
                type="AnchorGenerator", ratios=[1.0], scales=[4], strides=[4, 8, 16]
            ),
        )
    ).eval()
    maps = [torch.randn(2, 32, n, n + 1) for n in (16, 8, 4)]
    with torch.no_grad():
        expected = flat(head(maps))
        fuse(head)
        assert sum(isinstance(m, Fused) for m in head.modules()) == 4
        assert_close(flat(head(maps)), expected)


def test_convolutions_that_share_weights_but_not_norms_give_the_same():
    """RTMDet's head: the levels share convolutions, each has its own BatchNorms."""
    torch.manual_seed(0)
    init_default_scope("mmdet")
    head = MODELS.build(
        dict(
            type="RTMDetSepBNHead",
            num_classes=3,
            in_channels=16,
            feat_channels=16,
            stacked_convs=2,
            share_conv=True,
            norm_cfg=dict(type="BN"),
            act_cfg=dict(type="ReLU", inplace=True),
            anchor_generator=dict(
                type="MlvlPointGenerator", offset=0, strides=[8, 16, 32]
            ),
            bbox_coder=dict(type="DistancePointBBoxCoder"),
            loss_cls=dict(type="QualityFocalLoss", beta=2.0),
            loss_bbox=dict(type="GIoULoss"),
        )
    ).eval()
    with torch.no_grad():
        for module in head.modules():
            if isinstance(module, _BatchNorm):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
    maps = [torch.randn(2, 16, n, n + 1) for n in (16, 8, 4)]
    with torch.no_grad():
        expected = flat(head(maps))
        fuse(head)
        assert any(isinstance(m, Fused) for m in head.modules())
        assert_close(flat(head(maps)), expected)
