"""DTC: the consistency of its two heads by hand, and the terms of its loss."""
import math

import pytest
import torch

from methods import registry
from methods.dtc import DTC, dual_task_consistency
from methods.losses import supervised_loss


def test_consistency_by_hand():
    sdm = torch.tensor([-0.001, 0.002, 0.0, 1.0], dtype=torch.float64).view(1, 1, 2, 2)
    prob = torch.tensor([0.9, 0.2, 0.5, 0.3], dtype=torch.float64).view(1, 1, 2, 2)
    inside = [1 / (1 + math.exp(-1.5)), 1 / (1 + math.exp(3)), 0.5, 0]
    expected = sum((a - b) ** 2 for a, b in zip(inside, [0.9, 0.2, 0.5, 0.3], strict=True)) / 4
    assert float(dual_task_consistency(sdm, prob)) == pytest.approx(expected)


def test_gradient_reaches_both_heads():
    sdm = (1e-3 * torch.randn(2, 3, 2, 3, dtype=torch.float64)).requires_grad_()
    prob = torch.rand(2, 3, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(dual_task_consistency, (sdm, prob), eps=1e-8, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("dataset", "protocol", "loss"), [
    ("LA", "matched", "eq2"), ("LA", "original", "dsq_fg"), ("ACDC", "original", "dsq_all"),
    ("BraTS2019", "original", "dsq_fg")])
def test_the_loss_is_made_of_its_terms(setting, step, dataset, protocol, loss):
    s = setting("dtc", dataset, protocol, step=599, steps=1000, hyper={"distance": 0.4})
    outputs = []
    s.method.networks.register_forward_hook(lambda module, inputs, output: outputs.append((inputs[0], *output)))
    total, terms = step(s.method.losses, s.batch)
    (x, logits, maps), = outputs
    assert torch.equal(x, torch.cat([s.batch.x_l, s.batch.x_u]))
    sup = supervised_loss(loss)(logits[:4], s.batch.y_l)
    distance = (maps[:4] - s.batch.z_l).square().mean()
    # all samples, labelled ones too
    consistency = (torch.sigmoid(-1500 * maps) - logits.softmax(1)[:, 1:]).square().mean()
    progress = 0.599 if protocol == "matched" else 0.45
    weight = math.exp(-5 * (1 - progress) ** 2)
    torch.testing.assert_close(total, (sup + 0.4 * distance + weight * consistency).detach())
    torch.testing.assert_close(terms["consistency"], consistency)
    assert {int(b) for key, b in s.method.networks.named_buffers() if key.endswith("num_batches_tracked")} == {1}
    assert all(p.grad is not None for p in s.method.parameters())


def test_its_settings():
    assert registry.METHODS["dtc"] is DTC
    for dataset in ("LA", "ACDC", "BraTS2019"):
        hyper = DTC.defaults(dataset, "original")
        assert (hyper.distance, hyper.consistency, hyper.ramp_share, hyper.stairs) == (0.3, 1.0, 1.0, True)
        assert DTC.defaults(dataset).supervised == "eq2" and not DTC.defaults(dataset).stairs
