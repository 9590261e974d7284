import dataclasses

import numpy as np
import pytest
from demo import hela
from PIL import Image
from pycocotools.coco import COCO

from tests.tools.demo.tiny_film import film, tiff

HEIGHT, WIDTH, FRAMES = 60, 130, 3
RECIPE = hela.Recipe(
    left=5,
    top=5,
    right=125,
    bottom=55,
    train_right=80,
    val_left=90,
    tile=24,
)


@pytest.fixture(scope="module")
def source():
    return film(FRAMES, HEIGHT, WIDTH, nuclei=25, radius=4)


@pytest.fixture(scope="module")
def files(source):
    return tuple(tiff(pages) for pages in source)


@pytest.fixture(scope="module")
def converted(files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "hela"
    return folder, hela.convert(*files, folder, RECIPE)


def load(folder, split):
    return COCO(str(folder / "annotations" / f"{split}.json"))


def window(image):
    """Frame number and slices that a tile's name states."""
    frame, x, y = image["file_name"].removesuffix(".png").split("_")
    x, y = int(x[1:]), int(y[1:])
    tile = RECIPE.tile
    return int(frame.removeprefix("frame")), slice(y, y + tile), slice(x, x + tile)


@pytest.mark.parametrize("split", ["train", "val"])
def test_masks_decode_to_exactly_the_label_image_less_the_slivers(
    converted, source, split
):
    coco = load(converted[0], split)
    left_out = 0
    assert coco.imgs
    for image in coco.imgs.values():
        frame, rows, columns = window(image)
        expected = source[1][frame][rows, columns].copy()
        decoded = np.zeros_like(expected)
        for annotation in coco.imgToAnns[image["id"]]:
            mask = coco.annToMask(annotation).astype(bool)
            assert not decoded[mask].any()
            decoded[mask] = annotation["nucleus"]
        for nucleus in set(np.unique(expected)) - set(np.unique(decoded)):
            ys, xs = np.nonzero(expected == nucleus)
            assert min(np.ptp(ys), np.ptp(xs)) + 1 < RECIPE.min_side
            on_border = {0, RECIPE.tile - 1} & {*ys, *xs}
            assert on_border
            expected[expected == nucleus] = 0
            left_out += 1
        np.testing.assert_array_equal(decoded, expected)
    assert 0 < left_out <= converted[1]["left_out"]


@pytest.mark.parametrize("split", ["train", "val"])
def test_boxes_and_areas_are_those_of_the_masks(converted, split):
    coco = load(converted[0], split)
    assert coco.anns
    for annotation in coco.anns.values():
        ys, xs = np.nonzero(coco.annToMask(annotation))
        box = [xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1]
        assert annotation["bbox"] == box
        assert annotation["area"] == len(xs)
        assert annotation["iscrowd"] == 0
        assert coco.cats[annotation["category_id"]]["name"] == "nucleus"


def test_the_splits_share_no_pixel_and_stay_inside_the_labelled_part(converted):
    used = {
        "train": np.zeros((HEIGHT, WIDTH), int),
        "val": np.zeros((HEIGHT, WIDTH), int),
    }
    for split, count in used.items():
        images = load(converted[0], split).imgs.values()
        assert images
        for image in images:
            frame, rows, columns = window(image)
            if frame == 0:
                count[rows, columns] += 1
    assert not np.logical_and(used["train"], used["val"]).any()
    assert used["val"].max() == 1  # no nucleus is counted twice
    assert used["train"][5:55, 5:80].all()
    for count in used.values():
        inside = count[5:55, 5:125].sum()
        assert inside == count.sum()


def test_tiles_are_the_stretched_pixels_of_the_film(converted, source):
    coco = load(converted[0], "train")
    image = next(iter(coco.imgs.values()))
    frame, rows, columns = window(image)
    with Image.open(converted[0] / "train" / image["file_name"]) as file:
        found = np.array(file)
    np.testing.assert_array_equal(
        found, hela.stretch(source[0][frame], RECIPE)[rows, columns]
    )


def test_the_stretch_uses_the_whole_range_and_keeps_the_order():
    frame = np.arange(1000, dtype=np.uint16).reshape(20, 50) + 33000
    grey = hela.stretch(frame, RECIPE).ravel()
    assert (grey.min(), grey.max()) == (0, 255)
    assert (np.diff(grey.astype(int)) >= 0).all()


def test_a_frame_of_one_value_becomes_black():
    assert not hela.stretch(np.full((4, 4), 33000, np.uint16), RECIPE).any()


def test_val_takes_every_second_frame(converted):
    frames = {window(image)[0] for image in load(converted[0], "val").imgs.values()}
    assert frames == {0, 2}


def test_counts_are_those_of_the_files(converted):
    folder, counts = converted
    for split in ("train", "val"):
        coco = load(folder, split)
        assert counts[f"{split}_tiles"] == len(coco.imgs)
        assert counts[f"{split}_tiles"] == len(list((folder / split).iterdir()))
        assert counts[f"{split}_nuclei"] == len(coco.anns)


def contents(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    return {path.relative_to(folder): path.read_bytes() for path in files}


def test_the_same_input_gives_the_same_bytes(converted, files, tmp_path):
    hela.convert(*files, tmp_path / "hela", RECIPE)
    assert contents(tmp_path / "hela") == contents(converted[0])


def test_a_finished_conversion_is_not_repeated(converted):
    folder, counts = converted
    assert hela.convert(b"not read", b"not read", folder, RECIPE) == counts


def test_another_recipe_replaces_the_result(files, tmp_path):
    folder = tmp_path / "hela"
    hela.convert(*files, folder, RECIPE)
    larger = dataclasses.replace(RECIPE, tile=32)
    assert hela.summary(folder, larger) is None
    hela.convert(*files, folder, larger)
    assert hela.summary(folder, larger) is not None
    assert {image["width"] for image in load(folder, "val").imgs.values()} == {32}


def test_an_interrupted_conversion_leaves_nothing_that_looks_complete(
    files, tmp_path, monkeypatch, converted
):
    folder = tmp_path / "hela"

    def interrupted(dataset):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(hela._Dataset, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            hela.convert(*files, folder, RECIPE)
    assert not folder.exists()
    assert hela.summary(folder, RECIPE) is None
    assert hela.convert(*files, folder, RECIPE) == converted[1]
    assert [path.name for path in tmp_path.iterdir()] == ["hela"]


def test_film_and_labels_of_different_length_are_an_error(source, tmp_path):
    with pytest.raises(ValueError, match=r"3 frames .* the labels 2"):
        hela.convert(tiff(source[0]), tiff(source[1][:2]), tmp_path / "hela", RECIPE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(train_right=900), "share pixels"),
        (dict(tile=300), "no tile of 300 px"),
    ],
)
def test_a_recipe_that_cannot_work_is_an_error(change, message):
    with pytest.raises(ValueError, match=message):
        hela.Recipe(**change)


def test_the_demo_cuts_180_train_and_20_val_tiles():
    recipe = hela.Recipe()
    for split, tiles in (("train", 180), ("val", 20)):
        assert len(recipe.corners(split)) * len(recipe.frames(split, 20)) == tiles
