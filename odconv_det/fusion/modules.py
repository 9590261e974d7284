"""The modules that take the place of a convolution and what follows it."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from typing_extensions import Self

from odconv_det.core.constant import constant
from odconv_det.core.dispatch import Case, choose
from odconv_det.core.forward import case_of, forward
from odconv_det.core.kernels import Scales
from odconv_det.core.per_sample import Geometry
from odconv_det.core.precision import autocast_input
from odconv_det.functional import Affine
from odconv_det.fusion.convolution import Activation, convolve, finish

__all__ = ["Fused", "FusedConv2d", "FusedDynamicConv2d", "static_form"]


class Fused(nn.Module):
    """``activation(affine(conv(x)) + residual)``: what the two kinds share.

    Parameters ask for no gradient. Called without the residual it is joined with, it
    leaves out the activation too: then code that still adds by itself is right.

    Attributes:
        apart: whether the activation is somebody else's for now.
        joined: whether it belongs with an addition.
        overwrite: whether the output may take the residual's memory.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        geometry: Geometry,
        activation: Activation,
    ) -> None:
        super().__init__()
        self.weight = constant(weight)
        self.bias = None if bias is None else constant(bias)
        self.geometry = geometry
        self.activation = activation
        self.apart = False
        self.joined = False
        self.overwrite = False
        super().train(False)

    def train(self, mode: bool = True) -> Self:
        if mode:
            raise RuntimeError(
                "a fused network is for inference: train the network it was made "
                "from, or a copy made before fuse()"
            )
        return super().train(False)

    def _activation(self, residual: Tensor | None) -> Activation:
        alone = self.apart or (self.joined and residual is None)
        return "none" if alone else self.activation

    def extra_repr(self) -> str:
        shape, stride = tuple(self.weight.shape), self.geometry.stride
        return f"{shape}, stride={stride}, activation={self.activation!r}"


class FusedConv2d(Fused):
    """A static convolution, with what follows it.

    Shape:
        - x: ``(B, Ci, H, W)``
        - residual, output: ``(B, Co, Ho, Wo)``
    """

    def __init__(
        self, conv: nn.Conv2d, affine: Affine | None, activation: Activation
    ) -> None:
        weight, bias = conv.weight, conv.bias
        if affine is not None:
            weight = weight * affine.scale.view(-1, 1, 1, 1)
            bias = affine.of_bias(bias)
        geometry = Geometry(conv.stride, conv.padding, conv.dilation, conv.groups)
        super().__init__(weight, bias, geometry, activation)

    @torch.no_grad()
    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        if x.dim() == 3:
            return self(x.unsqueeze(0), None if residual is None else residual[None])[0]
        x = autocast_input(x)
        weight = self.weight.to(x.dtype).unsqueeze(0)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        case = case_of(x, weight, None, Scales(None, None, None), self.geometry)
        form = static_form(case)
        if form == "matmul":
            weight = weight.expand(len(x), -1, -1, -1, -1)
        return convolve(
            x,
            weight,
            bias,
            self.geometry,
            form,
            self._activation(residual),
            residual,
            overwrite=self.overwrite,
        )


def static_form(case: Case) -> str:
    """The plan's ``convolve`` for a kernel that all samples share.

    On a GPU always a convolution: a batched product with a bias would first write the
    bias to the whole output.
    """
    product = case.device != "cuda" and choose(case).convolve == "matmul"
    return "matmul" if product else "shared"


class FusedDynamicConv2d(Fused):
    """A dynamic convolution, with what follows it.

    The scale of a BatchNorm is multiplied into the bank once and for all.

    Shape:
        - x: ``(B, Ci, H, W)``
        - residual, output: ``(B, Co, Ho, Wo)``
    """

    def __init__(
        self, layer: nn.Module, affine: Affine | None, activation: Activation
    ) -> None:
        bank, bias = layer.weight, layer.bias
        if affine is not None:
            bank = bank * affine.scale.view(1, -1, 1, 1, 1)
            bias = affine.of_bias(bias)
        # channels_last and its conversions know four dimensions only.
        super().__init__(bank.flatten(0, 1), bias, layer.geometry, activation)
        self.kernel_num = len(bank)
        self.attention = layer.fused_attention()

    @torch.no_grad()
    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        x = autocast_input(x)
        channel, filter_, spatial, kernel = self.attention(x)
        bank = self.weight.view(self.kernel_num, -1, *self.weight.shape[1:])
        scales = Scales(channel, filter_, spatial)
        plan = choose(case_of(x, bank, kernel, scales, self.geometry))
        run = partial(forward, x, bank, kernel, scales, self.bias, self.geometry, plan)
        if plan.scale == "maps":  # what follows comes after the filter attention
            return finish(run(), residual, self._activation(residual))
        return run(
            partial(
                convolve,
                activation=self._activation(residual),
                residual=residual,
                overwrite=self.overwrite,
            )
        )
