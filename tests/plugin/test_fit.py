"""Which checkpoints start, continue and test a detector."""

from types import SimpleNamespace

import pytest
import torch
from mmdet.models import DetTTAModel
from mmdet.models.detectors import SemiBaseDetector
from mmengine.hooks import EMAHook
from mmengine.runner import get_priority
from torch import nn

from odconv_det.checkpoints import CheckpointError
from odconv_det.plugin.hooks import CheckFitHook


class Detector(nn.Module):
    """With the parts that the hook tells apart."""

    def __init__(self, width: int = 4, classes: int = 2) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.neck = nn.Conv2d(4, width, 1)
        self.bbox_head = nn.Linear(4, classes)
        self.label_embedding = nn.Embedding(classes, 4)  # as the queries of DINO


class SemiSupervised(SemiBaseDetector):
    """With two detectors and no part of its own."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.student, self.teacher = Detector(), Detector()


def load(state, *, resume=False, start=False, model=None, **content) -> None:
    """What a runner calls before it loads a checkpoint."""
    model = model or Detector()
    runner = SimpleNamespace(model=model, _load_from="a.pth", _resume=resume)
    hook = CheckFitHook(start=start)
    hook.after_load_checkpoint(runner, dict(state_dict=state, **content))


PROGRESS = dict(meta=dict(epoch=1), optimizer={})


def without(state, part):
    return {key: value for key, value in state.items() if not key.startswith(part)}


def test_the_same_detector_tests_resumes_and_starts():
    state = Detector().state_dict()
    load(state)
    load(state, start=True)
    load(state, start=True, resume=True, **PROGRESS)
    load({f"module.{key}": value for key, value in state.items()})
    load({k: v for k, v in state.items() if not k.endswith("num_batches_tracked")})


NAN = float("nan")


@pytest.mark.parametrize("name", ["backbone.0.weight", "neck.bias", "bbox_head.weight"])
@pytest.mark.parametrize(
    "run", [dict(), dict(start=True), dict(resume=True, **PROGRESS)], ids=str
)
def test_nothing_that_is_not_a_number_is_loaded(run, name):
    state = Detector().state_dict()
    with pytest.raises(CheckpointError, match=r"1 with NaN or infinity"):
        load(state | {name: torch.full_like(state[name], NAN)}, **run)


def test_nor_from_the_averaged_weights_that_a_resumed_run_goes_on_with():
    state = Detector().state_dict()
    averaged = {f"module.{key}": value for key, value in state.items()}
    averaged["steps"] = torch.tensor(3)
    load(state, resume=True, ema_state_dict=averaged, **PROGRESS)
    averaged["module.neck.bias"] = torch.full((4,), NAN)
    with pytest.raises(CheckpointError, match=r"NaN or infinity \(neck\.bias\)"):
        load(state, resume=True, ema_state_dict=averaged, **PROGRESS)


def test_other_classes_start_a_training_and_nothing_else():
    state = Detector(classes=5).state_dict()
    load(state, start=True)
    for run in (dict(), dict(start=True, resume=True, **PROGRESS)):
        with pytest.raises(CheckpointError, match=r"bbox_head\.weight \(5, 4\)"):
            load(state, **run)


def test_parts_but_the_backbone_may_be_new_in_a_start():
    state = Detector().state_dict()
    load(without(state, "neck"), start=True)
    load(without(state, "bbox_head"), start=True)
    load(state | {"mask_head.weight": torch.zeros(1)}, start=True)
    with pytest.raises(CheckpointError, match="1 missing"):
        load(without(state, "backbone.0.bias"), start=True)
    with pytest.raises(CheckpointError, match="1 unexpected"):
        load(state | {"backbone.2.bias": torch.zeros(1)}, start=True)


def test_a_head_that_the_detector_does_not_have_may_be_left_over_in_a_test():
    state = Detector().state_dict() | {"mask_head.conv.weight": torch.zeros(1)}
    load(state)
    with pytest.raises(CheckpointError, match="1 unexpected"):
        load(state, resume=True, **PROGRESS)
    with pytest.raises(CheckpointError, match="1 unexpected"):
        load(state | {"backbone.2.bias": torch.zeros(1)})


def test_a_neck_of_another_width_starts_nothing():
    with pytest.raises(CheckpointError, match=r"neck\.weight"):
        load(Detector(width=8).state_dict(), start=True)


@pytest.mark.parametrize("start", [False, True])
def test_a_supervised_detector_starts_and_tests_a_semi_supervised_one(start):
    load(Detector().state_dict(), start=start, model=SemiSupervised())
    with pytest.raises(CheckpointError, match="does not fit SemiSupervised"):
        load(Detector().state_dict(), resume=True, model=SemiSupervised(), **PROGRESS)


def test_a_model_whose_detector_is_a_part_has_no_backbone_to_compare():
    tracker = nn.ModuleDict({"detector": Detector()})
    load(tracker.state_dict(), start=True, model=tracker)


def test_a_start_without_any_backbone_is_told_where_imagenet_weights_belong():
    with pytest.raises(CheckpointError, match=r"belong into model\.backbone\.init_cfg"):
        load(Detector().backbone.state_dict(), start=True)


def test_it_compares_before_other_hooks_load_what_is_theirs():
    """EMAHook loads its copy of the weights, and says what does not fit at length."""
    hook = CheckFitHook()
    assert get_priority(hook.priority) < get_priority(EMAHook.priority)


def test_the_latest_checkpoint_is_named_where_none_was_given(tmp_path):
    (tmp_path / "last_checkpoint").write_text("run/epoch_3.pth")
    runner = SimpleNamespace(
        model=Detector(), _load_from=None, _resume=True, work_dir=str(tmp_path)
    )
    content = dict(state_dict=Detector(width=6).state_dict(), **PROGRESS)
    with pytest.raises(CheckpointError, match=r"^run/epoch_3\.pth does not fit"):
        CheckFitHook().after_load_checkpoint(runner, content)


@pytest.mark.parametrize("content", [{}, dict(meta={}), dict(meta=dict(epoch=1))])
def test_weights_alone_are_not_resumed(content):
    with pytest.raises(CheckpointError, match="load_from=FILE instead of --resume"):
        load(Detector().state_dict(), resume=True, **content)


def test_below_what_merges_predictions_is_the_detector():
    detector = Detector()
    detector.test_step = None  # what such a model asks for
    model = DetTTAModel(module=detector)
    runner = SimpleNamespace(model=model, _load_from="a.pth", _resume=False)
    content = dict(state_dict=Detector().state_dict())
    CheckFitHook().after_load_checkpoint(runner, content)
