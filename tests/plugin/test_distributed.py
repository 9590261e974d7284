"""Two processes train as one does on both their images."""

import datetime
import multiprocessing
import socket
import traceback

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from tests.calibrated import calibrate, pictures
from tests.plugin.test_backbones import small_mobilenet, small_resnet

SECONDS = 60
BUILDERS = {"resnet": small_resnet, "mobilenet": small_mobilenet}


def network(name):
    """Folded, one stage frozen, and the same in every process."""
    torch.manual_seed(0)
    built = calibrate(BUILDERS[name](norm_eval=True, frozen_stages=1)).train()
    folded = [m for m in built.modules() if getattr(m, "fold", None)]
    assert folded
    return built


def backward(model, x):
    sum(y.square().mean() for y in model(x)).backward()


def gradients(model):
    return {n: p.grad for n, p in model.named_parameters() if p.requires_grad}


def worker(rank, port, answers):
    """Puts the gradients of this process, or what went wrong, into the queue."""
    try:
        torch.set_num_threads(1)
        dist.init_process_group(
            "gloo",
            init_method=f"tcp://127.0.0.1:{port}",
            rank=rank,
            world_size=2,
            timeout=datetime.timedelta(seconds=SECONDS),
        )
        found = {}
        for name in BUILDERS:
            own = network(name)
            model = DistributedDataParallel(own)
            backward(model, pictures(4, 64)[2 * rank : 2 * rank + 2])
            found[name] = {key: grad.numpy() for key, grad in gradients(own).items()}
        dist.destroy_process_group()
        answers.put((rank, found))
    except Exception:
        answers.put((rank, traceback.format_exc()))


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def in_two_processes():
    """The gradients of both processes; an error rather than an endless wait."""
    context = multiprocessing.get_context("spawn")
    answers, port = context.Queue(), free_port()
    processes = [
        context.Process(target=worker, args=(rank, port, answers), daemon=True)
        for rank in range(2)
    ]
    for process in processes:
        process.start()
    try:
        found = dict(answers.get(timeout=2 * SECONDS) for _ in processes)
    finally:
        for process in processes:
            process.join(5)
            process.kill()
    errors = [answer for answer in found.values() if isinstance(answer, str)]
    assert not errors, errors[0]
    return found


@pytest.mark.skipif(not dist.is_gloo_available(), reason="torch without gloo")
@pytest.mark.parametrize("name", BUILDERS)
def test_gradients_equal_those_of_one_process(name, in_two_processes):
    alone = network(name)
    backward(alone, pictures(4, 64))
    expected = gradients(alone)
    assert len(expected) > 50
    first, second = in_two_processes[0][name], in_two_processes[1][name]
    assert set(first) == set(second) == set(expected)
    for key, gradient in expected.items():
        assert (first[key] == second[key]).all(), key
        error = (torch.from_numpy(first[key]) - gradient).abs().max()
        # Rounding grows on its way through the network.
        assert error <= 1e-3 * gradient.abs().max() + 1e-7, key
