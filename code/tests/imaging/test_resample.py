"""Resampled images and labels: equal to SciPy and PyTorch, labels on their images, ties by one rule."""
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage

from imaging.resample import resample, resample_label

SHAPES = [((12, 10, 8), (6, 5, 4)), ((13, 9, 7), (6, 4, 3)), ((9, 8, 7), (14, 8, 21)), ((5, 1, 6), (9, 3, 2)),
          ((11, 6), (4, 9))]


@pytest.mark.parametrize("shape, target", SHAPES)
def test_images_as_scipy_and_torch_resample_them(shape, target):
    image = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    found = resample(image, target)
    assert found.dtype == np.float32 and found.shape == target
    scipys = ndimage.zoom(image, np.divide(target, shape), order=1, mode="nearest", grid_mode=True)
    np.testing.assert_allclose(found, scipys, atol=1e-5)
    if len(shape) == 3:
        torchs = F.interpolate(torch.from_numpy(image)[None, None], target, mode="trilinear", align_corners=False)
        np.testing.assert_allclose(found, torchs[0, 0], atol=1e-5)


@pytest.mark.parametrize("shape, target", SHAPES)
@pytest.mark.parametrize("values", [(0, 1), (0, 2, 3), (1, 4, 200)])
def test_a_voxel_gets_the_class_with_the_largest_share(shape, target, values):
    label = np.random.default_rng(1).choice(np.array(values, np.uint8), shape)
    found = resample_label(label, target)
    shares = np.stack([resample((label == value).astype(np.float64), target) for value in values])
    top = shares.max(0)
    highest = np.max([np.where(share > top - 1e-6, value, 0) for share, value in zip(shares, values, strict=True)], 0)
    assert found.dtype == np.uint8 and np.array_equal(found, highest)


def test_of_equal_shares_the_highest_class_wins():
    assert resample_label(np.array([0, 1, 2, 0, 1, 2, 3, 0]), (4,)).tolist() == [1, 2, 2, 3]
    assert resample_label(np.array([[0, 5], [5, 0]], np.uint8), (1, 1)) == 5
    assert resample_label(np.array([[0, 0], [5, 0]], np.uint8), (1, 1)) == 0
    assert resample_label(np.array([0, 1, 2, 0]), (1,)) == 2       # the two in the middle count


def centre(mask, axis, grow=1.0):
    return (np.mean(np.nonzero(mask)[axis]) + 0.5) * grow - 0.5


@pytest.mark.parametrize("factor", [2, 1.5, 0.5])
def test_labels_stay_where_their_images_are(factor):
    """Nearest voxels at an exact tie shift them by half a voxel."""
    rng, shape, shifts = np.random.default_rng(0), (24, 24, 24), []
    for _ in range(20):
        space = np.indices(shape) - rng.uniform(10, 13, (3, 1, 1, 1))
        ball = (np.linalg.norm(space, axis=0) < rng.uniform(6, 8)).astype(np.uint8)
        found = resample_label(ball, [round(n / factor) for n in shape])
        shifts.append([centre(found, axis, factor) - centre(ball, axis) for axis in range(3)])
        back = resample(found.astype(np.float32), shape) >= 0.5
        assert 2 * (back & (ball > 0)).sum() / (back.sum() + ball.sum()) > 0.9
    assert np.abs(np.mean(shifts, 0)).max() < 0.1 and np.abs(shifts).max() < 0.35


def test_the_same_shape_is_the_same_array():
    label = np.array([[0, 1], [1, 0]], np.uint8)
    assert resample_label(label, [2, 2]) is label and resample(label, (2, 2)) is label
