"""Metrics against medpy."""
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from medpy.metric import binary as medpy
from scipy import ndimage
from scipy.spatial.distance import cdist

from evaluation import metrics

SPACINGS = {2: [None, (1.5, 0.7)], 3: [None, (0.6, 2.0, 10.0)]}


def assert_equals_medpy(pred, ref, spacing):
    found = metrics.surface_metrics(pred, ref, spacing)
    expected = {"dice": medpy.dc(pred, ref), "jaccard": medpy.jc(pred, ref),
                "hd95": medpy.hd95(pred, ref, spacing), "asd": medpy.asd(pred, ref, spacing)}
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("spaced", [0, 1], ids=["voxels", "mm"])
@pytest.mark.parametrize("shape", [(7, 9), (5, 4, 6)], ids=["2D", "3D"])
def test_metrics_equal_medpy_on_random_masks(shape, spaced):
    @given(*2 * [arrays(bool, shape)], *2 * [st.tuples(*[st.integers(0, extent - 1) for extent in shape])])
    def check(pred, ref, one, other):
        pred[one] = ref[other] = True
        assert_equals_medpy(pred, ref, SPACINGS[len(shape)][spaced])
    check()


def ball(shape, centre, radius):
    return sum((x - c) ** 2 for x, c in zip(np.indices(shape), centre, strict=True)) <= radius ** 2


@pytest.mark.parametrize("spaced", [0, 1], ids=["voxels", "mm"])
@pytest.mark.parametrize(("pred", "ref"), [
    (ball((30, 28), (12, 12), 8), ball((30, 28), (14, 15), 9)),
    (ball((30, 28), (0, 3), 9), ball((30, 28), (29, 27), 6)),
    (ball((20, 18, 16), (9, 9, 8), 6), ball((20, 18, 16), (10, 7, 9), 5)),
    (ball((20, 18, 16), (0, 0, 0), 7), ball((20, 18, 16), (19, 17, 15), 30)),
    (ball((20, 18, 16), (4, 4, 4), 0), ball((20, 18, 16), (15, 12, 9), 0)),
], ids=["2D", "2D at the edges", "3D", "3D filling the array", "single voxels"])
def test_metrics_equal_medpy_on_shapes(pred, ref, spaced):
    assert_equals_medpy(pred, ref, SPACINGS[pred.ndim][spaced])
    assert_equals_medpy(ref, pred, SPACINGS[pred.ndim][spaced])


@pytest.mark.parametrize("spaced", [0, 1], ids=["voxels", "mm"])
@pytest.mark.parametrize(("pred", "ref"), [
    ((slice(0, 4), slice(0, 5), slice(0, 3)), (slice(20, 26), slice(21, 25), slice(10, 14))),
    ((slice(3, 9), slice(4, 8), slice(2, 5)), (slice(9, 12), slice(8, 9), slice(5, 7))),
    ((slice(2, 20), slice(2, 20), slice(1, 12)), (slice(5, 8), slice(6, 7), slice(3, 4))),
    ((slice(0, 12), slice(3, 8), slice(2, 9)), (slice(8, 26), slice(5, 25), slice(0, 14))),
], ids=["far apart", "corner to corner", "inside", "overlapping boxes"])
def test_metrics_of_masks_in_boxes_of_their_own_equal_medpy(pred, ref, spaced):
    masks = np.zeros((2, 26, 25, 14), bool)
    masks[0][pred] = masks[1][ref] = True
    masks[:, ::5, ::4, ::3] = False         # no plain boxes
    for one, other in (masks, masks[::-1]):
        assert_equals_medpy(one, other, SPACINGS[3][spaced])


def test_metrics_by_hand():
    """Voxel 0 against voxels 0 and 10: asd runs from the prediction, hd95 pools [0] and [0, 10]."""
    pred, ref = np.zeros((2, 1, 12), np.uint8)
    pred[0, 0], ref[0, 0], ref[0, 10] = 1, 1, 1
    found, turned = metrics.surface_metrics(pred, ref), metrics.surface_metrics(ref, pred)
    assert found == pytest.approx({"dice": 2 / 3, "jaccard": 1 / 2, "hd95": 9.0, "asd": 0.0})
    assert turned == pytest.approx({"dice": 2 / 3, "jaccard": 1 / 2, "hd95": 9.0, "asd": 5.0})
    assert metrics.surface_metrics(ref, pred, spacing=3)["asd"] == pytest.approx(15)


def test_spacing_scales_each_axis_by_itself():
    pred, ref = np.zeros((2, 5, 5), bool)
    pred[0, 0], ref[0, 3] = True, True
    assert metrics.surface_metrics(pred, ref, (10.0, 0.5))["asd"] == pytest.approx(1.5)
    assert metrics.surface_metrics(pred.T, ref.T, (10.0, 0.5))["asd"] == pytest.approx(30)


@pytest.mark.parametrize(("pred", "ref", "overlap"), [(0, 1, 0.0), (1, 0, 0.0), (0, 0, 1.0)])
def test_distances_to_an_empty_mask_are_undefined_and_two_empty_masks_agree(pred, ref, overlap):
    found = metrics.surface_metrics(np.full((3, 4), pred), np.full((3, 4), ref))
    assert found["dice"] == found["jaccard"] == overlap
    assert math.isnan(found["hd95"]) and math.isnan(found["asd"])


def test_masks_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(3, 2\)"):
        metrics.surface_metrics(np.ones((2, 3)), np.ones((3, 2)))


def test_class_metrics_treat_each_foreground_class_by_itself():
    rng = np.random.default_rng(0)
    pred, ref = rng.integers(0, 3, (2, 8, 9))       # class 3 is in neither
    ref[ref == 2] = 0                               # class 2 in the prediction alone
    first, second, third = metrics.class_metrics(pred, ref, 4)
    assert [row["class"] for row in (first, second, third)] == [1, 2, 3]
    assert first["dice"] == pytest.approx(medpy.dc(pred == 1, ref == 1))
    assert first["asd"] == pytest.approx(medpy.asd(pred == 1, ref == 1))
    flags = [(row["empty_pred"], row["empty_ref"]) for row in (first, second, third)]
    assert flags == [(0, 0), (0, 1), (1, 1)] and (second["dice"], third["dice"]) == (0, 1)


@pytest.mark.parametrize("spacing", [None, (1.5, 0.7)], ids=["voxels", "mm"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_an_image_stored_as_a_volume_of_one_slice_is_measured_as_an_image(axis, spacing):
    pred, ref = ball((30, 28), (12, 12), 8), ball((30, 28), (14, 15), 9)
    [row] = metrics.class_metrics(*(np.expand_dims(mask, axis).astype(np.uint8) for mask in (pred, ref)), 2,
                                  spacing and np.insert(spacing, axis, 5.0), 2.0)
    assert {row[key] for key in ("class", "empty_pred", "empty_ref")} == {0, 1}
    assert row["hd95"] == pytest.approx(medpy.hd95(pred, ref, spacing))
    assert row["asd"] == pytest.approx(medpy.asd(pred, ref, spacing))
    assert row["surface_dice"] == metrics.surface_metrics(pred, ref, spacing, 2.0)["surface_dice"] < 1


@pytest.mark.parametrize("shape", [(7, 9), (5, 4, 6)], ids=["2D", "3D"])
@pytest.mark.parametrize("spaced", [0, 1], ids=["voxels", "mm"])
def test_surface_dice_is_the_share_of_surface_voxels_near_the_other_surface(shape, spaced):
    """By its definition: eroded masks for the surfaces, all distances between them."""
    spacing = SPACINGS[len(shape)][spaced] or (1,) * len(shape)

    def surface(mask):
        return np.argwhere(mask & ~ndimage.binary_erosion(mask)) * spacing

    @given(*2 * [arrays(bool, shape)], *2 * [st.tuples(*[st.integers(0, extent - 1) for extent in shape])],
           st.sampled_from([0, 0.7, 1, 1.5, 2, 4.2]))
    def check(pred, ref, one, other, tolerance):
        pred[one] = ref[other] = True
        apart = cdist(surface(pred), surface(ref))
        near = np.concatenate([apart.min(1), apart.min(0)]) < tolerance + 1e-7
        found = metrics.surface_metrics(pred, ref, spacing, tolerance)["surface_dice"]
        assert found == pytest.approx(near.mean(), abs=1e-12)
    check()


def test_surface_dice_of_empty_masks_and_the_edge_of_the_tolerance():
    one, none = np.zeros((3, 40), bool), np.zeros((3, 40), bool)
    one[1, 5] = True
    assert metrics.surface_metrics(one, none, None, 1)["surface_dice"] == 0
    assert math.isnan(metrics.surface_metrics(none, none, None, 1)["surface_dice"])
    moved = np.roll(one, 3, 1)      # 3 times 0.1 is more than 0.3 in binary
    assert metrics.surface_metrics(one, moved, (0.1, 0.1), 0.3)["surface_dice"] == 1
    assert metrics.surface_metrics(one, moved, (0.1, 0.1), 0.29)["surface_dice"] == 0
    assert "surface_dice" not in metrics.surface_metrics(one, moved)


def test_volumes_in_ml_and_their_error():
    pred, ref = np.zeros((10, 10, 10), np.uint8), np.zeros((10, 10, 10), np.uint8)
    pred[:4], ref[:5], ref[9] = 1, 1, 2
    assert metrics.volume_metrics(pred, ref, 3, 0.002) == [
        pytest.approx({"ml": 0.8, "reference_ml": 1.0, "error_ml": -0.2}),
        pytest.approx({"ml": 0, "reference_ml": 0.2, "error_ml": -0.2})]
