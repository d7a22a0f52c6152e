"""CML+ is CML with three switches: what each one changes, and that nothing else does."""
import dataclasses

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter1d

from cml import CML, segmentation_loss
from dataloaders.cutmix import zero_centered_mask
from method import Batch
from methods import cml_plus, registry
from methods.cml_plus import Hyper, blur, perturb
from train_ACDC import PRESETS as ACDC
from train_LA import PRESETS as LA

NONE = Hyper(both_orders=False, averaged=False, perturbed=False)


@pytest.fixture(autouse=True)
def _narrow(narrow):
    pass


def build(axes=2, name="cml_plus", **switches):
    """One seed, so that all have the same networks; switches that are not named are off."""
    torch.manual_seed(0)
    hyper = {"hyper": dataclasses.replace(NONE, **switches)} if name == "cml_plus" else {}
    recipe = ACDC["mini"] if axes == 2 else LA["mini"]
    return registry.build(dataclasses.replace(recipe, method=name, **hyper)).double().train()


def make_batch(axes=2, step=0):
    size, classes = (4, *axes * (16,)), 4 if axes == 2 else 2
    draw = torch.Generator().manual_seed(3)
    x_l, x_u = (torch.randn(4, 1, *size[1:], generator=draw, dtype=torch.float64) for _ in range(2))
    return Batch(x_l, torch.randint(classes, size, generator=draw), x_u, step, 100, torch.Generator().manual_seed(5))


def passes(method):
    """What the networks see and say from now on: (input, views, whether a graph was made)."""
    seen = []
    method.networks.register_forward_hook(
        lambda _, inputs, views: seen.append((inputs[0].detach(), views, torch.is_grad_enabled())))
    return seen


def step(method, batch):
    """(loss, terms) of each half, gradients left in the networks."""
    torch.manual_seed(7)        # dropout and perturbations
    halves = []
    for loss, terms in method.losses(batch):
        loss.backward()
        halves.append((loss.item(), terms))
    return halves


def masks_of(batch, method):
    """The masks that a step draws: of the labelled half, of the unlabelled one."""
    generator = torch.Generator().manual_seed(5)
    return [zero_centered_mask(batch.x_l.shape[2:], method.beta, generator).numpy() for _ in range(2)]


@pytest.mark.parametrize("axes", [2, 3])
def test_without_its_switches_it_is_cml(axes):
    plain, plus = build(axes, "cml"), build(axes)
    for (loss, terms), (other, others) in zip(step(plain, make_batch(axes)), step(plus, make_batch(axes)), strict=True):
        assert loss == other and terms.keys() == others.keys()
    for one, other in zip(plain.parameters(), plus.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)
    assert plain.state_dict().keys() == plus.state_dict().keys()
    assert plus.stages(10, 20)[1].cost == plain.stages(10, 20)[1].cost


def test_all_three_are_on_by_default():
    assert registry.build(dataclasses.replace(ACDC["mini"], method="cml_plus")).hyper == Hyper(True, True, True, 0.99)


# ---- both orders -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axes", [2, 3])
def test_each_pair_is_mixed_both_ways_with_one_mask_for_one_pseudo_label_pass(axes):
    method, batch = build(axes, both_orders=True), make_batch(axes)
    seen = passes(method)
    step(method, batch)
    (labelled, _, _), (clean, _, graph), (unlabelled, _, _) = seen
    assert torch.equal(clean, batch.x_u) and not graph
    for mixed, scans, mask in zip((labelled, unlabelled), (batch.x_l, batch.x_u), masks_of(batch, method), strict=True):
        a, b, mixed = scans[:2].numpy(), scans[2:].numpy(), mixed.numpy()
        assert len(mixed) == len(scans) and 0 < mask.mean() < 1
        np.testing.assert_array_equal(mixed[:2], a * mask + b * (1 - mask))
        np.testing.assert_array_equal(mixed[2:], b * mask + a * (1 - mask))


def test_true_labels_go_with_their_images():
    method, batch = build(both_orders=True), make_batch()
    seen = passes(method)
    (_, terms), _ = step(method, batch)
    mask, (a, b) = masks_of(batch, method)[0], batch.y_l.numpy().reshape(2, 2, 16, 16)
    target = torch.from_numpy(np.concatenate([a * mask + b * (1 - mask), b * mask + a * (1 - mask)]))
    (logits0, _), (logits1, _) = seen[0][1]
    expected = segmentation_loss(logits0, target) + segmentation_loss(logits1, target)
    assert terms["sup_l"].item() == pytest.approx(expected.item(), rel=1e-12)


def test_eq_9_holds_in_both_orders(monkeypatch):
    """Outside the box the other view's label of the scan that stands there, inside the own one."""
    method, batch = build(both_orders=True), make_batch()
    noted, make = [], CML.pseudo_labels

    def noting(self, x):
        later = make(self, x)
        return lambda: noted.append(later()) or noted[0]
    monkeypatch.setattr(CML, "pseudo_labels", noting)
    seen = passes(method)
    _, (_, terms) = step(method, batch)
    labels, mask = [one.numpy() for one in noted[0]], masks_of(batch, method)[1]
    assert len(noted) == 1 and not np.array_equal(*labels)
    loss = 0
    for view, (logits, _) in enumerate(seen[2][1]):
        own, other = labels[view], labels[1 - view]
        target = np.concatenate([other[:2] * mask + own[2:] * (1 - mask), other[2:] * mask + own[:2] * (1 - mask)])
        loss += segmentation_loss(logits, torch.from_numpy(target)).item()
    assert terms["sup_u"].item() == pytest.approx(loss, rel=1e-12)


def test_a_step_of_both_orders_costs_seven_thirds_of_pre_training():
    """3 B of pre-training; 3 B labelled, B for pseudo-labels and 3 B unlabelled of self-training."""
    assert [stage.cost for stage in build(both_orders=True).stages(10, 20)] == [1, 7 / 3]


@pytest.mark.parametrize("name", ("cps", "cfl"))
def test_a_step_without_mixing_costs_twice_that_of_pre_training(name):
    """Whole labelled batches in the first, whole labelled and unlabelled ones in the second."""
    assert [stage.cost for stage in build(2, name).stages(10, 20)] == [1, 2]


# ---- averaged weights ------------------------------------------------------------------------------------------


def state(module):
    return {key: value.clone() for key, value in module.state_dict().items()}


def test_the_average_is_copied_at_the_first_step_of_a_stage_and_follows_from_there():
    method = build(averaged=True)
    expected = None
    for number in (0, 1, 150, 0, 1):                 # two stages
        with torch.no_grad():
            method.networks(make_batch().x_l)        # moves the running statistics
            for parameter in method.networks.parameters():
                parameter.add_(torch.randn_like(parameter))
        method.after_step(make_batch(step=number))
        new, keep = state(method.networks), min(0.99, number / (number + 1))
        expected = new if number == 0 else {
            key: keep * expected[key] + (1 - keep) * value if value.is_floating_point() else value
            for key, value in new.items()}
        average = state(method.average)
        assert average.keys() == expected.keys() and any("running_var" in key for key in average)
        for key, value in expected.items():
            torch.testing.assert_close(average[key], value, rtol=1e-12, atol=1e-12)
    assert not torch.equal(next(method.average.parameters()), next(method.networks.parameters()))


def test_the_average_is_tested_and_the_last_iterate_stands_beside_it():
    method, plain, x = build(averaged=True).eval(), build(name="cml").eval(), torch.randn(2, 1, 16, 16).double()
    with torch.no_grad():
        for parameter in method.average.parameters():
            parameter.mul_(1.1)
    views = method.predict(x)
    assert list(views) == ["fused", "subnet0", "subnet1", "last_fused", "last_subnet0", "last_subnet1"]
    for view, probabilities in plain.predict(x).items():
        assert torch.equal(views[f"last_{view}"], probabilities) and not torch.equal(views[view], probabilities)
    plain.networks.load_state_dict(method.average.state_dict())
    assert all(torch.equal(views[view], probabilities) for view, probabilities in plain.predict(x).items())


def test_the_average_changes_nothing_that_is_trained():
    ends = []
    for averaged in (True, False):
        method = build(both_orders=True, averaged=averaged, perturbed=True)
        optimizer = torch.optim.SGD(method.trained_parameters(), lr=0.1)
        for number in range(3):
            optimizer.zero_grad()
            step(method, make_batch(step=number))
            optimizer.step()
            method.after_step(make_batch(step=number))
        ends.append(state(method.networks))
    assert all(torch.equal(ends[0][key], value) for key, value in ends[1].items())
    start = state(build().networks)
    assert not all(torch.equal(ends[0][name], start[name]) for name, _ in method.networks.named_parameters())


def test_the_average_is_saved_but_not_trained():
    method = build(averaged=True)
    step(method, make_batch())
    assert {id(p) for p in method.trained_parameters()} == {id(p) for p in method.networks.parameters()}
    assert all(p.grad is None for p in method.average.parameters())
    assert any(key.startswith("average.") for key in method.state_dict())
    assert not any(key.startswith("average.") for key in build(both_orders=True).state_dict())


# ---- perturbed inputs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axes", [2, 3])
def test_losses_see_perturbed_scans_and_pseudo_labels_clean_ones(axes):
    method, plain, batch = build(axes, perturbed=True), build(axes), make_batch(axes)
    seen, others = passes(method), passes(plain)
    step(method, batch)
    step(plain, make_batch(axes))
    assert torch.equal(seen[1][0], batch.x_u)
    for perturbed, mixed in ((seen[0][0], others[0][0]), (seen[2][0], others[2][0])):
        assert perturbed.shape == mixed.shape and perturbed.dtype == mixed.dtype
        assert 0.05 < (perturbed - mixed).abs().mean() < 2


@pytest.fixture
def only(monkeypatch):
    """only("NOISES") -> perturbations but this one are off."""
    neutral = {"FACTORS": (1.0, 1.0), "BLURS": (1e-3, 1e-3), "NOISES": (0.0, 0.0)}

    def switch(name):
        for other, value in neutral.items():
            if other != name:
                monkeypatch.setattr(cml_plus, other, value)
    return switch


def test_each_scan_has_draws_of_its_own_from_torch():
    x = torch.rand(1, 1, 16, 16).expand(2, -1, -1, -1)
    torch.manual_seed(1)
    one = perturb(x)
    torch.manual_seed(1)
    assert torch.equal(perturb(x), one) and not torch.equal(one[0], one[1])
    assert not torch.equal(perturb(x), one)


@pytest.mark.parametrize("shape", [(64, 2, 12, 10), (64, 1, 6, 8, 5)])
def test_contrast_spreads_about_the_mean_and_brightness_from_the_darkest_voxel(only, shape):
    """So the result is affine in the scan, and of both factors within 0.5 to 1.5."""
    only("FACTORS")
    x = torch.randn(shape, dtype=torch.float64)
    changed, axes = perturb(x), tuple(range(2, x.ndim))
    slope = changed.std(axes) / x.std(axes)                                         # contrast times brightness
    brightness = slope * (x.mean(axes) - x.amin(axes)) / (changed.mean(axes) - changed.amin(axes))
    torch.testing.assert_close(brightness, torch.ones_like(brightness))
    torch.testing.assert_close(slope[:, :1].expand_as(slope), slope)                # all channels of a scan alike
    assert 0.25 <= slope.min() < 0.6 and 1.5 < slope.max() <= 2.25
    centred = [(one - one.mean(axes, keepdim=True)).flatten(1) for one in (x, changed)]
    cosine = torch.nn.functional.cosine_similarity(*centred)
    torch.testing.assert_close(cosine, torch.ones_like(cosine))


def test_brightness_leaves_the_darkest_voxel_of_a_contrast_of_one(only, monkeypatch):
    only("FACTORS")
    draws = iter([torch.full((1, 1, 1, 1), value) for value in (0.5, 1.0, 0, 0)])   # contrast 1, brightness 1.5
    monkeypatch.setattr(torch, "rand", lambda *_, **__: next(draws))
    x = torch.tensor([[[[-1.0, -0.8], [-0.6, 0.0]]]])
    torch.testing.assert_close(perturb(x), torch.tensor([[[[-1.0, -0.7], [-0.4, 0.5]]]]))


def test_noise_is_a_share_of_the_scans_own_spread(only):
    only("NOISES")
    x = torch.randn(200, 1, 20, 20, dtype=torch.float64) * torch.linspace(1, 50, 200)[:, None, None, None]
    share = ((perturb(x) - x).std((1, 2, 3)) / x.std((1, 2, 3)))
    assert share.max() < 0.23 and share.min() < 0.02 and float(share.mean()) == pytest.approx(0.1, abs=0.015)


@pytest.mark.parametrize("shape", [(2, 1, 17, 12), (2, 2, 9, 8, 11)])
def test_blur_is_scipys_gaussian_filter_along_every_axis(shape):
    x = torch.randn(shape, dtype=torch.float64)
    deviations = (0.4, 1.0)
    blurred = blur(x, torch.tensor(deviations, dtype=torch.float64).view(2, *[1] * (len(shape) - 1)))
    for scan, result, deviation in zip(x.numpy(), blurred.numpy(), deviations, strict=True):
        for axis in range(1, scan.ndim):
            scan = gaussian_filter1d(scan, deviation, axis, mode="nearest", radius=3)
        np.testing.assert_allclose(result, scan, rtol=0, atol=1e-12)
