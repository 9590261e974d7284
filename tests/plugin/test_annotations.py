"""Annotation files: what is refused is in tests/bad_inputs, what passes is here."""

import json

import pytest

from odconv_det.plugin.annotations import CocoFile, check_classes
from odconv_det.plugin.errors import ToolError


def box(number, **changes) -> dict:
    """A box of a cat that fills a quarter of image 1."""
    values = dict(id=number, image_id=1, category_id=3, bbox=[0, 0, 8, 8], area=64)
    return values | changes


@pytest.fixture
def coco(tmp_path):
    """Writes a file of one image and two categories with these boxes."""

    def write(*boxes, **changes) -> CocoFile:
        content = dict(
            images=[dict(id=1, file_name="a/1.jpg", width=16, height=16)],
            categories=[dict(id=3, name="cat"), dict(id=1, name="dog")],
            annotations=list(boxes),
        )
        path = tmp_path / "boxes.json"
        path.write_text(json.dumps(content | changes))
        return CocoFile(str(path))

    return write


def test_what_is_left_out_is_said_and_not_counted(coco, capsys):
    file = coco(
        box(1),
        box(2, iscrowd=1),
        box(3, bbox=[4, 4, 0.5, 8]),
        box(4, bbox=[20, 4, 8, 8]),
        box(5, category_id=1),
        box(6, image_id=2),
        box(7, ignore=True),
    )
    assert file.check_boxes(["cat"]) == 2
    said = capsys.readouterr().out
    assert "2 boxes are left out, smaller than a pixel, or outside their image" in said
    assert "1 boxes are left out, of other categories than metainfo.classes" in said
    assert "1 boxes are left out, of images that are not listed" in said


def test_a_file_without_answers_has_no_boxes(coco):
    assert coco().check_boxes(["cat"]) == 0


def test_outlines_are_needed_where_masks_are_learned(coco):
    outline = [[0, 0, 8, 0, 8, 8]]
    assert coco(box(1, segmentation=outline)).check_boxes(["cat"], masks=True) == 1
    with pytest.raises(ToolError, match="annotation 1 has no segmentation"):
        coco(box(1, segmentation=[])).check_boxes(["cat"], masks=True)


def test_some_of_the_categories_may_be_asked_for_in_the_order_of_the_file(coco):
    file = coco(box(1))
    for classes in (["cat", "dog"], ["cat"], ["dog"]):
        file.check_categories(classes)
    with pytest.raises(ToolError, match=r"another order.*classes=\('cat', 'dog'\)"):
        file.check_categories(["dog", "cat"])
    with pytest.raises(ToolError, match="did you mean cat"):
        file.check_categories(["cats"])


def test_images_are_looked_for_where_their_names_say(coco, tmp_path):
    file = coco(box(1))
    with pytest.raises(ToolError, match=r"1 of the 1 images .*a/1\.jpg"):
        file.check_images(str(tmp_path))
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.jpg").touch()
    file.check_images(str(tmp_path))


def test_classes_are_a_tuple_of_names():
    assert check_classes(dict(classes=["cat"])) == ("cat",)
