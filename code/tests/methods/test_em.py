"""Entropy minimisation: the entropy by hand, where it acts and how much it weighs."""
import math

import pytest
import torch

from cml import segmentation_loss
from methods.em import entropy_loss
from methods.losses import supervised_loss


def maps(*probabilities):
    return torch.tensor(probabilities, dtype=torch.float64).T.reshape(1, len(probabilities[0]), 1, len(probabilities))


def test_entropy_by_hand():
    assert float(entropy_loss(maps([0.25] * 4))) == pytest.approx(0.999997, abs=5e-7)
    assert float(entropy_loss(maps([1.0, 0.0]))) == pytest.approx(-1e-6 / math.log(2), rel=1e-3)
    bits = -(0.9 * math.log2(0.9) + 0.1 * math.log2(0.1))
    assert float(entropy_loss(maps([0.9, 0.1], [0.5, 0.5]))) == pytest.approx((bits + 1) / 2, abs=1e-5)


def test_gradient_flows_through_both_factors():
    p = maps([0.7, 0.3]).requires_grad_()
    entropy_loss(p).backward()
    expected = [-(math.log(q + 1e-6) + q / (q + 1e-6)) / math.log(2) for q in (0.7, 0.3)]
    assert p.grad.flatten().tolist() == pytest.approx(expected)


def test_float64_stays_and_three_axes_will_do():
    prob = torch.randn(2, 3, 4, 5, 6, dtype=torch.float64).softmax(1)
    assert entropy_loss(prob).dtype == torch.float64 and entropy_loss(prob.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize(("dataset", "protocol", "loss"), [
    ("LA", "original", "ce_dsq_fg"), ("ACDC", "original", "ce_dsq_all"), ("BraTS2019", "matched", "eq2")])
def test_labels_on_the_labelled_half_entropy_on_the_whole_batch(setting, step, watch, dataset, protocol, loss):
    s = setting("em", dataset, protocol, step=299, steps=1000)
    passes = watch(s.method.networks)
    total, terms = step(s.method.losses, s.batch)
    one, = passes
    assert torch.equal(one.x, torch.cat([s.batch.x_l, s.batch.x_u]))
    sup, entropy = supervised_loss(loss)(one.logits[:4], s.batch.y_l), entropy_loss(one.logits.softmax(1))
    torch.testing.assert_close(terms["sup_l"].detach(), sup)
    torch.testing.assert_close(terms["entropy"].detach(), entropy)
    progress = 0.15 if protocol == "original" else 0.299            # in stairs of 150, or at each step
    torch.testing.assert_close(total, sup + 0.1 * math.exp(-5 * (1 - progress) ** 2) * entropy)


def test_matched_is_eq_2_on_every_data_set(setting):
    for dataset in ("LA", "ACDC", "BraTS2019"):
        assert setting("em", dataset).method.supervised is segmentation_loss


def test_the_network_is_tested(setting):
    s = setting("em")
    views = s.method.eval().predict(s.batch.x_u)
    torch.testing.assert_close(views["network"], s.method.networks(s.batch.x_u)[0].softmax(1))
    assert list(views) == ["network"]
