"""SyncBatchNorm that trains on a CPU, which torch's own refuses."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

__all__ = ["synchronized_on_the_cpu"]


class Sum(torch.autograd.Function):
    """Over all processes; the gradient is the sum of those of all of them."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return Sum.forward(ctx, gradient)


def forward(self: nn.SyncBatchNorm, x: Tensor) -> Tensor:
    """The slow and obvious way: sums over all processes, with their gradients."""
    if not self.training:
        mean, var = self.running_mean, self.running_var
        return F.batch_norm(x, mean, var, self.weight, self.bias, eps=self.eps)
    dims = [d for d in range(x.dim()) if d != 1]
    shape = [1, -1] + [1] * (x.dim() - 2)
    count = Sum.apply(x.new_tensor(x.numel() / x.shape[1]))
    mean = Sum.apply(x.sum(dims)) / count
    centred = x - mean.view(shape)
    var = Sum.apply(centred.square().sum(dims)) / count
    self.num_batches_tracked.add_(1)
    unbiased = var.detach() * count / (count - 1)
    share = self.momentum or 1 / self.num_batches_tracked.item()
    self.running_mean.lerp_(mean.detach(), share)
    self.running_var.lerp_(unbiased, share)
    normal = centred * (var + self.eps).rsqrt().view(shape)
    return normal * self.weight.view(shape) + self.bias.view(shape)


@contextmanager
def synchronized_on_the_cpu() -> Iterator[None]:
    """Every SyncBatchNorm, subclasses too, works on the CPU in this block."""
    allowed = mock.patch.object(
        DistributedDataParallel, "_passing_sync_batchnorm_handle", return_value=None
    )
    with mock.patch.object(nn.SyncBatchNorm, "forward", forward), allowed:
        yield
