"""Strong augmentation: transforms as batchgeneratorsv2 computes them, draws as nnU-Net makes them, in every method."""
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dataloaders import augment, strong
from dataloaders.own import Own
from dataloaders.scans import Scan
from evaluation.inference import segment
from methods import registry

# What batchgeneratorsv2 0.3.6 made of two images and label maps; `batchgeneratorsv2s` makes it anew where it is there
REFERENCE = Path(__file__).with_name("batchgeneratorsv2.npz")
ANGLES, SCALE, DEVIATION, FACTOR, SHARE = (0.45, -0.3, 0.4), 1.2, 0.8, 0.75, 0.6


class Draws:
    """A generator whose `random` is as given, or then 0.9; whose `uniform` gives these numbers."""

    def __init__(self, random=(), uniform=()):
        self.randoms, self.uniforms = list(random), list(uniform)

    def random(self):
        return self.randoms.pop(0) if self.randoms else 0.9

    def uniform(self, low, high, size=None):
        return self.uniforms.pop(0) if size is None else np.full(size, self.uniforms.pop(0))


def ours(image, label):
    """{transform: image (*S) or label}: each alone, with the parameters above."""
    angles = np.rad2deg(ANGLES[1:2] if image.ndim == 2 else ANGLES)
    moved, marked = strong.distort([image, label], (0,) * image.ndim, image.shape,
                                   Draws((0.1, 0.1), (SCALE, *angles)))
    alone = {"blur": ((0.9, 0.1, 0.1), DEVIATION), "brightness": ((0.9, 0.9, 0.1, 0.1), FACTOR),
             "contrast": ((0.9, 0.9, 0.9, 0.1, 0.1), FACTOR),
             "low resolution": ((0.9, 0.9, 0.9, 0.9, 0.1, 0.1), SHARE),
             "gamma, inverted": ((0.9, 0.9, 0.9, 0.9, 0.9, 0.05, 0.1), FACTOR),
             "gamma": ((0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.1, 0.1), FACTOR)}
    return {"image": moved, "label": marked} | {
        name: strong.intensities(image[None], Draws(random, (number,)))[0] for name, (random, number) in alone.items()}


def batchgeneratorsv2s(image, label):
    """The same by the library that nnU-Net uses."""
    from batchgeneratorsv2.transforms.intensity import brightness, contrast, gamma
    from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
    from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform
    from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
    spatial = SpatialTransform(image.shape, 0, False, p_rotation=1, rotation=lambda image, dim: ANGLES[dim],
                               p_scaling=1, scaling=(SCALE, SCALE), p_synchronize_scaling_across_axes=1,
                               border_mode_seg="constant", padding_value_seg=0)
    moved = spatial(image=torch.tensor(image[None]), segmentation=torch.tensor(label[None]).short())
    transforms = {
        "blur": GaussianBlurTransform((DEVIATION, DEVIATION)),
        "brightness": brightness.MultiplicativeBrightnessTransform((FACTOR, FACTOR), False),
        "contrast": contrast.ContrastTransform((FACTOR, FACTOR), True, False),
        "low resolution": SimulateLowResolutionTransform((SHARE, SHARE), False, True, None),
        "gamma, inverted": gamma.GammaTransform((FACTOR, FACTOR), 1, False, 1, 1),
        "gamma": gamma.GammaTransform((FACTOR, FACTOR), 0, False, 1, 1)}
    return {"image": moved["image"][0].numpy(), "label": moved["segmentation"][0].numpy().astype(np.uint8)} | {
        name: transform(image=torch.tensor(image[None]))["image"][0].numpy() for name, transform in transforms.items()}


def subject(ndim):
    """An image (*S) of mean 0 and deviation 1, and a label map of three classes, smooth both."""
    shape, rng = ((14, 11), (9, 8, 7))[ndim - 2], np.random.default_rng(ndim)
    image, other = (augment.ndimage.gaussian_filter(rng.standard_normal(shape), 1.5) for _ in range(2))
    label = np.digitize(other, np.quantile(other, (0.5, 0.8))).astype(np.uint8)
    return augment.standardised(image.astype(np.float32), ndim)[0], label


@pytest.mark.parametrize("ndim", [2, 3])
def test_each_transform_is_batchgeneratorsv2s(ndim):
    image, label = subject(ndim)
    with np.load(REFERENCE) as file:
        expected = {name.removesuffix(f" {ndim}D"): file[name] for name in file if name.endswith(f" {ndim}D")}
    made = ours(image, label)
    assert made.keys() == expected.keys()
    assert np.array_equal(made.pop("label"), expected["label"]) and len(np.unique(expected["label"])) == 3
    for name, array in made.items():
        assert array.dtype == np.float32
        np.testing.assert_allclose(array, expected[name], atol=2e-6, err_msg=name)
        assert np.abs(array - image).max() > 0.01, name


def test_the_reference_is_what_the_library_makes():
    pytest.importorskip("batchgeneratorsv2")
    with np.load(REFERENCE) as file:
        for ndim in (2, 3):
            for name, array in batchgeneratorsv2s(*subject(ndim)).items():
                np.testing.assert_allclose(array, file[f"{name} {ndim}D"], atol=2e-6, err_msg=name)


def test_a_window_beyond_the_scan_is_background():
    image, label = np.ones((6, 6), np.float32), np.full((6, 6), 2, np.uint8)
    moved, marked = strong.distort([image, label], (-5, -5), (16, 16), Draws((0.9, 0.1), (1.4,)))
    assert moved[8, 8] == 1 and marked[8, 8] == 2
    assert set(np.unique(marked)) == {0, 2} and not marked[0].any() and not moved[:, -1].any()


def test_label_follows_the_image():
    label = np.zeros((40, 40), np.uint8)
    label[10:26, 14:30] = 1
    rng = np.random.default_rng(0)
    for _ in range(40):
        image, moved = strong.distort([label.astype(np.float32), label], (0, 0), label.shape, rng)
        clear = np.abs(image - 0.5) > 1e-6
        assert np.array_equal(image[clear] > 0.5, moved[clear] == 1)


def test_draws_happen_as_often_as_nnunets(monkeypatch):
    """Turned and scaled 0.2; blur 0.2 and low resolution 0.25, half the channels; contrast 0.15; gamma 0.1 and 0.3."""
    counts, draws, rng = Counter(), 4000, np.random.default_rng(0)
    scale, angles = [], []
    for _ in range(draws):
        matrix = strong._matrix((32, 32), rng)
        if matrix is None:
            continue
        scale.append(np.linalg.det(matrix) ** 0.5)
        angles.append(np.rad2deg(np.arctan2(matrix[1, 0], matrix[0, 0])))
    scale, angles = np.array(scale), np.array(angles)
    assert abs((np.abs(scale - 1) > 1e-9).mean() * len(scale) / draws - 0.2) < 0.025
    assert abs((np.abs(angles) > 1e-9).mean() * len(scale) / draws - 0.2) < 0.025
    assert 0.7 <= scale.min() < 0.72 and 1.38 < scale.max() <= 1.4
    assert -180 <= angles.min() < -170 and 170 < angles.max() <= 180
    for name in ("_blurred", "_contrast", "_low_resolution", "_gamma"):
        def counted(x, number, name=name):
            counts[name] += 1
            return x
        monkeypatch.setattr(strong, name, counted)
    for _ in range(draws):
        strong.intensities(np.ones((1, 4, 4), np.float32), rng)
    shares = {"_blurred": 0.2 * 0.5, "_contrast": 0.15, "_low_resolution": 0.25 * 0.5, "_gamma": 0.1 + 0.3}
    assert all(abs(counts[name] / draws - share) < 0.03 for name, share in shares.items()), counts


def test_noise_and_brightness_are_nnunets_too():
    zeros, ones = np.zeros((1, 64, 64), np.float32), np.ones((1, 2, 2), np.float32)
    rng, draws = np.random.default_rng(0), 3000
    deviations = [deviation for _ in range(draws) if (deviation := strong.intensities(zeros, rng).std())]
    assert abs(len(deviations) / draws - 0.1) < 0.02 and 0.08 < max(deviations) < 0.11 and min(deviations) < 0.02
    means = np.array([strong.intensities(ones, rng).mean() for _ in range(draws)])
    factors = means[np.abs(means - 1) > 0.1]        # noise alone is far less, other transforms leave ones alone
    assert factors.min() > 0.6 and factors.max() < 1.4 and abs(len(factors) / draws - 0.15 * 0.6) < 0.03


@pytest.mark.parametrize(("size", "largest"), [((32, 32), 180), ((32, 16), 15), ((32, 24), 180)])
def test_a_narrow_plane_turns_less(size, largest):
    rng = np.random.default_rng(0)
    matrices = [matrix for _ in range(2000) if (matrix := strong._matrix(size, rng)) is not None]
    angle = max(abs(np.rad2deg(np.arctan2(matrix[1, 0], matrix[0, 0]))) for matrix in matrices)
    assert 0.9 * largest < angle <= largest


def test_volumes_turn_by_at_most_30_degrees_about_each_axis():
    assert {strong.DEGREES[3], strong.DEGREES[2]} == {30, 180}
    rng = np.random.default_rng(0)
    matrices = [matrix for _ in range(500) if (matrix := strong._matrix((8, 8, 8), rng)) is not None]
    for matrix in matrices:
        turn = matrix / np.cbrt(np.linalg.det(matrix))
        assert np.allclose(turn @ turn.T, np.eye(3)) and turn.diagonal().min() > np.cos(np.deg2rad(30)) ** 2 - 0.13


# ---- in training ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["strong", "geometry", "intensity"])
@pytest.mark.parametrize("dataset", ["LA", "ACDC", "BraTS2019"])
def test_what_each_value_changes(recipe, runs, dataset, value):
    """Geometry: patches and labels are others than the paper's; intensity: the clean patches are the paper's."""
    loops = {name: runs.loop(recipe(dataset, augment=name, pre_steps=0, out=recipe().out.with_name(name)))
             for name in ("paper", value)}
    for loop in loops.values():
        loop.stage = 1
    plain, other = ([loop.streams()[step] for step in range(6)] for loop in loops.values())
    same_places = all(torch.equal(one.y_l, two.y_l) for one, two in zip(plain, other, strict=True))
    assert same_places == (value == "intensity")
    for one, two in zip(plain, other, strict=True):
        assert (two.clean_u is None) == (value == "geometry")
        assert value != "intensity" or torch.equal(two.clean_u, one.x_u)
    assert value == "geometry" or any(not torch.equal(two.clean_u, two.x_u) for two in other)


def test_stored_intensities_of_slices_are_changed_as_standardised_ones(recipe, runs):
    """ACDC's slices from 0 to 1: the same change as of their z-scores, put back."""
    data = runs.data(recipe())
    patch = np.random.default_rng(0).random((1, 32, 32), dtype=np.float32)
    for seed in range(10):
        one = data.changed(patch, np.random.default_rng(seed))
        other = data.changed(5 * patch - 3, np.random.default_rng(seed))
        np.testing.assert_allclose(5 * one - 3, other, atol=1e-4)


@pytest.mark.parametrize("dataset", ["ACDC", "LA"])
def test_with_zscore_training_and_test_see_mean_0_and_deviation_1(recipe, runs, shallow, dataset):
    own = recipe(dataset, normalise="zscore")
    data, axes = runs.data(own), tuple(range(1, len(own.patch_size) + 1))
    for scan in data.train_scans(data.split().labelled[:3], labelled=True):
        assert scan.image.mean(axes).abs().max() < 1e-5 and (scan.image.std(axes, correction=0) - 1).abs().max() < 1e-4
    method, (scan,) = registry.build(own.complete()), data.cases(data.split().test[:1])
    for normalise, same in (("zscore", True), ("stored", False)):
        one, other = (segment(method, image, replace(own, normalise=normalise))["fused"]
                      for image in (scan.image, 5 * scan.image - 2))
        assert torch.allclose(one, other, atol=1e-4) == same


@pytest.mark.parametrize("size", [(16, 16), (16, 16, 32)])
def test_own_data_are_turned_and_scaled_with_their_labels(size, tmp_path):
    volume = np.cumsum(np.ones((24, 24, 24), np.float32), 1)        # grows along the second axis, 0 is outside
    scan = Scan("a", torch.tensor(volume[None]), torch.tensor(volume > 12).byte())
    for augment_, moved in (("paper", False), ("geometry", True)):
        own = Own(SimpleNamespace(patch_size=size, augment=augment_, foreground=0.5, flips=(0,), quarter_turns=False,
                                  data_dir=tmp_path))
        rng, kinds = np.random.default_rng(0), set()
        for _ in range(40):
            image, label = own.sample(scan, rng)
            assert image.shape == (1, *size) and label.shape == size and image.dtype == np.float32
            assert not label[image[0] < 0.5].any()
            kinds.add(set(np.unique(image)) <= set(range(25)))
        assert kinds == ({True, False} if moved else {True})


OFTEN = "cml", "dtc", "bcp"      # patches are drawn alike for all; one learns distances, one cuts patches itself


@pytest.mark.parametrize("method", [pytest.param(name, marks=() if name in OFTEN else pytest.mark.slow)
                                    for name in registry.METHODS])
def test_every_method_trains_with_it(recipe, runs, shallow, no_curves, method):
    run = runs.train(recipe(method=method, augment="strong", normalise="zscore", pre_steps=2, self_steps=2,
                            eval_every=4))
    assert all(np.isfinite(float(row["loss"])) for row in runs.rows(run))


@pytest.mark.parametrize("method", ["cml", "cml_plus", "bcp", "mean_teacher", "ua_mt", "ict"])
def test_passes_that_make_targets_see_clean_patches_and_those_that_learn_do_not(recipe, runs, shallow, method):
    loop = runs.loop(recipe(method=method, augment="intensity", pre_steps=0, self_steps=4))
    loop.stage, seen = len(loop.stages) - 1, []
    patches = loop.streams()[0]._replace(x_u=torch.full((2, 1, 32, 32), 10.0), clean_u=torch.full((2, 1, 32, 32), 20.0))
    for network in {loop.method.networks, getattr(loop.method, "teacher", loop.method.networks)}:
        network.register_forward_pre_hook(lambda _, inputs: seen.append((torch.is_grad_enabled(), inputs[0].mean())))
    loop.take_step(loop.streams(), patches)
    targets, learned = ([mean for learns, mean in seen if learns == kind] for kind in (False, True))
    assert targets and all(abs(mean - 20) < 0.2 for mean in targets)        # a teacher's noise is on top
    assert max(learned) > 3 and all(mean < 12 for mean in learned)


@pytest.mark.parametrize("workers", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_a_stopped_run_goes_on_bit_for_bit_with_any_workers(recipe, runs, shallow, no_curves, tmp_path, workers):
    short = {"augment": "strong", "pre_steps": 1, "self_steps": 4}
    whole = runs.trained(recipe(**short, out=tmp_path / "whole"))
    halved = recipe(**short, out=tmp_path / "parts", workers=workers)
    loop = runs.loop(halved)
    loop.flags = lambda: (15 * (loop.stage == 1 and loop.step == 2), False)
    with pytest.raises(SystemExit):
        loop.run()
    parts = runs.train(halved)
    runs.assert_same(parts, whole)
