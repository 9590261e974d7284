"""The authors' algorithm, plainly: what the speed of this package is compared with.

The same function as :class:`odconv_det.ODConv2d`, from the same parameters, in the
order of operations of the ODConv release: the input is scaled, every kernel of the bank
is multiplied by its attentions for every sample and summed, one convolution takes the
batch as groups, and the output is scaled. A layer of one 1x1 kernel uses that kernel
for all samples. Tests compare it with the golden numbers of the release.
"""

import types

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from odconv_det import ODConv2d
from odconv_det.folding import unfold_batch_norms

__all__ = ["attentions", "forward", "use_authors_algorithm"]


def attentions(layer: ODConv2d, x: Tensor) -> tuple[Tensor | float, ...]:
    """channel, filter, spatial and kernel attention; 1.0 for one that is constant."""
    attention, size = layer.attention, x.shape[0]

    def conv(part: nn.Module, z: Tensor) -> Tensor:
        return F.conv2d(z, part.weight, part.bias)

    z = F.adaptive_avg_pool2d(x, 1)
    z = torch.relu_(attention.bn(conv(attention.fc, z)))

    def weights(head: nn.Module | None, shape: tuple[int, ...]) -> Tensor | float:
        if head is None:
            return 1.0
        logits = conv(head, z).view(size, *shape) / attention.temperature
        return logits.softmax(1) if head is attention.kernel_fc else logits.sigmoid()

    return (
        weights(attention.channel_fc, (-1, 1, 1)),
        weights(attention.filter_fc, (-1, 1, 1)),
        weights(attention.spatial_fc, (1, 1, 1, *layer.kernel_size)),
        weights(attention.kernel_fc, (-1, 1, 1, 1, 1)),
    )


def forward(layer: ODConv2d, x: Tensor) -> Tensor:
    """The layer's output, BatchNorm behind it not included."""
    channel, filter_, spatial, kernel = attentions(layer, x)
    geometry = (layer.stride, layer.padding, layer.dilation)
    bias, bank = layer.bias, layer.weight
    if layer.kernel_num == 1 and layer.kernel_size == (1, 1):
        y = F.conv2d(x * channel, bank[0], None, *geometry, layer.groups) * filter_
    else:
        batch, _, height, width = x.shape
        x = (x * channel).reshape(1, -1, height, width)
        kernels = (spatial * kernel * bank.unsqueeze(0)).sum(1)
        kernels = kernels.view(-1, *bank.shape[2:])
        y = F.conv2d(x, kernels, None, *geometry, layer.groups * batch)
        y = y.view(batch, layer.out_channels, *y.shape[2:]) * filter_
    return y if bias is None else y + bias.view(-1, 1, 1)


def use_authors_algorithm(network: nn.Module) -> nn.Module:
    """Let every ODConv2d of the network compute as the release does; return it."""
    unfold_batch_norms(network)  # BatchNorm was a step of its own
    for module in network.modules():
        if isinstance(module, ODConv2d):
            module.forward = types.MethodType(forward, module)
    return network
