"""What the dynamic convolutions share: arguments, weight, checks, BatchNorm."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from typing_extensions import Self

from odconv_det.core.precision import check_floating
from odconv_det.folding import Fold
from odconv_det.functional import Affine, Geometry, odconv2d
from odconv_det.layers.arguments import at_least, at_least_pair, positive
from odconv_det.layers.pointwise import Pointwise, kaiming_init

__all__ = ["DynamicConv2d", "TemperedAttention", "draw_anew"]

Pair = tuple[int, int]


class TemperedAttention(nn.Module):
    """An attention whose logits are divided by a temperature.

    See :func:`odconv_det.set_temperature`. It is no part of the state dict.
    """

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = positive("temperature", temperature)

    def extra_repr(self) -> str:
        return f"temperature={self.temperature:g}"


class DynamicConv2d(nn.Module):
    """A convolution whose kernel depends on something: base of the layers.

    A drop-in replacement of ``nn.Conv2d``: the positional arguments are the same. All
    that a static convolution does not have is in child modules.

    Args:
        in_channels: channels of the input, ``Ci``.
        out_channels: channels of the output, ``Co``.
        kernel_size: an int or a ``(kh, kw)`` pair.
        stride: an int or a pair.
        padding: zeros added on each side, an int or a pair.
        dilation: an int or a pair.
        groups: divides ``Ci`` and ``Co``; ``groups == Ci == Co`` is depthwise.
        bias: adds a static bias.
        kernel_num: kernels in the bank, ``N``; ``None`` for a layer without a bank.
        padding_mode: ``'zeros'``; others are not supported.

    Shape:
        - input: ``(B, Ci, H, W)``; ``B`` may be 0, and 1 in training
        - output: ``(B, Co, Ho, Wo)``
        - ``weight``: ``(N, Co, Ci/G, kh, kw)``, or ``(Co, Ci/G, kh, kw)``

    Raises:
        ValueError: for an argument out of its range, with its value; for an input of
            another shape.
    """

    # What ConvModule of mmcv reads from a convolution besides its geometry.
    transposed = False
    output_padding = (0, 0)
    # Whether the kernel is a weighted and scaled sum of a bank: what fuse() knows.
    mixes_a_bank = False
    # Set by fold_batch_norms: the BatchNorm to apply together with the convolution.
    fold: Fold | None = None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Pair,
        stride: int | Pair = 1,
        padding: int | Pair = 0,
        dilation: int | Pair = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        kernel_num: int | None = None,
        padding_mode: str = "zeros",
    ) -> None:
        super().__init__()
        if padding_mode != "zeros":
            raise ValueError(f"padding_mode must be 'zeros', got {padding_mode!r}")
        self.in_channels = at_least(1, "in_channels", in_channels)
        self.out_channels = at_least(1, "out_channels", out_channels)
        self.kernel_size = at_least_pair(1, "kernel_size", kernel_size)
        self.stride = at_least_pair(1, "stride", stride)
        self.padding = at_least_pair(0, "padding", padding)
        self.dilation = at_least_pair(1, "dilation", dilation)
        self.groups = at_least(1, "groups", groups)
        if self.in_channels % self.groups or self.out_channels % self.groups:
            raise ValueError(
                f"groups={groups} must divide in_channels={in_channels} and "
                f"out_channels={out_channels}"
            )
        shape = self.kernel_shape
        if self.mixes_a_bank or kernel_num is not None:
            self.kernel_num = at_least(1, "kernel_num", kernel_num)
            shape = (self.kernel_num, *shape)
        self.weight = nn.Parameter(torch.empty(shape))
        self.bias = nn.Parameter(torch.zeros(self.out_channels)) if bias else None
        self.geometry = Geometry(self.stride, self.padding, self.dilation, self.groups)
        self._reset_weight()

    @property
    def kernel_shape(self) -> tuple[int, int, int, int]:
        """Of one kernel, and of the static convolution's."""
        width = self.in_channels // self.groups
        return (self.out_channels, width, *self.kernel_size)

    # Initialisation -------------------------------------------------------------------

    def init_kernel(self, kernel: Tensor) -> None:
        """Draw one kernel, ``(Co, Ci/G, kh, kw)``."""
        kaiming_init(kernel)

    def _reset_weight(self) -> None:
        # Each by itself: the fan of a 5-D bank as a whole would be wrong.
        for kernel in self.weight.view(-1, *self.kernel_shape):
            self.init_kernel(kernel)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def reset_parameters(self) -> None:
        """Draw every parameter anew."""
        self._reset_weight()
        draw_anew(self)

    def init_weights(self) -> None:
        """OpenMMLab's name for it; without one, mmcv would re-initialise the bank."""
        self.reset_parameters()

    @torch.no_grad()
    def inflate_(
        self,
        kernel: Tensor,
        *,
        noise: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        """Become the static convolution with ``kernel (Co, Ci/G, kh, kw)``.

        The attention becomes constant, and the weight makes up for its factor. Equal
        kernels of a bank would receive equal gradients for ever: ``noise`` (relative to
        the kernel's standard deviation) tells them apart, and because it sums to zero
        over the bank the function still does not change.

        Raises:
            ValueError: if ``kernel`` is of another shape.
        """
        if kernel.shape != self.kernel_shape:
            raise ValueError(
                f"kernel must have shape {self.kernel_shape}, got {tuple(kernel.shape)}"
            )
        kernel = kernel.to(self.weight)
        if self.weight.dim() == 5:
            # Drawn on the CPU: the same start on every device.
            spread = torch.randn(self.weight.shape, generator=generator).to(self.weight)
            spread -= spread.mean(0)
            kernel = kernel + noise * kernel.std(correction=0) * spread
        self.weight.copy_(kernel / self.neutralize_())

    def neutralize_(self) -> float:
        """Make the attention constant; return the factor that a kernel then gets."""
        raise NotImplementedError

    # What surrounds a layer -----------------------------------------------------------

    @staticmethod
    def share_in_block(layers: Sequence[DynamicConv2d]) -> None:
        """Make the layers of one residual block share what their paper shares.

        Args:
            layers: in the order in which they run; the first has the block's input.
        """

    def fused_attention(self) -> nn.Module:
        """Of a layer that mixes a bank, for inference: from the input to attentions.

        No parameter of it asks for a gradient. The layer is not used any more.
        """
        raise NotImplementedError

    def multiply_adds(self, in_size: Pair, out_size: Pair) -> int:
        """Of one sample: convolution, attention and making the kernel.

        Fully connected layers and sums over the bank count; pooling and what is done
        element by element do not, but for scaling a kernel by a spatial attention.
        """
        convolution = math.prod(self.kernel_shape) * math.prod(out_size)
        return convolution + self.extra_multiply_adds(out_size)

    def extra_multiply_adds(self, out_size: Pair) -> int:
        """Those of :meth:`multiply_adds` that a static convolution does not have."""
        raise NotImplementedError

    # Running --------------------------------------------------------------------------

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 4 or x.shape[1] != self.in_channels:
            raise ValueError(
                f"expected input of shape (B, {self.in_channels}, H, W), "
                f"got {tuple(x.shape)}"
            )
        check_floating(x)
        return self.convolve(x, None if self.fold is None else self.fold.affine(self))

    def convolve(self, x: Tensor, affine: Affine | None) -> Tensor:
        """The convolution, and then ``affine`` if there is one.

        Here as of a layer that mixes a bank by the attentions of its input.
        """
        attentions = self.attention(x)
        return odconv2d(x, self.weight, attentions, self.bias, self.geometry, affine)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # channels_last exists for 4-D tensors only, and `.to(memory_format=...)` raises
        # on a 5-D parameter: hand the bank over as N * Co filters.
        def on_filters(tensor: Tensor) -> Tensor:
            if tensor.dim() != 5:
                return fn(tensor)
            return fn(tensor.flatten(0, 1)).unflatten(0, tensor.shape[:2])

        return super()._apply(on_filters, recurse)

    def extra_repr(self) -> str:
        text = (
            f"{self.in_channels}, {self.out_channels}, "
            f"kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, dilation={self.dilation}, "
            f"groups={self.groups}, bias={self.bias is not None}"
        )
        if self.weight.dim() == 5:
            text += f", kernel_num={self.kernel_num}"
        return text


def draw_anew(module: nn.Module) -> None:
    """Reset the fully connected layers and norms in ``module``."""
    for child in module.modules():
        if isinstance(child, Pointwise | _BatchNorm):
            child.reset_parameters()
