"""An image that cannot be read is named; every other error is left alone."""

import pytest
from mmcv.transforms import LoadImageFromFile

from odconv_det.plugin.errors import ToolError
from odconv_det.plugin.images import image_errors


@pytest.mark.parametrize("content", [None, b"", b"no image"])
def test_the_image_is_named_whatever_is_wrong_with_it(tmp_path, content):
    image = tmp_path / "one.jpg"
    if content is not None:
        image.write_bytes(content)
    with pytest.raises(ToolError, match=r"one\.jpg cannot be read"), image_errors():
        LoadImageFromFile()(dict(img_path=str(image)))


def test_other_errors_pass():
    with pytest.raises(ZeroDivisionError), image_errors():
        raise ZeroDivisionError
    with pytest.raises(KeyError), image_errors():
        LoadImageFromFile()({})
