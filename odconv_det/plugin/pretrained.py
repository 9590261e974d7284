"""``init_cfg=dict(type='Pretrained', ...)`` that loads everything or says why not."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from mmengine.logging import print_log
from mmengine.model import PretrainedInit
from torch import Tensor

from odconv_det.checkpoints import (
    CheckpointError,
    MissingCheckpointError,
    backbone_tensors,
    from_release,
    inflate,
    load_exactly,
    mismatch,
    read_tensors,
    under,
)
from odconv_det.checkpoints.zoo import SCHEME
from odconv_det.plugin.loading import locate_once

__all__ = ["StrictPretrained", "is_pretrained", "ways_on"]


class StrictPretrained:
    """Mixin of a backbone: its ``Pretrained`` weights all load, or training stops.

    mmengine loads them with ``strict=False`` and goes on whatever was missing. Here a
    file that does not fit raises :class:`CheckpointError` at once. A file that is not
    there raises at the first forward pass: until then a resumed run or ``load_from``
    may bring the weights, and must not need the ImageNet file.

    With ``inflate=True`` in the ``init_cfg`` (or a dict with ``noise`` and ``seed``), a
    file of the static network becomes the start: :func:`odconv_det.inflate`.
    """

    _missing_weights: str | None = None
    pretrained = False  # whether a file was the start

    def init_weights(self) -> None:
        if self.is_init:  # mmengine warns, and leaves everything as it is
            super().init_weights()
            return
        own_cfg = self.init_cfg
        cfgs = [own_cfg] if isinstance(own_cfg, Mapping) else list(own_cfg or [])
        pretrained = [cfg for cfg in cfgs if is_pretrained(cfg)]
        self.init_cfg = [cfg for cfg in cfgs if not is_pretrained(cfg)]
        super().init_weights()
        self.init_cfg = own_cfg
        for cfg in pretrained:
            self._load_pretrained(cfg)

    def fresh_prefixes(self) -> tuple[str, ...]:
        """Where the names of parts begin that no ImageNet file holds."""
        return ()

    def _load_pretrained(self, cfg: Mapping[str, Any]) -> None:
        address, prefix = cfg["checkpoint"], cfg.get("prefix")
        options = _inflate_options(cfg.get("inflate"))
        try:
            path = locate_once(address)
            tensors = read_tensors(path)
        except MissingCheckpointError as error:
            dynamic = _is_dynamic(self.state_dict()) and options is None
            self._missing_weights = f"{error}; {ways_on(dynamic)}"
            print_log(
                f"{self._missing_weights}. Training will not start unless a checkpoint "
                "is resumed or loaded instead.",
                logger="current",
                level=logging.WARNING,
            )
            return
        if prefix:
            tensors = under(tensors, f"{prefix.rstrip('.')}.")
            if not tensors:
                raise CheckpointError(f"{address} has no tensor under {prefix!r}")
        tensors = backbone_tensors(from_release(tensors))
        origin = f"{address} ({path})" if address.startswith(SCHEME) else address
        fresh = self._fresh_tensors(tensors)
        verb = "loaded"
        # A file of the dynamic network itself is loaded as it is.
        static = not _is_dynamic(tensors) and _is_dynamic(self.state_dict())
        if static and options is not None:
            tensors, verb = self._inflated(tensors | fresh, options, origin), "inflated"
            tensors = {key: t for key, t in tensors.items() if key not in fresh}
        try:
            total = load_exactly(self, tensors | fresh, origin) - len(fresh)
        except CheckpointError as error:
            if not static:
                raise
            raise CheckpointError(
                f"{error} (static weights start a dynamic network with inflate=True in "
                "init_cfg)"
            ) from error
        self.pretrained = True
        print_log(
            f"{type(self).__name__}: {verb} {len(tensors)} of {total} tensors from "
            f"{origin}" + (f"; {len(fresh)} of plugins start fresh" if fresh else ""),
            logger="current",
        )

    def _inflated(
        self, static: Mapping[str, Tensor], options: Mapping[str, Any], origin: str
    ) -> dict[str, Tensor]:
        try:
            return inflate(static, self, **options)
        except CheckpointError as error:
            raise CheckpointError(f"{origin}: {error}") from error

    def _fresh_tensors(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        state = self.state_dict()
        fresh = {}
        for prefix in self.fresh_prefixes():
            # A part must be in the file whole, or not at all.
            if not under(tensors, prefix):
                fresh |= {key: t for key, t in state.items() if key.startswith(prefix)}
        return fresh

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Tensor], prefix: str, *args: Any
    ) -> None:
        if self._missing_weights:
            own = under(state_dict, prefix)
            if mismatch(self.state_dict(), own) is None:
                self._missing_weights = None
        super()._load_from_state_dict(state_dict, prefix, *args)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        if self._missing_weights:
            raise CheckpointError(self._missing_weights)
        return super().forward(x)


def _inflate_options(inflate: object) -> dict[str, Any] | None:
    """``inflate`` of an ``init_cfg`` as arguments; ``None`` is not to inflate."""
    if inflate is None or inflate is False:
        return None
    options = {} if inflate is True else inflate
    if not isinstance(options, Mapping) or not set(options) <= {"noise", "seed"}:
        raise ValueError(
            "inflate in an init_cfg must be True or a dict with noise and seed, "
            f"got {inflate!r}"
        )
    return dict(options)


def _is_dynamic(tensors: Mapping[str, Tensor]) -> bool:
    return any(".attention." in key for key in tensors)


def ways_on(dynamic: bool) -> str:
    """How to train without a file of ImageNet weights that is not to be had.

    Args:
        dynamic: whether it is one of a dynamic network.
    """
    static = (
        "from the weights of the static network with init_cfg=dict(type='Pretrained', "
        "checkpoint=FILE, inflate=True), or "
    )
    return f"or start {static if dynamic else ''}from scratch with init_cfg=None"


def is_pretrained(cfg: Mapping[str, Any]) -> bool:
    """Whether an ``init_cfg`` is mmengine's ``Pretrained``, however it is spelt."""
    kind = cfg.get("type")
    return kind is PretrainedInit or str(kind).rpartition(".")[2] == "Pretrained"
