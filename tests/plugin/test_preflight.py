"""What the tools check before they start, and how they say it."""

import pytest
import torch
from mmengine.config import Config

from odconv_det.plugin.errors import ToolError
from odconv_det.plugin.preflight import check_data, check_weights, check_work_dir


def dataset(root="data", **changes) -> dict:
    """A data set with one annotation file and one image folder under `root`."""
    files = dict(ann_file="train.json", data_prefix=dict(img="images/"))
    return dict(type="CocoDataset", data_root=root, **files) | changes


def training(tmp_path, **changes) -> Config:
    """The part of a config that names weights."""
    init = dict(type="Pretrained", checkpoint=changes.pop("imagenet", "gone.pth"))
    model = dict(backbone=dict(type="ODResNet", init_cfg=init))
    return Config(dict(model=model, work_dir=str(tmp_path), **changes))


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOCAL_RANK", "0")


def test_every_missing_file_of_a_data_set_is_named_once():
    cfg = Config(dict(train=dict(dataset=dataset()), val=dict(dataset=dataset())))
    with pytest.raises(ToolError) as error:
        check_data(cfg, "train", "val", "absent")
    assert str(error.value).count("data/train.json") == 1
    assert "data/images/" in str(error.value)


def test_data_set_that_is_there_passes(tmp_path):
    (tmp_path / "data" / "images").mkdir(parents=True)
    (tmp_path / "data" / "train.json").touch()
    evaluators = [
        dict(type="CocoMetric", ann_file="data/train.json"),
        dict(type="Other"),
    ]
    cfg = Config(dict(train=dict(dataset=dataset()), evaluator=evaluators))
    check_data(cfg, "train", "evaluator")


@pytest.mark.parametrize(
    "wrapper",
    [
        dict(type="RepeatDataset", times=2, dataset=dataset("gone")),
        dict(type="ConcatDataset", datasets=[dataset("gone")]),
        dict(
            type="ClassBalancedDataset",
            oversample_thr=0.1,
            dataset=dict(type="ConcatDataset", datasets=[dataset("gone")]),
        ),
    ],
    ids=lambda wrapper: wrapper["type"],
)
def test_data_sets_are_found_inside_wrappers(wrapper):
    cfg = Config(dict(train=dict(dataset=wrapper)))
    with pytest.raises(ToolError, match=r"gone/train\.json"):
        check_data(cfg, "train")


def test_missing_annotations_of_an_evaluator_are_an_error():
    cfg = Config(dict(evaluator=[dict(type="CocoMetric", ann_file="gone.json")]))
    with pytest.raises(ToolError, match=r"gone\.json"):
        check_data(cfg, "evaluator")


def test_data_on_other_storage_is_left_to_its_backend():
    storage = dict(backend="petrel")
    sets = [dataset("s3://bucket"), dataset("gone", backend_args=storage)]
    cfg = Config(dict(train=dict(dataset=dict(type="ConcatDataset", datasets=sets))))
    check_data(cfg, "train")


@pytest.mark.parametrize("resume", [False, True])
def test_missing_checkpoint_is_an_error(tmp_path, resume):
    cfg = training(tmp_path, load_from="epoch_1.pth", resume=resume)
    with pytest.raises(ToolError, match=r"no checkpoint epoch_1\.pth"):
        check_weights(cfg)


def test_latest_checkpoint_that_was_deleted_is_an_error(tmp_path):
    (tmp_path / "last_checkpoint").write_text(str(tmp_path / "epoch_1.pth"))
    with pytest.raises(ToolError, match=r"epoch_1\.pth.*--resume"):
        check_weights(training(tmp_path, resume=True))


def test_an_empty_note_of_the_latest_checkpoint_is_an_error(tmp_path):
    (tmp_path / "last_checkpoint").touch()
    with pytest.raises(ToolError, match="last_checkpoint is empty: pass --resume"):
        check_weights(training(tmp_path, resume=True))


def test_a_work_dir_is_taken_as_it_is_written(tmp_path):
    (tmp_path / "~").touch()
    with pytest.raises(ToolError, match="~ is a file"):
        check_work_dir(Config(dict(work_dir="~/run")))


def test_missing_imagenet_file_is_an_error_for_a_first_run(tmp_path):
    for resume in (False, True):
        with pytest.raises(ToolError, match=r"ImageNet weights gone\.pth"):
            check_weights(training(tmp_path, resume=resume))


def test_missing_imagenet_file_does_not_stop_a_run_with_a_checkpoint(tmp_path):
    checkpoint = tmp_path / "epoch_1.pth"
    torch.save({"state_dict": {}}, checkpoint)
    (tmp_path / "last_checkpoint").write_text(str(checkpoint))
    for start in (dict(load_from=str(checkpoint)), dict(resume=True)):
        cfg = training(tmp_path, **start)
        cfg.model.backbone.type = "ResNet"  # MMDetection's insists on its file
        check_weights(cfg)
        assert cfg.model.backbone.init_cfg is None

        cfg = training(tmp_path, **start)  # ours waits for the checkpoint itself
        check_weights(cfg)
        assert cfg.model.backbone.init_cfg.checkpoint == "gone.pth"


def test_weights_with_an_address_are_left_to_their_loader(tmp_path):
    cfg = training(tmp_path, imagenet="odconv://resnet50_4x", load_from="s3://a/b.pth")
    check_weights(cfg)
    assert cfg.model.backbone.init_cfg.checkpoint == "odconv://resnet50_4x"


def broken_file(tmp_path, content=b"<html>"):
    (tmp_path / "broken.pth").write_bytes(content)
    return "broken.pth"


def test_a_checkpoint_that_is_a_web_page_is_named(tmp_path):
    cfg = training(tmp_path, load_from=broken_file(tmp_path))
    with pytest.raises(ToolError, match=r"broken\.pth is not a whole torch file"):
        check_weights(cfg)


def test_a_folder_is_no_checkpoint(tmp_path):
    (tmp_path / "folder.pth").mkdir()
    with pytest.raises(ToolError, match=r"no checkpoint folder\.pth"):
        check_weights(training(tmp_path, load_from="folder.pth"))


@pytest.mark.parametrize(
    "start",
    [
        dict(init_cfg=[dict(type="Pretrained", checkpoint="gone.pth")]),
        dict(pretrained="gone.pth"),
    ],
)
def test_weights_are_found_however_they_are_given(tmp_path, start):
    model = dict(backbone=dict(type="OD_ResNet", depth=18, **start))
    with pytest.raises(ToolError, match=r"no ImageNet weights gone\.pth"):
        check_weights(Config(dict(model=model, work_dir=str(tmp_path))))
