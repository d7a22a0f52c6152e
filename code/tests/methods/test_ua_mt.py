"""UA-MT: entropy, threshold and masked consistency by hand, and the passes they are made of."""
import math

import pytest
import torch

from methods.losses import supervised_loss
from methods.ua_mt import certain_consistency, certainty_threshold, predictive_entropy


def test_the_entropy_is_that_of_the_mean_not_the_mean_of_entropies():
    sure = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64).reshape(2, 1, 2, 1, 1)
    assert predictive_entropy(sure).shape == (1, 1, 1, 1)
    assert float(predictive_entropy(sure)) == pytest.approx(math.log(2), abs=3e-6)
    assert float(predictive_entropy(sure[:1])) == pytest.approx(0, abs=2e-6)


def test_the_entropy_per_voxel():
    probs = torch.randn(8, 3, 4, 2, 3, 4, dtype=torch.float64).softmax(2)
    mean = probs.numpy().mean(0)
    expected = torch.from_numpy(-(mean * torch.log(torch.from_numpy(mean) + 1e-6).numpy()).sum(1, keepdims=True))
    assert predictive_entropy(probs).shape == (3, 1, 2, 3, 4)
    torch.testing.assert_close(predictive_entropy(probs), expected)


@pytest.mark.parametrize(("progress", "threshold"), [(0, 0.5210), (0.5, 0.5695), (1, 0.6931)])
def test_the_threshold_rises_to_ln_2(progress, threshold):
    assert certainty_threshold(progress) == pytest.approx(threshold, abs=5e-5)


def test_consistency_by_hand_and_where_the_mask_is_1():
    """Three voxels; squared differences of both classes .04, .25, .01: 2 x .04 and 2 x .01 count over 2 x 2."""
    student = torch.tensor([[0.7, 0.9, 0.2], [0.3, 0.1, 0.8]]).reshape(1, 2, 1, 3)
    teacher = torch.tensor([[0.5, 0.4, 0.3], [0.5, 0.6, 0.7]]).reshape(1, 2, 1, 3)
    mask = torch.tensor([1.0, 0.0, 1.0]).reshape(1, 1, 1, 3)
    assert float(certain_consistency(student, teacher, mask)) == pytest.approx((0.08 + 0.02) / 4)
    assert float(certain_consistency(student, teacher, 1 - mask)) == pytest.approx(0.5 / 2)
    assert float(certain_consistency(student, teacher, 0 * mask)) == 0
    half = [tensor.half() for tensor in (student, teacher, 0 * mask)]
    assert float(certain_consistency(*half)) == 0


@pytest.mark.parametrize(("dataset", "protocol"), [("LA", "original"), ("ACDC", "matched"), ("BraTS2019", "matched")])
def test_the_passes_of_a_step(setting, step, watch, dataset, protocol):
    s = setting("ua_mt", dataset, protocol, step=599, steps=1000, hyper={"ramp_share": 0.9})
    # so that some voxels are certain and others are not
    for p in s.method.teacher.parameters():
        p.mul_(1.5)
    student, teacher = watch(s.method.networks), watch(s.method.teacher)
    total, terms = step(s.method.losses, s.batch)
    (seen,), (target, *noisy) = student, teacher
    x_u = s.batch.x_u
    assert torch.equal(seen.x, torch.cat([s.batch.x_l, x_u]))
    assert len(noisy) == 4 and all(one.training and not one.gradient for one in teacher)
    noises = [target.x - x_u, *(part - x_u for one in noisy for part in one.x.chunk(2))]
    assert len({float(noise.flatten()[0]) for noise in noises}) == 9                    # every copy has its own
    assert all(0.19 < noise.abs().max() <= 0.2 + 1e-12 for noise in noises)
    mean = torch.stack([part.softmax(1) for one in noisy for part in one.logits.chunk(2)]).mean(0)
    entropy = -(mean * (mean + 1e-6).log()).sum(1, keepdim=True)
    # the plain iteration over all steps, whatever ramp the weight has
    certain = entropy < (0.75 + 0.25 * math.exp(-5 * 0.401 ** 2)) * math.log(2)
    assert 0 < certain.double().mean() < 1
    difference = (seen.logits[4:].softmax(1) - target.logits.softmax(1)).square()
    consistency = difference[certain.expand_as(difference)].sum() / (2 * certain.sum())
    sup = supervised_loss("eq2" if protocol == "matched" else "ce_dsq_fg")(seen.logits[:4], s.batch.y_l)
    torch.testing.assert_close(terms["certain"], certain.double().mean())
    torch.testing.assert_close(terms["consistency"].detach(), consistency)
    progress = (450 if protocol == "original" else 599) / 900
    torch.testing.assert_close(total, sup + 0.1 * math.exp(-5 * (1 - progress) ** 2) * consistency)


def test_running_statistics_see_the_student_once_and_the_teacher_five_times(setting, step):
    s = setting("ua_mt")
    step(s.method.losses, s.batch)
    for module, passes in ((s.method.networks, 1), (s.method.teacher, 5)):
        counts = {int(b) for name, b in module.named_buffers() if name.endswith("num_batches_tracked")}
        assert counts == {passes}
    assert all(p.grad is None for p in s.method.teacher.parameters())


def test_the_student_is_tested_and_the_teacher_follows_it(setting):
    s = setting("ua_mt", step=0)
    assert list(s.method.eval().predict(s.batch.x_u)) == ["student", "teacher"]
    s.method.after_step(s.batch)
    for p, q in zip(s.method.teacher.parameters(), s.method.networks.parameters(), strict=True):
        assert torch.equal(p, q)
