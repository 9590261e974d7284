"""The flags that the tools share. Nothing is imported for --help but argparse."""

import argparse
import os
from collections.abc import Sequence

__all__ = ["ConfigOptions", "add_arguments", "add_trust_argument"]


class ConfigOptions(argparse.Action):
    """--cfg-options; words that are not KEY=VALUE are an error of the command line."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Sequence[str],
        option_string: str | None = None,
    ) -> None:
        for word in values:
            if not word.partition("=")[0] or "=" not in word:
                parser.error(
                    f"--cfg-options: {word!r} is not KEY=VALUE: write it so, without "
                    "spaces"
                )
        from mmengine.config import DictAction

        read = DictAction(self.option_strings, self.dest, nargs="+")
        read(parser, namespace, values, option_string)


class _Trust(argparse.Action):
    def __call__(self, *_: object) -> None:
        from odconv_det.checkpoints import trust_files

        trust_files()


def add_trust_argument(parser: argparse.ArgumentParser) -> None:
    """Add --trust-checkpoint, which takes effect where the arguments are parsed."""
    parser.add_argument(
        "--trust-checkpoint",
        nargs=0,
        action=_Trust,
        help="let the weight files of this run execute code, as pickles can; only for "
        "files of your own that are refused otherwise",
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that training and testing have in common."""
    parser.add_argument(
        "--work-dir",
        type=os.path.expanduser,
        help="where logs, checkpoints and results go",
    )
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=ConfigOptions,
        metavar="KEY=VALUE",
        help='change the config, for example train_cfg.max_epochs=1 or key="[(1,2)]"',
    )
    parser.add_argument(
        "--launcher",
        choices=["none", "pytorch", "slurm", "mpi"],
        default="none",
        help="what started the processes of a distributed run",
    )
    add_trust_argument(parser)
    # Launchers before torchrun pass the rank as a flag, in either spelling.
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0)
