"""Augmentation: image and label move together, offsets and angles keep to the release's ranges."""
from collections import Counter

import numpy as np
import pytest
from scipy import ndimage

from dataloaders import augment

CHANGES = {
    "rotate_flip": lambda arrays, rng: augment.rotate_flip(arrays, rng),
    "rotate_small": lambda arrays, rng: augment.rotate_small(arrays, rng),
    "crop": lambda arrays, rng: augment.random_crop(arrays, (10, 6), rng),
    "padded crop": lambda arrays, rng: augment.random_crop(arrays, (20, 14), rng),
}
every_change = pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)


def grid(*shape):
    """Every voxel another number, none of them 0."""
    return 1 + np.arange(np.prod(shape)).reshape(shape)


@every_change
def test_label_stays_the_function_of_the_image_that_it_was(change):
    label = grid(14, 12)
    for seed in range(20):
        image, moved = change([3 * label, label], np.random.default_rng(seed))
        assert np.array_equal(image, 3 * moved) and moved.any()


@every_change
def test_without_a_label_the_image_moves_the_same(change):
    label = grid(14, 12)
    for seed in range(10):
        rngs = [np.random.default_rng(seed) for _ in range(2)]
        (alone, none), (image, _) = change([label, None], rngs[0]), change([label, label], rngs[1])
        assert none is None and np.array_equal(alone, image)
        assert rngs[0].bit_generator.state == rngs[1].bit_generator.state


def test_rotate_flip_draws_the_four_reflections_of_the_plane_alike():
    square, draws = grid(3, 3), 800
    rng = np.random.default_rng(0)
    counts = Counter(str(augment.rotate_flip([square], rng)[0]) for _ in range(draws))
    assert set(counts) == {str(square[::-1]), str(square[:, ::-1]), str(square.T), str(square[::-1, ::-1].T)}
    assert all(abs(count - draws / 4) < 5 * (draws / 4) ** 0.5 for count in counts.values())


def test_rotate_flip_leaves_the_third_axis_alone():
    volume = grid(3, 4, 5)
    for seed in range(20):
        turned, = augment.rotate_flip([volume], np.random.default_rng(seed))
        assert (np.diff(turned, axis=2) == 1).all() and turned.shape[2] == 5


def test_rotate_small_draws_whole_angles_from_minus_20_to_19():
    image = np.random.default_rng(0).random((41, 41))
    angles = {ndimage.rotate(image, angle, order=0, reshape=False).tobytes(): angle for angle in range(-30, 31)}
    rng = np.random.default_rng(1)
    seen = {angles[augment.rotate_small([image], rng)[0].tobytes()] for _ in range(500)}
    assert seen == set(range(-20, 20))


def test_rotate_small_brings_in_zeros_and_no_new_values():
    label = np.full((21, 21), 7)
    rng = np.random.default_rng(0)
    values = [set(np.unique(augment.rotate_small([label], rng)[0])) for _ in range(20)]
    assert {0, 7} == set.union(*values)


def test_crop_offsets_cover_their_range_but_its_end():
    volume, rng = grid(9, 7, 5), np.random.default_rng(0)
    first = {int(augment.random_crop([volume], (6, 5, 4), rng)[0][0, 0, 0]) for _ in range(400)}
    assert first == {int(volume[i, j, k]) for i in range(3) for j in range(2) for k in range(1)}


@pytest.mark.parametrize(("extent", "window", "pad"), [(8, 8, 3), (7, 8, 3), (6, 8, 4), (4, 8, 5), (3, 8, 5)])
def test_short_axes_are_padded_on_both_sides_before_the_crop(extent, window, pad):
    array, rng = np.ones((extent, 20), int), np.random.default_rng(0)
    starts = set()
    for _ in range(300):
        crop, = augment.random_crop([array], (window, 9), rng)
        assert crop.shape == (window, 9)
        line = np.concatenate([[0], crop[:, 0], [0]])
        assert (crop == crop[:, :1]).all()              # the long axis gets no zeros
        rise = np.flatnonzero(np.diff(line) == 1)
        starts.add(int(rise[0]))
    free = extent + 2 * pad - window                    # offsets 0 to free - 1
    assert starts == {max(pad - offset, 0) for offset in range(free)}


def test_a_long_axis_is_not_padded():
    array, rng = grid(9, 20), np.random.default_rng(0)
    assert all((augment.random_crop([array], (8, 9), rng)[0] > 0).all() for _ in range(100))


@pytest.mark.parametrize(("extents", "pads"), [((8, 10), (3, 2)), ((8, 12), (3, 1)), ((8, 13), (3, 0)),
                                               ((9, 10), (0, 0)), ((20, 8), (0, 3))])
def test_once_one_axis_is_short_axes_up_to_four_voxels_longer_are_padded_too(extents, pads):
    """max((window - extent) // 2 + 3, 0) zeros on both sides of every axis, as in the code of UA-MT, BCP and CML."""
    array, rng = np.ones(extents, int), np.random.default_rng(0)
    crops = [augment.random_crop([array], (8, 8), rng)[0] for _ in range(300)]
    for axis, pad in enumerate(pads):
        in_front = max(int(np.argmax(crop.any(1 - axis))) for crop in crops)
        assert in_front == pad, axis
