"""Runs are stood for by processes that write a result, fail, or hang."""

import json
import subprocess

import pytest
from comparison import sweep
from comparison.recipe import Recipe

FINE, SLOW = "sleep 0.2", "sleep 2"
FAILS, HANGS = "echo no memory >&2; exit 1", "exec sleep 600"
NUMBERS = dict(box_ap=0.5, mask_ap=0.4, seconds_per_iteration=1, seconds_in_all=2)


class Launcher:
    """Starts ``FINE``, or what ``others`` has for a backbone, and keeps the orders."""

    def __init__(self, **others):
        self.others = others
        self.orders = []
        self.processes = []
        self.most = 0

    def __call__(self, order, log, threads):
        content = json.loads(order.read_text())
        self.orders.append((content["backbone"], content["seed"]))
        script = self.others.get(content["backbone"], FINE)
        if script in (FINE, SLOW):
            with open(content["result"], "w") as file:
                json.dump({**content, **NUMBERS}, file)
        with log.open("w") as file:
            process = subprocess.Popen(["sh", "-c", script], stderr=file)
        self.processes.append(process)
        self.most = max(self.most, sum(p.poll() is None for p in self.processes))
        return process


@pytest.fixture
def make(tmp_path):
    def make(**changes):
        options = dict(
            backbones=["static", "odconv1x"],
            seeds=[0, 1],
            recipe=Recipe(iterations=3),
            work_dir=tmp_path / "work",
            data=tmp_path / "data",
            wheel=tmp_path / "wheel",
        )
        return sweep.Sweep(**{**options, **changes})

    return make


ALL = [("static", 0), ("odconv1x", 0), ("static", 1), ("odconv1x", 1)]


def keys(results):
    return [(result["backbone"], result["seed"]) for result in results]


def test_every_backbone_runs_with_every_seed_one_after_the_other(make):
    launcher = Launcher()
    lines = []
    results, failed = sweep.carry_out(make(), lines.append, launcher)
    assert launcher.orders == ALL
    assert launcher.most == 1
    assert keys(results) == ALL
    assert failed == []
    assert len(lines) == 4
    assert lines[1].startswith("ODConv 1x, seed 0: box AP 50.0, mask AP 40.0")


def test_jobs_run_at_the_same_time(make):
    launcher = Launcher(static=SLOW, odconv1x=SLOW)
    plan = make(jobs=3, threads=2)
    results, _ = sweep.carry_out(plan, lambda line: None, launcher)
    assert launcher.most == 3
    assert keys(results) == ALL
    assert {(r["jobs"], r["threads"]) for r in results} == {(3, 2)}


def test_finished_runs_are_not_repeated(make):
    sweep.carry_out(make(), lambda line: None, Launcher())
    launcher, lines = Launcher(), []
    results, _ = sweep.carry_out(make(), lines.append, launcher)
    assert launcher.orders == []
    assert keys(results) == ALL
    assert lines == ["4 of 4 runs were done earlier"]


def test_more_seeds_and_backbones_run_alone(make):
    sweep.carry_out(make(seeds=[0]), lambda line: None, Launcher())
    launcher = Launcher()
    plan = make(backbones=["static", "odconv1x", "odconv4x"])
    results, _ = sweep.carry_out(plan, lambda line: None, launcher)
    assert launcher.orders == [("odconv4x", 0), *ALL[2:], ("odconv4x", 1)]
    assert len(results) == 6


def test_another_recipe_is_done_anew_beside_the_first(make):
    first, _ = sweep.carry_out(make(), lambda line: None, Launcher())
    launcher = Launcher()
    other = make(recipe=Recipe(iterations=4))
    sweep.carry_out(other, lambda line: None, launcher)
    assert launcher.orders == ALL
    again, _ = sweep.carry_out(make(), lambda line: None, launcher)
    assert again == first
    assert launcher.orders == ALL


def test_a_failed_run_is_reported_and_tried_again_next_time(make):
    lines = []
    results, failed = sweep.carry_out(make(), lines.append, Launcher(static=FAILS))
    assert keys(results) == [ALL[1], ALL[3]]
    assert [(run.backbone, run.seed) for run in failed] == [ALL[0], ALL[2]]
    (line, _) = [line for line in lines if "failed" in line]
    assert str(failed[0].logs / "log.txt") in line
    assert "no memory" in (failed[0].logs / "log.txt").read_text()
    launcher = Launcher()
    results, failed = sweep.carry_out(make(), lines.append, launcher)
    assert launcher.orders == [ALL[0], ALL[2]]
    assert keys(results) == ALL
    assert failed == []


def test_an_interruption_ends_what_runs_and_keeps_what_is_finished(make):
    def interrupted(line):
        raise KeyboardInterrupt

    launcher = Launcher(odconv1x=HANGS)
    with pytest.raises(KeyboardInterrupt):
        sweep.carry_out(make(jobs=2), interrupted, launcher)
    assert all(process.poll() is not None for process in launcher.processes)
    second = Launcher()
    results, _ = sweep.carry_out(make(), lambda line: None, second)
    assert second.orders == [run for run in ALL if run not in [("static", 0)]]
    assert keys(results) == ALL


def test_a_run_that_begins_anew_finds_nothing_of_its_last_try(make):
    run = next(make().runs())
    run.logs.mkdir(parents=True)
    (run.logs / "last_checkpoint").write_text("old")
    sweep.carry_out(make(), lambda line: None, Launcher())
    assert sorted(path.name for path in run.logs.iterdir()) == ["log.txt", "order.json"]


def test_a_real_run_gets_its_threads_before_torch_is_imported(tmp_path, monkeypatch):
    script = tmp_path / "script.py"
    script.write_text("import os; print(os.environ['OMP_NUM_THREADS'])")
    monkeypatch.setattr(sweep, "TOOL", script)
    log = tmp_path / "log.txt"
    assert sweep.launch(tmp_path / "order.json", log, 3).wait() == 0
    assert log.read_text() == "3\n"
