"""How every backbone is trained, and the config of one run."""

import functools
import hashlib
import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mmengine.config import Config

from comparison.backbones import BACKBONES, STATIC
from comparison.dataset import Scenes
from comparison.scenes import Layout

__all__ = ["CONFIG", "Recipe", "config", "digest", "identity"]

CONFIG = (
    Path(__file__).resolve().parents[2]
    / "configs/comparison/mask-rcnn_mobilenetv2_fpn_fashion.py"
)


@dataclass(frozen=True)
class Recipe:
    """What the runs of a comparison have in common.

    Attributes:
        iterations: Of training; the test scenes are evaluated once, at its end.
        batch: Scenes in an iteration.
        scenes: The data set.
    """

    iterations: int = 400
    batch: int = 2
    scenes: Scenes = field(default_factory=Scenes)

    def __post_init__(self) -> None:
        if self.iterations < 2 or self.batch < 1:  # a schedule has a begin and an end
            raise ValueError(
                f"{self.iterations} iterations of {self.batch} scenes train nothing"
            )

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Recipe":
        """The recipe whose ``dataclasses.asdict`` this is."""
        scenes = dict(content["scenes"])
        layout = Layout(**scenes.pop("layout"))
        return cls(**{**content, "scenes": Scenes(**scenes, layout=layout)})


def config(recipe: Recipe, backbone: str, seed: int, data: Path) -> Config:
    """The config of one run; only ``model.backbone`` and ``randomness`` vary."""
    cfg = deepcopy(_parsed(CONFIG))
    cfg.model.backbone.update(deepcopy(BACKBONES[backbone].settings))
    cfg.randomness = dict(seed=seed)
    cfg.train_dataloader.batch_size = recipe.batch
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.dataset.data_root = f"{data}/"
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        evaluator.ann_file = str(data / "annotations" / "test.json")
    size = recipe.scenes.layout.size
    for loader in (cfg.val_dataloader, cfg.test_dataloader):
        for step in loader.dataset.pipeline:
            if step.type == "Resize":
                step.scale = (size, size)
    _set_iterations(cfg, recipe.iterations)
    return cfg


@functools.cache
def _parsed(path: Path) -> Config:
    return Config.fromfile(path)


def _set_iterations(cfg: Config, iterations: int) -> None:
    warm_up, decay = cfg.param_scheduler
    # A short trial run warms up in a tenth of its iterations.
    begin = max(1, min(warm_up.end, iterations // 10))
    warm_up.end = decay.begin = begin
    decay.end, decay.T_max = iterations, iterations - begin
    cfg.max_iters = iterations
    cfg.train_cfg.max_iters = cfg.train_cfg.val_interval = iterations


def identity(recipe: Recipe, backbone: str) -> dict[str, Any]:
    """What a result must agree in to stand beside others; plain JSON."""
    common = config(recipe, STATIC, 0, Path("data")).to_dict()
    content = dict(
        recipe=asdict(recipe),
        settings=BACKBONES[backbone].settings,
        config=digest(common),
    )
    return json.loads(json.dumps(content))


def digest(content: Any) -> str:
    """Eight letters that tell this content from any other."""
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]
