"""ICT: interpolation by hand, which scans make a pair, and what student and teacher see."""
import math

import pytest
import torch

from methods import registry
from methods.ict import interpolate
from methods.losses import supervised_loss
from runtime.errors import InputError


def test_the_share_weighs_the_second_one_per_sample():
    first, second = torch.zeros(2, 3, 4, 5), torch.ones(2, 3, 4, 5)
    mixed = interpolate(first, second, torch.tensor([0.25, 1.0]))
    assert torch.equal(mixed[0], torch.full((3, 4, 5), 0.25)) and torch.equal(mixed[1], torch.ones(3, 4, 5))
    volumes = interpolate(torch.full((1, 2, 2, 2, 2), 3.0), torch.full((1, 2, 2, 2, 2), 5.0), torch.tensor([0.5]))
    assert torch.equal(volumes, torch.full((1, 2, 2, 2, 2), 4.0))


@pytest.mark.parametrize(("dataset", "protocol"), [("LA", "matched"), ("ACDC", "original"), ("BraTS2019", "original")])
def test_the_student_sees_labelled_and_mixed_scans_and_learns_the_mixed_prediction(setting, step, watch, dataset,
                                                                                   protocol):
    s = setting("ict", dataset, protocol, step=599, steps=1000)
    student, teacher = watch(s.method.networks), watch(s.method.teacher)
    total, terms = step(s.method.losses, s.batch)
    (seen,), (one, two) = student, teacher
    u0, u1 = s.batch.x_u[:2], s.batch.x_u[2:]
    # two passes of the teacher, in training mode, without noise and without gradient
    assert torch.equal(one.x, u0) and torch.equal(two.x, u1)
    assert one.training and two.training and not one.gradient and not two.gradient
    assert torch.equal(seen.x[:4], s.batch.x_l) and len(seen.x) == 6
    share = ((seen.x[4:] - u0) / (u1 - u0)).flatten(1)
    share = share.median(1).values
    assert ((share > 0) & (share < 1)).all() and share[0] != share[1]
    torch.testing.assert_close(seen.x[4:], interpolate(u0, u1, share))                  # one share for all voxels
    target = interpolate(one.logits.softmax(1), two.logits.softmax(1), share)
    consistency = (seen.logits[4:].softmax(1) - target).square().mean()
    loss = "eq2" if protocol == "matched" else "ce_dsq_all"
    sup = supervised_loss(loss)(seen.logits[:4], s.batch.y_l)
    torch.testing.assert_close(terms["consistency"].detach(), consistency)
    torch.testing.assert_close(terms["sup_l"].detach(), sup)
    progress = 0.45 if protocol == "original" else 0.599
    torch.testing.assert_close(total, sup + 0.1 * math.exp(-5 * (1 - progress) ** 2) * consistency)


def test_shares_are_drawn_from_beta_of_a_fifth(setting, step, monkeypatch):
    drawn = []

    class Recorded(torch.distributions.Beta):
        def __init__(self, *parameters):
            drawn.append(parameters)
            super().__init__(*parameters)
    monkeypatch.setattr(torch.distributions, "Beta", Recorded)
    s = setting("ict")
    step(s.method.losses, s.batch)
    assert drawn == [(0.2, 0.2)]


def test_the_teacher_follows_the_student_and_is_not_trained(setting, step):
    s = setting("ict", step=0)
    step(s.method.losses, s.batch)
    assert all(p.grad is None for p in s.method.teacher.parameters())
    s.method.after_step(s.batch)
    for p, q in zip(s.method.teacher.parameters(), s.method.networks.parameters(), strict=True):
        assert torch.equal(p, q)
    assert list(s.method.eval().predict(s.batch.x_u)) == ["student", "teacher"]


def test_what_it_cannot_run_is_refused(setting):
    with pytest.raises(InputError, match="--unlabeled-batch 3: --method ict takes scans in pairs, so it must be even"):
        setting("ict", unlabeled_batch=3)
    with pytest.raises(InputError, match="--hyper.alpha 0"):
        setting("ict", hyper={"alpha": 0.0})
    registry.check(setting("ict", labeled_batch=3).recipe)
