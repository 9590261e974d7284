"""Ways to look at a ResNet, of upstream or of ours."""

from torch import nn

from tests.plugin.side_by_side import blocks, maps, norms, parts

__all__ = [
    "architecture",
    "checkpointed",
    "context",
    "deformable",
    "general",
    "last_norms",
    "plugin",
    "plugins",
    "second_argument",
    "shortcuts",
    "stems",
    "strides",
]


def second_argument(build):
    try:
        return build(18, 1).conv1.in_channels
    except TypeError:
        return "taken by name only"


def architecture(depth):
    """Blocks of each stage, kernel sizes of a block, and maps."""

    def look(build):
        network = build(depth=depth, base_channels=4)
        convs = [m for n, m in network.layer1[0].named_children() if n[:4] == "conv"]
        sizes = [conv.kernel_size for conv in convs]
        counts = [len(stage) for [stage] in parts(network)[1:]]
        return counts, sizes, maps(64)(lambda: network)

    return look


def stems(*options):
    """Channels of the stem's convolutions, and those the first stage is given."""

    def look(build):
        found = []
        for one in options:
            network = build(depth=18, **one)
            convs = [m for part in parts(network)[0] for m in part.modules()]
            widths = [m.out_channels for m in convs if isinstance(m, nn.Conv2d)]
            found.append([*widths, network.layer1[0].conv1.in_channels])
        return found

    return look


def strides(style):
    """Of the convolutions of the first block with a stride."""

    def look(build):
        block = build(depth=50, base_channels=4, style=style).layer2[0]
        return [conv.stride for conv in (block.conv1, block.conv2, block.conv3)]

    return look


def shortcuts(**options):
    """What the shortcuts of the first two blocks of each stage are made of."""

    def look(build):
        firsts = [b for [stage] in parts(build(**options))[1:] for b in list(stage)[:2]]
        return [
            " ".join(type(m).__name__ for m in b.downsample or () if not norms(m))
            for b in firsts
        ]

    return look


def last_norms(**options):
    """Whether the norm at the end of a block starts at zero, and any other does."""

    def look(build):
        network = build(**options)
        network.init_weights()
        last = [b.norm3 if hasattr(b, "conv3") else b.norm2 for b in blocks(network)]
        ends = {n for norm in last for n in norms(norm)[:1]}  # attention comes behind
        rest = set(norms(network)) - ends
        return [{not n.weight.any().item() for n in ns} for ns in (ends, rest)]

    return look


def plugin(kind, position, stages=None, **options):
    cfg = dict(cfg=dict(type=kind, **options), position=position)
    return cfg if stages is None else dict(cfg, stages=stages)


def context(position="after_conv3", stages=None, **options):
    return plugin("ContextBlock", position, stages, ratio=1 / 16, **options)


def general(position, stages=None):
    options = dict(spatial_range=-1, num_heads=8, attention_type="0010", kv_stride=2)
    return plugin("GeneralizedAttention", position, stages, **options)


def plugins(*added):
    """Channels of the plugins in the last block of each stage, and the maps."""

    def look(build):
        network = build(depth=50, base_channels=8, plugins=list(added))
        lasts = [stage[-1] for [stage] in parts(network)[1:]]
        found = []
        for block in lasts:
            lists = [getattr(block, f"after_conv{i}_plugin_names") for i in (1, 2, 3)]
            names = [name for one in lists for name in one]
            found.append({name: getattr(block, name).in_channels for name in names})
        return found, maps(32)(lambda: network)

    return look


def deformable(build):
    """Whether the 3x3 of each stage is, where every other stage is to be; the maps."""
    dcn = dict(type="DCNv2", deform_groups=1)
    network = build(
        depth=50,
        base_channels=4,
        dcn=dcn,
        stage_with_dcn=(False, True, False, True),
    )
    kinds = [{type(b.conv2).__name__ for b in stage} for [stage] in parts(network)[1:]]
    deformed = [kind == {"ModulatedDeformConv2dPack"} for kind in kinds]
    return deformed, maps(64)(lambda: network)


def checkpointed(**options):
    """Whether the blocks are, and the maps."""

    def look(build):
        network = build(with_cp=True, **options)
        return {b.with_cp for b in blocks(network)}, maps(64)(lambda: network)

    return look
