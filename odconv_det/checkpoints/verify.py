"""Load all of a weight file, or nothing."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from odconv_det.checkpoints.describe import describe, reductions
from odconv_det.checkpoints.errors import CheckpointError
from odconv_det.checkpoints.keys import backbone_tensors

__all__ = ["bad_values", "load_exactly", "mismatch"]

_SHOWN = 3  # keys of each kind in a message


def mismatch(
    expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
) -> str | None:
    """One line on how ``tensors`` differ from ``expected``; ``None`` if they fit.

    They fit if names and shapes are the same and every weight is a finite number.
    """
    missing = [key for key in expected if key not in tensors]
    unexpected = [key for key in tensors if key not in expected]
    both = [(key, t, tensors[key]) for key, t in expected.items() if key in tensors]
    reshaped = [
        f"{key} {tuple(given.shape)} instead of {tuple(tensor.shape)}"
        for key, tensor, given in both
        if given.shape != tensor.shape
    ]
    kinds = [
        f"{len(keys)} {kind} ({_first(keys)})"
        for kind, keys in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", reshaped),
        )
        if keys
    ]
    if kinds:
        kinds = [*_other_settings(expected, tensors), *kinds]
    if bad := bad_values(expected, tensors):
        kinds.append(bad)
    return "; ".join(kinds) or None


def bad_values(
    expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
) -> str | None:
    """One line on weights that are not finite real numbers; ``None`` if all are.

    Of those that ``expected`` has as well, with numbers that are finite.
    """
    real = [
        (key, tensor, tensors[key])
        for key, tensor in expected.items()
        if key in tensors and tensor.is_floating_point()
    ]
    retyped = [
        f"{key} {given.dtype} instead of {tensor.dtype}"
        for key, tensor, given in real
        if not given.is_floating_point()
    ]
    broken = [
        key
        for key, tensor, given in real
        if given.is_floating_point()
        and not _finite(given.to(tensor.dtype))
        and _finite(tensor)
    ]
    kinds = (("of another type", retyped), ("with NaN or infinity", broken))
    lines = [f"{len(keys)} {kind} ({_first(keys)})" for kind, keys in kinds if keys]
    return "; ".join(lines) or None


def load_exactly(module: nn.Module, tensors: Mapping[str, Tensor], origin: str) -> int:
    """Load ``tensors`` into ``module``; every key and shape must match.

    Returns:
        How many tensors were loaded: all of the module's.

    Raises:
        CheckpointError: if a key is missing, unexpected or of another shape, or a
            weight is not a finite number; the module is then unchanged. ``origin``
            names the file in the message.
    """
    difference = mismatch(module.state_dict(), tensors)
    if difference:
        raise CheckpointError(
            f"{origin} does not fit {type(module).__name__}: {difference}; take the "
            "weights of this network, or the config of these"
        )
    module.load_state_dict(tensors)
    return len(tensors)


def _other_settings(
    expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
) -> list[str]:
    expected, tensors = backbone_tensors(expected), backbone_tensors(tensors)
    ours, theirs = describe(expected), describe(tensors)
    if "network" not in theirs and not expected.keys() & tensors.keys():
        return []  # these tensors are of something else
    if both := reductions(expected, tensors):
        ours["reduction"], theirs["reduction"] = both
    return [
        f"the file was made with {name}={_short(theirs[name])}, "
        f"this network has {name}={_short(value)}"
        for name, value in ours.items()
        if name in theirs and theirs[name] != value
    ]


def _finite(tensor: Tensor) -> bool:
    return tensor.is_meta or bool(tensor.isfinite().all())


def _first(keys: list[str]) -> str:
    return ", ".join(keys[:_SHOWN] + ["..."] * (len(keys) > _SHOWN))


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
