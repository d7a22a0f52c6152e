"""Signed distance maps against brute force and by hand, their level set, and what a loader's worker makes of labels."""
import itertools
import math

import numpy as np
import pytest
import torch

from methods.sdm import distance_maps, level_set, level_set_probabilities, signed_distance


def by_force(mask):
    """The definition, voxel by voxel."""
    points = list(itertools.product(*map(range, mask.shape)))
    inside, outside = [p for p in points if mask[p]], [p for p in points if not mask[p]]
    if not inside or not outside:
        return np.zeros(mask.shape)
    to_in = {p: min(math.dist(p, q) for q in inside) for p in outside}
    to_out = {p: min(math.dist(p, q) for q in outside) for p in inside}
    z = np.zeros(mask.shape)
    for p in points:
        if not mask[p]:
            z[p] = to_in[p] / max(to_in.values())
        elif to_out[p] > 1:
            z[p] = -to_out[p] / max(to_out.values())
    return z


@pytest.mark.parametrize("size", [(9, 7), (5, 6, 7), (1, 8), (3, 1, 4)])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.8, 0.98])
def test_distances_are_those_of_the_definition(size, share):
    rng = np.random.default_rng(0)
    masks = rng.random((4, *size)) < share
    z = signed_distance(torch.from_numpy(masks))
    assert z.shape == masks.shape and np.issubdtype(z.dtype, np.floating)
    np.testing.assert_allclose(z, np.stack([by_force(mask) for mask in masks]), atol=1e-7)


def test_a_square_by_hand():
    mask = np.zeros((1, 7, 7), bool)
    mask[:, 2:5, 2:5] = True
    z, = signed_distance(mask)
    assert z[3, 3] == -1 and not z[mask[0]].tolist().count(-1) > 1
    assert (z[2:5, 2:5].flatten()[[0, 1, 2, 3, 5, 6, 7, 8]] == 0).all()
    assert z[0, 0] == 1 and z[3, 0] == pytest.approx(2 / 8 ** 0.5) and z[1, 3] == pytest.approx(1 / 8 ** 0.5)


def test_the_edge_of_the_patch_is_no_boundary():
    z = signed_distance(torch.tensor([[[True] * 3 + [False] * 4]]))
    np.testing.assert_allclose(z, [[[-1, -2 / 3, 0, 0.25, 0.5, 0.75, 1]]])


def test_a_diagonal_neighbour_is_no_face():
    mask = np.ones((1, 5, 5), bool)
    mask[0, 0, 0] = False
    z, = signed_distance(mask)
    assert z[0, 1] == z[1, 0] == 0 and z[1, 1] < 0


def test_thin_masks_are_0_throughout_and_so_are_empty_and_full_ones():
    thin = np.zeros((1, 6, 6), bool)
    thin[:, 2:4] = True
    assert (signed_distance(thin)[thin] == 0).all() and (signed_distance(thin)[~thin] > 0).all()
    for mask in (np.zeros((2, 4, 4, 4), bool), np.ones((2, 4, 4, 4), bool)):
        assert not signed_distance(mask).any()


def test_every_sample_is_scaled_by_its_own_distances():
    masks = np.zeros((2, 9, 9), bool)
    masks[0, 4, 4] = masks[1, 0, 0] = True
    z = signed_distance(masks)
    assert z[0].max() == z[1].max() == 1 and z[0, 0, 4] == pytest.approx(4 / 32 ** 0.5)


def test_a_label_map_has_one_map_for_each_foreground_class():
    label = np.zeros((8, 8), np.uint8)
    label[1:4, 1:4], label[4:8, 3:8] = 1, 3
    maps = distance_maps(label, 4)
    assert maps.shape == (3, 8, 8) and maps.dtype == np.float32
    np.testing.assert_allclose(maps[0], by_force(label == 1), atol=1e-6)
    np.testing.assert_allclose(maps[2], by_force(label == 3), atol=1e-6)
    assert not maps[1].any()        # absent
    assert distance_maps(label, 2).shape == (1, 8, 8)
    assert distance_maps(np.zeros((4, 4, 4), np.uint8), 2).shape == (1, 4, 4, 4)


def test_the_level_set_is_1_inside_and_steep():
    z = torch.tensor([-1.0, -0.001, 0.0, 0.001, 1.0], dtype=torch.float64, requires_grad=True)
    values = level_set(z)
    assert values.dtype == torch.float64
    expected = [1, 1 / (1 + math.exp(-1.5)), 0.5, 1 / (1 + math.exp(1.5)), 0]
    assert values.tolist() == pytest.approx(expected, abs=1e-12)
    values.sum().backward()
    assert z.grad[2] == pytest.approx(-1500 / 4) and z.grad[0] == 0


def test_class_probabilities_of_maps():
    maps = torch.tensor([-0.002, 0.0, 0.01]).view(1, 1, 3, 1)
    torch.testing.assert_close(level_set_probabilities(maps)[:, 1:], level_set(maps))
    probs = level_set_probabilities(torch.randn(2, 3, 4, 4))
    assert probs.shape == (2, 4, 4, 4)
    torch.testing.assert_close(probs.sum(1), torch.ones(2, 4, 4))
    assert int(level_set_probabilities(torch.tensor([0.5, -0.3, 0.1]).view(1, 3, 1, 1)).argmax()) == 2
    assert int(level_set_probabilities(torch.tensor([0.5, 0.3, 0.1]).view(1, 3, 1, 1)).argmax()) == 0
