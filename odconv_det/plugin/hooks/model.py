"""The model of a runner, below what wraps it for distributed training."""

from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn

__all__ = ["inner_model", "replace_model"]


def inner_model(runner: Runner) -> nn.Module:
    """The model itself."""
    return runner.model.module if is_model_wrapper(runner.model) else runner.model


def replace_model(runner: Runner, model: nn.Module) -> None:
    """Put another model in its place; a wrapper stays."""
    if is_model_wrapper(runner.model):
        runner.model.module = model
    else:
        runner.model = model
