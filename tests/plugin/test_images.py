"""An image that cannot be read is named; every other error is left alone."""

import pytest
from mmcv.transforms import LoadImageFromFile
from torch.utils.data import DataLoader

from odconv_det.plugin.errors import ToolError
from odconv_det.plugin.images import check_decoder, image_errors


@pytest.mark.parametrize("content", [None, b"", b"no image"])
def test_the_image_is_named_whatever_is_wrong_with_it(tmp_path, content):
    image = tmp_path / "one.jpg"
    if content is not None:
        image.write_bytes(content)
    with pytest.raises(ToolError, match=r"one\.jpg cannot be read"), image_errors():
        LoadImageFromFile()(dict(img_path=str(image)))


class Images:
    """A data set of one image, which a process of its own can load."""

    def __init__(self, path: str, **settings) -> None:
        self.path, self.load = path, LoadImageFromFile(**settings)

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> dict:
        return self.load(dict(img_path=self.path))


@pytest.mark.parametrize("workers", [0, 1])
def test_the_line_says_why(tmp_path, workers):
    def said(path, content=None, **settings) -> str:
        if content is not None:
            path.write_bytes(content)
        loader = DataLoader(Images(str(path), **settings), num_workers=workers)
        with pytest.raises(ToolError) as error, image_errors():
            next(iter(loader))
        return str(error.value)

    assert f"image {tmp_path} cannot be read (Is a directory)" in said(tmp_path)
    assert "cannot be read (it is empty)" in said(tmp_path / "1.jpg", b"")
    text = said(tmp_path / "2.jpg", b"no image", imdecode_backend="pillow")
    assert "cannot identify image file" in text
    assert ("num_workers=0" in text) == (workers > 0)
    assert "size 0" not in text


@pytest.mark.parametrize(
    "settings", [dict(color_type="colour"), dict(imdecode_backend="cv3")]
)
def test_a_mistake_of_the_config_is_not_one_of_an_image(settings):
    check_decoder(LoadImageFromFile())
    check_decoder(LoadImageFromFile(color_type="unchanged", imdecode_backend="pillow"))
    with pytest.raises(ToolError, match=r"decodes no image .*: mend these words"):
        check_decoder(LoadImageFromFile(**settings))


def test_other_errors_pass():
    with pytest.raises(ZeroDivisionError), image_errors():
        raise ZeroDivisionError
    with pytest.raises(KeyError), image_errors():
        LoadImageFromFile()({})
