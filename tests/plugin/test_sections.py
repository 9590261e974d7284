"""What parts a config has; mistakes that tools meet have a table."""

import pytest
from mmengine.config import Config

from odconv_det.plugin.errors import ToolError
from odconv_det.plugin.sections import check_groups, check_kinds, check_launcher, listed


@pytest.mark.parametrize("loop", ["val", "test"])
@pytest.mark.parametrize("part", ["dataloader", "cfg", "evaluator"])
def test_the_parts_of_a_loop_go_together(loop, part):
    whole = {f"{loop}_{name}": {} for name in ("dataloader", "cfg", "evaluator")}
    check_groups(Config(whole))
    check_groups(Config(dict.fromkeys(whole)))
    with pytest.raises(ToolError, match=f"but no {loop}_{part}: the three go together"):
        check_groups(Config(whole | {f"{loop}_{part}": None}))


def test_parts_and_lists_of_parts_pass():
    check_kinds(Config(dict(model={}, val_evaluator=[{}], work_dir="a", load_from="b")))
    check_kinds(Config(dict(auto_scale_lr=None, custom_hooks=None, load_from=None)))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (dict(train_dataloader="foo"), "train_dataloader is 'foo'"),
        (dict(val_evaluator="CocoMetric"), "val_evaluator has 'CocoMetric'"),
        (dict(custom_hooks=dict(type="A")), "custom_hooks is one dict"),
        (dict(work_dir=5), "work_dir is 5: write a path"),
        (dict(auto_scale_lr=dict(base_batch_size=None)), "base_batch_size is None"),
    ],
)
def test_a_value_in_place_of_a_part_is_named(values, said):
    with pytest.raises(ToolError, match=said):
        check_kinds(Config(values))


@pytest.mark.parametrize(
    ("launcher", "variable"), [("pytorch", "RANK"), ("slurm", "SLURM_PROCID")]
)
def test_a_launcher_says_the_number_of_its_processes(launcher, variable, monkeypatch):
    monkeypatch.delenv(variable, raising=False)
    check_launcher(Config(dict(launcher="none")))
    with pytest.raises(ToolError, match=f"--launcher {launcher} is for processes"):
        check_launcher(Config(dict(launcher=launcher)))
    monkeypatch.setenv(variable, "0")
    check_launcher(Config(dict(launcher=launcher)))


def test_one_part_is_a_list_of_one():
    assert listed(None) == []
    assert listed("a") == ["a"]
    assert listed(("a", "b")) == ["a", "b"]
