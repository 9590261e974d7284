"""Sizes of images: as their annotation file has them, as read, trained and tested."""

from itertools import pairwise

import pytest
from mmcv.transforms import LoadImageFromFile
from mmengine.registry import init_default_scope
from PIL import Image

from odconv_det.plugin.errors import ToolError
from odconv_det.plugin.sizes import check_read_sizes, warn_of_other_scales

ORIENTATION = 0x0112
STORED, TURNED = (16, 8), (8, 16)
PLAIN = LoadImageFromFile()
IGNORES = LoadImageFromFile(color_type="color_ignore_orientation")
PILLOW = LoadImageFromFile(imdecode_backend="pillow")


def write(path, size=STORED, orientation: int | None = None) -> None:
    exif = Image.Exif()
    if orientation:
        exif[ORIENTATION] = orientation
    Image.new("RGB", size).save(path, exif=exif)


def check(folder, *sizes, suffix="jpg", step=PLAIN) -> None:
    """Images 0, 1, ... that are in the annotation file with these sizes."""
    images = [
        dict(file_name=f"{number}.{suffix}", width=width, height=height)
        for number, (width, height) in enumerate(sizes)
    ]
    check_read_sizes("boxes.json", str(folder), images, step)


def test_an_image_of_another_size_than_its_boxes_is_named(tmp_path):
    write(tmp_path / "0.jpg")
    write(tmp_path / "1.jpg", (32, 16))
    check(tmp_path, STORED, (32, 16))
    check(tmp_path, (16.4, 7.0))  # rounded by whoever wrote the file
    with pytest.raises(ToolError, match=r"1\.jpg is read as 32x16, but has 16x8 in b"):
        check(tmp_path, STORED, STORED)


@pytest.mark.parametrize("wrong", [0, 499])
def test_the_first_and_the_last_of_many_images_are_among_those_read(tmp_path, wrong):
    for number in range(500):
        write(tmp_path / f"{number}.png", TURNED if number == wrong else STORED)
    with pytest.raises(ToolError, match=rf"{wrong}\.png is read as 8x16"):
        check(tmp_path, *[STORED] * 500, suffix="png")


def test_of_many_images_a_hundred_headers_are_read(tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(Image, "open", opened.append)
    check(tmp_path, *[STORED] * 5000)
    numbers = [int(name.rpartition("/")[2].removesuffix(".jpg")) for name in opened]
    assert len(numbers) == 100
    assert max(b - a for a, b in pairwise(numbers)) <= 51


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff", "bmp"])
@pytest.mark.parametrize(
    "step", [PLAIN, IGNORES, PILLOW], ids=["plain", "ignores", "pillow"]
)
def test_the_size_is_that_which_the_run_will_see(tmp_path, step, suffix):
    """Which formats are turned as EXIF says is for the decoder to know."""
    path = tmp_path / f"0.{suffix}"
    for orientation in range(1, 9):
        write(path, STORED, orientation)
        seen = step(dict(img_path=str(path)))["img"].shape[1::-1]
        check(tmp_path, seen, suffix=suffix, step=step)
        with pytest.raises(ToolError, match=rf"0\.{suffix} is read as {seen[0]}x"):
            check(tmp_path, seen[::-1], suffix=suffix, step=step)


def test_exif_is_named_where_it_is_the_cause(tmp_path):
    write(tmp_path / "0.jpg", orientation=6)
    with pytest.raises(ToolError, match="is applied; .*='color_ignore_orientation'"):
        check(tmp_path, STORED)
    with pytest.raises(ToolError, match="is not applied; .*imdecode_backend='pillow'"):
        check(tmp_path, TURNED, step=IGNORES)
    with pytest.raises(ToolError, match="put the image there"):
        check(tmp_path, (32, 16))


def test_the_advice_about_exif_helps(tmp_path):
    """For images that OpenCV does not turn, too."""
    for suffix in ("jpg", "webp"):
        write(tmp_path / f"0.{suffix}", orientation=8)
        check(tmp_path, STORED, suffix=suffix, step=IGNORES)
        check(tmp_path, TURNED, suffix=suffix, step=PILLOW)


def test_what_cannot_be_read_is_left_to_the_run(tmp_path):
    (tmp_path / "0.jpg").write_bytes(b"no image")
    (tmp_path / "1.jpg").touch()
    (tmp_path / "2.jpg").mkdir()
    check(tmp_path, STORED, STORED, STORED, STORED)


def test_other_steps_read_no_images(tmp_path):
    write(tmp_path / "0.jpg")
    for step in (object(), LoadImageFromFile(imdecode_backend="tifffile")):
        check(tmp_path, TURNED, step=step)


def pipeline(*steps: dict) -> list[dict]:
    return [
        dict(type="LoadImageFromFile"),
        dict(type="LoadAnnotations", with_bbox=True),
        *steps,
        dict(type="PackDetInputs"),
    ]


def resize(*scale: int, **words) -> dict:
    return dict(type="Resize", scale=scale, keep_ratio=True) | words


FLIP = dict(type="RandomFlip", prob=0.5)
DRAWN = dict(type="RandomChoiceResize", scales=[(640, 320), (640, 480)])


@pytest.fixture
def said(capsys):
    """The warning about images of 640x480 that are trained and tested so."""
    init_default_scope("mmdet")
    images = [dict(width=640, height=480)] * 3 + [dict(width=256, height=256)] * 2

    def run(trained: list[list[dict]], tested: list[dict]) -> str:
        warn_of_other_scales(trained, tested, images, "val_dataloader.dataset")
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize(
    ("trained", "tested", "sizes"),
    [
        ([FLIP], [resize(256, 256)], ["256x192", "640x480"]),
        ([resize(1333, 800)], [resize(1333, 640)], ["853x640", "1067x800"]),
        ([resize(256, 256)], [], ["640x480", "256x192"]),
        ([resize(64, 64)], [resize(64, 64, keep_ratio=False)], ["64x64", "64x48"]),
    ],
)
def test_a_test_at_another_size_is_said(said, trained, tested, sizes):
    line = said([pipeline(*trained)], pipeline(*tested))
    as_tested, as_trained = sizes
    assert f"image of 640x480 is tested as {as_tested}" in line
    assert f"but in training it would be {as_trained}: give" in line
    assert "give train_dataloader and val_dataloader.dataset the same Resize" in line


@pytest.mark.parametrize(
    ("trained", "tested"),
    [
        ([resize(1333, 800), FLIP], [resize(800, 1333)]),
        ([FLIP], [resize(640, 640)]),  # as large as the images are
        ([DRAWN], [resize(256, 256)]),
        ([dict(type="RandomCrop", crop_size=(256, 256))], [resize(256, 256)]),
        ([dict(type="Mosaic", img_scale=(64, 64))], [resize(64, 64)]),
        ([dict(type="NobodyKnowsThis")], [resize(256, 256)]),
        ([dict(type="Resize", scale_factor=0.5)], [resize(256, 256)]),
        ([FLIP], [dict(type="TestTimeAug", transforms=[[resize(64, 64)]])]),
    ],
)
def test_what_is_meant_or_not_known_is_not_said(said, trained, tested):
    assert said([pipeline(*trained)], pipeline(*tested)) == ""


def test_one_training_in_the_size_of_the_test_is_enough(said):
    small, large = pipeline(resize(256, 256)), pipeline(resize(512, 512))
    assert said([small, large], large) == ""
    assert said([small], large)
    assert said([small, pipeline(DRAWN)], large) == ""
    assert said([], large) == ""
