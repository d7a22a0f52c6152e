"""Largest components against scikit-image."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage.measure import label as connected

from dataloaders import components


def largest_by_skimage(label_map):
    kept = np.zeros_like(label_map)
    for value in np.unique(label_map[label_map > 0]):
        parts = connected(label_map == value, connectivity=label_map.ndim)     # numbered in C order
        sizes = np.bincount(parts.ravel())[1:]
        kept[parts == 1 + sizes.argmax()] = value                              # the first of the largest
    return kept


def maps_of(shape):
    return arrays(np.uint8, shape, elements=st.sampled_from([0, 0, 0, 1, 2, 3]))


@given(st.one_of(maps_of((9, 8)), maps_of((4, 5, 6))))
def test_largest_component_equals_skimage(label_map):
    np.testing.assert_array_equal(components.largest_component(label_map), largest_by_skimage(label_map))


@pytest.mark.parametrize(("shape", "density"), [((60, 50), 0.3), ((60, 50), 0.6), ((20, 24, 18), 0.05),
                                                ((20, 24, 18), 0.2)])
def test_largest_component_equals_skimage_on_large_maps(shape, density):
    rng = np.random.default_rng(0)
    label_map = (rng.random(shape) < density) * rng.integers(1, 4, shape)
    np.testing.assert_array_equal(components.largest_component(label_map), largest_by_skimage(label_map))


def test_a_tie_goes_to_the_first_voxel_in_c_order():
    label_map = np.array([[0, 0, 0, 1, 1], [0, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 0, 2, 0], [2, 0, 0, 0, 0]])
    kept = np.array([[0, 0, 0, 1, 1], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 2, 0], [0, 0, 0, 0, 0]])
    np.testing.assert_array_equal(components.largest_component(label_map), kept)


@pytest.mark.parametrize("ndim", [2, 3])
def test_corners_connect(ndim):
    label_map = np.zeros((6,) * ndim, np.uint8)
    label_map[(np.arange(3),) * ndim] = 1                           # three along the diagonal
    label_map[(*(ndim - 1) * (5,), slice(4, 6))] = 1                # two side by side
    assert components.largest_component(label_map).sum() == 3


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64])
def test_type_is_kept_and_an_empty_map_stays_empty(dtype):
    label_map = np.zeros((4, 5), dtype)
    assert components.largest_component(label_map).dtype == dtype and not components.largest_component(label_map).any()
    label_map[0, 0] = label_map[2, 2] = label_map[2, 3] = 3
    before = label_map.copy()
    kept = components.largest_component(label_map)
    assert kept.dtype == dtype and kept.tolist() == (before * (np.arange(4) == 2)[:, None]).tolist()
    assert np.array_equal(label_map, before)


@pytest.mark.parametrize("shape", [(2, 3, 9, 8), (2, 3, 4, 5, 6)])
def test_components_of_a_batch_are_those_of_each_map(shape):
    maps = torch.from_numpy(np.random.default_rng(0).choice([0, 0, 1, 2], shape))
    kept = components.largest_components(maps)
    assert kept.dtype == maps.dtype
    for index in np.ndindex(2, 3):
        np.testing.assert_array_equal(kept[index], largest_by_skimage(maps[index].numpy()))


@pytest.mark.parametrize(("classes", "left"), [(True, {1: 3, 2: 2}), ((1,), {1: 3, 2: 3}), ((2,), {1: 4, 2: 2}),
                                               ((), {1: 4, 2: 3}), (False, {1: 4, 2: 3})])
def test_the_classes_that_are_not_named_keep_all_components(classes, left):
    label_map = np.array([[1, 1, 1, 0, 1, 0, 2, 2, 0, 2]])
    kept = components.largest_components(torch.from_numpy(label_map)[None, None], classes)[0, 0].numpy()
    assert {value: int((kept == value).sum()) for value in (1, 2)} == left
    assert not classes or np.array_equal(kept, components.largest_component(label_map, classes))
