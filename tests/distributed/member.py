"""What one process of a group finds: started by torchrun, writes `<rank>.pt`.

Usage: member.py FOLDER
"""

import copy
import datetime
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.distributed as dist
from mmengine.model.utils import convert_sync_batchnorm
from mmengine.registry import HOOKS
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from odconv_det.calibration import inner_norms
from tests.distributed import networks
from tests.distributed.sync_norm import synchronized_on_the_cpu

Answers = dict[str, dict[str, Tensor]]


def own(batch: Tensor) -> Tensor:
    """This process's part of the batch of all of them."""
    return batch.chunk(dist.get_world_size())[dist.get_rank()]


def gradients(network: nn.Module) -> dict[str, Tensor]:
    found = {n: p.grad for n, p in network.named_parameters() if p.requires_grad}
    return copy.deepcopy(found)


def train(network: nn.Module) -> Answers:
    """Gradients of a first iteration, and of a second one that accumulates two parts.

    Without ``find_unused_parameters`` it is the second that fails.
    """
    model = DistributedDataParallel(network, find_unused_parameters=False)
    networks.loss(model(own(networks.images(4, step=1)))).backward()
    first = gradients(network)
    model.zero_grad()
    with model.no_sync():
        networks.loss(model(own(networks.images(4, step=2)))).backward()
    networks.loss(model(own(networks.images(4, step=3)))).backward()
    return {"first": first, "accumulated": gradients(network)}


def synchronize(backbone: str, layer: str, how: str, batch: int) -> Answers:
    """Outputs, gradients and buffers after one iteration with SyncBatchNorm."""
    if how == "norm_cfg":
        network = networks.build_normalizing(backbone, layer, "SyncBN")
    else:
        plain = networks.build_normalizing(backbone, layer)
        network = convert_sync_batchnorm(plain, "torch").train()
    model = DistributedDataParallel(network)
    maps = model(own(networks.images(batch, step=1)))
    networks.loss(maps).backward()
    return {
        "outputs": {str(i): y.detach() for i, y in enumerate(maps)},
        "gradients": gradients(network),
        "buffers": dict(network.named_buffers()),
    }


def calibrated() -> dict[str, Tensor]:
    """Statistics after calibrating SyncBatchNorms with one image too many for pairs."""
    network = networks.build_normalizing("mobilenet", "odconv", "SyncBN").eval()
    network.pretrained = True
    norms = inner_norms(network)
    for norm in norms:
        norm.reset_running_stats()
    model = nn.Module()
    model.backbone = network
    model.data_preprocessor = lambda pair: {"inputs": pair}
    runner = SimpleNamespace(
        model=model,
        train_dataloader=DataLoader(networks.images(5, step=1)),
        iter=0,
        _load_from=None,
    )
    HOOKS.build(dict(type="CalibrateHook")).before_train(runner)
    return {str(i): norm.running_mean for i, norm in enumerate(norms)}


def main() -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=60))
    answers = {case: train(networks.build_frozen(*case)) for case in networks.FROZEN}
    with synchronized_on_the_cpu():
        for case in networks.SYNCED:
            for each in (1, 2):
                answers[(*case, each)] = synchronize(
                    *case, each * dist.get_world_size()
                )
        answers["calibrated"] = calibrated()
    folder, rank = Path(sys.argv[1]), dist.get_rank()
    torch.save(answers, folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
