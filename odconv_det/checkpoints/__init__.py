"""Weights: where they are, what they are called, and whether all of them arrived."""

from odconv_det.checkpoints.errors import CheckpointError, MissingCheckpointError
from odconv_det.checkpoints.files import (
    check_suffix,
    read_tensors,
    write_tensors,
)
from odconv_det.checkpoints.inflate import inflate, largest_difference, static_twin
from odconv_det.checkpoints.keys import backbone_tensors, from_release, under
from odconv_det.checkpoints.untrusted import (
    is_torch_file,
    read_torch,
    trust_files,
)
from odconv_det.checkpoints.verify import bad_values, load_exactly, mismatch
from odconv_det.checkpoints.zoo import is_remote, locate

__all__ = [
    "CheckpointError",
    "MissingCheckpointError",
    "backbone_tensors",
    "bad_values",
    "check_suffix",
    "from_release",
    "inflate",
    "is_remote",
    "is_torch_file",
    "largest_difference",
    "load_exactly",
    "locate",
    "mismatch",
    "read_tensors",
    "read_torch",
    "static_twin",
    "trust_files",
    "under",
    "write_tensors",
]
