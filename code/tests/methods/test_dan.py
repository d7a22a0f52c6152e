"""DAN: the terms of its loss; what its discriminator is told is in test_adversarial.py."""
import math

import pytest
import torch

from methods import registry
from methods.adversarial import fool
from methods.dan import DAN
from methods.losses import supervised_loss


@pytest.mark.parametrize(("dataset", "protocol", "loss"), [
    ("LA", "matched", "eq2"), ("LA", "original", "ce_dsq_fg"), ("ACDC", "original", "ce_dsq_all"),
    ("BraTS2019", "original", "ce_dsq_all")])
def test_the_loss_is_made_of_its_terms(setting, step, dataset, protocol, loss):
    s = setting("dan", dataset, protocol, step=599, steps=1000, in_channels=2)
    outputs, verdicts = [], []
    s.method.networks.register_forward_hook(lambda module, inputs, output: outputs.append((inputs[0], output[0])))
    s.method.discriminator.register_forward_hook(lambda module, inputs, output: verdicts.append((inputs, output)))
    total, terms = step(s.method.losses, s.batch)
    (x, logits), = outputs
    ((maps, images), verdict), = verdicts
    assert torch.equal(x, torch.cat([s.batch.x_l, s.batch.x_u]))
    torch.testing.assert_close(maps, logits[4:].softmax(1))     # all classes
    assert torch.equal(images, s.batch.x_u) and maps.requires_grad
    sup = supervised_loss(loss)(logits[:4], s.batch.y_l)
    progress = 0.599 if protocol == "matched" else 0.45
    torch.testing.assert_close(total, (sup + 0.1 * math.exp(-5 * (1 - progress) ** 2) * fool(verdict)).detach())
    torch.testing.assert_close(terms["sup_l"], sup)


def test_the_network_is_tested_without_its_discriminator(setting):
    s = setting("dan")
    views = s.method.eval().predict(s.batch.x_u)
    assert list(views) == ["network"]
    torch.testing.assert_close(views["network"], s.method.networks(s.batch.x_u)[0].softmax(1))


def test_its_settings():
    assert registry.METHODS["dan"] is DAN
    for dataset in ("LA", "ACDC", "BraTS2019"):
        hyper = DAN.defaults(dataset, "original")
        assert (hyper.consistency, hyper.ramp_share, hyper.stairs) == (0.1, 1.0, True)
        assert DAN.defaults(dataset).supervised == "eq2" and not DAN.defaults(dataset).stairs
