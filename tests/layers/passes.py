"""One pass forward and back, and everything that comes out of it by name."""

from collections.abc import Callable

from torch import Tensor, nn

__all__ = ["run"]


def run(
    module: nn.Module,
    x: Tensor,
    grad: Tensor,
    function: Callable[[nn.Module, Tensor], Tensor] = nn.Module.__call__,
) -> dict[str, Tensor]:
    """Output ``y`` and, for the gradient ``grad`` of it, those of ``x`` and parameters.

    Only of what asks for one. ``function(module, x)`` computes the output.
    """
    x = x.detach().requires_grad_(x.requires_grad)
    module.zero_grad()
    y = function(module, x)
    found = {"y": y.detach()}
    if y.requires_grad:
        y.backward(grad.to(y.dtype))
    leaves = {"x": x, **dict(module.named_parameters())}
    for name, leaf in leaves.items():
        assert (leaf.grad is not None) == leaf.requires_grad, name
        if leaf.grad is not None:
            found[name] = leaf.grad
    return found
