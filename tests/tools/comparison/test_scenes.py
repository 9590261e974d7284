import numpy as np
import pytest
from comparison import garments, scenes
from comparison.backgrounds import background

LAYOUT = scenes.Layout(size=96)


@pytest.fixture(scope="module")
def pictures(files):
    return garments.read(files, "train")


@pytest.fixture(scope="module")
def composed(pictures):
    return [
        scenes.compose(pictures, LAYOUT, np.random.default_rng(seed))
        for seed in range(20)
    ]


def slow_silhouette(picture):
    """All pixels but those that a walk from outside reaches over dark ones."""
    dark = np.pad(picture <= 20, 1, constant_values=True)
    reached = np.zeros_like(dark)
    todo = [(0, 0)]
    while todo:
        y, x = todo.pop()
        if not (0 <= y < dark.shape[0] and 0 <= x < dark.shape[1]):
            continue
        if dark[y, x] and not reached[y, x]:
            reached[y, x] = True
            todo += [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
    return ~reached[1:-1, 1:-1]


def test_a_silhouette_is_what_the_border_cannot_reach(pictures):
    filled = 0
    for picture in pictures.images:
        expected = slow_silhouette(picture)
        np.testing.assert_array_equal(scenes.silhouette(picture), expected)
        filled += expected.sum() - (picture > 20).sum()
    assert filled > 0  # the prints


def test_a_garment_that_touches_every_border_keeps_its_silhouette():
    picture = np.full((28, 28), 200, np.uint8)
    picture[10:12, 10:12] = 0
    assert scenes.silhouette(picture).all()
    picture[10:12, 10:] = 0
    assert (~scenes.silhouette(picture)).sum() == 2 * 18


def slow_scene(pictures, layout, seed, monkeypatch):
    """A scene painted once more, garment by garment, by what `_free_place` chose."""
    painted = []
    choose = scenes._free_place

    def recorded(owner, full, mask, *rest):
        corner = choose(owner, full, mask, *rest)
        if corner is not None:
            painted.append((corner, mask))
        return corner

    with monkeypatch.context() as patch:
        patch.setattr(scenes, "_free_place", recorded)
        scene = scenes.compose(pictures, layout, np.random.default_rng(seed))
    return scene, painted


def test_masks_are_what_is_painted_and_not_painted_over(pictures, monkeypatch):
    hidden = 0
    for seed in range(20):
        scene, painted = slow_scene(pictures, LAYOUT, seed, monkeypatch)
        assert len(painted) == len(scene.items)
        full = [np.zeros((LAYOUT.size, LAYOUT.size), bool) for _ in painted]
        for canvas, ((top, left), mask) in zip(full, painted, strict=True):
            for y, x in zip(*np.nonzero(mask), strict=True):
                canvas[top + y, left + x] = True
        for number, item in enumerate(scene.items):
            visible = full[number].copy()
            for later in full[number + 1 :]:
                visible &= ~later
            np.testing.assert_array_equal(item.mask, visible)
            assert visible.sum() >= LAYOUT.visible * full[number].sum() > 0
            hidden += full[number].sum() - visible.sum()
    assert hidden > 0


def test_the_picture_is_the_background_wherever_no_mask_is(
    pictures, composed, monkeypatch
):
    monkeypatch.setattr(
        scenes,
        "background",
        lambda size, rng: np.full_like(background(size, rng), 7),
    )
    for seed, before in enumerate(composed):
        scene = scenes.compose(pictures, LAYOUT, np.random.default_rng(seed))
        free = ~np.any([item.mask for item in scene.items], axis=0)
        assert (scene.image[free] == 7).all()
        # Tints are at least 60 and shades a fifth of it: no garment has a 7.
        assert (scene.image[~free] > 7).all()
        np.testing.assert_array_equal(scene.image[~free], before.image[~free])


def test_scenes_have_the_wanted_number_of_garments_of_the_wanted_sizes(composed):
    counts = [len(scene.items) for scene in composed]
    assert max(counts) <= LAYOUT.most
    assert sum(counts) / len(counts) > 6
    for scene in composed:
        for item in scene.items:
            ys, xs = np.nonzero(item.mask)
            assert max(np.ptp(ys), np.ptp(xs)) + 1 <= round(0.4 * LAYOUT.size)


def test_garments_keep_their_class(pictures, composed):
    for scene in composed:
        assert all(pictures.labels[i.garment] == i.label for i in scene.items)


def test_the_same_random_numbers_give_the_same_scene(pictures, composed):
    again = scenes.compose(pictures, LAYOUT, np.random.default_rng(0))
    np.testing.assert_array_equal(again.image, composed[0].image)
    assert len(again.items) == len(composed[0].items)
    assert (again.image != composed[1].image).any()


def test_every_background_is_another_with_structure_of_its_own():
    drawn = [background(64, np.random.default_rng(seed)) for seed in range(10)]
    for number, picture in enumerate(drawn):
        assert picture.shape == (64, 64, 3)
        assert picture.dtype == np.uint8
        assert picture.std() > 2
        assert all((picture != other).any() for other in drawn[:number])


def test_too_small_scenes_are_an_error():
    with pytest.raises(ValueError, match="at least 64 px, got 32"):
        scenes.Layout(size=32)
