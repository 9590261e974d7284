"""Annotation files: what is refused is in tests/bad_inputs, what passes is here."""

import json

import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

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
        box(8, bbox=[4, 4, 8, 0.5]),
        box(9, area=0),
    )
    assert file.check_boxes(["cat"]) == 1
    said = capsys.readouterr().out
    assert "crowd" not in said
    assert "4 boxes are left out, smaller than a pixel, or outside their image" in said
    assert "1 boxes are left out, of other categories than metainfo.classes" in said
    assert "1 boxes are left out, of images that are not listed" in said


def test_a_file_without_answers_has_no_boxes(coco):
    assert coco().check_boxes(["cat"]) == 0


def test_a_match_with_annotation_0_counts_as_a_miss(coco):
    """In COCO's own evaluation; without this nobody needs the next test."""

    def is_matched(number: int) -> bool:
        truth = COCO(coco(box(number, iscrowd=0), info={}).path)
        answer = dict(image_id=1, category_id=3, bbox=[0, 0, 8, 8], score=1.0)
        evaluation = COCOeval(truth, truth.loadRes([answer]), "bbox")
        evaluation.params.catIds = [3]
        evaluation.evaluate()
        return evaluation.evalImgs[0]["dtMatches"].any()

    assert is_matched(1)
    assert not is_matched(0)


def test_annotation_0_is_no_truth_but_can_be_learned(coco):
    file = coco(box(0, iscrowd=0), box(1, iscrowd=0))
    assert file.check_boxes(["cat"]) == 2
    with pytest.raises(ToolError, match="id 0, .* number annotations from 1"):
        file.check_boxes(["cat"], truth=True)


def test_boxes_are_no_corners(coco):
    """Of those that are used; crowds may be anything."""
    outline = [[8, 8, 14, 8, 14, 14, 8, 14]]
    boxes = [box(number, segmentation=outline) for number in range(11)]
    right = [one | dict(bbox=[8, 8, 6, 6]) for one in boxes[:5]]
    wrong = [one | dict(bbox=[8, 8, 14, 14]) for one in boxes[5:]]
    with pytest.raises(ToolError, match="bbox of 6 of 6 annotations .* as corners"):
        coco(*wrong).check_boxes(["cat"])
    crowds = [one | dict(iscrowd=1) for one in wrong]
    assert coco(*right, *crowds).check_boxes(["cat"]) == 5


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
        file.check_images(str(tmp_path), file.images)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.jpg").touch()
    file.check_images(str(tmp_path), file.images)


def test_a_folder_that_may_not_be_read_is_named(coco, monkeypatch):
    def refuse(folder: str) -> None:
        raise PermissionError(13, "Permission denied", folder)

    file = coco(box(1))
    monkeypatch.setattr("os.listdir", refuse)
    with pytest.raises(ToolError, match=r"images/a of images .*Permission denied"):
        file.check_images("images", file.images)


def test_images_that_a_training_filters_out_are_not_kept(coco):
    images = [
        dict(id=number, file_name=f"{number}.jpg", width=16, height=size)
        for number, size in ((1, 16), (2, 16), (3, 4), (4, 16))
    ]
    boxes = box(1), box(2, image_id=3), box(3, image_id=4, category_id=1)
    file = coco(*boxes, images=images)

    def kept(**rules) -> list[int]:
        return [image["id"] for image in file.kept_images(["cat"], rules)]

    assert kept() == [1, 2, 3, 4]
    assert kept(filter_empty_gt=True) == [1, 3]
    assert kept(filter_empty_gt=True, min_size=8) == [1]


def test_crowds_alone_teach_nothing(coco):
    with pytest.raises(ToolError, match=r"none of its 1 boxes .* 1 are crowds"):
        coco(box(1, iscrowd=1)).check_boxes(["cat"])


def test_truth_says_which_boxes_are_crowds(coco):
    assert coco(box(1, iscrowd=0)).check_boxes(["cat"], truth=True) == 1
    with pytest.raises(ToolError, match="annotation 1 has no iscrowd"):
        coco(box(1)).check_boxes(["cat"], truth=True)


@pytest.mark.parametrize(
    "outline", [[[0, 0, 8, 8]], [[]], [[0, 0, 8, 0, 8, 8, 3]], [0, 0, 8, 0, 8, 8]]
)
def test_outlines_without_an_area_are_left_out(coco, outline, capsys):
    file = coco(box(1, segmentation=outline), box(2, segmentation=[[0] * 6]))
    assert file.check_boxes(["cat"], masks=True) == 1
    assert "1 boxes are left out, without an outline" in capsys.readouterr().out


def test_run_lengths_are_of_the_size_of_their_image(coco):
    def used(**rle) -> int:
        return coco(box(1, segmentation=rle)).check_boxes(["cat"], masks=True)

    assert used(size=[16, 16], counts=[100, 156]) == 1
    with pytest.raises(ToolError, match=r"RLE is of size \[4, 4\] .* \[16, 16\]"):
        used(size=[4, 4], counts=[10, 6])
    with pytest.raises(ToolError, match="neither polygons"):
        used(counts=[10, 6])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (dict(bbox=["0", 0, 8, 8]), r"bbox of annotation 1 is \['0', 0, 8, 8\]"),
        (dict(bbox=[0, 0, float("inf"), 8]), r"bbox of annotation 1 is \[0, 0, inf"),
        (dict(area="64"), "annotation 1: area is '64'"),
        (dict(image_id=[1]), r"annotation 1: image_id is \[1\]"),
    ],
)
def test_values_of_a_box_are_numbers(coco, changes, said):
    with pytest.raises(ToolError, match=said):
        coco(box(1, **changes)).check_boxes(["cat"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (dict(width="16"), r"images\[0\]: width is '16'"),
        (dict(height=float("nan")), r"images\[0\]: height is nan"),
        (dict(file_name=None), r"images\[0\]: file_name is None"),
        (dict(id=[1]), r"id \[1\] is no id of its images"),
    ],
)
def test_values_of_an_image_are_of_their_kind(coco, changes, said):
    image = dict(id=1, file_name="a/1.jpg", width=16, height=16)
    with pytest.raises(ToolError, match=said):
        coco(images=[image | changes])


def test_ids_are_of_one(coco):
    with pytest.raises(ToolError, match="id 1 is of two of its annotations"):
        coco(box(1), box(1))
    image = dict(id=1, file_name="a/1.jpg", width=16, height=16)
    with pytest.raises(ToolError, match="id 1 is of two of its images"):
        coco(images=[image, image])
    with pytest.raises(ToolError, match=r"annotations\[0\] is \[1, 2\]"):
        coco([1, 2])


def test_the_truth_knows_every_image(coco):
    file = coco(box(1))
    file.check_covers(file)
    other = coco(images=[dict(id=2, file_name="2.jpg", width=16, height=16)])
    with pytest.raises(ToolError, match="does not know image 2"):
        file.check_covers(other)


def test_two_categories_of_one_name_are_no_class(coco):
    file = coco(categories=[dict(id=1, name="cat"), dict(id=2, name="cat")])
    with pytest.raises(ToolError, match="two categories with the name 'cat'"):
        file.check_categories(["cat"])
    odd = coco(categories=[dict(id=1, name=None), dict(id=2, name=7)])
    with pytest.raises(ToolError, match="no category 'cat'"):
        odd.check_categories(["cat"])


def test_classes_are_a_tuple_of_names():
    assert check_classes(dict(classes=["cat"])) == ("cat",)
    for classes in (None, 2, ("cat", "cat")):
        with pytest.raises(ToolError, match=r"metainfo\.classes"):
            check_classes(dict(classes=classes))
