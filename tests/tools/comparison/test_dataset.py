import dataclasses
from itertools import pairwise

import cv2
import numpy as np
import pytest
from comparison import dataset, garments
from comparison import scenes as composing
from pycocotools.coco import COCO

SCENES = dataset.Scenes(train=12, test=8, layout=composing.Layout(size=96))


@pytest.fixture(scope="module")
def pictures(files):
    return {split: garments.read(files, split) for split in dataset.SPLITS}


@pytest.fixture(scope="module")
def written(pictures, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "scenes"
    return folder, dataset.write(pictures, folder, SCENES)


def load(folder, split):
    return COCO(str(folder / "annotations" / f"{split}.json"))


def image(folder, split, name):
    return cv2.imread(str(folder / split / name))[..., ::-1]


@pytest.mark.parametrize("split", dataset.SPLITS)
def test_files_hold_exactly_the_composed_scenes(written, pictures, split):
    folder, _ = written
    coco = load(folder, split)
    assert len(coco.imgs) == getattr(SCENES, split)
    for number, entry in enumerate(coco.imgs.values()):
        rng = np.random.default_rng((0, dataset.SPLITS.index(split), number))
        scene = composing.compose(pictures[split], SCENES.layout, rng)
        found = image(folder, split, entry["file_name"])
        np.testing.assert_array_equal(found, scene.image)
        annotations = coco.imgToAnns[entry["id"]]
        assert len(annotations) == len(scene.items)
        for annotation, item in zip(annotations, scene.items, strict=True):
            np.testing.assert_array_equal(coco.annToMask(annotation), item.mask)


@pytest.mark.parametrize("split", dataset.SPLITS)
def test_boxes_areas_and_classes_are_those_of_the_masks(written, pictures, split):
    coco = load(written[0], split)
    assert coco.anns
    for annotation in coco.anns.values():
        ys, xs = np.nonzero(coco.annToMask(annotation))
        box = [xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1]
        assert annotation["bbox"] == box
        assert annotation["area"] == len(xs)
        label = pictures[split].labels[annotation["garment"]]
        name = coco.cats[annotation["category_id"]]["name"]
        assert name == garments.CLASSES[label]


def test_no_pixel_belongs_to_two_garments(written):
    for split in dataset.SPLITS:
        coco = load(written[0], split)
        for number in coco.imgs:
            masks = [coco.annToMask(a) for a in coco.imgToAnns[number]]
            assert np.sum(masks, axis=0).max() == 1


def test_the_splits_share_no_garment(written, pictures):
    used = {}
    for split in dataset.SPLITS:
        anns = load(written[0], split).anns.values()
        numbers = {annotation["garment"] for annotation in anns}
        used[split] = {pictures[split].images[n].tobytes() for n in numbers}
        assert used[split]
    assert not used["train"] & used["test"]


def test_no_two_scenes_share_a_background(pictures, tmp_path, monkeypatch):
    drawn = []
    original = composing.background

    def recorded(size, rng):
        drawn.append(original(size, rng))
        return drawn[-1].copy()

    monkeypatch.setattr(composing, "background", recorded)
    dataset.write(pictures, tmp_path / "scenes", SCENES)
    assert len(drawn) == SCENES.train + SCENES.test
    ordered = sorted(picture.tobytes() for picture in drawn)
    assert all(one != other for one, other in pairwise(ordered))


def contents(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    return {path.relative_to(folder): path.read_bytes() for path in files}


def test_the_same_scenes_have_the_same_bytes(written, pictures, tmp_path):
    dataset.write(pictures, tmp_path / "scenes", SCENES)
    assert contents(tmp_path / "scenes") == contents(written[0])


def test_a_larger_set_begins_with_the_smaller_one(written, pictures, tmp_path):
    larger = dataclasses.replace(SCENES, train=14)
    dataset.write(pictures, tmp_path / "scenes", larger)
    small, large = contents(written[0]), contents(tmp_path / "scenes")
    images = [path for path in small if path.suffix == ".png"]
    assert len(images) == SCENES.train + SCENES.test
    assert all(small[path] == large[path] for path in images)


def test_finished_scenes_are_not_composed_again(written):
    folder, counts = written
    assert dataset.write({}, folder, SCENES) == counts
    assert counts["train_scenes"] == SCENES.train
    assert counts["test_garments"] == len(load(folder, "test").anns)


def test_an_interruption_leaves_nothing_that_looks_complete(
    pictures, tmp_path, monkeypatch
):
    folder = tmp_path / "scenes"

    def interrupted(item):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(dataset, "_annotation", interrupted)
        with pytest.raises(KeyboardInterrupt):
            dataset.write(pictures, folder, SCENES)
    assert dataset.summary(folder, SCENES) is None
    assert dataset.write(pictures, folder, SCENES) == dataset.summary(folder, SCENES)
    assert [path.name for path in tmp_path.iterdir()] == ["scenes"]


def test_a_split_without_scenes_is_an_error():
    with pytest.raises(ValueError, match="both splits need scenes, got 0 and 200"):
        dataset.Scenes(train=0)
