"""Measure speed and memory of static and dynamic networks.

    benchmark.py inference      forward pass of the backbones
    benchmark.py training       training step of the backbones
    benchmark.py memory         bytes kept for backward, and peak memory
    benchmark.py detector       a whole Faster R-CNN on one image
    benchmark.py paper          the systems of the paper's speed table, at 224 px
    benchmark.py scale          how cost grows with size, batch and kernel number
    benchmark.py docs           write tables and pictures of docs/benchmarks.md anew

Variants run in turn within one process, and ratios are to "static stock": the network
as MMDetection runs it, NCHW, with convolution, BatchNorm and ReLU as separate calls. A
measurement is printed and written to --out as soon as it is made, with a plot in the
end; `docs` puts what lies in docs/benchmarks/ into docs/benchmarks.md. Let nothing else
run on the machine.
"""

import argparse
import copy
import functools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

TOOLS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TOOLS), str(TOOLS.parent)]

from analysis import detectors, measure, networks, report  # noqa: E402
from analysis.authors import use_authors_algorithm  # noqa: E402
from odconv_det import fuse, unfold_batch_norms, use_triton  # noqa: E402
from odconv_det.fusion import GraphedModule  # noqa: E402

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
SIZES = ((224, 224), (800, 1333))
DETECTOR = "faster-rcnn_{}_fpn_1x_coco.py"

Size = tuple[int, int]
Variants = dict[str, nn.Module]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no GPU here")
    if args.graphs and args.device != "cuda":
        parser.error("--graphs are CUDA graphs: add --device cuda")
    use_triton(args.triton)
    ignored = {
        "training": ("compile", "graphs"),
        "memory": ("compile", "graphs"),
        "paper": ("compile",),
        "detector": ("compile", "graphs"),
    }
    if args.what == "scale" and (args.size or args.batch):
        parser.error("scale has sizes and batches of its own")
    for flag in ignored.get(args.what, ()):
        if vars(args)[flag]:
            parser.error(f"--{flag} is for the forward pass of a backbone")
    if args.what == "paper" and args.kernel_num != [1, 4]:
        parser.error("paper has kernel numbers of its own")
    if args.what in ("memory", "detector") and args.dtype != "fp32":
        parser.error(f"{args.what} is measured in fp32 only")
    if args.what == "docs":
        report.write_docs(TOOLS.parent / "docs" / "benchmarks.md")
        return
    name = args.name or args.what
    results = []
    for record in RUNS[args.what](args):
        results.append(record)
        report.save(args.out, name, results, args)  # for a run that does not end
    if not results:
        parser.error("nothing to measure")
    report.plot(results, args.out / f"{name}.png")
    print(report.table(results))
    print(report.LEGEND)
    print(f"written to {args.out}/{name}.json and .png")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=[*RUNS, "docs"])
    parser.add_argument(
        "--network", nargs="+", choices=networks.NETWORKS, default=networks.NETWORKS
    )
    parser.add_argument("--kernel-num", nargs="+", type=_positive, default=[1, 4])
    parser.add_argument(
        "--size",
        nargs="+",
        type=_size,
        metavar="HxW",
        help="224x224 and 800x1333 by default, of which training takes the larger",
    )
    parser.add_argument("--batch", type=_positive, help="default 1, in training 2")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=DTYPES, default="fp32")
    parser.add_argument(
        "--rounds", type=_positive, default=11, help="how often each variant runs"
    )
    parser.add_argument(
        "--compile",
        action="store_true",
        help="torch.compile of the fused networks, too",
    )
    parser.add_argument(
        "--graphs", action="store_true", help="every variant as a CUDA graph"
    )
    parser.add_argument(
        "--triton", action="store_true", help="Triton kernels wherever ours have them"
    )
    parser.add_argument("--name", help="of the files, by default the command")
    parser.add_argument("--out", type=Path, default=Path("work_dirs/benchmark"))


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return int(text)


def _size(text: str) -> Size:
    try:
        height, width = map(_positive, text.split("x"))
    except (ValueError, argparse.ArgumentTypeError):
        raise argparse.ArgumentTypeError(f"{text} is not HEIGHTxWIDTH") from None
    return height, width


def inference(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Forward pass of every variant of each network at each size."""
    for name in args.network:
        variants = inference_variants(name, args)
        for size in args.size or SIZES:
            yield from _forward(name, variants, args.batch or 1, size, args)


def inference_variants(name: str, args: argparse.Namespace) -> Variants:
    """All forms of a network; those of one kernel number share their weights."""
    static = networks.build(name, 0)
    variants: Variants = {
        "static stock": static,
        "static fused, channels_last": fuse(copy.deepcopy(static)),
        "static fused, NCHW": fuse(copy.deepcopy(static), layout="contiguous"),
    }
    if args.compile:
        variants["static compiled"] = torch.compile(fuse(copy.deepcopy(static)))
    for number in args.kernel_num:
        ours = networks.build(name, number)
        variants[f"authors {number}x"] = use_authors_algorithm(copy.deepcopy(ours))
        variants[f"ours {number}x"] = ours
        variants[f"fused {number}x"] = fuse(copy.deepcopy(ours))
        if args.compile:
            fused = fuse(copy.deepcopy(ours))
            variants[f"fused, compiled {number}x"] = torch.compile(fused)
    return variants


def _forward(
    name: str,
    variants: Variants,
    batch: int,
    size: Size,
    args: argparse.Namespace,
    warm_up: int = 2,
) -> Iterator[dict[str, Any]]:
    device, dtype = torch.device(args.device), DTYPES[args.dtype]
    x = networks.images(batch, *size, seed=9).to(device, dtype)
    steps = {}
    for variant, network in variants.items():
        network.to(device, dtype)
        steps[variant] = functools.partial(_graphed(network, args), x)
    with torch.no_grad():
        timings = measure.interleave(steps, args.rounds, device, warm_up)
    for variant, timing in timings.items():
        yield _record("inference", name, batch, size, variant, **timing._asdict())


def _graphed(network: nn.Module, args: argparse.Namespace) -> nn.Module:
    if not args.graphs:
        return network
    return GraphedModule(network, copy_outputs=False)


def training(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Forward and backward pass; a sum over all maps is the loss."""
    device = torch.device(args.device)
    for name in args.network:
        variants = {
            variant: network.to(device)
            for variant, network in training_variants(name, args).items()
        }
        for size in args.size or SIZES[1:]:
            batch = args.batch or 2
            x = networks.images(batch, *size, seed=9).to(device)
            steps = {
                variant: functools.partial(_training_step, network, x, args)
                for variant, network in variants.items()
            }
            timings = measure.interleave(steps, args.rounds, device, warm_up=1)
            for variant, timing in timings.items():
                yield _record(
                    "training", name, batch, size, variant, **timing._asdict()
                )


def training_variants(name: str, args: argparse.Namespace) -> Variants:
    """The static network, the authors' algorithm and ours."""
    variants: Variants = {
        "static stock": networks.for_training(networks.build(name, 0))
    }
    for number in args.kernel_num:
        ours = networks.for_training(networks.build(name, number))
        variants[f"authors {number}x"] = use_authors_algorithm(copy.deepcopy(ours))
        variants[f"ours {number}x"] = ours
    return variants


def _training_step(network: nn.Module, x: Tensor, args: argparse.Namespace) -> None:
    network.zero_grad()
    with torch.autocast(args.device, DTYPES[args.dtype], args.dtype != "fp32"):
        loss = sum(y.float().mean() for y in network(x))
    loss.backward()


def memory(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Bytes for backward and the peak of a training step, with and without folding."""
    device = torch.device(args.device)
    for name in args.network:
        variants = training_variants(name, args)
        for number in args.kernel_num:
            variants[f"ours {number}x, BN not folded"] = _unfolded(
                variants[f"ours {number}x"]
            )
        for size in args.size or [(320, 320)]:
            batch = args.batch or 2
            x = networks.images(batch, *size, seed=9).to(device)
            first = None
            for variant, network in variants.items():
                network.to(device)
                saved = measure.saved_bytes(network, x)
                first = first or saved
                step = functools.partial(_training_step, network, x, args)
                yield _record(
                    "memory",
                    name,
                    batch,
                    size,
                    variant,
                    saved_bytes=saved,
                    ratio=saved / first,
                    peak_bytes=measure.peak_memory(step, device),
                )


def _unfolded(network: nn.Module) -> nn.Module:
    network = copy.deepcopy(network)
    unfold_batch_norms(network)
    return network


def detector(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """``predict`` of Faster R-CNN, from normalised image to boxes."""
    device = torch.device(args.device)
    batch = args.batch or 1
    for name in args.network:
        variants = detector_variants(name, args)
        for size in args.size or SIZES[1:]:
            images = networks.images(batch, *size, seed=9).to(device)
            steps = {
                variant: functools.partial(
                    detectors.predict, network.to(device), images
                )
                for variant, network in variants.items()
            }
            with torch.no_grad():
                timings = measure.interleave(steps, args.rounds, device, warm_up=1)
            for variant, timing in timings.items():
                yield _record(
                    "detector", name, batch, size, variant, **timing._asdict()
                )


def detector_variants(name: str, args: argparse.Namespace) -> Variants:
    """Stock and fused static detector, and those with ODConv."""
    static = detectors.build(name, 0)
    variants: Variants = {
        "static stock": static,
        "static fused": fuse(copy.deepcopy(static)),
    }
    for number in args.kernel_num:
        ours = detectors.build(name, number)
        variants[f"authors {number}x"] = use_authors_algorithm(copy.deepcopy(ours))
        variants[f"ours {number}x"] = ours
        variants[f"fused {number}x"] = fuse(copy.deepcopy(ours))
    return variants


def scale(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One dimension at a time: size at batch 1, batch at 224 px, kernel number."""
    for name in args.network:
        variants = {
            variant: network
            for variant, network in inference_variants(name, args).items()
            if variant != "static fused, NCHW"
        }
        for side in (320, 480, 640, 800, 1120, 1600):
            yield from _forward(name, variants, 1, (side, side), args, warm_up=1)
        for batch in (1, 2, 4, 8, 16, 32, 64):
            yield from _forward(name, variants, batch, (224, 224), args, warm_up=1)
        numbers = argparse.Namespace(**{**vars(args), "kernel_num": [1, 2, 4, 8]})
        del variants
        variants = inference_variants(name, numbers)
        for size in SIZES:
            for record in _forward(name, variants, 1, size, args, warm_up=1):
                yield {**record, "task": "kernels"}


def paper(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The systems of the paper's speed table, with the authors' ratios beside ours."""
    from analysis import speed_table  # all others work without MMDetection

    device = torch.device(args.device)
    batch = args.batch or speed_table.BATCHES[args.device]
    for name in args.network:
        variants = speed_table.variants(name)
        for size in args.size or SIZES[:1]:
            x = networks.images(batch, *size, seed=9).to(device, DTYPES[args.dtype])
            steps = {}
            for variant, network in variants.items():
                network.to(device, DTYPES[args.dtype])
                steps[variant] = functools.partial(_graphed(network, args), x)
            with torch.no_grad():
                timings = measure.interleave(steps, args.rounds, device)
            for (system, form), timing in timings.items():
                record = timing._asdict()
                if form == "ours":
                    record["paper"] = speed_table.paper_ratio(name, system, args.device)
                label = _label(system, form)
                yield _record("paper", name, batch, size, label, **record)


def _label(system: str, form: str) -> str:
    if form == "fused":
        return f"{system}, fused"
    return "static stock" if system == "static" else system


def _record(
    task: str, network: str, batch: int, size: Size, variant: str, **values: float
) -> dict[str, Any]:
    record = dict(task=task, network=network, batch=batch, size=list(size))
    record.update(variant=variant, **values)
    print(report.line(record), file=sys.stderr, flush=True)
    return record


RUNS: dict[str, Callable[[argparse.Namespace], Iterator[dict[str, Any]]]] = {
    "inference": inference,
    "training": training,
    "memory": memory,
    "detector": detector,
    "paper": paper,
    "scale": scale,
}


if __name__ == "__main__":
    main()
