"""Each word of ``paramwise_cfg`` means for dynamic layers what it means for others."""

import pytest
from mmdet.registry import MODELS
from mmengine.optim import build_optim_wrapper
from torch import nn

import odconv_det.plugin  # noqa: F401  (registers)

LAYERS = [
    "ODConv2d",
    "CondConv2d",
    "DyConv2d",
    "DCDConv2d",
    "CGConv2d",
    "WeightNetConv2d",
    "WEConv2d",
]
WORDS = {
    "nothing": dict(custom_keys=dict(absent=dict(lr_mult=3))),
    "dwconv_decay_mult": dict(dwconv_decay_mult=0.0),
    "norm_decay_mult": dict(norm_decay_mult=0.0),
    "bias_decay_mult": dict(bias_decay_mult=0.0),
    "bias_lr_mult": dict(bias_lr_mult=2.0),
    "flat_decay_mult": dict(flat_decay_mult=0.0),
    "custom_keys": dict(custom_keys={"layer1.0": dict(lr_mult=0.1, decay_mult=0.5)}),
    "all": dict(
        dwconv_decay_mult=0.1,
        norm_decay_mult=0.2,
        bias_decay_mult=0.3,
        flat_decay_mult=0.4,
        custom_keys=dict(conv2=dict(lr_mult=5.0)),
    ),
}


def network(layer, family):
    dynamic = layer and dict(type=layer)
    options = dict(type="DynamicMobileNetV2", widen_factor=0.25)
    if family == "ResNet":
        options = dict(type="DynamicResNet", depth=18, base_channels=8)
    return MODELS.build(dict(options, dynamic=dynamic, init_cfg=[]))


def settings(network, **options):
    """Name of a parameter -> its learning rate and weight decay."""
    wrapper = build_optim_wrapper(
        network,
        dict(
            type="OptimWrapper",
            optimizer=dict(type="SGD", lr=1.0, weight_decay=1.0),
            **options,
        ),
    )
    groups = wrapper.optimizer.param_groups
    found = {
        id(parameter): (group["lr"], group["weight_decay"])
        for group in groups
        for parameter in group["params"]
    }
    return {name: found[id(p)] for name, p in network.named_parameters()}


@pytest.mark.parametrize(
    "family, word", [("ResNet", "all"), *(("MobileNetV2", word) for word in WORDS)]
)
@pytest.mark.parametrize("layer", LAYERS)
def test_a_dynamic_network_has_the_settings_of_the_static_one(layer, family, word):
    static = settings(network(None, family), paramwise_cfg=WORDS[word])
    dynamic = settings(network(layer, family), paramwise_cfg=WORDS[word])
    assert dynamic.keys() > static.keys()
    assert {name: dynamic[name] for name in static} == static


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("groups", [1, 8])
@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_with_a_bias_has_the_settings_of_the_static_one(layer, groups, word):
    options = dict(in_channels=8, out_channels=8, kernel_size=3, groups=groups)
    static, dynamic = (
        settings(MODELS.build(dict(options, type=kind)), paramwise_cfg=WORDS[word])
        for kind in ("Conv2d", layer)
    )
    assert set(static) == {"weight", "bias"}
    assert {name: dynamic[name] for name in static} == static


def test_depthwise_layers_are_left_out_of_weight_decay():
    own = settings(
        network("ODConv2d", "MobileNetV2"), paramwise_cfg=WORDS["dwconv_decay_mult"]
    )
    depthwise = {name for name in own if name.endswith("depthwise_conv.conv.weight")}
    assert len(depthwise) == 17
    assert {name for name, (_, decay) in own.items() if decay == 0} == depthwise


@pytest.mark.parametrize("layer", [None, *LAYERS])
def test_layer_wise_decay_of_mmdetection_refuses_as_it_does_any_resnet(layer):
    """It is written for ConvNeXt alone."""
    detector = nn.Module()
    detector.backbone = network(layer, "ResNet")
    with pytest.raises(NotImplementedError):
        settings(
            detector,
            constructor="mmdet.LearningRateDecayOptimizerConstructor",
            paramwise_cfg=dict(decay_rate=0.9, decay_type="layer_wise", num_layers=6),
        )
