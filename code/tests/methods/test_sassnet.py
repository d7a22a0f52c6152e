"""SASSNet: the terms of its loss, what reaches which head, its settings on each data set."""
import math

import pytest
import torch
import torch.nn.functional as F

from methods import registry
from methods.losses import supervised_loss
from methods.sassnet import SASSNet


@pytest.mark.parametrize(("dataset", "protocol", "loss", "ceiling"), [
    ("LA", "matched", "eq2", 0.015), ("LA", "original", "dsq_fg", 0.015), ("ACDC", "original", "dsq_all", 0.01),
    ("BraTS2019", "original", "dsq_fg", 0.01)])
def test_the_loss_is_made_of_its_terms(setting, step, dataset, protocol, loss, ceiling):
    s = setting("sassnet", dataset, protocol, step=599, steps=1000)
    outputs, verdicts = [], []
    s.method.networks.register_forward_hook(lambda module, inputs, output: outputs.append((inputs[0], *output)))
    s.method.discriminator.register_forward_hook(lambda module, inputs, output: verdicts.append((inputs, output)))
    total, terms = step(s.method.losses, s.batch)
    (x, logits, maps), = outputs
    ((judged, images), verdict), = verdicts
    assert torch.equal(x, torch.cat([s.batch.x_l, s.batch.x_u]))
    assert torch.equal(judged, maps[4:]) and torch.equal(images, s.batch.x_u)
    sup = supervised_loss(loss)(logits[:4], s.batch.y_l)
    distance = (maps[:4] - s.batch.z_l).square().mean()
    adversarial = F.cross_entropy(verdict, torch.ones(4, dtype=torch.long))
    progress = 0.599 if protocol == "matched" else 0.45
    weight = ceiling * math.exp(-5 * (1 - progress) ** 2)
    torch.testing.assert_close(total, (sup + 0.3 * distance + weight * adversarial).detach())
    torch.testing.assert_close(terms["distance"], distance)
    torch.testing.assert_close(terms["sup_l"], sup)


def test_the_adversarial_gradient_reaches_the_trunk_and_the_map_head_alone(setting):
    s = setting("sassnet")
    _, maps = s.method.networks(s.batch.x_u)
    loss = s.method.fooling(maps, s.batch.x_u)
    named = dict(s.method.networks.named_parameters())
    gradients = dict(zip(named, torch.autograd.grad(loss, named.values(), allow_unused=True), strict=True))
    without = {key for key, gradient in gradients.items() if gradient is None}
    assert without == {"head.weight", "head.bias"}


@pytest.mark.parametrize("name", ["sassnet", "dtc"])
@pytest.mark.parametrize(("dataset", "classes"), [("LA", 2), ("ACDC", 4), ("ACDC", 2), ("BraTS2019", 3)])
def test_maps_and_views_for_any_number_of_classes_and_channels(setting, step, name, dataset, classes):
    s = setting(name, dataset, num_classes=classes, in_channels=2)
    assert s.batch.z_l.shape == (4, classes - 1, *s.batch.x_l.shape[2:]) and s.batch.z_l.dtype == torch.float32
    total, _ = step(s.method.losses, s.batch)
    assert math.isfinite(total)
    views = s.method.eval().predict(s.batch.x_u)
    assert list(views) == ["network", "level_set"]
    logits, maps = s.method.networks(s.batch.x_u)
    torch.testing.assert_close(views["network"], logits.softmax(1))
    for probs in views.values():
        assert probs.shape == (4, classes, *s.batch.x_u.shape[2:])
        torch.testing.assert_close(probs.sum(1), torch.ones_like(probs[:, 0]))
    assert torch.equal(views["level_set"].argmax(1) > 0, (maps < 0).any(1))


def test_maps_are_made_in_the_loaders_workers(recipe, runs, narrow, tmp_path):
    for method in ("sassnet", "dtc"):
        loop = runs.loop(recipe("LA", method=method, workers=1, out=tmp_path / method))
        streams = loop.streams()
        [patches] = streams.batches(0, 1, workers=1)
        y_l, z_l = patches.y_l, patches.z_l
        assert z_l.shape == (2, 1, 16, 32, 16) and z_l.dtype == torch.float32
        inside = y_l == 1
        assert inside.any() and (z_l[:, 0][inside] <= 0).all() and (z_l[:, 0][~inside] > 0).all()


def test_the_released_weights_of_each_data_set():
    assert registry.METHODS["sassnet"] is SASSNet
    for dataset, ceiling in (("LA", 0.015), ("ACDC", 0.01), ("BraTS2019", 0.01)):
        matched, original = (SASSNet.defaults(dataset, protocol) for protocol in ("matched", "original"))
        assert matched.consistency == original.consistency == ceiling
        assert (matched.supervised, matched.stairs, original.stairs) == ("eq2", False, True)
        assert matched.ramp_share == original.ramp_share == 1
