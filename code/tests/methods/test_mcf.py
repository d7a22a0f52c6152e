"""MCF: rectification and competition in NumPy, who learns from whom, and what is tested."""
import math

import numpy as np
import pytest
import torch

from methods import mcf
from methods.losses import supervised_loss
from methods.mcf import competition, rectification

SIZES = pytest.mark.parametrize(("classes", "size"), [(2, (3, 4, 5)), (2, (4, 6)), (4, (4, 6))])


def logits_and_target(classes, size, samples=4):
    a, b = 2 * torch.randn(2, samples, classes, *size, dtype=torch.float64)
    return a, b, torch.randint(classes, (samples // 2, *size))


def by_hand(a, b, target, weight):
    """3.9 of the specification, in NumPy -> (loss A, loss B, teacher)."""
    classes, labelled = a.shape[1], len(target)
    y = np.moveaxis(np.eye(classes)[target.numpy()], -1, 1)
    probs = [np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in (a.numpy(), b.numpy())]
    clashing = probs[0][:labelled].argmax(1) != probs[1][:labelled].argmax(1)
    losses, dices = [], []
    for prob in probs:
        p = prob[:labelled]
        counted = [1] if classes == 2 else range(classes)
        dice = np.mean([1 - (2 * (p[:, c] * y[:, c]).sum() + 1e-5)
                        / ((p[:, c] ** 2).sum() + (y[:, c] ** 2).sum() + 1e-5) for c in counted])
        if classes == 2:
            r = (p[:, 1] - y[:, 1])[clashing] ** 2
        else:
            r = ((p - y) ** 2).sum(1)[clashing] / classes
        losses.append(-np.log((p * y).sum(1)).mean() + dice + 0.5 * r.mean())
        dices.append(dice)
    teacher = 0 if dices[0] < dices[1] else 1
    sharp = probs[teacher][labelled:] ** 10
    sharp /= sharp.sum(1, keepdims=True)
    losses[1 - teacher] += weight * ((probs[1 - teacher][labelled:] - sharp) ** 2).mean()
    return *losses, teacher


@SIZES
def test_competition_is_its_formula_and_the_lower_dice_loss_teaches(classes, size):
    teachers = set()
    for _ in range(8):
        a, b, target = logits_and_target(classes, size)
        *losses, teacher = competition(a, b, target, 0.3)
        *expected, expected_teacher = by_hand(a, b, target, 0.3)
        assert teacher == expected_teacher
        assert [float(loss) for loss in losses] == pytest.approx(expected, rel=1e-9)
        teachers.add(int(teacher))
    assert teachers == {0, 1}


@SIZES
def test_the_learner_alone_gets_a_gradient_from_unlabelled_scans(classes, size):
    for _ in range(4):
        a, b, target = logits_and_target(classes, size)
        both = a.requires_grad_(), b.requires_grad_()
        *losses, teacher = competition(*both, target, 0.3)
        sum(losses).backward()
        assert not both[teacher].grad[2:].any() and both[1 - teacher].grad[2:].abs().min() > 0
        # each loss reaches its own network alone
        assert torch.autograd.grad(competition(*both, target, 0.3)[0], b, allow_unused=True)[0] is None or \
            not torch.autograd.grad(competition(*both, target, 0.3)[0], b)[0].any()


def test_a_tie_makes_b_the_teacher():
    a, _, target = logits_and_target(2, (4, 5))
    assert competition(a, a, target, 1.0)[2] == 1


def test_all_processes_follow_the_mean_of_their_dice_losses(monkeypatch):
    a, b, target = logits_and_target(2, (4, 5))
    right = torch.nn.functional.one_hot(target, 2).movedim(-1, 1).double() * 9
    seen = []

    class Two:
        def mean(self, value):
            seen.append(value)
            return value.new_tensor([0.6, 0.5])
    a[:2] = right
    assert competition(a, b, target, 1.0)[2] == 0
    monkeypatch.setattr(mcf, "Ranks", Two)
    assert competition(a, b, target, 1.0)[2] == 1
    assert seen[0].shape == (2,) and float(seen[0][0]) < float(seen[0][1])


def test_rectification_by_hand():
    """Of four voxels two clash: p_fg .3 against 1 and .8 against 0."""
    prob = torch.tensor([[0.7, 0.2, 0.4, 0.9], [0.3, 0.8, 0.6, 0.1]], dtype=torch.float64).reshape(1, 2, 2, 2)
    prob.requires_grad_()
    target = torch.tensor([1, 0, 0, 1]).reshape(1, 2, 2)
    mismatch = torch.tensor([True, True, False, False]).reshape(1, 2, 2)
    loss = rectification(prob, target, mismatch)
    loss.backward()
    assert float(loss.detach()) == pytest.approx((0.49 + 0.64) / 2)
    assert prob.grad.reshape(2, 4).tolist() == [pytest.approx([0.35, -0.4, 0, 0]), pytest.approx([-0.35, 0.4, 0, 0])]
    assert float(rectification(prob.detach(), target, mismatch & False)) == 0


@pytest.mark.parametrize(("dataset", "protocol", "loss"), [
    ("LA", "original", "ce_plus_dsq_fg"), ("BraTS2019", "original", "ce_plus_dsq_fg"), ("LA", "matched", "eq2"),
    ("ACDC", "original", "ce_plus_dsq_all"), ("ACDC", "matched", "eq2")])
def test_a_step(setting, step, watch, dataset, protocol, loss):
    s = setting("mcf", dataset, protocol, step=599, steps=1000)
    passes = [watch(network) for network in s.method.networks.subnets]
    total, terms = step(s.method.losses, s.batch)
    whole = torch.cat([s.batch.x_l, s.batch.x_u])
    assert all(len(seen) == 1 and torch.equal(seen[0].x, whole) for seen in passes)
    progress = 0.45 if protocol == "original" else 0.599
    weight = 0.1 * math.exp(-5 * (1 - progress) ** 2)
    loss_a, loss_b, teacher = competition(*(seen[0].logits for seen in passes), s.batch.y_l, weight,
                                          supervised_loss(loss))
    torch.testing.assert_close(total, loss_a + loss_b)
    torch.testing.assert_close(terms["loss_a"].detach(), loss_a)
    assert float(terms["b_teaches"]) == teacher
    assert all(p.grad is not None for p in s.method.trained_parameters())


def test_the_mean_of_two_softmaxes_is_tested(setting):
    s = setting("mcf")
    views = s.method.eval().predict(s.batch.x_u)
    a, b = (network(s.batch.x_u)[0].softmax(1) for network in s.method.networks.subnets)
    torch.testing.assert_close(views["fused"], (a + b) / 2)
    assert list(views) == ["fused", *s.method.pair]
    torch.testing.assert_close(views["network_a"], a)


def test_network_a_is_the_backbone_with_kaiming_weights_and_b_has_no_dropout_at_its_bottleneck(setting):
    a, b = setting("mcf", "LA").method.networks.subnets
    weight = a.encoder.stages[4][0].weight          # fan in 32 x 27
    assert float(weight.detach().std()) == pytest.approx(math.sqrt(2 / weight[0].numel()), rel=0.05)
    assert not any(isinstance(part, torch.nn.Dropout3d) for part in b.encoder.modules())
