"""The learning rate of runs that go on with more or fewer processes or images."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import PARAM_SCHEDULERS

from odconv_det.plugin.hooks import BatchSizeHook, batch_size
from tests.distributed.group import ROOT, free_port
from tests.tiny_detector import write_tiny_detector

TRAIN = ROOT / "tools" / "train.py"
CONFIG = """
train_cfg.update(max_epochs=1, val_interval=5)
auto_scale_lr.update(base_batch_size=8)
default_hooks = dict(checkpoint=dict(save_best=None))
"""
WARNING = "learning rate goes on unchanged"


@pytest.fixture(scope="module")
def train(forge, tmp_path_factory):
    """Trains in so many processes; output and checkpoint of the last epoch."""
    folder = tmp_path_factory.mktemp("batch_size")
    config = write_tiny_detector(folder, CONFIG)

    def run(name, processes, *words, epochs=1, images=2):
        options = [f"train_cfg.max_epochs={epochs}"]
        options.append(f"train_dataloader.batch_size={images}")
        words = [config, f"--work-dir={name}", *words, "--cfg-options", *options]
        group = dict(MASTER_ADDR="127.0.0.1", MASTER_PORT=free_port())
        group["WORLD_SIZE"] = str(processes)
        if processes > 1:
            words.append("--launcher=pytorch")
        children = [
            forge.start(folder, TRAIN, *words, **group, RANK=rank, LOCAL_RANK=rank)
            for rank in map(str, range(processes))
        ]
        for child in children:
            assert child.wait() == 0, child.output[-4000:]
        output = "".join(child.output for child in children)
        file = folder / name / f"epoch_{epochs}.pth"
        return output, torch.load(file, weights_only=False)

    return run


@pytest.fixture(scope="module")
def first(train, tmp_path_factory):
    """Flag to go on from one epoch in one process, with the config's learning rate."""
    _, checkpoint = train("first", 1)
    assert checkpoint["meta"]["images_per_iteration"] == dict(
        processes=1, images=2, suited=8
    )
    assert rates(checkpoint)[1] == 0.01
    file = tmp_path_factory.mktemp("checkpoint") / "first.pth"
    torch.save(checkpoint, file)
    return f"--resume={file}"


def rates(checkpoint):
    """The learning rates of the optimizer, and what its schedules start from."""
    (group,) = checkpoint["optimizer"]["param_groups"]
    schedules = [s["base_values"] for s in checkpoint["param_schedulers"]]
    return group["lr"], group["initial_lr"], *(rate for (rate,) in schedules)


def test_another_number_of_processes_is_one_warning(train, first):
    output, checkpoint = train("more", 2, first, epochs=2)
    (line,) = [line for line in output.splitlines() if WARNING in line]
    assert "WARNING" in line
    assert "4 images (2 x 2)" in line
    assert "2 images (1 x 2)" in line
    assert "--auto-scale-lr" in line
    assert rates(checkpoint)[1:] == (0.01,) * 3
    # It still is the learning rate of the config.
    assert checkpoint["meta"]["images_per_iteration"] == dict(
        processes=2, images=2, suited=8
    )


def test_the_flag_scales_a_resumed_learning_rate_as_that_of_a_first_run(train, first):
    """MMEngine scales it as well, and then overwrites it with the checkpoint's."""
    output, more = train("scaled", 2, first, "--auto-scale-lr", epochs=2)
    assert WARNING not in output
    assert "scaled by 0.5" in output
    assert rates(more)[1:] == pytest.approx([0.01 * 4 / 8] * 3)
    assert more["meta"]["images_per_iteration"] == dict(processes=2, images=2, suited=4)

    _, resumed = train("flagged", 1, first, "--auto-scale-lr", epochs=2)
    _, fresh = train("fresh", 1, "--auto-scale-lr", epochs=2)
    assert rates(fresh)[1] == pytest.approx(0.01 * 2 / 8)
    assert rates(resumed) == pytest.approx(rates(fresh))


@pytest.fixture
def said(monkeypatch):
    """What the hook logs."""
    messages = []
    monkeypatch.setattr(
        batch_size, "print_log", lambda message, *_: messages.append(message)
    )
    return messages


ENTRY = dict(processes=2, images=3, suited=12)


def resume(
    entry,
    *,
    enable=False,
    processes=2,
    images=3,
    resumes=True,
    key=True,
    schedules=None,
):
    """A hook that has seen such a checkpoint, and the runner it then trains."""
    config = dict(
        train_dataloader=dict(batch_size=images),
        auto_scale_lr=dict(enable=enable, base_batch_size=8),
    )
    runner = SimpleNamespace(
        cfg=Config(config),
        world_size=processes,
        _resume=resumes,
        optim_wrapper=SimpleNamespace(param_groups=[dict(lr=0.1, initial_lr=1.0)]),
        param_schedulers=schedules,
    )
    hook = BatchSizeHook()
    hook.after_load_checkpoint(
        runner, {"meta": {"images_per_iteration": entry} if key else {}}
    )
    hook.before_train(runner)
    return hook, runner


@pytest.mark.parametrize(
    "changes",
    [
        dict(),
        dict(processes=3, images=2),  # as many in all
        dict(processes=1, resumes=False),  # load_from
        dict(processes=1, key=False),  # a checkpoint without the entry
    ],
)
def test_says_and_does_nothing_without_a_change(changes, said):
    _, runner = resume(ENTRY, **changes)
    assert said == []
    assert runner.optim_wrapper.param_groups == [dict(lr=0.1, initial_lr=1.0)]


def test_a_rate_that_nothing_is_known_of_is_not_scaled_and_stays_unknown(said):
    hook, runner = resume(ENTRY, enable=True, key=False)
    (message,) = said
    assert "does not say for how many images" in message
    assert runner.optim_wrapper.param_groups == [dict(lr=0.1, initial_lr=1.0)]
    checkpoint = {"meta": {}}
    hook.before_save_checkpoint(runner, checkpoint)
    assert checkpoint == {"meta": {}}


@pytest.mark.parametrize("changes", [dict(processes=1), dict(images=4)])
def test_warns_of_fewer_processes_and_of_more_images(changes, said):
    resume(ENTRY, **changes)
    (message,) = said
    assert WARNING in message


def test_a_learning_rate_is_scaled_once(said):
    hook, runner = resume(ENTRY, enable=True)
    assert runner.optim_wrapper.param_groups == [dict(lr=0.05, initial_lr=0.5)]
    checkpoint = {"meta": {}}
    hook.before_save_checkpoint(runner, checkpoint)
    _, again = resume(checkpoint["meta"]["images_per_iteration"], enable=True)
    assert len(said) == 1
    assert again.optim_wrapper.param_groups == [dict(lr=0.1, initial_lr=1.0)]


@pytest.mark.parametrize(
    "kind, options",
    [
        ("CosineAnnealingLR", dict(T_max=4, eta_min=0.001)),
        ("PolyLR", dict(eta_min=0.001)),
        ("OneCycleLR", dict(eta_max=0.1, total_steps=4)),
        ("ReduceOnPlateauLR", dict(monitor="mAP", min_value=0.001)),
    ],
)
def test_a_schedule_with_rates_of_its_own_is_named(kind, options, said):
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    schedules = [
        PARAM_SCHEDULERS.build(dict(type=one, optimizer=optimizer, **its))
        for one, its in [("LinearLR", {}), ("CosineAnnealingLR", dict(T_max=4))]
    ]
    resume(ENTRY, enable=True, schedules=schedules)
    assert len(said) == 1  # that it is scaled
    own = PARAM_SCHEDULERS.build(dict(type=kind, optimizer=optimizer, **options))
    resume(ENTRY, enable=True, schedules=[*schedules, own])
    assert said[-1].startswith(f"{kind} has learning rates of its own")
