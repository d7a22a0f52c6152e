"""Inference against brute force, components against scikit-image, metrics against medpy."""
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from medpy.metric import binary as medpy
from scipy import ndimage
from skimage.measure import label as connected
from torch import nn

import evaluate
from dataloaders.scans import Scan
from networks.two_view import build


class Views(nn.Module):
    """Two small convolutions that see their window's border: x -> ((logits0, feature0), (logits1, feature1))."""

    def __init__(self, ndim, in_channels=1, classes=3):
        super().__init__()
        conv = (nn.Conv2d, nn.Conv3d)[ndim - 2]
        self.convs = nn.ModuleList(conv(in_channels, classes, 3, padding=1) for _ in range(2)).double()

    def forward(self, x):
        return tuple((4 * conv(x), x) for conv in self.convs)


class One(Views):
    def forward(self, x):
        return super().forward(x)[0][0]


# ---- class probabilities -----------------------------------------------------------------------------------------


def test_one_network_has_one_view_with_or_without_its_feature():
    logits = torch.randn(2, 3, 4, 4)
    for output in (logits, (logits, torch.zeros(1))):
        probs = evaluate.class_probabilities(output)
        assert list(probs) == ["network"]
        torch.testing.assert_close(probs["network"], logits.exp() / logits.exp().sum(1, keepdim=True))


def test_two_views_are_fused_by_probability_or_by_logit():
    logits0, logits1 = torch.randn(2, 2, 3, 4, 4, dtype=torch.float64)
    output = (logits0, None), (logits1, None)
    soft, release = (evaluate.class_probabilities(output, fusion) for fusion in ("softmax", "logits"))
    p0, p1 = (logits.exp() / logits.exp().sum(1, keepdim=True) for logits in (logits0, logits1))
    torch.testing.assert_close(soft["fused"], (p0 + p1) / 2)
    geometric = (p0 * p1).sqrt()
    torch.testing.assert_close(release["fused"], geometric / geometric.sum(1, keepdim=True))
    assert not torch.allclose(soft["fused"], release["fused"])
    for probs in (soft, release):
        assert list(probs) == ["fused", "subnet0", "subnet1"]
        torch.testing.assert_close((probs["subnet0"], probs["subnet1"]), (p0, p1))


def test_unknown_fusion_is_refused_by_name():
    with pytest.raises(ValueError, match="'median'.*softmax.*logits"):
        evaluate.class_probabilities(((torch.zeros(1, 2, 1), None),) * 2, "median")


@pytest.mark.parametrize("fails", [False, True])
def test_inference_evaluates_without_gradients_and_restores_every_mode(fails):
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Sequential(nn.Dropout(0.5), nn.BatchNorm2d(1)), nn.Dropout(0.1))
    model.train()
    model[1][1].eval()
    before = [module.training for module in model.modules()]
    try:
        with evaluate.inference(model):
            assert not any(module.training for module in model.modules())
            assert not model(torch.ones(1, 1, 2, 2)).requires_grad
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert fails
    assert [module.training for module in model.modules()] == before and len(set(before)) == 2
    assert model(torch.ones(1, 1, 2, 2)).requires_grad


# ---- windows -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("extent", "window", "stride", "starts"), [
    (10, 4, 3, [0, 3, 6]), (11, 4, 3, [0, 3, 6, 7]), (4, 4, 2, [0]), (5, 4, 4, [0, 1]), (12, 4, 4, [0, 4, 8]),
    (88, 80, 4, [0, 4, 8]), (130, 112, 18, [0, 18]), (131, 112, 18, [0, 18, 19]),
])
def test_windows_start_every_stride_and_the_last_one_ends_with_the_axis(extent, window, stride, starts):
    assert evaluate.window_starts(extent, window, stride) == starts


@given(st.integers(1, 200), st.integers(1, 40), st.integers(1, 40))
def test_windows_cover_the_axis_once_or_more(extra, window, stride):
    extent, stride = window + extra - 1, min(stride, window)
    starts = evaluate.window_starts(extent, window, stride)
    covered = set(itertools.chain.from_iterable(range(start, start + window) for start in starts))
    assert covered == set(range(extent)) and starts == sorted(set(starts))


def brute_force(model, volume, patch, stride):
    """Mean probabilities of view 0, view 1 and both, every window by itself. volume (in_channels, *S)."""
    short = [max(p - n, 0) for p, n in zip(patch, volume.shape[1:], strict=True)]
    padded = np.pad(volume, [(0, 0), *((s // 2, s - s // 2) for s in short)])
    shape = padded.shape[1:]
    corners = [sorted({min(i, n - p) for i in range(0, n, s)}) for n, p, s in zip(shape, patch, stride, strict=True)]
    total, count = np.zeros((2, 3, *shape)), np.zeros(shape)
    for corner in itertools.product(*corners):
        box = tuple(slice(c, c + p) for c, p in zip(corner, patch, strict=True))
        with torch.no_grad():
            outputs = model(torch.from_numpy(padded[(slice(None), *box)])[None])
        for view, (logits, _) in enumerate(outputs):
            e = np.exp(logits[0].numpy())
            total[(view, slice(None), *box)] += e / e.sum(0)
        count[box] += 1
    inside = tuple(slice(s // 2, s // 2 + n) for s, n in zip(short, volume.shape[1:], strict=True))
    mean = (total / count)[(slice(None), slice(None), *inside)]
    return {"fused": mean.mean(0), "subnet0": mean[0], "subnet1": mean[1]}


@pytest.mark.parametrize("batch_size", [1, 3, 100])
@pytest.mark.parametrize(("shape", "patch", "stride"), [
    ((13, 11, 9), (6, 5, 4), (4, 3, 2)), ((5, 12, 3), (6, 6, 6), (3, 3, 3)), ((4, 4, 4), (7, 6, 4), (2, 2, 2)),
    ((17, 9), (8, 8), (5, 3)), ((3, 10), (8, 4), (4, 4)),
], ids=["odd 3D", "one long axis", "smaller 3D", "2D", "smaller 2D"])
def test_sliding_window_equals_brute_force(shape, patch, stride, batch_size):
    model = Views(len(patch), in_channels=2)
    volume = np.random.default_rng(0).normal(size=(2, *shape))
    expected = brute_force(model, volume, patch, stride)
    views = evaluate.sliding_window(model, volume, patch, stride, batch_size=batch_size, views=True)
    assert list(views) == list(expected)
    for view, probs in views.items():
        np.testing.assert_allclose(probs, expected[view], rtol=1e-6, atol=1e-7)
    fused = evaluate.sliding_window(model, volume, patch, stride, batch_size=batch_size)
    assert torch.equal(fused, views["fused"])


def test_sliding_window_takes_a_volume_without_channels_and_one_stride():
    model, volume = One(3), np.random.default_rng(0).normal(size=(9, 7, 8))
    plain = evaluate.sliding_window(model, volume, (4, 4, 4), 3)
    full = evaluate.sliding_window(model, torch.from_numpy(volume)[None], (4, 4, 4), (3, 3, 3), views=True)
    assert list(full) == ["network"] and torch.equal(plain, full["network"]) and plain.shape == (3, 9, 7, 8)
    torch.testing.assert_close(plain.sum(0), torch.ones(9, 7, 8, dtype=plain.dtype))


def test_a_method_predicts_with_its_own_views():
    class Method(One):
        def predict(self, x):
            return {"student": self(x).softmax(1), "teacher": 1 - self(x).softmax(1)}

    views = evaluate.sliding_window(Method(2), np.ones((6, 6)), (4, 4), 2, views=True)
    assert list(views) == ["student", "teacher"]
    torch.testing.assert_close(views["student"], 1 - views["teacher"])


def test_inference_paths_leave_the_model_training():
    model = Views(2).train()
    evaluate.sliding_window(model, np.ones((6, 6)), (4, 4), 2)
    evaluate.slice_wise(model, np.ones((2, 6, 6)), (4, 4))
    assert model.training and all(p.grad is None for p in model.parameters())


# ---- slices ------------------------------------------------------------------------------------------------------


@given(st.integers(1, 400), st.integers(1, 400))
@example(216, 256)
@example(256, 216)
@example(1, 5)
@example(5, 1)
def test_nearest_indices_are_scipys_zoom_of_order_0(extent, size):
    zoomed = ndimage.zoom(np.arange(extent), size / extent, order=0, mode="nearest")
    assert len(zoomed) == size
    np.testing.assert_array_equal(evaluate.nearest_indices(extent, size), zoomed)


@pytest.mark.parametrize("size", [(16, 16), (9, 31), (40, 7)])
def test_resizing_an_array_or_a_tensor_equals_scipys_zoom(size):
    maps = np.random.default_rng(0).integers(0, 9, (2, 21, 17))
    expected = np.stack([ndimage.zoom(m, (size[0] / 21, size[1] / 17), order=0, mode="nearest") for m in maps])
    np.testing.assert_array_equal(evaluate.resize_nearest(maps, size), expected)
    np.testing.assert_array_equal(evaluate.resize_nearest(torch.from_numpy(maps), size), expected)


@pytest.mark.parametrize("batch_size", [1, 2, 16])
@pytest.mark.parametrize(("shape", "patch"), [((5, 21, 17), (16, 16)), ((3, 11, 13), (24, 20))])
def test_slice_wise_equals_zooming_there_and_the_labels_back(shape, patch, batch_size):
    model = Views(2)
    volume = np.random.default_rng(1).normal(size=shape)
    expected = []
    for plane in volume:
        small = ndimage.zoom(plane, (patch[0] / shape[1], patch[1] / shape[2]), order=0, mode="nearest")
        with torch.no_grad():
            (l0, _), (l1, _) = model(torch.from_numpy(small)[None, None])
        labels = (l0.softmax(1) + l1.softmax(1))[0].argmax(0).numpy()
        back = (shape[1] / patch[0], shape[2] / patch[1])
        expected.append(ndimage.zoom(labels, back, order=0, mode="nearest"))
    views = evaluate.slice_wise(model, volume, patch, batch_size=batch_size, views=True)
    assert list(views) == ["fused", "subnet0", "subnet1"] and views["fused"].shape == (3, *shape)
    np.testing.assert_array_equal(views["fused"].argmax(0), expected)
    assert torch.equal(evaluate.slice_wise(model, volume[None], patch, batch_size=batch_size), views["fused"])


def test_data_sets_segment_on_the_scans_own_grid(recipe, runs, narrow):
    for dataset, name, classes in (("LA", "vnet", 2), ("ACDC", "unet", 4), ("BraTS2019", "vnet", 2)):
        data = runs.data(recipe(dataset))
        case, = data.cases(data.split().test[:1])
        views = data.segment(build(name, 1, classes), case.image)
        assert list(views) == ["fused", "subnet0", "subnet1"]
        assert views["fused"].shape == (classes, *case.label.shape)
        torch.testing.assert_close(views["fused"].sum(0), torch.ones(case.label.shape))


# ---- components --------------------------------------------------------------------------------------------------


def largest_by_skimage(label_map):
    kept = np.zeros_like(label_map)
    for value in np.unique(label_map[label_map > 0]):
        components = connected(label_map == value, connectivity=label_map.ndim)     # numbered in C order
        sizes = np.bincount(components.ravel())[1:]
        kept[components == 1 + sizes.argmax()] = value                              # the first of the largest
    return kept


def maps_of(shape):
    return arrays(np.uint8, shape, elements=st.sampled_from([0, 0, 0, 1, 2, 3]))


@given(st.one_of(maps_of((9, 8)), maps_of((4, 5, 6))))
def test_largest_component_equals_skimage(label_map):
    np.testing.assert_array_equal(evaluate.largest_component(label_map), largest_by_skimage(label_map))


@pytest.mark.parametrize(("shape", "density"), [((60, 50), 0.3), ((60, 50), 0.6), ((20, 24, 18), 0.05),
                                                ((20, 24, 18), 0.2)])
def test_largest_component_equals_skimage_on_large_maps(shape, density):
    rng = np.random.default_rng(0)
    label_map = (rng.random(shape) < density) * rng.integers(1, 4, shape)
    np.testing.assert_array_equal(evaluate.largest_component(label_map), largest_by_skimage(label_map))


def test_a_tie_goes_to_the_first_voxel_in_c_order():
    label_map = np.array([[0, 0, 0, 1, 1], [0, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 0, 2, 0], [2, 0, 0, 0, 0]])
    kept = np.array([[0, 0, 0, 1, 1], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 2, 0], [0, 0, 0, 0, 0]])
    np.testing.assert_array_equal(evaluate.largest_component(label_map), kept)


@pytest.mark.parametrize("ndim", [2, 3])
def test_corners_connect(ndim):
    label_map = np.zeros((6,) * ndim, np.uint8)
    label_map[(np.arange(3),) * ndim] = 1                           # three along the diagonal
    label_map[(*(ndim - 1) * (5,), slice(4, 6))] = 1                # two side by side
    assert evaluate.largest_component(label_map).sum() == 3


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64])
def test_type_is_kept_and_an_empty_map_stays_empty(dtype):
    label_map = np.zeros((4, 5), dtype)
    assert evaluate.largest_component(label_map).dtype == dtype and not evaluate.largest_component(label_map).any()
    label_map[0, 0] = label_map[2, 2] = label_map[2, 3] = 3
    before = label_map.copy()
    kept = evaluate.largest_component(label_map)
    assert kept.dtype == dtype and kept.tolist() == (before * (np.arange(4) == 2)[:, None]).tolist()
    assert np.array_equal(label_map, before)


@pytest.mark.parametrize("shape", [(2, 3, 9, 8), (2, 3, 4, 5, 6)])
def test_components_of_a_batch_are_those_of_each_map(shape):
    maps = torch.from_numpy(np.random.default_rng(0).choice([0, 0, 1, 2], shape))
    kept = evaluate.largest_components(maps)
    assert kept.dtype == maps.dtype
    for index in np.ndindex(2, 3):
        np.testing.assert_array_equal(kept[index], largest_by_skimage(maps[index].numpy()))


# ---- metrics -----------------------------------------------------------------------------------------------------


SPACINGS = {2: [None, (1.5, 0.7)], 3: [None, (0.6, 2.0, 10.0)]}


def assert_equals_medpy(pred, ref, spacing):
    metrics = evaluate.surface_metrics(pred, ref, spacing)
    expected = {"dice": medpy.dc(pred, ref), "jaccard": medpy.jc(pred, ref),
                "hd95": medpy.hd95(pred, ref, spacing), "asd": medpy.asd(pred, ref, spacing)}
    assert metrics == pytest.approx(expected, rel=1e-9, abs=1e-12)


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


def test_metrics_by_hand():
    """Voxel 0 against voxels 0 and 10: asd runs from the prediction, hd95 pools [0] and [0, 10]."""
    pred, ref = np.zeros((2, 1, 12), np.uint8)
    pred[0, 0], ref[0, 0], ref[0, 10] = 1, 1, 1
    metrics, turned = evaluate.surface_metrics(pred, ref), evaluate.surface_metrics(ref, pred)
    assert metrics == pytest.approx({"dice": 2 / 3, "jaccard": 1 / 2, "hd95": 9.0, "asd": 0.0})
    assert turned == pytest.approx({"dice": 2 / 3, "jaccard": 1 / 2, "hd95": 9.0, "asd": 5.0})
    assert evaluate.surface_metrics(ref, pred, spacing=3)["asd"] == pytest.approx(15)


def test_spacing_scales_each_axis_by_itself():
    pred, ref = np.zeros((2, 5, 5), bool)
    pred[0, 0], ref[0, 3] = True, True
    assert evaluate.surface_metrics(pred, ref, (10.0, 0.5))["asd"] == pytest.approx(1.5)
    assert evaluate.surface_metrics(pred.T, ref.T, (10.0, 0.5))["asd"] == pytest.approx(30)


@pytest.mark.parametrize(("pred", "ref", "overlap"), [(0, 1, 0.0), (1, 0, 0.0), (0, 0, 1.0)])
def test_distances_to_an_empty_mask_are_undefined_and_two_empty_masks_agree(pred, ref, overlap):
    metrics = evaluate.surface_metrics(np.full((3, 4), pred), np.full((3, 4), ref))
    assert metrics["dice"] == metrics["jaccard"] == overlap
    assert math.isnan(metrics["hd95"]) and math.isnan(metrics["asd"])


def test_masks_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(3, 2\)"):
        evaluate.surface_metrics(np.ones((2, 3)), np.ones((3, 2)))


def test_class_metrics_treat_each_foreground_class_by_itself():
    rng = np.random.default_rng(0)
    pred, ref = rng.integers(0, 3, (2, 8, 9))       # class 3 is in neither
    ref[ref == 2] = 0                               # class 2 in the prediction alone
    first, second, third = evaluate.class_metrics(pred, ref, 4)
    assert [row["class"] for row in (first, second, third)] == [1, 2, 3]
    assert first["dice"] == pytest.approx(medpy.dc(pred == 1, ref == 1))
    assert first["asd"] == pytest.approx(medpy.asd(pred == 1, ref == 1))
    flags = [(row["empty_pred"], row["empty_ref"]) for row in (first, second, third)]
    assert flags == [(0, 0), (0, 1), (1, 1)] and (second["dice"], third["dice"]) == (0, 1)


def test_mean_dice_averages_scans_and_foreground_classes_for_every_view():
    refs = torch.tensor([[[1, 1, 2, 2]], [[0, 0, 2, 2]]])
    preds = {"fused": torch.tensor([[[1, 0, 2, 2]], [[0, 1, 2, 0]]]), "subnet0": refs}
    scans = [Scan(str(i), torch.tensor([float(i)]), ref) for i, ref in enumerate(refs)]

    def segment(model, image):
        assert model == "model"
        return {view: nn.functional.one_hot(maps[int(image)], 3).movedim(-1, 0).float() for view, maps in preds.items()}

    dice = evaluate.mean_dice("model", scans, segment, 3)
    assert dice == pytest.approx({"fused": (2 / 3 + 1 + 0 + 2 / 3) / 4, "subnet0": 1})


@pytest.mark.parametrize("classes", [2, 4])
def test_the_likeliest_class_is_the_first_of_equals(classes):
    probs = torch.randint(0, 3, (classes, 5, 6, 7), generator=torch.Generator().manual_seed(0)) / 2
    labels = evaluate.likeliest(probs.transpose(1, 2))
    assert labels.dtype == np.uint8 and np.array_equal(labels, np.argmax(probs.transpose(1, 2).numpy(), 0))
