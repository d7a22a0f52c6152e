"""The named losses against sums written out in NumPy, and against values computed by hand."""
import math

import numpy as np
import pytest
import torch

from cml import segmentation_loss
from methods import losses
from runtime.errors import InputError

# One scan of four voxels, p_fg = .9 .4 .2 .5, of which the first two are foreground
PROB = torch.tensor([[0.1, 0.6, 0.8, 0.5], [0.9, 0.4, 0.2, 0.5]], dtype=torch.float64).reshape(1, 2, 2, 2)
TARGET = torch.tensor([1, 1, 0, 0]).reshape(1, 2, 2)


def sample(classes, axes, dtype=torch.float64):
    shape = (3, *(4, 5, 6)[:axes])
    logits = 2 * torch.randn(shape[0], classes, *shape[1:], dtype=dtype)
    return logits, torch.randint(classes, shape)


def sums(prob, target, c):
    """Of class c over everything: p y, p, p^2, y."""
    p, y = prob[:, c].numpy().ravel(), (target == c).numpy().ravel().astype(float)
    return math.fsum(p * y), math.fsum(p), math.fsum(p * p), math.fsum(y)


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize(("power", "eps"), [(1, 1e-8), (2, 1e-5), (2, 1e-10)])
def test_pooled_dice_is_its_formula(classes, axes, power, eps):
    logits, target = sample(classes, axes)
    prob = logits.softmax(1)
    dice = []
    for c in range(classes):
        py, p, pp, y = sums(prob, target, c)
        dice.append(1 - (2 * py + eps) / ((p if power == 1 else pp) + y + eps))
    assert float(losses.pooled_dice(prob, target, power, eps, False)) == pytest.approx(np.mean(dice), rel=1e-12)
    assert float(losses.pooled_dice(prob, target, power, eps, True)) == pytest.approx(dice[1], rel=1e-12)


def test_dice_by_hand():
    """Foreground: p y 1.3, p 2, p^2 1.26, y 2; background: p y 1.3, p 2, p^2 1.26, y 2 (.1^2 + .6^2 + .8^2 + .5^2)."""
    assert float(losses.pooled_dice(PROB, TARGET, 1, 0, True)) == pytest.approx(1 - 2.6 / 4)
    assert float(losses.pooled_dice(PROB, TARGET, 2, 0, False)) == pytest.approx(1 - 2.6 / 3.26)
    assert float(losses.halved_dice(PROB, TARGET)) == pytest.approx(1 - 1.3 / 3.26)


def test_sums_are_pooled_over_the_batch_not_averaged_over_its_samples():
    empty = torch.cat([PROB, PROB]), torch.cat([TARGET, torch.zeros_like(TARGET)])
    assert float(losses.pooled_dice(*empty, 1, 0, True)) == pytest.approx(1 - 2.6 / 6)


def test_an_absent_class_costs_nothing_pooled_and_everything_halved():
    prob = torch.eye(3, dtype=torch.float64)[torch.tensor([0, 0, 1, 1])].T.reshape(1, 3, 2, 2)
    target = torch.tensor([0, 0, 1, 1]).reshape(1, 2, 2)
    assert float(losses.pooled_dice(prob, target, 2, 1e-5, False)) == 0
    assert float(losses.halved_dice(prob, target)) == pytest.approx((0.5 + 0.5 + 1) / 3)


@pytest.mark.parametrize("loss", [lambda p, t: losses.pooled_dice(p, t, 2, 1e-5, False), losses.halved_dice,
                                  lambda p, t: losses.squared_difference(p, p.flip(0)),
                                  lambda p, t: losses.sharpen(p, 0.1).mean()])
def test_float64_is_never_narrowed_and_half_precision_is_widened(loss):
    logits, target = sample(3, 2)
    assert loss(logits.softmax(1), target).dtype == torch.float64
    assert torch.autograd.gradcheck(lambda x: loss(x.softmax(1), target), logits.requires_grad_())
    assert loss(logits.detach().softmax(1).bfloat16(), target).dtype == torch.float32


def test_squared_difference_has_gradient_into_both():
    one, other = (torch.randn(2, 3, 4, requires_grad=True) for _ in range(2))
    loss = losses.squared_difference(one, other)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(float(((one - other) ** 2).detach().sum()) / 24)
    torch.testing.assert_close(one.grad, -other.grad)
    assert one.grad.abs().min() > 0


def test_sharpening_by_hand():
    p = torch.tensor([0.6, 0.4, 0.0, 1.0, 0.5], dtype=torch.float64)
    half = [0.36 / 0.52, 0.16 / 0.52, 0, 1, 0.5]
    torch.testing.assert_close(losses.sharpen(p, 0.5), torch.tensor(half, dtype=torch.float64))
    assert float(losses.sharpen(p, 0.1)[0]) == pytest.approx(1 / (1 + (2 / 3) ** 10))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sharpening_and_its_gradient_are_finite_at_0_and_1(dtype):
    p = torch.tensor([0.0, 1.0, 1e-30, 0.5], dtype=dtype, requires_grad=True)
    losses.sharpen(p, 0.1).sum().backward()
    assert p.grad.isfinite().all() and float(p.grad[3]) == pytest.approx(10)


def test_supervised_losses_are_sums_of_their_parts():
    logits, target = sample(2, 3)
    prob, ce = logits.softmax(1), torch.nn.functional.cross_entropy(logits, target)
    fg, every = (losses.pooled_dice(prob, target, 2, 1e-5, foreground) for foreground in (True, False))
    expected = {
        "eq2": segmentation_loss(logits, target), "ce_dsq_fg": (ce + fg) / 2, "ce_dsq_all": (ce + every) / 2,
        "ce_plus_dsq_fg": ce + fg, "ce_plus_dsq_all": ce + every, "dsq_fg": fg, "dsq_all": every,
        "dsq_all_1e-10": losses.pooled_dice(prob, target, 2, 1e-10, False),
        "dlin_fg": losses.pooled_dice(prob, target, 1, 1e-8, True), "dmc2": losses.halved_dice(prob, target)}
    assert set(expected) == set(losses.SUPERVISED)
    for name, value in expected.items():
        torch.testing.assert_close(losses.supervised_loss(name)(logits, target), value, rtol=1e-12, atol=0)


def test_smoothing_shows_where_a_class_is_absent():
    """Class 1 absent and improbable: only eps tells the variants apart."""
    logits = torch.tensor([0.0, -12.0], dtype=torch.float64).reshape(1, 2, 1, 1).expand(1, 2, 2, 2)
    target, p = torch.zeros(1, 2, 2, dtype=torch.long), 1 / (1 + math.exp(12))
    for name, eps, power in (("dsq_fg", 1e-5, 2), ("dlin_fg", 1e-8, 1)):
        expected = 1 - eps / (4 * p ** power + eps)
        assert float(losses.supervised_loss(name)(logits, target)) == pytest.approx(expected, rel=1e-9)
    expected = (1 - 1e-10 / (4 * p ** 2 + 1e-10)) / 2
    assert float(losses.supervised_loss("dsq_all_1e-10")(logits, target)) == pytest.approx(expected, rel=1e-3)


def test_half_and_half_is_the_released_loss_of_each_data_set():
    assert [losses.half_and_half(dataset, "original") for dataset in ("LA", "ACDC", "BraTS2019")] == [
        "ce_dsq_fg", "ce_dsq_all", "ce_dsq_all"]
    assert losses.half_and_half("LA", "matched") == "eq2"


def test_a_wrong_name_and_too_many_classes_are_refused():
    with pytest.raises(InputError, match="--hyper.supervised dice: unknown, choose one of eq2"):
        losses.supervised_loss("dice")
    with pytest.raises(InputError, match="--hyper.supervised ce_dsq_fg: .* class 1 alone, and there are 4 classes"):
        losses.supervised_loss("ce_dsq_fg")(*sample(4, 2))
