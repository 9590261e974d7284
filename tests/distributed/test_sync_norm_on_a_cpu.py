"""SyncBatchNorm without GPUs: one process goes without it, several are told."""

import pytest
from mmengine.config import Config
from torch import nn

from odconv_det.plugin.errors import ToolError
from odconv_det.plugin.preflight import check_sync_norm
from tests.distributed.group import ROOT, free_port
from tests.tiny_detector import write_tiny_detector

SYNC_NORM = """
model["backbone"].update(norm_cfg=dict(type="SyncBN"))
train_cfg.update(max_epochs=1, val_interval=5)
default_hooks = dict(checkpoint=dict(save_best=None))
"""


@pytest.mark.parametrize("kind", ["SyncBN", "mmengine.SyncBN", nn.SyncBatchNorm])
def test_sync_norm_anywhere_in_the_model_is_one_line(kind):
    head = dict(type="Shared2FCBBoxHead", norm_cfg=dict(type=kind))
    cfg = Config(dict(model=dict(roi_head=dict(bbox_head=[head]))))
    with pytest.raises(ToolError, match=r"SyncBN needs GPUs.*norm_cfg=dict"):
        check_sync_norm(cfg)


@pytest.mark.parametrize("implementation", ["torch", "mmcv"])
def test_conversion_to_sync_norm_is_one_line(implementation):
    cfg = Config(dict(model=dict(type="ResNet"), sync_bn=implementation))
    with pytest.raises(ToolError, match=r"SyncBN needs GPUs.*sync_bn=None"):
        check_sync_norm(cfg)


@pytest.mark.parametrize("kind", ["BN", "mmengine.BN", nn.BatchNorm2d, "GN"])
def test_other_norms_pass(kind):
    check_sync_norm(Config(dict(model=dict(norm_cfg=dict(type=kind)), sync_bn=None)))


def test_the_tool_says_it_to_a_group_and_trains_a_single_process(forge, tmp_path):
    config = write_tiny_detector(tmp_path, SYNC_NORM)
    group = dict(MASTER_ADDR="127.0.0.1", MASTER_PORT=free_port())
    group.update(WORLD_SIZE="2", RANK="0", LOCAL_RANK="0")
    words = ROOT / "tools" / "train.py", config
    status, output = forge.run(tmp_path, *words, "--launcher=pytorch", **group)
    assert status == 2
    assert output.splitlines()[-1].startswith("error: SyncBN needs GPUs")
    assert "Traceback" not in output

    status, output = forge.run(tmp_path, *words)
    assert status == 0, output[-4000:]
    assert "reverted to BatchNormXd" in output
