"""Slow, obvious references: one sample, one kernel, one equation at a time.

Each takes a layer for its parameters, and ``x (B, Ci, H, W)``. One function a paper, in
the letters of the paper; nothing of the package's math is used. In eval mode, but for
:func:`training_oracle`.
"""

from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from odconv_det.layers import (
    CBAM,
    ECA,
    SE,
    CGConv2d,
    CondConv2d,
    DCDConv2d,
    DyConv2d,
    ODConv2d,
    WEConv2d,
    WeightNetConv2d,
)

__all__ = [
    "ORACLES",
    "condconv2d_oracle",
    "odconv2d_oracle",
    "oracle",
    "training_oracle",
]


def oracle(layer: nn.Module, x: Tensor) -> Tensor:
    """What ``layer`` has to compute, sample by sample."""
    return torch.stack([ORACLES[type(layer)](layer, sample) for sample in x])


def training_oracle(layer: nn.Module, x: Tensor) -> Tensor:
    """What ``layer`` has to compute in training mode; it gets the batch's statistics.

    One norm after another: what it sees in all samples gives its mean and variance, as
    functions of ``x`` and the parameters, with which the next one can be reached. A
    single value has no variance: its norm keeps the statistics that it has.
    """
    for norm in [m for m in layer.modules() if isinstance(m, _BatchNorm)]:
        with mock.patch(f"{__name__}._norm", wraps=_norm) as spy:
            oracle(layer, x)
        seen = [z for bn, z in (call.args for call in spy.mock_calls) if bn is norm]
        values = torch.cat([z.view(len(z), -1) for z in seen], 1)  # (C, how many)
        if values.shape[1] > 1:
            norm.running_mean = values.mean(1)
            norm.running_var = values.var(1, correction=0)
    return oracle(layer, x)


def odconv2d_oracle(layer: ODConv2d, x: Tensor) -> Tensor:
    """ODConv of a batch."""
    return torch.stack([_odconv(layer, sample) for sample in x])


def condconv2d_oracle(layer: CondConv2d, x: Tensor, routing: Tensor) -> Tensor:
    """CondConv of a batch with a given routing, ``(B, N)``."""
    pairs = zip(x, routing, strict=True)
    return torch.stack([_mixture(layer, *pair) for pair in pairs])


# Steps that several papers have -------------------------------------------------------


def _matrix(fc: nn.Module) -> Tensor:
    """The weight of a 1x1 convolution as a matrix."""
    return fc.weight[:, :, 0, 0]


def _linear(fc: nn.Module, v: Tensor) -> Tensor:
    y = _matrix(fc) @ v
    return y if fc.bias is None else y + fc.bias


def _norm(bn: nn.Module, z: Tensor) -> Tensor:
    """BatchNorm in eval mode of ``(C, ...)``."""
    size = (-1,) + (1,) * (z.dim() - 1)
    mean, var, gamma, beta = (
        value.view(size)
        for value in (bn.running_mean, bn.running_var, bn.weight, bn.bias)
    )
    return (z - mean) / torch.sqrt(var + bn.eps) * gamma + beta


def _pool(x: Tensor, height: int, width: int) -> Tensor:
    """Adaptive average pooling of ``(C, H, W)``, cell by cell."""

    def cells(pixels: int, count: int) -> list[slice]:
        return [
            slice(pixels * i // count, -(-pixels * (i + 1) // count))
            for i in range(count)
        ]

    rows, columns = cells(x.shape[1], height), cells(x.shape[2], width)
    pooled = [[x[:, row, column].mean((1, 2)) for column in columns] for row in rows]
    return torch.stack([torch.stack(row, 1) for row in pooled], 1)


def _conv(layer: nn.Module, x: Tensor, kernel: Tensor) -> Tensor:
    """Without bias."""
    geometry = (layer.stride, layer.padding, layer.dilation, layer.groups)
    return F.conv2d(x[None], kernel, None, *geometry)[0]


def _plus_bias(layer: nn.Module, y: Tensor) -> Tensor:
    return y if layer.bias is None else y + layer.bias[:, None, None]


def _mixture(layer: nn.Module, x: Tensor, weights: Tensor) -> Tensor:
    """Convolution with a weighted sum of kernels."""
    kernel = sum(w * k for w, k in zip(weights, layer.weight, strict=True))
    return _plus_bias(layer, _conv(layer, x, kernel))


# Dynamic convolutions -----------------------------------------------------------------


def _odconv(layer: ODConv2d, x: Tensor) -> Tensor:
    attention, temperature = layer.attention, layer.attention.temperature
    hidden = torch.relu(_norm(attention.bn, _linear(attention.fc, x.mean((1, 2)))))

    def logits(head: nn.Module) -> Tensor:
        return _linear(head, hidden) / temperature

    kernel = layer.weight[0]
    if attention.kernel_fc is not None:
        weights = torch.softmax(logits(attention.kernel_fc), 0)
        kernel = sum(w * k for w, k in zip(weights, layer.weight, strict=True))
    if attention.spatial_fc is not None:
        spatial = torch.sigmoid(logits(attention.spatial_fc))
        kernel = kernel * spatial.view(layer.kernel_size)
    if attention.channel_fc is not None:
        x = x * torch.sigmoid(logits(attention.channel_fc))[:, None, None]
    y = _conv(layer, x, kernel)
    if attention.filter_fc is not None:
        y = y * torch.sigmoid(logits(attention.filter_fc))[:, None, None]
    return _plus_bias(layer, y)


def _condconv(layer: CondConv2d, x: Tensor) -> Tensor:
    return _mixture(
        layer, x, torch.sigmoid(_linear(layer.attention.fc, x.mean((1, 2))))
    )


def _dyconv(layer: DyConv2d, x: Tensor) -> Tensor:
    attention = layer.attention
    hidden = torch.relu(_linear(attention.fc1, x.mean((1, 2))))
    logits = _linear(attention.fc2, hidden) / attention.temperature
    exponentials = torch.exp(logits - logits.max())  # the ratio stays, none is infinite
    return _mixture(layer, x, exponentials / exponentials.sum())


def _dcd(layer: DCDConv2d, x: Tensor) -> Tensor:
    attention, fusion = layer.attention, layer.fusion

    def hs(t: Tensor) -> Tensor:
        return (t + 3).clamp(0, 6) / 3

    side = {"basic": 2, "bottleneck": 1, "classifier": 1}.get(layer.kind)
    if side is None:
        side = 2 if layer.in_channels < layer.out_channels else 1
    e = _linear(attention.reduce, _pool(x, side, side).flatten())
    e = e * hs(_linear(attention.gate, e))
    latent = len(_matrix(fusion.squeeze))
    phi = _linear(attention.fusion_fc, e).view(latent, latent)
    lam = hs(_linear(attention.filter_fc, e))

    y = _plus_bias(layer, _conv(layer, x, layer.weight))
    fused = torch.zeros_like(y)
    for row in range(y.shape[1]):
        for column in range(y.shape[2]):
            pixel = _middle(layer, x, row, column)
            u = _norm(fusion.bn1, _matrix(fusion.squeeze) @ pixel)
            u = _norm(fusion.bn2, phi @ u) + u
            fused[:, row, column] = _matrix(fusion.expand) @ u
    return lam[:, None, None] * y + fused


def _middle(layer: nn.Module, x: Tensor, row: int, column: int) -> Tensor:
    """The pixel under the middle of the kernel for this output; zeros are around."""
    place = [
        index * stride - padding + dilation * (size - 1) // 2
        for index, stride, padding, dilation, size in zip(
            (row, column),
            layer.stride,
            layer.padding,
            layer.dilation,
            layer.kernel_size,
            strict=True,
        )
    ]
    inside = all(0 <= p < n for p, n in zip(place, x.shape[1:], strict=True))
    return x[:, place[0], place[1]] if inside else x.new_zeros(len(x))


def _cgc(layer: CGConv2d, x: Tensor) -> Tensor:
    gate = layer.attention
    ins, outs = layer.in_channels, layer.out_channels
    p = _pool(x, *layer.kernel_size).flatten(1)  # (C, area)
    e = p @ _matrix(gate.encode).T  # (C, d)
    g1 = torch.relu(_norm(gate.channel_bn, e)) @ _matrix(gate.channel_fc).T
    v = torch.relu(_norm(gate.interact_bn, e))
    groups = max(ins // 16, 1)
    assert ins % groups == outs % groups == 0, "the paper says nothing of such sizes"
    mixed = torch.cat([_matrix(gate.interact) @ part for part in v.chunk(groups)])
    g2 = torch.relu(_norm(gate.filter_bn, mixed)) @ _matrix(gate.filter_fc).T
    kernel = torch.zeros_like(layer.weight)
    width = ins // layer.groups
    for o in range(outs):
        first = o // (outs // layer.groups) * width  # of the channels the filter sees
        for c in range(width):
            factor = torch.sigmoid(g1[first + c] + g2[o])
            kernel[o, c] = layer.weight[o, c] * factor.view(layer.kernel_size)
    return _plus_bias(layer, _conv(layer, x, kernel))


def _weightnet(layer: WeightNetConv2d, x: Tensor) -> Tensor:
    """As in the paper: a grouped fully connected layer makes the kernel."""
    attention = layer.attention
    a = torch.sigmoid(_linear(attention.fc, _linear(attention.reduce, x.mean((1, 2)))))
    # Each of its groups has one input, and as many outputs as there are elements of the
    # kernel for one input.
    groups = layer.weight.flatten().chunk(len(a))
    made = torch.cat(
        [weights * value for weights, value in zip(groups, a, strict=True)]
    )
    return _plus_bias(layer, _conv(layer, x, made.view(layer.weight.shape)))


def _weight_excitation(layer: WEConv2d, x: Tensor) -> Tensor:
    attention = layer.attention
    filters = []
    for own in layer.weight:
        m = own.mean((1, 2))
        s = torch.sigmoid(_linear(attention.fc2, torch.relu(_linear(attention.fc1, m))))
        filters.append(own * s[:, None, None])
    kernel = torch.stack(filters)
    if layer.magnitude:
        m = 1.1 * kernel.abs().max()
        kernel = m / 2 * torch.log((1 + kernel / m) / (1 - kernel / m))
    return _plus_bias(layer, _conv(layer, x, kernel))


# Feature attention --------------------------------------------------------------------


def _se(module: SE, x: Tensor) -> Tensor:
    s = torch.sigmoid(
        _linear(module.fc2, torch.relu(_linear(module.fc1, x.mean((1, 2)))))
    )
    return x * s[:, None, None]


def _cbam(module: CBAM, x: Tensor) -> Tensor:
    def f(v: Tensor) -> Tensor:
        return _linear(module.fc2, torch.relu(_linear(module.fc1, v)))

    mean, largest = x.mean((1, 2)), x.flatten(1).max(1).values
    x1 = x * torch.sigmoid(f(mean) + f(largest))[:, None, None]
    two = torch.stack([x1.max(0).values, x1.mean(0)])
    return x1 * torch.sigmoid(F.conv2d(two[None], module.spatial, padding=3)[0])


def _eca(module: ECA, x: Tensor) -> Tensor:
    weight = module.weight[0, 0]
    mean = x.mean((1, 2))
    reach = len(weight) // 2
    logits = []
    for channel in range(len(mean)):
        terms = [
            weight[i] * mean[channel + i - reach]
            for i in range(len(weight))
            if 0 <= channel + i - reach < len(mean)
        ]
        logits.append(sum(terms))
    return x * torch.sigmoid(torch.stack(logits))[:, None, None]


ORACLES = {
    ODConv2d: _odconv,
    CondConv2d: _condconv,
    DyConv2d: _dyconv,
    DCDConv2d: _dcd,
    CGConv2d: _cgc,
    WeightNetConv2d: _weightnet,
    WEConv2d: _weight_excitation,
    SE: _se,
    CBAM: _cbam,
    ECA: _eca,
}
