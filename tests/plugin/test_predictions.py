"""The file of predictions is there whole, or as it was."""

import pickle

import mmengine
import pytest

from odconv_det.plugin.predictions import DumpWhole


def test_predictions_are_written_as_mmdetection_writes_them(tmp_path):
    path = tmp_path / "new" / "found.pkl"
    assert DumpWhole(str(path)).compute_metrics([dict(img_id=1)]) == {}
    assert pickle.loads(path.read_bytes()) == [dict(img_id=1)]


def test_what_is_interrupted_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "found.pkl"
    path.write_bytes(b"before")

    def full(results, file, **options):
        file.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(mmengine, "dump", full)
    with pytest.raises(OSError, match="no space"):
        DumpWhole(str(path)).compute_metrics([])
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]
