"""MMDetection's ResNet and MobileNetV2 with chosen convolutions made dynamic."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from mmdet.models.backbones import MobileNetV2, ResNet
from mmdet.registry import MODELS
from torch import nn
from typing_extensions import Self

from odconv_det.layers import AttendedNorm, DynamicConv2d
from odconv_det.plugin.dynamic import make_attentive, make_dynamic
from odconv_det.plugin.pretrained import StrictPretrained

__all__ = [
    "DynamicMobileNetV2",
    "DynamicResNet",
    "ODMobileNetV2",
    "ODResNet",
    "OD_MobileNetV2",
    "OD_ResNet",
]

# Registered by force: a second import of the package must be harmless.


class _Dynamic(StrictPretrained):
    """Mixin: swaps the network's convolutions, and freezes attention with its stage."""

    freeze_attention = True

    def _make_dynamic(
        self,
        dynamic: Mapping[str, Any] | None,
        where: Mapping[str, Any] | None,
        feature_attention: Mapping[str, Any] | None,
    ) -> None:
        if where and dynamic is None:
            raise ValueError(
                f"where={where!r} says which convolutions are dynamic: name the layer "
                "in dynamic=dict(type=...)"
            )
        if dynamic is not None:
            _check_conv(self.conv_cfg)
            make_dynamic(
                self,
                dynamic,
                where,
                norm_cfg=self.norm_cfg,
                leave=self.fresh_prefixes(),
            )
        if feature_attention is not None:
            make_attentive(self, feature_attention)
        # What lies behind the last map would never get a gradient, which DDP refuses.
        for part in self._stages()[max(self.out_indices) + 1 :]:
            part.requires_grad_(False)
        # Upstream's ResNet froze before the swap; its MobileNetV2 would in train(),
        # which is after DDP has counted the parameters that need a gradient.
        self._freeze_stages()

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        return self  # upstream returns None, which breaks `net = Net().eval()`

    def _stages(self) -> list[nn.Module]:
        """The modules whose outputs ``out_indices`` counts."""
        raise NotImplementedError

    def _frozen_parts(self) -> Iterable[nn.Module]:
        """The modules that ``frozen_stages`` freezes."""
        raise NotImplementedError

    def _freeze_stages(self) -> None:
        for part in self._frozen_parts():
            attention = list(_attention(part))
            trainable = [
                p for m in attention for p in m.parameters() if p.requires_grad
            ]
            part.eval()
            part.requires_grad_(False)
            if not self.freeze_attention:
                for module in attention:
                    module.train(self.training)
                for parameter in trainable:
                    parameter.requires_grad_()


@MODELS.register_module(force=True)
class DynamicResNet(_Dynamic, ResNet):
    """MMDetection's ResNet whose residual blocks convolve dynamically.

    Args:
        depth: 18, 34, 50, 101 or 152.
        dynamic: the layer, e.g. ``dict(type='ODConv2d', kernel_num=4)``; ``None`` keeps
            every convolution static (and the loading of weights strict).
        where: which convolutions are dynamic, e.g. ``dict(stages=(3, 4),
            kernel_sizes=(3,))``, with the words of
            :func:`odconv_det.placement.choose`. Stage 0 is the stem. By default
            all convolutions but the stem and the projections of shortcuts.
        feature_attention: what scales each block's output before the shortcut is added,
            e.g. ``dict(type='SE')``.
        freeze_attention: whether ``frozen_stages`` stops the attention too.
        **kwargs: those of MMDetection's ``ResNet``.

    Raises:
        ValueError: for ``depth``, ``num_stages``, ``out_indices`` or
            ``frozen_stages`` out of range.
    """

    def __init__(
        self,
        depth: int,
        *,
        dynamic: Mapping[str, Any] | None = None,
        where: Mapping[str, Any] | None = None,
        feature_attention: Mapping[str, Any] | None = None,
        freeze_attention: bool = True,
        **kwargs: Any,
    ) -> None:
        if depth not in self.arch_settings:
            raise ValueError(
                f"depth must be one of {list(self.arch_settings)}, got {depth!r}"
            )
        stages = kwargs.get("num_stages", 4)
        if stages not in range(1, 5):
            raise ValueError(f"num_stages must be in 1 .. 4, got {stages!r}")
        _check_indices(kwargs.get("out_indices", (0,)), range(stages))
        _check_frozen(kwargs.get("frozen_stages", -1), range(-1, stages + 1))
        if feature_attention and kwargs.get("plugins"):
            raise ValueError("plugins and feature_attention exclude each other")
        super().__init__(depth, **kwargs)
        self.freeze_attention = freeze_attention
        self._make_dynamic(dynamic, where, feature_attention)

    def _stages(self) -> list[nn.Module]:
        return [getattr(self, name) for name in self.res_layers]

    def _frozen_parts(self) -> Iterable[nn.Module]:
        if self.frozen_stages >= 0:
            yield from [self.stem] if self.deep_stem else [self.conv1, self.norm1]
        yield from self._stages()[: max(self.frozen_stages, 0)]

    def fresh_prefixes(self) -> tuple[str, ...]:
        return tuple(
            f"{name}.{plugin}."
            for name, block in self.named_modules()
            for position in ("conv1", "conv2", "conv3")
            for plugin in getattr(block, f"after_{position}_plugin_names", ())
        )


@MODELS.register_module(force=True)
class DynamicMobileNetV2(_Dynamic, MobileNetV2):
    """MMDetection's MobileNetV2 whose convolutions are dynamic.

    Args:
        widen_factor: width multiplier.
        out_indices: which of ``layer1`` .. ``layer7`` (0 to 6) and ``conv2`` (7) to
            return.
        frozen_stages: -1 freezes nothing, 0 the stem, ``i`` the stem and ``layer1`` to
            ``layer<i>``, 8 ``conv2`` as well.
        dynamic: the layer, e.g. ``dict(type='ODConv2d', kernel_num=4)``; ``None`` keeps
            every convolution static (and the loading of weights strict).
        where: which convolutions are dynamic, e.g. ``dict(stages=(3, 4),
            kernel_sizes=(3,))``, with the words of
            :func:`odconv_det.placement.choose`. Stage 0 is the stem, 8 is ``conv2``. By
            default all convolutions but the stem.
        feature_attention: what scales each block's output before the shortcut is added,
            e.g. ``dict(type='SE')``.
        freeze_attention: whether ``frozen_stages`` stops the attention too.
        **kwargs: those of MMDetection's ``MobileNetV2``.

    Raises:
        ValueError: for ``out_indices`` or ``frozen_stages`` out of range.
    """

    def __init__(
        self,
        widen_factor: float = 1.0,
        out_indices: Sequence[int] = (1, 2, 4, 7),
        frozen_stages: int = -1,
        *,
        dynamic: Mapping[str, Any] | None = None,
        where: Mapping[str, Any] | None = None,
        feature_attention: Mapping[str, Any] | None = None,
        freeze_attention: bool = True,
        **kwargs: Any,
    ) -> None:
        _check_indices(out_indices, range(8))
        _check_frozen(frozen_stages, range(-1, 9))
        super().__init__(widen_factor, out_indices, **kwargs)
        self.frozen_stages = frozen_stages
        self.freeze_attention = freeze_attention
        self._make_dynamic(dynamic, where, feature_attention)

    def _stages(self) -> list[nn.Module]:
        return [getattr(self, name) for name in self.layers]

    def _frozen_parts(self) -> Iterable[nn.Module]:
        return [self.conv1, *self._stages()][: self.frozen_stages + 1]


def _attention(part: nn.Module) -> Iterator[nn.Module]:
    """What the static network does not have."""
    for module in part.modules():
        if isinstance(module, DynamicConv2d):
            yield from module.children()
        elif isinstance(module, AttendedNorm):
            yield module.attention


def _check_indices(out_indices: Sequence[int], allowed: range) -> None:
    if not (
        isinstance(out_indices, Sequence)
        and out_indices
        and set(out_indices) <= set(allowed)
    ):
        raise ValueError(
            f"out_indices must be some of {list(allowed)}, got {out_indices!r}"
        )


def _check_frozen(frozen_stages: int, allowed: range) -> None:
    if frozen_stages not in allowed:
        raise ValueError(
            f"frozen_stages must be in {allowed[0]} .. {allowed[-1]}, "
            f"got {frozen_stages!r}"
        )


def _check_conv(conv_cfg: Mapping[str, Any] | None) -> None:
    """Raise ValueError for another layer than the one that is to be replaced."""
    kind = (conv_cfg or {}).get("type", "Conv2d")
    if kind not in ("Conv2d", "Conv", nn.Conv2d):
        raise ValueError(
            f"conv_cfg={conv_cfg!r} and a dynamic convolution exclude each other: "
            "leave conv_cfg out"
        )


def _odconv(kernel_num: int, reduction: float) -> dict[str, Any]:
    return dict(type="ODConv2d", kernel_num=kernel_num, reduction=reduction)


@MODELS.register_module(force=True)
class ODResNet(DynamicResNet):
    """ResNet of the ODConv paper: every convolution of the residual blocks is ODConv.

    Args:
        depth: 18, 34, 50, 101 or 152.
        kernel_num: kernels in each bank (the paper's 1x and 4x).
        reduction: hidden width of the attention, relative to its input's channels.
        **kwargs: those of :class:`DynamicResNet` and MMDetection's ``ResNet``.
    """

    def __init__(
        self,
        depth: int,
        *,
        kernel_num: int = 1,
        reduction: float = 1 / 16,
        **kwargs: Any,
    ) -> None:
        super().__init__(depth, dynamic=_odconv(kernel_num, reduction), **kwargs)


@MODELS.register_module(force=True)
class ODMobileNetV2(DynamicMobileNetV2):
    """MobileNetV2 of the ODConv paper: every convolution but the stem is ODConv.

    Args:
        widen_factor: width multiplier.
        out_indices: see :class:`DynamicMobileNetV2`.
        frozen_stages: see :class:`DynamicMobileNetV2`.
        kernel_num: kernels in each bank (the paper's 1x and 4x).
        reduction: hidden width of the attention, relative to its input's channels.
        **kwargs: those of :class:`DynamicMobileNetV2` and of MMDetection's.
    """

    def __init__(
        self,
        widen_factor: float = 1.0,
        out_indices: Sequence[int] = (1, 2, 4, 7),
        frozen_stages: int = -1,
        *,
        kernel_num: int = 1,
        reduction: float = 1 / 16,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            widen_factor,
            out_indices,
            frozen_stages,
            dynamic=_odconv(kernel_num, reduction),
            **kwargs,
        )


@MODELS.register_module(force=True)
class OD_ResNet(ODResNet):  # noqa: N801  (the release's name)
    """:class:`ODResNet` with the arguments and defaults of the authors' release.

    ``num_classes`` is taken and not used: the classifier of ImageNet is not kept.
    """

    def __init__(
        self,
        depth: int,
        num_classes: int = 1000,
        reduction: float = 0.0625,
        kernel_num: int = 1,
        frozen_stages: int = 0,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        norm_eval: bool = True,
        pretrained: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            depth,
            reduction=reduction,
            kernel_num=kernel_num,
            frozen_stages=frozen_stages,
            out_indices=out_indices,
            norm_eval=norm_eval,
            pretrained=pretrained,
            **kwargs,
        )


@MODELS.register_module(force=True)
class OD_MobileNetV2(ODMobileNetV2):  # noqa: N801  (the release's name)
    """:class:`ODMobileNetV2` with the arguments and defaults of the authors' release.

    The release counts in strides: 0 to 4 are the last maps at stride 2, 4, 8, 16 and
    32, in ``out_indices`` as in ``frozen_stages`` (which freezes everything up to that
    map; -1 freezes nothing). ``num_classes`` is taken and not used: the classifier of
    ImageNet is not kept.

    Raises:
        ValueError: for ``out_indices`` or ``frozen_stages`` out of range.
    """

    _MAPS = (0, 1, 2, 4, 7)  # in MMDetection's numbering of MobileNetV2's layers
    # The last map is conv2's, and frozen_stages=8 is the one that includes conv2.

    def __init__(
        self,
        num_classes: int = 1000,
        width_mult: float = 1.0,
        reduction: float = 0.0625,
        kernel_num: int = 1,
        frozen_stages: int = 0,
        out_indices: Sequence[int] = (1, 2, 3, 4),
        norm_eval: bool = True,
        pretrained: str | None = None,
        **kwargs: Any,
    ) -> None:
        _check_indices(out_indices, range(5))
        _check_frozen(frozen_stages, range(-1, 5))
        super().__init__(
            width_mult,
            tuple(self._MAPS[i] for i in out_indices),
            -1 if frozen_stages < 0 else self._MAPS[frozen_stages] + 1,
            reduction=reduction,
            kernel_num=kernel_num,
            norm_eval=norm_eval,
            pretrained=pretrained,
            **kwargs,
        )
