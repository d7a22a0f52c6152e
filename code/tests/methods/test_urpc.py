"""URPC: its consistency against the formula, finite at the extremes, nothing detached; the terms of its loss."""
import math

import numpy as np
import pytest
import torch

from methods import registry
from methods.losses import supervised_loss
from methods.urpc import URPC, feature_dropout, pyramid_consistency


def by_formula(scales):
    """NumPy, from raw softmaxes."""
    probs = [np.exp(s) / np.exp(s).sum(1, keepdims=True) for s in scales]
    mean, total = sum(probs) / 4, 0
    for p in probs:
        divergence = (mean * np.log(mean / p)).sum(1, keepdims=True)
        weight = np.exp(-divergence)
        total += (weight * (mean - p) ** 2).mean() / (weight.mean() + 1e-8) + divergence.mean()
    return total / 4


@pytest.mark.parametrize("shape", [(3, 4, 5, 6), (2, 2, 3, 4, 5)])
def test_consistency_is_the_formula(shape):
    scales = [2 * torch.randn(shape, dtype=torch.float64) for _ in range(4)]
    assert float(pyramid_consistency(scales)) == pytest.approx(by_formula([s.numpy() for s in scales]), rel=1e-10)
    assert float(pyramid_consistency(scales[:1] * 4)) == pytest.approx(0, abs=1e-12)


def test_nothing_is_detached():
    scales = [torch.randn(2, 3, 2, 2, dtype=torch.float64, requires_grad=True) for _ in range(4)]
    assert torch.autograd.gradcheck(lambda *given: pyramid_consistency(list(given)), scales)


def test_it_stays_finite_where_a_softmax_underflows():
    first = torch.tensor([[1000.0, -1000.0], [-1000.0, 1000.0]]).view(2, 2, 1, 1).requires_grad_()
    scales = [first, -first, torch.zeros(2, 2, 1, 1), first]
    loss = pyramid_consistency(scales)
    loss.backward()
    assert loss.isfinite() and first.grad.isfinite().all()
    same = pyramid_consistency([first.detach()] * 4)
    assert float(same) == pytest.approx(0, abs=1e-6)


def test_feature_dropout_takes_the_callers_factor():
    feature = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 1, 2, 2).repeat(1, 2, 1, 1)
    assert feature_dropout(feature, 0.7)[0, 1].flatten().tolist() == [1, 2, 0, 0]
    assert feature_dropout(feature, 0.8)[0, 0].flatten().tolist() == [1, 2, 3, 0]


@pytest.mark.parametrize(("dataset", "protocol"), [("LA", "matched"), ("ACDC", "matched"), ("ACDC", "original"),
                                                   ("BraTS2019", "original")])
def test_the_loss_is_made_of_its_terms(setting, step, dataset, protocol):
    s = setting("urpc", dataset, protocol, step=599, steps=1000, in_channels=2, num_classes=3)
    outputs = []
    s.method.networks.register_forward_hook(lambda module, inputs, output: outputs.append((inputs[0], output)))
    total, terms = step(s.method.losses, s.batch)
    (x, (full, coarse)), = outputs
    scales = [full, *coarse]
    assert torch.equal(x, torch.cat([s.batch.x_l, s.batch.x_u])) and len(scales) == 4
    loss = supervised_loss("eq2" if protocol == "matched" else "ce_dsq_all")
    sup = torch.stack([loss(logits[:4], s.batch.y_l) for logits in scales]).mean()
    consistency = pyramid_consistency([logits[4:] for logits in scales])
    progress = 0.599 if protocol == "matched" else 0.45
    torch.testing.assert_close(total, (sup + 0.1 * math.exp(-5 * (1 - progress) ** 2) * consistency).detach())
    torch.testing.assert_close(terms["sup_l"], sup)
    assert {int(b) for key, b in s.method.networks.named_buffers() if key.endswith("num_batches_tracked")} == {1}
    assert all(p.grad is not None for p in s.method.parameters())


def test_without_consistency_it_is_deep_supervision_of_labelled_scans_alone(setting, step):
    s = setting("urpc", "ACDC", hyper={"consistency": 0.0})
    stage, = s.method.stages(2, 3)
    assert not stage.unlabelled and stage.steps == 5
    total, terms = step(stage.losses, s.batch._replace(x_u=None))
    torch.manual_seed(7)
    full, coarse = s.method.networks(s.batch.x_l)
    scales = [supervised_loss("eq2")(logits, s.batch.y_l) for logits in (full, *coarse)]
    torch.testing.assert_close(total, torch.stack(scales).mean().detach())
    assert terms.keys() - {"picture"} == {"sup_l"} and setting("urpc").method.stages(2, 3)[0].unlabelled


@pytest.mark.parametrize("dataset", ["LA", "ACDC"])
def test_the_full_resolution_head_is_tested(setting, dataset):
    s = setting("urpc", dataset)
    views = s.method.eval().predict(s.batch.x_u)
    assert list(views) == ["network", "half", "quarter", "eighth"]
    full, coarse = s.method.networks(s.batch.x_u)
    for probs, logits in zip(views.values(), [full, *coarse], strict=True):
        torch.testing.assert_close(probs, logits.softmax(1))


def test_its_settings():
    assert registry.METHODS["urpc"] is URPC
    for dataset in ("LA", "ACDC", "BraTS2019"):
        hyper = URPC.defaults(dataset, "original")
        assert (hyper.supervised, hyper.consistency, hyper.ramp_share, hyper.stairs) == ("ce_dsq_all", 0.1, 1.0, True)
        assert URPC.defaults(dataset).supervised == "eq2"
