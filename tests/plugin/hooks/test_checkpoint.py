"""What SafeCheckpointHook writes, in which order, and what it finds again."""

import io
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.fileio import get_file_backend
from mmengine.logging import MessageHub
from mmengine.registry import HOOKS, PARAM_SCHEDULERS

from odconv_det.checkpoints import CheckpointError, read_torch
from odconv_det.plugin.hooks import SafeCheckpointHook, checkpoint

_runs = iter(range(10**6))


class Runner:
    """As much of a runner as the hook touches; each epoch has another weight."""

    def __init__(self, folder: Path, hub: MessageHub) -> None:
        self.work_dir = str(folder)
        self.logger = SimpleNamespace(info=lambda *_: None, warning=lambda *_: None)
        self.message_hub = hub
        self.epoch = self.iter = 0
        self._resume, self._load_from = False, None
        self.experiment_name = f"run {next(_runs)}"

    def save_checkpoint(self, out_dir, filename, *, backend_args, meta, **_):
        content = {
            "meta": dict(meta, experiment_name=self.experiment_name),
            "message_hub": self.message_hub.state_dict(),
            "state_dict": {"epoch": torch.tensor(self.epoch)},
        }
        file = io.BytesIO()
        torch.save(content, file)
        backend = get_file_backend(out_dir, backend_args=backend_args)
        backend.put(file.getvalue(), Path(out_dir, filename))


@pytest.fixture
def events(monkeypatch, tmp_path):
    """Names of files as they get their name (+) or go (-)."""
    seen = []
    replace, unlink = Path.replace, Path.unlink

    def replaced(self, target):
        seen.append(f"+{Path(target).name}")
        return replace(self, target)

    def unlinked(self, missing_ok=False):
        if self.exists() and self.suffix == ".pth":
            seen.append(f"-{self.name}")
        return unlink(self, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "replace", replaced)
    monkeypatch.setattr(Path, "unlink", unlinked)
    return seen


def start(folder, **options):
    """A hook at the beginning of training, and its runner."""
    hub = MessageHub.get_instance(f"checkpoints {next(_runs)}")
    hook = SafeCheckpointHook(interval=1, **options)
    runner = Runner(folder, hub)
    hook.before_train(runner)
    return hook, runner


def epoch(hook, runner, score=None):
    """Train one epoch, and evaluate it."""
    runner.iter += 2
    hook._save_checkpoint(runner)  # after_train_epoch
    runner.epoch += 1
    if score is not None:
        hook.after_val_epoch(runner, {"mAP": score})


def resume(folder, path, **options):
    """A new process that goes on from a checkpoint."""
    hub = MessageHub.get_instance(f"checkpoints {next(_runs)}")
    content = read_torch(path)
    hub.load_state_dict(content["message_hub"])
    hook = SafeCheckpointHook(interval=1, **options)
    runner = Runner(folder, hub)
    runner.epoch, runner.iter = (content["meta"][key] for key in ("epoch", "iter"))
    runner._resume, runner._load_from = True, str(path)
    hook.after_load_checkpoint(runner, content)
    hook.before_train(runner)
    return hook, runner


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != "vis_data")


def test_it_is_known_by_its_name():
    assert HOOKS.get("SafeCheckpointHook") is SafeCheckpointHook


def test_without_last_checkpoint_a_run_resumes_from_the_newest_whole_file(tmp_path):
    """Where other tools than ours start it; MMEngine would start from the beginning."""
    hook, runner = start(tmp_path)
    for _ in range(11):
        epoch(hook, runner)
    (tmp_path / "last_checkpoint").unlink()
    whole = (tmp_path / "epoch_11.pth").read_bytes()
    (tmp_path / "epoch_11.pth").write_bytes(whole[:-100])
    again = Runner(tmp_path, runner.message_hub)
    again._resume = True
    SafeCheckpointHook(interval=1).before_run(again)
    assert again._load_from == str(tmp_path / "epoch_10.pth")


def test_a_file_that_is_named_is_resumed_and_a_new_run_is_a_new_run(tmp_path):
    hook, runner = start(tmp_path)
    epoch(hook, runner)
    (tmp_path / "last_checkpoint").unlink()
    for resumed, named in ((False, None), (True, "other.pth"), (False, "other.pth")):
        again = Runner(tmp_path, runner.message_hub)
        again._resume, again._load_from = resumed, named
        SafeCheckpointHook(interval=1).before_run(again)
        assert (again._resume, again._load_from) == (resumed, named)


def test_a_run_does_not_start_over_files_of_which_none_is_whole(tmp_path):
    (tmp_path / "epoch_3.pth").write_bytes(b"PK\x03\x04 torn")
    runner = Runner(tmp_path, MessageHub.get_instance("torn"))
    runner._resume = True
    with pytest.raises(CheckpointError, match=r"has epoch_3\.pth, which is not whole"):
        SafeCheckpointHook(interval=1).before_run(runner)


def test_a_checkpoint_is_written_named_and_only_then_another_removed(tmp_path, events):
    hook, runner = start(tmp_path, max_keep_ckpts=1)
    epoch(hook, runner)
    epoch(hook, runner)
    assert events == [
        *("+epoch_1.pth", "+last_checkpoint"),
        *("+epoch_2.pth", "+last_checkpoint", "-epoch_1.pth"),
    ]
    assert names(tmp_path) == ["epoch_2.pth", "last_checkpoint"]
    pointer = (tmp_path / "last_checkpoint").read_text()
    assert pointer == str(tmp_path / "epoch_2.pth")


def test_a_best_one_goes_after_the_better_one_is_named(tmp_path, events):
    hook, runner = start(tmp_path, max_keep_ckpts=2, save_best="auto")
    epoch(hook, runner, score=0.1)
    del events[:]
    epoch(hook, runner, score=0.2)
    assert events == [
        *("+epoch_2.pth", "+last_checkpoint", "+best_mAP_epoch_2.pth"),
        *("+epoch_2.pth", "+last_checkpoint", "-best_mAP_epoch_1.pth"),
    ]
    epoch(hook, runner, score=0.15)
    assert "best_mAP_epoch_2.pth" in names(tmp_path)
    hub = read_torch(tmp_path / "epoch_3.pth")["message_hub"]["runtime_info"]
    assert hub["best_ckpt"] == str(tmp_path / "best_mAP_epoch_2.pth")
    epoch(hook, runner, score=0.3)
    assert [name for name in names(tmp_path) if "best" in name] == [
        "best_mAP_epoch_4.pth"
    ]


def test_two_metrics_have_a_best_one_each(tmp_path):
    hook, runner = start(tmp_path, save_best=["box_mAP", "mask_mAP"])

    def evaluated(box, mask):
        epoch(hook, runner)
        hook.after_val_epoch(runner, {"box_mAP": box, "mask_mAP": mask})
        return [name for name in names(tmp_path) if "best" in name]

    assert evaluated(1, 1) == ["best_box_mAP_epoch_1.pth", "best_mask_mAP_epoch_1.pth"]
    assert evaluated(2, 0) == ["best_box_mAP_epoch_2.pth", "best_mask_mAP_epoch_1.pth"]
    assert evaluated(1, 2) == ["best_box_mAP_epoch_2.pth", "best_mask_mAP_epoch_3.pth"]


@pytest.mark.parametrize("scores", [[None] * 4, [0.1, 0.3, 0.2, 0.4]])
def test_killed_at_any_step_a_run_finds_whole_files_and_cleans_up(
    tmp_path, monkeypatch, scores
):
    """As if killed before each step in turn; the next run ends as it would have."""

    class Killed(BaseException):
        pass

    options = dict(max_keep_ckpts=2, save_best="mAP" if scores[0] else None)
    for step in range(1, 99):
        folder = tmp_path / str(step)
        folder.mkdir()
        left = [step]

        def counted(function, left=left):
            def stepped(*args, **kwargs):
                left[0] -= 1
                if left[0] <= 0:  # nor does a dead process clean up
                    raise Killed
                return function(*args, **kwargs)

            return stepped

        with monkeypatch.context() as patch:
            for name in ("replace", "unlink", "write_bytes"):
                patch.setattr(Path, name, counted(getattr(Path, name)))
            try:
                hook, runner = start(folder, **options)
                for score in scores:
                    epoch(hook, runner, score)
            except Killed:
                pass
        done = left[0] > 0
        pointer = folder / "last_checkpoint"
        if pointer.exists():
            hook, runner = resume(folder, pointer.read_text(), **options)
        else:
            hook, runner = start(folder, **options)
        for path in folder.glob("*.pth"):
            read_torch(path)
        for score in scores[runner.epoch :]:
            epoch(hook, runner, score)
        assert not list(folder.glob(".*"))
        kept = [name for name in names(folder) if name.startswith("epoch")]
        assert kept == ["epoch_3.pth", "epoch_4.pth"]
        latest = read_torch(folder / "epoch_4.pth")["message_hub"]["runtime_info"]
        bests = [str(path) for path in folder.glob("best*")]
        assert bests == [latest[key] for key in latest if key == "best_ckpt"]
        if done:
            return
    raise AssertionError("the run has more steps than were tried")


def test_a_best_one_that_no_checkpoint_knows_is_adopted(tmp_path):
    options = dict(save_best="mAP", max_keep_ckpts=3)
    hook, runner = start(tmp_path, **options)
    epoch(hook, runner)
    before = (tmp_path / "epoch_1.pth").read_bytes()
    hook.after_val_epoch(runner, {"mAP": 0.5})
    (tmp_path / "epoch_1.pth").write_bytes(before)  # killed before it was told
    for _ in range(2):
        resume(tmp_path, tmp_path / "epoch_1.pth", **options)
        info = read_torch(tmp_path / "epoch_1.pth")["message_hub"]["runtime_info"]
        assert info["keep_ckpt_ids"] == [1]
        assert info["best_score"] == 0.5
        assert info["best_ckpt"] == str(tmp_path / "best_mAP_epoch_1.pth")


@pytest.mark.parametrize("metrics", [["box", "mask"], ["mask", "box"]])
def test_of_two_metrics_the_latest_best_ones_are_adopted(tmp_path, metrics):
    options = dict(save_best=metrics, rule="greater")
    hook, runner = start(tmp_path, **options)
    epoch(hook, runner)
    hook.after_val_epoch(runner, dict(box=0.1, mask=0.1))
    epoch(hook, runner)
    before = (tmp_path / "epoch_2.pth").read_bytes()
    hook.after_val_epoch(runner, dict(box=0.5, mask=0.4))
    (tmp_path / "epoch_2.pth").write_bytes(before)  # killed before it was told
    hook, runner = resume(tmp_path, tmp_path / "epoch_2.pth", **options)
    info = read_torch(tmp_path / "epoch_2.pth")["message_hub"]["runtime_info"]
    for name, score in dict(box=0.5, mask=0.4).items():
        assert info[f"best_score_{name}"] == score
        assert info[f"best_ckpt_{name}"] == str(tmp_path / f"best_{name}_epoch_2.pth")
    epoch(hook, runner)
    hook.after_val_epoch(runner, dict(box=0.6, mask=0.6))
    bests = [name for name in names(tmp_path) if "best" in name]
    assert bests == ["best_box_epoch_3.pth", "best_mask_epoch_3.pth"]


def test_a_best_one_that_is_not_whole_keeps_nobody_from_resuming(tmp_path):
    """As MMEngine's own hook leaves it when it is killed."""
    hook, runner = start(tmp_path, save_best="mAP")
    epoch(hook, runner)
    (tmp_path / "best_mAP_epoch_1.pth").write_bytes(b"PK")
    hook, runner = resume(tmp_path, tmp_path / "epoch_1.pth", save_best="mAP")
    epoch(hook, runner, score=0.1)
    assert "best_mAP_epoch_2.pth" in names(tmp_path)


def test_a_best_one_of_another_run_is_not_adopted(tmp_path):
    hook, runner = start(tmp_path, save_best="mAP")
    epoch(hook, runner)
    epoch(hook, runner, score=0.3)  # leaves best_mAP_epoch_2.pth
    hook, runner = start(tmp_path, save_best="mAP")
    epoch(hook, runner, score=0.9)
    epoch(hook, runner, score=0.2)
    hook, runner = resume(tmp_path, tmp_path / "epoch_2.pth", save_best="mAP")
    assert runner.message_hub.get_info("best_score") == 0.9
    assert "best_mAP_epoch_1.pth" in names(tmp_path)
    epoch(hook, runner, score=0.5)
    assert "best_mAP_epoch_1.pth" in names(tmp_path)


def test_a_run_that_goes_on_in_another_folder_removes_nothing_there(tmp_path):
    options = dict(save_best="mAP", max_keep_ckpts=1)
    old, new = tmp_path / "old", tmp_path / "new"
    hook, runner = start(old, **options)
    epoch(hook, runner, score=0.9)
    epoch(hook, runner, score=0.1)
    hook, runner = start(new, save_best="mAP")
    epoch(hook, runner, score=0.9)  # the old run has removed its own of this name
    epoch(hook, runner, score=0.1)
    before = names(new)
    assert "epoch_1.pth" in before
    hook, runner = resume(new, old / "epoch_2.pth", **options)
    assert names(new) == before
    epoch(hook, runner, score=0.5)  # not better than the one in the old folder
    assert "best_mAP_epoch_3.pth" not in names(new)
    epoch(hook, runner, score=0.95)
    assert {"best_mAP_epoch_1.pth", "best_mAP_epoch_4.pth"} < set(names(new))
    assert "best_mAP_epoch_1.pth" in names(old)


def test_a_best_one_stays_until_a_checkpoint_knows_the_better_one(tmp_path, events):
    hook, runner = start(tmp_path, save_best="mAP")
    epoch(hook, runner, score=0.1)
    hook, runner = resume(tmp_path, tmp_path / "epoch_1.pth", save_best="mAP")
    del events[:]
    runner.epoch, runner.iter = 2, 4  # an epoch without a checkpoint of its own
    hook.after_val_epoch(runner, {"mAP": 0.2})
    assert events == [
        *("+best_mAP_epoch_2.pth", "+epoch_2.pth", "+last_checkpoint"),
        "-best_mAP_epoch_1.pth",
    ]


def test_a_best_one_that_was_removed_by_hand_is_forgotten(tmp_path):
    hook, runner = start(tmp_path, save_best="mAP")
    epoch(hook, runner, score=0.5)
    (tmp_path / "best_mAP_epoch_1.pth").unlink()
    hook, runner = resume(tmp_path, tmp_path / "epoch_1.pth", save_best="mAP")
    epoch(hook, runner, score=0.4)
    assert "best_mAP_epoch_2.pth" in names(tmp_path)


def test_a_resumed_checkpoint_has_files_removed_here_only(tmp_path):
    """It may be somebody else's, and say anything."""
    folder = tmp_path / "run"
    folder.mkdir()
    hook, runner = start(folder, save_best="mAP", max_keep_ckpts=1)
    runner.message_hub.update_info("best_score", 0.0)
    for name in ("mine.pth", "notes.txt", "best.pth"):
        (tmp_path / name).write_text("mine")
    (folder / "notes.txt").write_text("mine")
    epoch(hook, runner)
    hub = runner.message_hub
    hub.update_info("superfluous_ckpts", [f"{tmp_path}/mine.pth", "../notes.txt"])
    hub.update_info("best_ckpt", f"{tmp_path}/best.pth")
    hub.update_info("keep_ckpt_ids", ["../../mine"])
    runner.save_checkpoint(
        str(folder),
        "epoch_1.pth",
        backend_args=hook.backend_args,
        meta=dict(epoch=1, iter=2),
    )
    hook, runner = resume(
        folder, folder / "epoch_1.pth", save_best="mAP", max_keep_ckpts=1
    )
    epoch(hook, runner, score=0.9)
    assert names(tmp_path) == ["best.pth", "mine.pth", "notes.txt", "run"]
    assert "notes.txt" in names(folder)


@pytest.mark.parametrize("template", ["epoch_{}", "epoch_{}.pth"])
@pytest.mark.parametrize(
    "name", ["..", ".", "", "/", "notes", "epoch_1", "epoch_1.pth", "best_mAP_epoch_1"]
)
def test_nothing_but_checkpoints_is_removed(tmp_path, template, name):
    folder = tmp_path / "run"
    (folder / "notes").mkdir(parents=True)
    options = dict(filename_tmpl=template, max_keep_ckpts=1)
    hook, runner = start(folder, **options)
    runner.message_hub.update_info("superfluous_ckpts", [name])
    runner.save_checkpoint(
        str(folder),
        template.format(1),
        backend_args=hook.backend_args,
        meta=dict(epoch=1, iter=2),
    )
    own = name.removeprefix("best_mAP_") == template.format(1)
    if name.startswith("best"):
        (folder / name).write_text("best")
    before = set(names(folder))
    resume(folder, folder / template.format(1), **options)
    assert before - set(names(folder)) == ({name} if own else set())


SCHEDULERS = {
    "ConstantLR": dict(factor=0.5, end=3),
    "CosineAnnealingLR": dict(T_max=9),
    "CosineRestartLR": dict(periods=[3, 6], restart_weights=[1, 0.5], eta_min=0),
    "ExponentialLR": dict(gamma=0.9),
    "LinearLR": dict(start_factor=0.1, end=5),
    "MultiStepLR": dict(milestones=[2, 4]),
    "OneCycleLR": dict(eta_max=1.0, total_steps=9),
    "PolyLR": dict(end=9),
    "ReduceOnPlateauLR": dict(monitor="loss", patience=1),
    "StepLR": dict(step_size=2),
}


def test_every_schedule_is_listed():
    known = {name for name in PARAM_SCHEDULERS.module_dict if name.endswith("LR")}
    assert known == set(SCHEDULERS)


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("several", [False, True], ids=["one", "several"])
def test_every_schedule_goes_on_from_its_file(tmp_path, name, several):
    """Also one that keeps a function, which could not be read as data."""

    def build():
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
        settings = dict(SCHEDULERS[name], type=name, optimizer=optimizer)
        return optimizer, PARAM_SCHEDULERS.build(settings)

    words = [{"loss": 1.0}] if "Plateau" in name else []

    def steps(optimizer, schedule):
        for _ in range(3):
            optimizer.step()
            schedule.step(*words)
            yield optimizer.param_groups[0]["lr"]

    first = build()
    assert list(steps(*first))
    states = [first[1].state_dict()]
    content = dict(param_schedulers=dict(one=states) if several else states)
    hook, runner = start(tmp_path)
    hook.before_save_checkpoint(runner, content)
    torch.save(dict(content, optimizer=first[0].state_dict()), tmp_path / "saved.pth")
    content = read_torch(tmp_path / "saved.pth")
    states = content["param_schedulers"]
    second = build()
    second[0].load_state_dict(content["optimizer"])
    second[1].load_state_dict((states["one"] if several else states)[0])
    assert list(steps(*second)) == list(steps(*first))


def test_a_run_whose_folder_was_moved_keeps_its_best_one(tmp_path):
    hook, runner = start(tmp_path / "old", save_best="mAP")
    epoch(hook, runner, score=0.5)
    epoch(hook, runner, score=0.4)
    (tmp_path / "old").rename(tmp_path / "new")
    new = tmp_path / "new"
    hook, runner = resume(new, new / "epoch_2.pth", save_best="mAP")
    epoch(hook, runner, score=0.45)
    assert [name for name in names(new) if "best" in name] == ["best_mAP_epoch_1.pth"]
    epoch(hook, runner, score=0.6)
    assert [name for name in names(new) if "best" in name] == ["best_mAP_epoch_4.pth"]


def test_files_of_others_stay(tmp_path):
    for name in (".notes.part", "best_of_all.pth", "epoch_9.pth", ".epoch_1.pth"):
        (tmp_path / name).write_text("mine")
    (tmp_path / ".epoch_1.pth.77.part").write_text("of a killed process")
    hook, runner = start(tmp_path, max_keep_ckpts=1, save_best="mAP")
    epoch(hook, runner, score=0.1)
    epoch(hook, runner, score=0.2)
    assert {".notes.part", "best_of_all.pth", "epoch_9.pth", ".epoch_1.pth"} < set(
        names(tmp_path)
    )
    assert not (tmp_path / ".epoch_1.pth.77.part").exists()


def test_a_disk_that_takes_no_more_is_one_line(tmp_path, monkeypatch):
    hook, runner = start(tmp_path, max_keep_ckpts=1)
    epoch(hook, runner)

    def full(self, content):
        self.open("wb").write(content[:10])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(CheckpointError, match="No space left.*make room.*--resume"):
            epoch(hook, runner)

    def forbidden(self, content):
        raise OSError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", forbidden)
        with pytest.raises(CheckpointError, match="denied.*see to the folder"):
            epoch(hook, runner)
    assert names(tmp_path) == ["epoch_1.pth", "last_checkpoint"]


def test_checkpoints_may_lie_elsewhere(tmp_path):
    (tmp_path / "run").mkdir()
    hook, runner = start(tmp_path / "run", out_dir=str(tmp_path / "elsewhere"))
    epoch(hook, runner)
    assert names(tmp_path / "elsewhere" / "run") == ["epoch_1.pth"]
    (tmp_path / "run" / ".last_checkpoint.77.part").write_text("of a killed process")
    resume(
        tmp_path / "run",
        tmp_path / "elsewhere" / "run" / "epoch_1.pth",
        out_dir=str(tmp_path / "elsewhere"),
    )
    assert names(tmp_path / "run") == ["last_checkpoint"]
    pointer = (tmp_path / "run" / "last_checkpoint").read_text()
    assert pointer == str(tmp_path / "elsewhere" / "run" / "epoch_1.pth")


@pytest.mark.parametrize(
    "option",
    [
        dict(backend_args=dict(backend="petrel")),
        dict(file_client_args=dict(backend="petrel")),
        dict(out_dir="s3://bucket/run"),
    ],
)
def test_other_storage_is_refused(option):
    with pytest.raises(ValueError, match="local disk.*CheckpointHook"):
        SafeCheckpointHook(**option)


@pytest.mark.parametrize("option", [dict(interval="one"), dict(max_keep_ckpts="all")])
def test_a_word_in_place_of_a_number_is_refused(option):
    (name,) = option
    with pytest.raises(ValueError, match=f"^{name} must be an int, got '"):
        SafeCheckpointHook(**option)


def test_publishing_passes_over_a_metric_without_a_best_checkpoint(tmp_path):
    """So it is where a run goes on in another folder and nothing there is better."""
    options = dict(
        save_best=["box", "mask"], rule="greater", published_keys=["state_dict"]
    )
    first, other = tmp_path / "first", tmp_path / "other"
    first.mkdir(), other.mkdir()
    hook, runner = start(first, **options)
    epoch(hook, runner)
    hook.after_val_epoch(runner, {"box": 0.5, "mask": 0.5})
    epoch(hook, runner)
    hook, runner = resume(other, first / "epoch_2.pth", **options)
    epoch(hook, runner)
    hook.after_val_epoch(runner, {"box": 0.6, "mask": 0.1})
    hook.after_train(runner)
    published = {name.split("-")[0] for name in names(other) if "-" in name}
    assert published == {"best_box_epoch_3", "epoch_3"}


def test_a_folder_is_the_same_by_another_name(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to("run")
    hook, runner = start(tmp_path / "run", max_keep_ckpts=1)
    epoch(hook, runner)
    path = tmp_path / "run" / "epoch_1.pth"
    hook, runner = resume(tmp_path / "link", path, max_keep_ckpts=1)
    epoch(hook, runner)
    assert names(tmp_path / "run") == ["epoch_2.pth", "last_checkpoint"]


@pytest.mark.parametrize("resumes", [False, True])
def test_a_run_that_starts_anew_over_an_earlier_one_says_so(
    tmp_path, monkeypatch, resumes
):
    hook, runner = start(tmp_path)
    epoch(hook, runner)
    said = []
    monkeypatch.setattr(checkpoint, "print_log", lambda line, *_: said.append(line))
    if resumes:
        resume(tmp_path, tmp_path / "epoch_1.pth")
        assert said == []
        return
    start(tmp_path)
    (line,) = said
    assert "does not go on from it" in line
    assert "epoch_1.pth" in line
