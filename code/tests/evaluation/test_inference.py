"""Inference against brute force and scipy's zoom."""
import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import ndimage
from torch import nn

import train_ACDC
import train_LA
import train_own
from dataloaders import augment
from dataloaders.scans import Scan
from evaluation import inference
from evaluation.windows import windows_of
from method import Method
from networks.two_view import build, fuse
from runtime.errors import InputError


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
        probs = inference.class_probabilities(output)
        assert list(probs) == ["network"]
        torch.testing.assert_close(probs["network"], logits.exp() / logits.exp().sum(1, keepdim=True))


def test_two_views_are_fused_by_probability_or_by_logit():
    logits0, logits1 = torch.randn(2, 2, 3, 4, 4, dtype=torch.float64)
    soft, release = (fuse(logits0, logits1, fusion) for fusion in ("softmax", "logits"))
    p0, p1 = (logits.exp() / logits.exp().sum(1, keepdim=True) for logits in (logits0, logits1))
    torch.testing.assert_close(soft["fused"], (p0 + p1) / 2)
    geometric = (p0 * p1).sqrt()
    torch.testing.assert_close(release["fused"], geometric / geometric.sum(1, keepdim=True))
    assert not torch.allclose(soft["fused"], release["fused"])
    for probs in (soft, release, inference.class_probabilities(((logits0, None), (logits1, None)))):
        assert list(probs) == ["fused", "subnet0", "subnet1"]
        torch.testing.assert_close((probs["subnet0"], probs["subnet1"]), (p0, p1))


def test_unknown_fusion_is_refused_by_name():
    with pytest.raises(ValueError, match="'median'.*softmax.*logits"):
        fuse(torch.zeros(1, 2, 1), torch.zeros(1, 2, 1), "median")


@pytest.mark.parametrize("fails", [False, True])
def test_inference_evaluates_without_gradients_and_restores_every_mode(fails):
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Sequential(nn.Dropout(0.5), nn.BatchNorm2d(1)), nn.Dropout(0.1))
    model.train()
    model[1][1].eval()
    before = [module.training for module in model.modules()]
    try:
        with inference.inference(model):
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
    assert inference.window_starts(extent, window, stride) == starts


@given(st.integers(1, 200), st.integers(1, 40), st.integers(1, 40))
def test_windows_cover_the_axis_once_or_more(extra, window, stride):
    extent, stride = window + extra - 1, min(stride, window)
    starts = inference.window_starts(extent, window, stride)
    covered = set(itertools.chain.from_iterable(range(start, start + window) for start in starts))
    assert covered == set(range(extent)) and starts == sorted(set(starts))


def brute_force(model, volume, patch, stride, weights=1.0):
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
            total[(view, slice(None), *box)] += weights * e / e.sum(0)
        count[box] += weights
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
    views = inference.sliding_window(model, volume, patch, stride, batch_size=batch_size, views=True)
    assert list(views) == list(expected)
    for view, probs in views.items():
        np.testing.assert_allclose(probs, expected[view], rtol=1e-6, atol=1e-7)
    fused = inference.sliding_window(model, volume, patch, stride, batch_size=batch_size)
    assert torch.equal(fused, views["fused"])


def test_sliding_window_takes_a_volume_without_channels_and_one_stride():
    model, volume = One(3), np.random.default_rng(0).normal(size=(9, 7, 8))
    plain = inference.sliding_window(model, volume, (4, 4, 4), 3)
    full = inference.sliding_window(model, torch.from_numpy(volume)[None], (4, 4, 4), (3, 3, 3), views=True)
    assert list(full) == ["network"] and torch.equal(plain, full["network"]) and plain.shape == (3, 9, 7, 8)
    torch.testing.assert_close(plain.sum(0), torch.ones(9, 7, 8, dtype=plain.dtype))


def test_a_method_predicts_with_its_own_views():
    class Own(Method):
        def predict(self, x):
            return {"student": self.networks(x).softmax(1), "teacher": 1 - self.networks(x).softmax(1)}

    method = Own(One(2))
    views = inference.sliding_window(method, np.ones((6, 6)), (4, 4), 2, views=True)
    assert list(views) == ["student", "teacher"]
    torch.testing.assert_close(views["student"], 1 - views["teacher"])
    assert torch.equal(inference.sliding_window(method, np.ones((6, 6)), (4, 4), 2), views["student"])


def test_a_function_gives_its_views_and_a_networks_own_predict_is_not_asked():
    class Network(One):
        def predict(self, x):
            raise AssertionError("a network of somebody's, with a predict of its own")

    network, volume = Network(3), np.random.default_rng(0).normal(size=(9, 7, 8))
    views = {"one": lambda x: network(x).softmax(1), "other": lambda x: 1 - network(x).softmax(1)}

    def function(x):
        return {name: view(x) for name, view in views.items()}
    expected = inference.sliding_window(network, volume, (4, 4, 4), 3)
    with torch.no_grad():
        given = inference.sliding_window(function, volume, (4, 4, 4), 3, views=True)
        torch.testing.assert_close(inference.sliding_window(function, volume, (4, 4, 4), 3), expected)
    assert list(given) == ["one", "other"]
    torch.testing.assert_close(given["one"], expected)
    torch.testing.assert_close(given["other"], 1 - expected)


@pytest.mark.parametrize("views, kept", [(False, ["fused"]), (("subnet1",), ["fused", "subnet1"]),
                                         (True, ["fused", "subnet0", "subnet1"])])
def test_views_that_nobody_asked_for_are_not_kept(monkeypatch, views, kept):
    made = []
    monkeypatch.setattr(inference, "_zeros", lambda parts, shape: made.append(list(parts)) or {
        view: torch.zeros(3, *shape, dtype=torch.float64) for view in parts})
    inference.sliding_window(Views(3), np.ones((6, 6, 6)), (4, 4, 4), 2, views=views)
    inference.slice_wise(Views(2), np.ones((3, 6, 6)), (4, 4), views=views or ())
    assert made == [kept, kept]


# ---- weights of a window's voxels --------------------------------------------------------------------------------


@pytest.mark.parametrize("edge", [1, 4, 5, 32, 112])
def test_gaussian_weights_are_symmetric_and_as_wide_as_nnunets(edge):
    """nnU-Net filters a 1 at edge // 2 with a deviation of edge / 8: half a voxel off the middle of an even edge."""
    weights = inference.window_weights(edge, "gaussian")
    assert torch.equal(weights, weights.flip(0)) and (weights > 0).all() and weights.max() <= 1
    if edge > 5:
        point = np.zeros(2 * (edge // 2) + 1)
        point[edge // 2] = 1
        nnunets = ndimage.gaussian_filter1d(point, edge / 8, mode="constant")
        shifted = np.exp(-((np.arange(edge) - edge // 2) / (edge / 8)) ** 2 / 2)
        np.testing.assert_allclose(nnunets[:edge] / nnunets.max(), shifted, atol=1e-3)
        np.testing.assert_allclose(weights, np.exp(-((np.arange(edge) - (edge - 1) / 2) / (edge / 8)) ** 2 / 2))
    assert inference.window_weights(edge, "uniform").tolist() == [1] * edge


@pytest.mark.parametrize("shape", [(13, 11, 9), (5, 12, 3)])
def test_a_weighted_mean_equals_brute_force(shape):
    model, volume = Views(3, in_channels=2), np.random.default_rng(0).normal(size=(2, *shape))
    patch, stride = (6, 5, 4), (3, 2, 2)
    weights = np.ones(1)
    for edge in patch:
        weights = np.multiply.outer(weights, inference.window_weights(edge, "gaussian").numpy())
    expected = brute_force(model, volume, patch, stride, weights[0])
    views = inference.sliding_window(model, volume, patch, stride, views=True, weights="gaussian", batch_size=3)
    for view, probs in views.items():
        np.testing.assert_allclose(probs, expected[view], rtol=1e-9)
        assert not np.allclose(probs, brute_force(model, volume, patch, stride)[view], rtol=1e-3)


def test_what_segment_is_not_told_is_the_recipes():
    """Validation within training looks through windows side by side, whatever the recipe tests with."""
    own = replace(train_own.PRESETS["paper"], labeled=4, patch_size=(16, 16, 16)).complete()
    model, image = Views(3), torch.randn(1, 20, 36, 16, generator=torch.Generator().manual_seed(0))
    told = inference.segment(model, image, own, **windows_of(own))
    assert all(torch.equal(probs, told[view]) for view, probs in inference.segment(model, image, own).items())
    coarse = inference.segment(model, image, own, coarse=True)
    for view, probs in inference.sliding_window(model, image, (16, 16, 16), 16, views=True).items():
        assert torch.equal(probs, coarse[view]) and not torch.equal(probs, told[view])


def test_windows_are_the_recipes_or_what_is_asked_for():
    paper = train_LA.PRESETS["paper"]
    assert windows_of(paper) == {"stride": (18, 18, 4), "weights": "uniform"}
    assert windows_of(paper, fast=True) == {"stride": (56, 56, 40), "weights": "gaussian"}
    assert windows_of(paper, (9, 9, 9), "gaussian") == {"stride": (9, 9, 9), "weights": "gaussian"}
    assert windows_of(paper, (), "uniform", fast=True) == {"stride": (56, 56, 40), "weights": "uniform"}
    assert windows_of(train_ACDC.PRESETS["paper"], fast=True) == {}
    for recipe, stride, weights, words in (
            (paper, (113, 18, 4), None, "--stride 113 18 4: expected 3 numbers of voxels from 1 to"),
            (paper, (18, 18), None, "--stride 18 18: expected 3 numbers"), (paper, (18, 0, 4), None, "from 1 to"),
            (train_ACDC.PRESETS["paper"], (18, 18), None, "--stride 18 18: this run's network takes whole slices"),
            (train_ACDC.PRESETS["paper"], (), "gaussian", "--weights gaussian: this run's network takes whole")):
        with pytest.raises(InputError, match=words):
            windows_of(recipe, stride, weights)


def test_inference_paths_leave_the_model_training():
    model = Views(2).train()
    inference.sliding_window(model, np.ones((6, 6)), (4, 4), 2)
    inference.slice_wise(model, np.ones((2, 6, 6)), (4, 4))
    assert model.training and all(p.grad is None for p in model.parameters())


# ---- on a GPU ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [2, 3, 100])
def test_batches_that_are_filled_up_have_one_shape_and_change_nothing(monkeypatch, batch_size):
    volume, stack = np.random.default_rng(0).normal(size=(13, 11, 9)), np.random.default_rng(1).normal(size=(5, 9, 7))

    def both():
        return (inference.sliding_window(model3, volume, (6, 5, 4), 4, batch_size=batch_size, views=True),
                inference.slice_wise(model2, stack, (8, 8), batch_size=batch_size, views=True))
    model3, model2 = Views(3), Views(2)
    plain = both()
    monkeypatch.setattr(inference, "FILLED", {"cpu"})
    shapes = []
    for model in (model3, model2):
        model.register_forward_pre_hook(lambda _, inputs: shapes.append(tuple(inputs[0].shape)))
    for views, others in zip(both(), plain, strict=True):
        for view, probs in views.items():
            torch.testing.assert_close(probs, others[view])
    assert set(shapes) == {(batch_size, 1, 6, 5, 4), (batch_size, 1, 8, 8)}


def test_sums_are_kept_for_the_views_that_are_asked_for_where_there_is_room(monkeypatch):
    asked = []
    monkeypatch.setattr(inference, "room_for", lambda size, device: asked.append(size) or device)
    model = Views(3)
    for views in (False, True):
        inference.sliding_window(model, np.ones((8, 8, 4)), (4, 4, 4), 4, views=views)
        inference.slice_wise(Views(2), np.ones((5, 8, 8)), (4, 4), views=views or ())
    windows, slices = 3 * 8 * 8 * 4 * 8, 3 * 5 * 8 * 8 * 4      # 3 classes, 8 bytes; slices in float32
    assert asked == [windows, slices, 3 * windows, 3 * slices]


def test_dice_that_a_gpu_counts_is_the_same():
    pred, ref = torch.randint(0, 3, (2, 5, 6, 7), generator=torch.Generator().manual_seed(2)).byte()
    expected = inference.class_dice(pred, ref, 5)
    np.testing.assert_equal(inference.counted_dice(pred, ref, 5), expected)
    assert np.isnan(expected).tolist() == [False, False, True, True]
    assert 0 < expected[0] != expected[1] < 1


# ---- slices ------------------------------------------------------------------------------------------------------


@given(st.integers(1, 400), st.integers(1, 400))
@example(216, 256)
@example(256, 216)
@example(1, 5)
@example(5, 1)
def test_nearest_indices_are_scipys_zoom_of_order_0(extent, size):
    zoomed = ndimage.zoom(np.arange(extent), size / extent, order=0, mode="nearest")
    assert len(zoomed) == size
    np.testing.assert_array_equal(augment.nearest_indices(extent, size), zoomed)


@pytest.mark.parametrize("size", [(16, 16), (9, 31), (40, 7)])
def test_resizing_an_array_or_a_tensor_equals_scipys_zoom(size):
    maps = np.random.default_rng(0).integers(0, 9, (2, 21, 17))
    expected = np.stack([ndimage.zoom(m, (size[0] / 21, size[1] / 17), order=0, mode="nearest") for m in maps])
    np.testing.assert_array_equal(augment.resize_nearest(maps, size), expected)
    np.testing.assert_array_equal(augment.resize_nearest(torch.from_numpy(maps), size), expected)


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
    views = inference.slice_wise(model, volume, patch, batch_size=batch_size, views=True)
    assert list(views) == ["fused", "subnet0", "subnet1"] and views["fused"].shape == (3, *shape)
    np.testing.assert_array_equal(views["fused"].argmax(0), expected)
    assert torch.equal(inference.slice_wise(model, volume[None], patch, batch_size=batch_size)["fused"],
                       views["fused"])


def test_data_sets_segment_on_the_scans_own_grid(recipe, runs, narrow):
    for dataset, name, classes in (("LA", "vnet", 2), ("ACDC", "unet", 4), ("BraTS2019", "vnet", 2)):
        own = recipe(dataset)
        data = runs.data(own)
        case, = data.cases(data.split().test[:1])
        views = inference.segment(build(name, 1, classes), case.image, own)
        assert list(views) == ["fused", "subnet0", "subnet1"]
        assert views["fused"].shape == (classes, *case.label.shape)
        torch.testing.assert_close(views["fused"].sum(0), torch.ones(case.label.shape))


def test_mean_dice_averages_scans_and_foreground_classes_for_every_view():
    refs = torch.tensor([[[1, 1, 2, 2]], [[0, 0, 2, 2]]])
    preds = {"fused": torch.tensor([[[1, 0, 2, 2]], [[0, 1, 2, 0]]]), "subnet0": refs}
    scans = [Scan(str(i), torch.tensor([float(i)]), ref) for i, ref in enumerate(refs)]

    def segment(model, image):
        assert model == "model"
        return {view: nn.functional.one_hot(maps[int(image)], 3).movedim(-1, 0).float() for view, maps in preds.items()}

    dice = inference.mean_dice("model", scans, segment, 3)
    assert dice == pytest.approx({"fused": (2 / 3 + 1 + 0 + 2 / 3) / 4, "subnet0": 1})


def test_validation_leaves_out_a_class_that_nobody_has():
    """Of four classes one is real, and found to two thirds; a false voxel of another brings that one in. Where there is
    none at all, Dice is undefined.
    """
    ref = torch.tensor([[[1, 1, 0, 0]]]).byte()
    for found, dice in (([1, 0, 0, 0], 2 / 3), ([1, 0, 0, 3], (2 / 3 + 0) / 2)):
        probs = nn.functional.one_hot(torch.tensor([[found]]), 5).movedim(-1, 0).float()
        scans = [Scan("a", torch.zeros(1), ref)]
        assert inference.mean_dice("model", scans, lambda *_, probs=probs: {"network": probs}, 5) == {
            "network": pytest.approx(dice)}
    nothing = nn.functional.one_hot(torch.zeros(1, 1, 4, dtype=int), 3).movedim(-1, 0).float()
    assert inference.mean_dice("model", [Scan("a", torch.zeros(1), ref * 0)], lambda *_: {"network": nothing}, 3) == {
        "network": pytest.approx(math.nan, nan_ok=True)}


@pytest.mark.parametrize("classes", [2, 4])
def test_the_likeliest_class_is_the_first_of_equals(classes, monkeypatch):
    probs = torch.randint(0, 3, (classes, 5, 6, 7), generator=torch.Generator().manual_seed(0)) / 2
    labels = inference.likeliest(probs.transpose(1, 2))
    monkeypatch.setattr(inference, "AT_ONCE_DECIDED", 50)
    assert np.array_equal(inference.likeliest(probs.transpose(1, 2)), labels)
    assert labels.dtype == np.uint8 and np.array_equal(labels, np.argmax(probs.transpose(1, 2).numpy(), 0))
