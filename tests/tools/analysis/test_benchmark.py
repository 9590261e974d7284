"""benchmark.py measures what it says, and the docs say what it measured."""

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn

from odconv_det import ODConv2d

ROOT = Path(__file__).resolve().parents[3]

from analysis import benchmark as script  # noqa: E402
from analysis import measure, networks, report, speed_table  # noqa: E402

PAGE = ROOT / "docs" / "benchmarks.md"
CPU = torch.device("cpu")


def benchmark(folder: Path, *words: str) -> subprocess.CompletedProcess:
    script = ROOT / "tools" / "analysis" / "benchmark.py"
    return subprocess.run(
        [sys.executable, str(script), *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )


SMALL = ("--network", "mobilenetv2", "--size", "64x64")


@pytest.mark.parametrize(
    "what, rows",
    [
        ("inference", ["static stock", "static fused, NCHW", "authors 1x", "fused 1x"]),
        ("training", ["static stock", "authors 1x", "ours 1x"]),
        ("memory", ["static stock", "ours 1x", "ours 1x, BN not folded"]),
        ("detector", ["static stock", "static fused", "authors 1x", "fused 1x"]),
        ("paper", ["static stock", "CondConv 8x", "DCD, fused", "ODConv 4x"]),
    ],
)
def test_prints_a_table_and_writes_json_and_a_picture(what, rows, tmp_path):
    numbers = () if what == "paper" else ("--kernel-num", "1")
    done = benchmark(tmp_path, what, *SMALL, *numbers, "--rounds", "1", "--out", "out")
    assert done.returncode == 0, done.stderr[-3000:]
    content = json.loads((tmp_path / "out" / f"{what}.json").read_text())
    assert {"processor", "torch", "threads"} <= set(content["machine"])
    measured = {record["variant"]: record for record in content["results"]}
    assert set(rows) <= set(measured)
    assert all(f"| {row} |" in done.stdout for row in rows)
    assert measured["static stock"]["ratio"] == 1
    assert all(record["ratio"] > 0 for record in content["results"])
    lines = (tmp_path / "out" / f"{what}.json").read_text().splitlines()
    assert sum('"variant"' in line for line in lines) == len(content["results"])
    assert all(line.count('"size"') == line.count('"ratio"') for line in lines)
    picture = (tmp_path / "out" / f"{what}.png").read_bytes()
    assert picture.startswith(b"\x89PNG")


def test_an_interrupted_run_keeps_what_was_measured(tmp_path, monkeypatch):
    path = tmp_path / "memory.json"
    record = dict(task="memory", network="resnet50", batch=1, size=[64, 64])
    record |= dict(variant="static stock", ratio=1.0, saved_bytes=1, peak_bytes=1)

    def variants():
        return [r["variant"] for r in json.loads(path.read_text())["results"]]

    def interrupted(args):
        yield record
        assert variants() == ["static stock"]
        with path.open() as before:
            yield record | dict(variant="ours 1x")
            # The file was replaced, not written over.
            assert len(json.load(before)["results"]) == 1
        raise KeyboardInterrupt

    monkeypatch.setitem(script.RUNS, "memory", interrupted)
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "memory", "--out", str(tmp_path)])
    with pytest.raises(KeyboardInterrupt):
        script.main()
    assert variants() == ["static stock", "ours 1x"]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "words, reason",
    [
        (["inference", "--device", "cuda"], "no GPU"),
        (["inference", "--graphs"], "--device cuda"),
        (["inference", "--size", "224"], "HEIGHTxWIDTH"),
        (["inference", "--network", "vgg"], "invalid choice"),
        (["detector", "--dtype", "bf16"], "fp32 only"),
        (["training", "--compile"], "forward pass"),
        (["scale", "--batch", "2"], "of its own"),
        (["inference", "--rounds", "0"], "positive"),
        (["paper", "--kernel-num", "2"], "of its own"),
        (["inference", "--size", "0x64"], "HEIGHTxWIDTH"),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a missing GPU")
def test_wrong_arguments_end_in_one_line(words, reason, tmp_path):
    done = benchmark(tmp_path, *words)
    assert done.returncode == 2
    assert reason in done.stderr.splitlines()[-1]


def test_the_papers_speeds_become_ratios_of_times():
    ratio = speed_table.paper_ratio
    assert ratio("resnet50", "static", "cpu") == 1
    assert ratio("resnet50", "ODConv 4x", "cpu") == pytest.approx(6.4 / 2.5)
    assert ratio("mobilenetv2", "DCD", "cuda") == pytest.approx(1452.3 / 875.7)
    record = dict(ratio=1.5, low=1.4, high=1.6, milliseconds=20.0, paper=1.82)
    record |= dict(task="paper", network="resnet50", variant="DCD")
    shown = report.table([record | dict(batch=1, size=[224, 224])])
    assert "| DCD | 1.50 (1.40-1.60; 20 ms; paper 1.82) |" in shown


def test_every_round_runs_every_variant_once_in_turn():
    calls = []
    steps = {name: lambda name=name: calls.append(name) for name in "abc"}
    timings = measure.interleave(steps, rounds=3, device=CPU, warm_up=1)
    assert calls == ["a", "b", "c"] * 4
    assert list(timings) == ["a", "b", "c"]
    assert timings["a"].ratio == timings["a"].low == timings["a"].high == 1


def test_peak_memory_is_that_of_the_worst_moment():
    def step():
        first = torch.empty(2**20)
        del first
        torch.empty(2**19), torch.empty(2**19)

    assert measure.peak_memory(step, CPU) == pytest.approx(4 * 2**20, rel=0.01)


@pytest.mark.parametrize("name", networks.NETWORKS)
@torch.no_grad()
def test_calibrated_networks_keep_their_activations_alive(name):
    maps = networks.build(name, 4)(networks.images(2, 224, 160, seed=5))
    assert [y.shape[2] for y in maps] == [56, 28, 14, 7]
    for y in maps:
        assert 0.05 < y.std() < 20


class _Torchvision(ModuleType):
    """As torchvision has it: beside the function a module of almost its name."""

    def __init__(self):
        super().__init__("torchvision")
        self.models = ModuleType("torchvision.models")
        self.models.mobilenetv2 = ModuleType("torchvision.models.mobilenetv2")
        self.models.mobilenet_v2 = self.mobilenet_v2

    @staticmethod
    def mobilenet_v2(weights):
        assert weights is None
        halving = (0, 2, 4, 7, 14)
        convolutions = [
            nn.Conv2d(3 if i == 0 else 4, 4, 3, 1 + (i in halving), 1)
            for i in range(19)
        ]
        features = nn.Sequential(
            *(nn.Sequential(conv, nn.BatchNorm2d(4)) for conv in convolutions)
        )
        return SimpleNamespace(features=features)


@pytest.mark.parametrize("kernel_num", [0, 2])
def test_without_mmdetection_mobilenetv2_is_torchvisions(kernel_num, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", _Torchvision())
    monkeypatch.setattr(networks.importlib.util, "find_spec", lambda name: None)
    network = networks.build("mobilenetv2", kernel_num)
    with torch.no_grad():
        maps = network(networks.images(1, 64, 96))
    assert [tuple(y.shape[2:]) for y in maps] == [(16, 24), (8, 12), (4, 6), (2, 3)]
    layers = [m for m in network.modules() if isinstance(m, ODConv2d)]
    assert len(layers) == (18 if kernel_num else 0)


def test_the_page_shows_the_measurements_that_lie_beside_it():
    text = PAGE.read_text()
    assert text.count("<!-- benchmark: ") >= 5
    assert report.rendered(PAGE) == text


def test_every_file_of_the_page_is_there():
    names = {path.stem for path in (PAGE.parent / "benchmarks").glob("*.json")}
    assert names
    text = PAGE.read_text()
    for name in names:
        assert f"<!-- benchmark: {name} -->" in text
        assert (PAGE.parent / "benchmarks" / f"{name}.png").is_file()


def test_needs_torch_alone_but_for_the_systems_of_the_paper():
    code = (
        "import sys\n"
        f"sys.path[:0] = [{str(ROOT / 'tools')!r}, {str(ROOT)!r}]\n"
        "for name in ('mmdet', 'mmcv', 'mmengine'):\n"
        "    sys.modules[name] = None\n"
        "import analysis.benchmark\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
