"""Slow, obvious references: one sample, one kernel, one equation at a time."""

import torch
import torch.nn.functional as F
from torch import Tensor

from odconv_det import ODConv2d


def odconv2d_oracle(layer: ODConv2d, x: Tensor) -> Tensor:
    """ODConv of ``x (B, Ci, H, W)`` from the layer's parameters, in eval mode."""
    return torch.stack([_one_sample(layer, sample) for sample in x])


def _one_sample(layer: ODConv2d, x: Tensor) -> Tensor:
    attention, temperature = layer.attention, layer.attention.temperature
    bn = attention.bn
    pooled = x.mean((1, 2))
    hidden = attention.fc.weight[:, :, 0, 0] @ pooled
    hidden = (hidden - bn.running_mean) / torch.sqrt(bn.running_var + bn.eps)
    hidden = torch.relu(hidden * bn.weight + bn.bias)

    def logits(head: torch.nn.Conv2d) -> Tensor:
        return (head.weight[:, :, 0, 0] @ hidden + head.bias) / temperature

    kernel = layer.weight[0]
    if attention.kernel_fc is not None:
        weights = torch.softmax(logits(attention.kernel_fc), 0)
        kernel = sum(w * k for w, k in zip(weights, layer.weight, strict=True))
    if attention.spatial_fc is not None:
        spatial = torch.sigmoid(logits(attention.spatial_fc))
        kernel = kernel * spatial.view(layer.kernel_size)
    x = x * torch.sigmoid(logits(attention.channel_fc))[:, None, None]
    y = F.conv2d(
        x[None],
        kernel,
        None,
        layer.stride,
        layer.padding,
        layer.dilation,
        layer.groups,
    )[0]
    if attention.filter_fc is not None:
        y = y * torch.sigmoid(logits(attention.filter_fc))[:, None, None]
    if layer.bias is not None:
        y = y + layer.bias[:, None, None]
    return y
