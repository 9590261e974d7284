"""Every way by which MMEngine reads a checkpoint runs no code of it."""

from pathlib import Path

import mmdet
import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.runner.checkpoint import CheckpointLoader, load_checkpoint

from odconv_det.checkpoints import CheckpointError, write_tensors
from odconv_det.plugin import loading
from tests.checkpoints.malicious import ATTACKS, MARK, saved
from tests.tiny_detector import write_tiny_detector

TOOLS = Path(__file__).parents[2] / "tools"
MMDET_TOOLS = Path(mmdet.__file__).parent / ".mim" / "tools"


def test_every_scheme_of_mmengine_leads_here():
    assert set(CheckpointLoader._schemes.values()) == {loading.load_checkpoint}


@pytest.mark.parametrize(
    "address",
    [
        "torchvision://resnet50",
        "open-mmlab://detectron2/resnet50_caffe",
        "mmcls://mobilenet_v2",
        "https://example.org/resnet50-0676ba61.pth",
        "http://example.org/resnet50.pth",
        "s3://bucket/w.pth",
        "cluster:s3://bucket/w.pth",
        "pavi://w.pth",
    ],
)
def test_an_address_without_a_hash_is_refused(address):
    with pytest.raises(CheckpointError, match="refused.*#sha256="):
        load_checkpoint(torch.nn.Linear(1, 1), address)


def test_a_training_checkpoint_comes_back_as_mmengine_knows_it(tmp_path):
    hub = MessageHub("of this test")
    hub.update_scalar("train/loss", 0.5)
    hub.update_info("best_score", np.float64(0.25))
    path = tmp_path / "epoch_1.pth"
    path.write_bytes(saved({"meta": {"epoch": 1}, "message_hub": hub.state_dict()}))
    content = loading.load_checkpoint(str(path))
    history = content["message_hub"]["log_scalars"]["train/loss"]
    assert isinstance(history, HistoryBuffer)
    assert history.statistics("mean") == 0.5
    history.update(1.0)
    assert content["message_hub"]["runtime_info"]["best_score"] == 0.25


@pytest.mark.parametrize("where", ["cpu", "meta", None, lambda storage, _: storage])
def test_tensors_are_on_the_cpu_whatever_is_asked_for(tmp_path, where):
    """From where MMEngine copies them to those of the model and the optimizer."""
    path = tmp_path / "w.pth"
    path.write_bytes(saved({"weight": torch.tensor([1.0, 2.0])}))
    found = loading.load_checkpoint(str(path), map_location=where)["weight"]
    assert found.device.type == "cpu"
    assert found.tolist() == [1, 2]


def test_safetensors_are_a_checkpoint_too(tmp_path):
    layer = torch.nn.Linear(2, 2)
    write_tensors(tmp_path / "w.safetensors", layer.state_dict())
    other = torch.nn.Linear(2, 2)
    load_checkpoint(other, str(tmp_path / "w.safetensors"), strict=True)
    assert torch.equal(other.weight, layer.weight)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, forge):
    """A config with data, a checkpoint, and malicious files."""
    folder = tmp_path_factory.mktemp("loading")
    write_tiny_detector(folder, images=2)
    words = ["tiny.py", "--cfg-options", "train_cfg.max_epochs=1"]
    status, output = forge.run(folder, TOOLS / "train.py", *words)
    assert status == 0, output[-3000:]
    whole = torch.load(folder / "work_dirs/tiny/epoch_1.pth", weights_only=False)
    (folder / "evil.pth").write_bytes(ATTACKS["calls os.system"]())
    # MMEngine executes this text when it resumes.
    whole["meta"]["config"] = f"open({MARK!r}, 'w')"
    (folder / "evil_config.pth").write_bytes(saved(whole))
    return folder


@pytest.fixture
def nothing_ran(folder):
    yield
    assert not (folder / MARK).exists()


WAYS = {
    "resume": ("train.py", "tiny.py", "--resume", "evil.pth"),
    "load_from": ("train.py", "tiny.py", "--cfg-options", "load_from=evil.pth"),
    "init_cfg of the backbone": (
        *("train.py", "tiny.py", "--cfg-options"),
        "model.backbone.init_cfg.type=Pretrained",
        "model.backbone.init_cfg.checkpoint=evil.pth",
    ),
    "init_cfg of another part": (
        *("train.py", "tiny.py", "--cfg-options"),
        "model.neck.init_cfg.type=Pretrained",
        "model.neck.init_cfg.checkpoint=evil.pth",
    ),
    "evaluation": ("test.py", "tiny.py", "evil.pth"),
    "conversion": ("convert_official.py", "evil.pth", "out.safetensors"),
    "inflation": ("inflate.py", "evil.pth", "tiny.py", "out.pth"),
}


@pytest.mark.usefixtures("nothing_ran")
@pytest.mark.parametrize("way", WAYS)
def test_our_tools_refuse_a_malicious_file_in_one_line(way, folder, forge):
    tool, *words = WAYS[way]
    status, output = forge.run(folder, TOOLS / tool, *words)
    assert status == 2, output[-3000:]
    [line] = [line for line in output.splitlines() if line.startswith("error: ")]
    assert "evil.pth was refused, because reading it could run code" in line
    assert "Traceback" not in output
    assert not list(folder.glob("out.*"))


@pytest.mark.usefixtures("nothing_ran")
@pytest.mark.parametrize("way", [way for way in WAYS if WAYS[way][1] == "tiny.py"])
def test_mmdetections_own_tools_refuse_it_with_our_configs(way, folder, forge):
    tool, *words = WAYS[way]
    status, output = forge.run(folder, MMDET_TOOLS / tool, *words)
    assert status != 0
    assert "evil.pth was refused, because reading it could run code" in output


@pytest.mark.usefixtures("nothing_ran")
@pytest.mark.parametrize("tools", [TOOLS, MMDET_TOOLS], ids=["our", "mmdetections"])
def test_a_config_inside_a_checkpoint_is_not_executed(tools, folder, forge):
    words = ["tiny.py", "--resume", "evil_config.pth"]
    words += ["--cfg-options", "train_cfg.max_epochs=1"]
    status, output = forge.run(folder, tools / "train.py", *words)
    assert status == 0, output[-3000:]
    assert "resumed epoch: 1" in output


@pytest.mark.parametrize("way", ["resume", "load_from", "evaluation", "conversion"])
def test_trust_is_the_only_way_and_loud(way, folder, forge, tmp_path):
    tool, *words = WAYS[way]
    words.insert(1 if way != "conversion" else 0, "--trust-checkpoint")
    _, output = forge.run(folder, TOOLS / tool, *words)
    assert "WARNING: --trust-checkpoint: evil.pth may run any code" in output
    assert (folder / MARK).exists()
    (folder / MARK).unlink()


def test_the_inference_api_refuses_it(folder, monkeypatch):
    from mmdet.apis import DetInferencer

    monkeypatch.chdir(folder)
    with pytest.raises(CheckpointError, match="could run code"):
        DetInferencer("tiny.py", "evil.pth", device="cpu")
    assert not Path(MARK).exists()


def test_a_training_checkpoint_can_be_the_start_of_a_backbone(folder, forge):
    words = [
        *("tiny.py", "--work-dir", "started", "--cfg-options"),
        "model.backbone.init_cfg.type=Pretrained",
        "model.backbone.init_cfg.checkpoint=work_dirs/tiny/epoch_1.pth",
        "train_cfg.max_epochs=1",
    ]
    status, output = forge.run(folder, TOOLS / "train.py", *words)
    assert status == 0, output[-3000:]
    assert "tensors from work_dirs/tiny/epoch_1.pth" in output


WRONG_KINDS = {
    "a list": lambda whole: [whole],
    "a tensor": lambda whole: torch.rand(3),
    "weights that are none": lambda whole: whole | dict(state_dict=None),
    "weights in a list": lambda whole: whole | dict(state_dict=[1]),
    "a weight that is a text": lambda whole: whole | dict(state_dict=dict(w="x")),
    "a weight without a name": lambda whole: (
        whole | dict(state_dict={3: torch.rand(1)})
    ),
    "progress in a list": lambda whole: whole | dict(meta=[1]),
    "messages that are a text": lambda whole: whole | dict(message_hub="x"),
}


@pytest.mark.parametrize("kind", WRONG_KINDS)
def test_content_of_another_kind_is_one_line(kind, tmp_path):
    whole = {"state_dict": {"weight": torch.rand(1)}, "meta": {}, "message_hub": {}}
    path = tmp_path / "w.pth"
    path.write_bytes(saved(whole))
    loading.load_checkpoint(str(path))
    path.write_bytes(saved(WRONG_KINDS[kind](whole)))
    with pytest.raises(CheckpointError, match="w.pth is no checkpoint") as error:
        loading.load_checkpoint(str(path))
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("change", ["optimizer", "message_hub", "meta"])
def test_a_checkpoint_that_cannot_be_resumed_is_one_line(change, folder, forge):
    file = torch.load(folder / "work_dirs/tiny/epoch_1.pth", weights_only=False)
    if change == "optimizer":  # of another kind
        file["optimizer"]["param_groups"][0]["params"].pop()
    elif change == "meta":
        del file["meta"]["iter"]
    else:
        del file[change]
    torch.save(file, folder / "changed.pth")
    words = ["tiny.py", "--resume", "changed.pth", "--work-dir", "resumed"]
    status, output = forge.run(folder, TOOLS / "train.py", *words)
    assert status == 2, output
    assert "Traceback" not in output
    last = output.splitlines()[-1]
    assert "changed.pth cannot be resumed" in last
    assert "load_from=FILE" in last


def test_other_errors_of_a_run_are_not_blamed_on_its_checkpoint():
    with pytest.raises(RuntimeError, match="a bug"), loading.resume_errors():
        raise RuntimeError("a bug")
