"""BCP: the loss of two regions in NumPy, what is pasted where, and what the teacher does when."""
import math

import numpy as np
import pytest
import torch
from torch import nn

from cml import mix, segmentation_loss
from dataloaders.cutmix import zero_centered_mask
from methods.bcp import region_loss
from runtime.errors import InputError


def region_loss_in_numpy(logits, outside, inside, mask, weights):
    prob = logits.softmax(1).numpy()
    samples, classes, *size = prob.shape
    total = 0
    for target, region, weight in ((outside, mask == 1, weights[0]), (inside, mask == 0, weights[1])):
        target, places = target.numpy(), region.numpy()
        p = [[prob[n, c][places] for c in range(classes)] for n in range(samples)]
        y = [[(target[n][places] == c).astype(float) for c in range(classes)] for n in range(samples)]
        entropy = -np.mean([np.log(p[n][t][i]) for n in range(samples) for i, t in enumerate(target[n][places])])
        if len(size) == 3:      # per sample, linear
            dice = [(2 * p[n][c] @ y[n][c] + 1e-5) / (p[n][c].sum() + y[n][c].sum() + 1e-5)
                    for n in range(samples) for c in range(classes)]
        else:                   # pooled, squared
            dice = [(2 * sum(p[n][c] @ y[n][c] for n in range(samples)) + 1e-10)
                    / (sum(p[n][c] @ p[n][c] + y[n][c] @ y[n][c] for n in range(samples)) + 1e-10)
                    for c in range(classes)]
        total += weight * (1 - np.mean(dice) + entropy)
    return total / 2


@pytest.mark.parametrize("dtype", [torch.float64, torch.int64])
@pytest.mark.parametrize(("size", "classes"), [((8, 10), 4), ((4, 6, 5), 2), ((4, 6, 5), 3)])
def test_region_loss_is_its_formula(size, classes, dtype):
    logits = torch.randn(3, classes, *size, dtype=torch.float64)
    outside, inside = torch.randint(classes, (2, 3, *size))
    mask = zero_centered_mask(size, 2 / 3).to(dtype)
    for weights in ((1, 0.5), (0.5, 1), (1, 1)):
        loss = region_loss(logits, outside, inside, mask, weights)
        assert loss.dtype == torch.float64
        assert float(loss) == pytest.approx(region_loss_in_numpy(logits, outside, inside, mask, weights), rel=1e-9)


def test_a_region_of_everything_is_eq_2_on_volumes():
    logits, target = torch.randn(2, 3, 4, 4, 4, dtype=torch.float64), torch.randint(3, (2, 4, 4, 4))
    loss = region_loss(logits, target, 1 - target.clamp(max=1), torch.ones(4, 4, 4), (1, 0))
    torch.testing.assert_close(loss, segmentation_loss(logits, target))


def test_weights_are_not_normalised_and_gradients_stay_in_their_region():
    logits = torch.randn(1, 2, 6, 6, dtype=torch.float64, requires_grad=True)
    target, mask = torch.randint(2, (1, 6, 6)), torch.ones(6, 6)
    mask[2:4, 1:5] = 0
    region_loss(logits, target, target, mask, (0, 1)).backward()
    assert ((logits.grad.abs().sum(1)[0] > 0) == (mask == 0)).all()
    whole, half = (float(region_loss(logits, target, target, mask, w).detach()) for w in ((1, 1), (0.5, 0.5)))
    assert whole == pytest.approx(2 * half)


def box_of(batch):
    return zero_centered_mask(batch.x_l.shape[2:], 2 / 3, torch.Generator().manual_seed(2))


@pytest.mark.parametrize(("dataset", "protocol"), [("LA", "matched"), ("LA", "original"), ("ACDC", "matched"),
                                                   ("ACDC", "original"), ("BraTS2019", "original")])
def test_pretraining_mixes_labelled_pairs(setting, step, watch, dataset, protocol):
    s = setting("bcp", dataset, protocol)
    passes, mask = watch(s.method.networks), box_of(s.batch)
    batch = s.batch._replace(x_u=None)
    total, terms = step(s.method.stages(10, 30)[0].losses, batch)
    seen, = passes
    (l_a, l_b), (y_a, y_b) = batch.x_l.chunk(2), batch.y_l.chunk(2)
    assert torch.equal(seen.x, mix(l_a, l_b, mask))
    expected = (region_loss(seen.logits, y_a, y_b, mask, (1, 1)) if (dataset, protocol) == ("ACDC", "original")
                else segmentation_loss(seen.logits, mix(y_a, y_b, mask)))
    torch.testing.assert_close(total, expected)


@pytest.mark.parametrize("dataset", ["LA", "ACDC"])
def test_self_training_pastes_both_ways_with_one_box(setting, step, watch, dataset):
    s = setting("bcp", dataset)
    labels = torch.randint(2, (2, 2, *s.batch.x_u.shape[2:]))
    asked = []
    s.method.pseudo_labels = lambda *halves: asked.append(halves) or labels.byte
    passes, mask = watch(s.method.networks), box_of(s.batch)
    total, terms = step(s.method.stages(10, 30)[1].losses, s.batch)
    (l_a, l_b), (y_a, y_b), (u_a, u_b) = (part.chunk(2) for part in (s.batch.x_l, s.batch.y_l, s.batch.x_u))
    assert torch.equal(asked[0][0], u_a) and torch.equal(asked[0][1], u_b)
    one, two = passes                           # in this order: it decides the running statistics
    assert torch.equal(one.x, mix(l_a, u_a, mask)) and torch.equal(two.x, mix(u_b, l_b, mask))
    first = region_loss(one.logits, y_a, labels[0], mask, (1, 0.5))
    second = region_loss(two.logits, labels[1], y_b, mask, (0.5, 1))
    torch.testing.assert_close(terms["sup_l"].detach(), first)
    torch.testing.assert_close(terms["sup_u"].detach(), second)
    torch.testing.assert_close(total, first + second)


class Fixed(nn.Module):
    """A teacher that sees its input: logits (0, x)."""

    def forward(self, x):
        return torch.cat([torch.zeros_like(x), x], 1), None


def test_the_teacher_labels_two_halves_apart_and_largest_components_stay(setting, watch):
    s = setting("bcp", "LA")
    s.method.teacher = Fixed().train()
    passes = watch(s.method.teacher)
    u_a, u_b = -torch.ones(2, 1, 1, 8, 8, 8)
    u_a[0, 0, :3, :3, :3] = 1
    u_a[0, 0, 6, 6, 6] = 1              # a second component
    first, second = s.method.pseudo_labels(u_a, u_b)()
    assert first.sum() == 27 and first[0, :3, :3, :3].all() and not second.any()
    assert [torch.equal(one.x, half) for one, half in zip(passes, (u_a, u_b), strict=True)] == [True, True]
    s.method.components = False
    whole, none = s.method.pseudo_labels(u_a, u_b)()
    assert whole.sum() == 28 and not none.any()


def test_the_teacher_is_in_training_mode_without_gradient(setting, step, watch):
    s = setting("bcp")
    passes = watch(s.method.teacher)
    step(s.method.losses, s.batch)
    assert [(one.training, one.gradient, len(one.x)) for one in passes] == [(True, False, 2)] * 2
    counts = {int(b) for name, b in s.method.networks.named_buffers() if name.endswith("num_batches_tracked")}
    assert counts == {2}
    assert {id(p) for p in s.method.trained_parameters()} == {id(p) for p in s.method.networks.parameters()}


def test_the_teacher_is_copied_when_self_training_begins(setting):
    s = setting("bcp")
    pre, self_training = s.method.stages(10, 30)
    assert (pre.name, pre.steps, pre.unlabelled) == ("pre", 10, False)
    assert (self_training.name, self_training.steps, self_training.unlabelled) == ("self", 30, True)
    student, teacher = s.method.networks.state_dict(), s.method.teacher.state_dict()
    s.method.networks.encoder.stages[0][1].running_mean.fill_(3)
    s.method.begin(pre)
    assert not torch.equal(student["encoder.stages.0.0.weight"], teacher["encoder.stages.0.0.weight"])
    s.method.begin(self_training)
    assert all(torch.equal(student[key], teacher[key]) for key in student)


def test_a_run_starts_self_training_from_the_pretrained_student(recipe, runs, narrow, no_curves):
    """After one step of self-training the teacher is a hundredth of the step away from pretrained.pt's student."""
    run = recipe("ACDC", method="bcp", labeled_batch=4, unlabeled_batch=4, pre_steps=2, self_steps=1)
    runs.train(run)
    before, after = runs.weights(run.out, "pretrained.pt"), runs.weights(run.out)
    key = "decoder.head.weight"
    expected = 0.99 * before[f"networks.{key}"] + 0.01 * after[f"networks.{key}"]
    torch.testing.assert_close(after[f"teacher.{key}"], expected)
    assert not torch.equal(after[f"teacher.{key}"], after[f"networks.{key}"])


@pytest.mark.parametrize(("dataset", "of_buffers"), [("LA", False), ("BraTS2019", False), ("ACDC", True)])
def test_the_average_has_its_decay_from_the_first_step_and_on_slices_takes_statistics(setting, dataset, of_buffers):
    s = setting("bcp", dataset, step=0)
    for tensor in (*s.method.teacher.parameters(), *s.method.teacher.buffers()):
        tensor.data.zero_()
    s.method.after_step(s.batch._replace(x_u=None))          # pre-training
    assert not any(p.any() for p in s.method.teacher.parameters())
    s.method.after_step(s.batch)
    for p, q in zip(s.method.teacher.parameters(), s.method.networks.parameters(), strict=True):
        torch.testing.assert_close(p, q.detach() / 100)
    variances = [b for name, b in s.method.teacher.named_buffers() if name.endswith("running_var")]
    assert all(torch.allclose(b, torch.full_like(b, 0.01 if of_buffers else 0)) for b in variances)


def test_empty_pseudo_labels_are_counted(setting, step):
    s = setting("bcp")
    labels = torch.zeros(2, 2, *s.batch.x_u.shape[2:], dtype=torch.uint8)
    labels[0, 1, 0, 0] = 1
    s.method.pseudo_labels = lambda *halves: lambda: labels
    total, terms = step(s.method.losses, s.batch)
    assert terms["empty_pseudo_labels"] == 3 and math.isfinite(total)


@pytest.mark.parametrize(("changes", "message"), [
    ({"labeled_batch": 3, "unlabeled_batch": 3}, "must be even"),
    ({"labeled_batch": 4, "unlabeled_batch": 6}, "--labeled-batch 4 --unlabeled-batch 6: BCP .* must be equal"),
    ({"hyper": {"beta": 1.0}}, "--hyper.beta 1: "), ({"hyper": {"beta": 0.001}}, "--hyper.beta 0.001: "),
    ({"hyper": {"decay": 1.0}}, "--hyper.decay 1: "),
    ({"hyper": {"supervised": "dsq_all"}}, "--hyper.supervised dsq_all: BCP pre-trains with eq2 or regions")])
def test_what_it_cannot_run_is_refused(setting, changes, message):
    with pytest.raises(InputError, match=message):
        setting("bcp", **changes)


def test_the_student_is_tested(setting):
    s = setting("bcp")
    views = s.method.eval().predict(s.batch.x_u)
    assert list(views) == ["student", "teacher"]
    torch.testing.assert_close(views["student"], s.method.networks(s.batch.x_u)[0].softmax(1))
