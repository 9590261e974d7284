"""Dataloaders that are as they should be; bad ones have a table."""

import pytest

from odconv_det.plugin.errors import ToolError
from odconv_det.plugin.loaders import check_batches, check_words


def test_words_of_torch_and_of_mmengine_pass():
    check_words(dict(dataset={}, collate_fn={}, num_batch_per_epoch=2), "train")
    with pytest.raises(ToolError, match="no argument batchsize; did you mean batch_"):
        check_words(dict(batchsize=2), "train")


@pytest.mark.parametrize(
    "words", [dict(drop_last=True), dict(batch_sampler=dict(drop_last=True))]
)
def test_a_batch_must_remain_of_what_is_dropped(words):
    check_batches(dict(batch_size=4, **words), 4, "train")
    check_batches(dict(batch_size=5), 4, "train")
    with pytest.raises(ToolError, match="4 images and batches of 5"):
        check_batches(dict(batch_size=5, **words), 4, "train")
