"""Predictions of a test as a file that is there whole, or not at all."""

from pathlib import Path

import mmengine
from mmdet.evaluation import DumpDetResults
from mmengine.logging import print_log

from odconv_det.checkpoints.files import whole_file

__all__ = ["DumpWhole"]


class DumpWhole(DumpDetResults):
    """MMDetection's metric that writes predictions to a ``.pkl`` file."""

    def compute_metrics(self, results: list) -> dict:
        """Write what every process has found; only the first process gets here."""
        with whole_file(Path(self.out_file_path)) as part:
            mmengine.dump(results, part, file_format="pkl")
        print_log(f"predictions are in {self.out_file_path}", logger="current")
        return {}
