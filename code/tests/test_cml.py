"""The method against the paper's equations: each term by itself, then the steps through a network that takes notes."""
import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import cml
from dataloaders.components import largest_component
from dataloaders.cutmix import zero_centered_mask
from method import Batch
from methods.cps import CFL
from networks.two_view import build

SIZES = [(8, 12), (8, 4, 6)]
both_ndims = pytest.mark.parametrize("size", SIZES, ids=["2D", "3D"])


# ---- references ------------------------------------------------------------------------------------------------


def eq1(feature, other):
    """1 + cosine over channels, position by position."""
    cosines = []
    for b in range(len(feature)):
        for place in np.ndindex(feature.shape[2:]):
            f, o = feature[(b, slice(None), *place)], other[(b, slice(None), *place)]
            cosines.append(f @ o / (np.linalg.norm(f) * np.linalg.norm(o)))
    return 1 + np.mean(cosines)


def eq2(logits, target):
    """Half of cross-entropy plus Dice loss, voxel by voxel, in float64."""
    logits, target = np.asarray(logits, float), np.asarray(target)
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    prob = exponentials / exponentials.sum(1, keepdims=True)
    entropy, dice = [], []
    for b in range(len(logits)):
        for place in np.ndindex(target.shape[1:]):
            entropy.append(-np.log(prob[(b, target[(b, *place)], *place)]))
        for c in range(logits.shape[1]):
            y = target[b] == c
            dice.append((2 * prob[b, c][y].sum() + 1e-5) / (prob[b, c].sum() + y.sum() + 1e-5))
    return 0.5 * (np.mean(entropy) + 1 - np.mean(dice))


def random_logits(size, classes=3, batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(batch, classes, *size, dtype=torch.float64, generator=generator)
    return logits, torch.randint(classes, (batch, *size), generator=generator)


# ---- Eq. 1 -----------------------------------------------------------------------------------------------------


@both_ndims
def test_a_feature_is_as_like_itself_as_can_be(size):
    feature = torch.randn(2, 5, *size)
    assert float(cml.discrepancy_loss(feature, feature)) == pytest.approx(2, abs=1e-6)
    assert float(cml.discrepancy_loss(feature, 3 * feature)) == pytest.approx(2, abs=1e-6)
    assert float(cml.discrepancy_loss(feature, -feature)) == pytest.approx(0, abs=1e-6)


@both_ndims
def test_orthogonal_channels_are_worth_one(size):
    feature = torch.zeros(2, 4, *size)
    other = feature.clone()
    feature[:, :2], other[:, 2:] = torch.randn(2, 2, *size), torch.randn(2, 2, *size)
    assert float(cml.discrepancy_loss(feature, other)) == pytest.approx(1, abs=1e-7)


@both_ndims
def test_discrepancy_equals_the_written_out_mean_of_cosines(size):
    feature, other = torch.randn(2, 2, 3, *size, dtype=torch.float64)
    expected = eq1(feature.numpy(), other.numpy())
    assert float(cml.discrepancy_loss(feature, other)) == pytest.approx(expected, rel=1e-12)


def test_discrepancy_moves_the_feature_and_never_the_other():
    feature, other = (torch.randn(2, 5, 4, 4, requires_grad=True) for _ in range(2))
    gradients = torch.autograd.grad(cml.discrepancy_loss(feature, other), (feature, other), allow_unused=True)
    assert gradients[0].abs().max() > 0 and gradients[1] is None


def test_both_directions_together_pull_like_one_undetached_cosine():
    feature, other = (torch.randn(2, 5, 4, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    mutual = cml.discrepancy_loss(feature, other) + cml.discrepancy_loss(other, feature)
    single = 1 + F.cosine_similarity(feature, other, dim=1).mean()
    pulls = [torch.autograd.grad(loss, (feature, other)) for loss in (mutual, single)]
    torch.testing.assert_close(*pulls)
    assert mutual.item() == pytest.approx(2 * single.item())


# ---- Eq. 2 -----------------------------------------------------------------------------------------------------


@both_ndims
def test_segmentation_loss_equals_the_written_out_sum(size):
    logits, target = random_logits(size)
    assert float(cml.segmentation_loss(logits, target)) == pytest.approx(eq2(logits, target), rel=1e-12)


def test_segmentation_loss_by_hand():
    """Two pixels at p = 1/2, one of each class: cross-entropy ln 2, Dice of both classes (2/2 + e) / (2 + e)."""
    loss = cml.segmentation_loss(torch.zeros(1, 2, 1, 2, dtype=torch.float64), torch.tensor([[[0, 1]]]))
    assert loss.item() == pytest.approx(0.5 * (math.log(2) + 1 - (1 + 1e-5) / (2 + 1e-5)), rel=1e-12)


def test_a_class_that_is_absent_and_not_predicted_costs_nothing():
    logits = torch.tensor([60.0, -60.0, -60.0], dtype=torch.float64).view(1, 3, 1, 1).expand(2, 3, 4, 4)
    assert float(cml.segmentation_loss(logits, torch.zeros(2, 4, 4, dtype=torch.int64))) == pytest.approx(0, abs=1e-9)


@both_ndims
def test_perfect_logits_cost_nothing_and_wrong_ones_much(size):
    _, target = random_logits(size)
    right = 40.0 * F.one_hot(target, 3).movedim(-1, 1).double()
    assert 0 <= float(cml.segmentation_loss(right, target)) < 1e-6
    assert float(cml.segmentation_loss(right, (target + 1) % 3)) > 20


def test_a_slice_and_a_volume_of_one_slice_cost_the_same():
    logits, target = random_logits((8, 12))
    flat = cml.segmentation_loss(logits, target)
    deep = cml.segmentation_loss(logits[..., None], target[..., None])
    assert float(flat) == pytest.approx(float(deep), rel=1e-12)
    feature, other = torch.randn(2, 2, 3, 4, 4, dtype=torch.float64)
    assert float(cml.discrepancy_loss(feature, other)) == pytest.approx(
        float(cml.discrepancy_loss(feature[..., None], other[..., None])), rel=1e-12)


def test_segmentation_loss_falls_along_its_gradient():
    logits, target = random_logits((8, 12))
    logits.requires_grad_()
    cost = cml.segmentation_loss(logits, target)
    gradient, = torch.autograd.grad(cost, logits)
    step = 1e-4 * gradient / gradient.norm()
    ahead, behind = (cml.segmentation_loss(logits.detach() + s, target) for s in (step, -step))
    assert float(ahead - behind) / 2e-4 == pytest.approx(gradient.norm().item(), rel=1e-4)


# ---- Eq. 5-9 ---------------------------------------------------------------------------------------------------


def test_where_the_mask_is_one_the_first_scan_stays():
    mask = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    images = [torch.full((2, 1, 2, 2), value) for value in (1.5, 2.5)]
    labels = [torch.full((2, 2, 2), value, dtype=torch.int64) for value in (1, 2)]
    assert cml.mix(*images, mask)[0, 0].tolist() == cml.mix(*images, mask)[1, 0].tolist() == [[1.5, 2.5], [2.5, 1.5]]
    mixed = cml.mix(*labels, mask)
    assert mixed.dtype == torch.int64 and mixed.tolist() == 2 * [[[1, 2], [2, 1]]]


def test_mix_is_the_products_of_eq_5():
    first, second = torch.randn(2, 3, 1, 8, 6, 4)
    mask = zero_centered_mask((8, 6, 4), 0.5)
    assert torch.equal(cml.mix(first, second, mask), first * mask + second * (1 - mask))


def test_heterogeneous_targets_on_a_hand_made_case():
    """Outside the box (1) the other view's label of p, inside (0) the own label of q; all four sources differ."""
    mask = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 1], [1, 0, 0, 1], [1, 1, 1, 1]])
    p0, q0, p1, q1 = (torch.full((1, 4, 4), value) for value in (10, 20, 11, 21))
    target0, target1 = cml.heterogeneous_targets(torch.cat([p0, q0]), torch.cat([p1, q1]), mask)
    assert target0.tolist() == [[[11, 11, 11, 11], [11, 20, 20, 11], [11, 20, 20, 11], [11, 11, 11, 11]]]
    assert target1.tolist() == [[[10, 10, 10, 10], [10, 21, 21, 10], [10, 21, 21, 10], [10, 10, 10, 10]]]


def test_scans_of_the_first_half_are_paired_with_those_of_the_second():
    labels0, labels1 = torch.arange(4).view(4, 1, 1), 10 + torch.arange(4).view(4, 1, 1)
    outside = cml.heterogeneous_targets(labels0, labels1, torch.ones(1, 1))
    inside = cml.heterogeneous_targets(labels0, labels1, torch.zeros(1, 1))
    assert [t.flatten().tolist() for t in outside] == [[10, 11], [0, 1]]
    assert [t.flatten().tolist() for t in inside] == [[2, 3], [12, 13]]


# ---- the steps, through a network that takes notes -------------------------------------------------------------


class Recorder(nn.Module):
    """Two views whose class of a voxel is read from a table at its intensity; every pass is noted."""

    def __init__(self, *tables, num_classes=5):
        super().__init__()
        self.tables, self.num_classes = [torch.tensor(table) for table in tables], num_classes
        self.weight = nn.Parameter(torch.tensor(3.0, dtype=torch.float64))
        self.inputs, self.gradients, self.modes = [], [], []

    def forward(self, x):
        self.inputs.append(x.clone())
        self.gradients.append(torch.is_grad_enabled())
        self.modes.append(self.training)
        return self.views(x)

    def views(self, x):
        classes = [table[x[:, 0].long()] for table in self.tables]
        x = x.double()
        features = torch.cat([x, 1 + 0 * x], 1), torch.cat([x - 4, 0.1 * x], 1)
        return tuple((self.weight * F.one_hot(labels, self.num_classes).movedim(-1, 1), self.weight * feature)
                     for labels, feature in zip(classes, features, strict=True))


# intensities 1 to 4 are labelled scans, 5 to 8 unlabelled ones; of these 5, 6 are the p and 7, 8 the q of a pair
TABLE0 = [0, 1, 2, 3, 4, 1, 1, 2, 2]
TABLE1 = [0, 1, 3, 3, 1, 3, 3, 4, 4]


def constant_scans(*values, size=(8, 12)):
    return torch.stack([torch.full((1, *size), float(value)) for value in values])


def make_batch(x_l=None, x_u=None, seed=0):
    """Labels are 1, 2, 3, 4: a label map shows which scan a voxel comes from."""
    x_l = constant_scans(1, 2, 3, 4) if x_l is None else x_l
    x_u = constant_scans(5, 6, 7, 8) if x_u is None else x_u
    return Batch(x_l, x_l[:, 0].long(), x_u, 0, 10, torch.Generator().manual_seed(seed))


def method(networks=None, beta=0.5, lambda_unsup=0.5, lambda_dis=0.1, kind=cml.CML, **options):
    networks = Recorder(TABLE0, TABLE1) if networks is None else networks
    return kind(networks, beta, lambda_unsup, lambda_dis, **options).train()


def mask_seen(mixed, first):
    """The mask of a mixed batch of constant scans: 1 where the first scan's intensity is."""
    masks = (mixed[:, 0] == torch.tensor(first).view(-1, *[1] * (mixed.ndim - 2))).long()
    assert all(torch.equal(masks[0], mask) for mask in masks)       # one mask for the whole half-batch
    return masks[0]


@both_ndims
def test_a_step_passes_mixed_labelled_then_clean_unlabelled_then_mixed_unlabelled(size):
    net = Recorder(TABLE0, TABLE1)
    x_l, x_u = (constant_scans(*values, size=size) for values in ((1, 2, 3, 4), (5, 6, 7, 8)))
    assert len(list(method(net).losses(make_batch(x_l, x_u)))) == 2
    mixed_l, clean, mixed_u = net.inputs
    assert net.gradients == [True, False, True] and net.modes == [True, True, True]
    assert torch.equal(clean, x_u)
    for mixed, (first, second) in ((mixed_l, ([1, 2], [3, 4])), (mixed_u, ([5, 6], [7, 8]))):
        mask = mask_seen(mixed, first)
        assert mixed.shape == (2, 1, *size)
        assert (1 - mask).sum() == np.prod([extent // 2 for extent in size])        # the box
        for scan, a, b in zip(mixed, first, second, strict=True):
            assert torch.equal(scan[0], torch.where(mask > 0, a, b).float())


def test_the_unlabelled_half_waits_until_it_is_asked_for():
    net = Recorder(TABLE0, TABLE1)
    losses = method(net).losses(make_batch())
    next(losses)
    assert len(net.inputs) == 1
    next(losses)
    assert len(net.inputs) == 3 and next(losses, None) is None


def test_each_half_has_a_mask_of_its_own_from_the_batch_generator():
    def masks(seed):
        net = Recorder(TABLE0, TABLE1)
        list(method(net).losses(make_batch(seed=seed)))
        return mask_seen(net.inputs[0], [1, 2]), mask_seen(net.inputs[2], [5, 6])

    drawn = [masks(seed) for seed in range(4)]
    assert any(not torch.equal(labelled, unlabelled) for labelled, unlabelled in drawn)
    torch.manual_seed(99)
    assert all(torch.equal(a, b) for one, other in zip(drawn, map(masks, range(4)), strict=True)
               for a, b in zip(one, other, strict=True))


def test_the_labelled_half_is_the_sum_of_both_views_losses_on_the_mixed_label():
    net = Recorder(TABLE0, TABLE1)
    loss, terms = next(method(net, lambda_dis=0.3).losses(make_batch()))
    target = net.inputs[0][:, 0].long()             # labels are the intensities, mixed with the same mask
    assert torch.equal(terms["picture"].target, target)
    (logits0, f0), (logits1, f1) = ([part.detach().numpy() for part in view] for view in net.views(net.inputs[0]))
    sup, dis = eq2(logits0, target) + eq2(logits1, target), eq1(f0, f1) + eq1(f1, f0)
    assert terms["sup_l"].item() == pytest.approx(sup, rel=1e-9)
    assert terms["dis_l"].item() == pytest.approx(dis, rel=1e-9)
    assert loss.item() == pytest.approx(sup + 0.3 * dis, rel=1e-9)


def test_the_unlabelled_half_learns_heterogeneous_pseudo_labels():
    net = Recorder(TABLE0, TABLE1)
    _, (loss, terms) = method(net, lambda_unsup=0.7, lambda_dis=0.3).losses(make_batch())
    mask = mask_seen(net.inputs[2], [5, 6])
    target0 = torch.where(mask > 0, 3, 2).expand(2, -1, -1)     # outside view 1 on p, inside view 0 on q
    target1 = torch.where(mask > 0, 1, 4).expand(2, -1, -1)     # outside view 0 on p, inside view 1 on q
    assert torch.equal(terms["picture"].target, target0)
    (logits0, f0), (logits1, f1) = ([part.detach().numpy() for part in view] for view in net.views(net.inputs[2]))
    sup, dis = eq2(logits0, target0) + eq2(logits1, target1), eq1(f0, f1) + eq1(f1, f0)
    assert terms["sup_u"].item() == pytest.approx(sup, rel=1e-9)
    assert terms["dis_u"].item() == pytest.approx(dis, rel=1e-9)
    assert loss.item() == pytest.approx(0.7 * sup + 0.3 * dis, rel=1e-9)


def blobs():
    """Unlabelled scans of background 5 with a large and a small blob of 6 (and, in the third, of 7)."""
    x = constant_scans(5, 5, 5, 5)
    x[:, 0, 1:4, 1:4] = 6
    x[:, 0, 6:8, 6:8] = 6
    x[2, 0, 4, 10] = x[2, 0, 0, 6:9] = 7
    return x


BLOB_TABLE0, BLOB_TABLE1 = [0, 0, 0, 0, 0, 0, 1, 2, 0], [0, 0, 0, 0, 0, 0, 2, 3, 0]


def test_pseudo_labels_keep_each_classes_largest_component_in_each_scan():
    x = blobs()
    labels0, labels1 = method(Recorder(BLOB_TABLE0, BLOB_TABLE1)).pseudo_labels(x)()
    expected = torch.zeros(4, 8, 12, dtype=torch.int64)
    expected[:, 1:4, 1:4] = 1
    expected[2, 0, 6:9] = 2
    assert torch.equal(labels0, expected)
    assert torch.equal(labels1, torch.tensor([0, 2, 3])[expected])


def test_without_components_pseudo_labels_stay_whole_and_so_do_the_targets():
    x, expected = blobs(), torch.tensor(BLOB_TABLE0)[blobs()[:, 0].long()]
    own = method(Recorder(BLOB_TABLE0, BLOB_TABLE1), components=False)
    labels0, labels1 = own.pseudo_labels(x)()
    assert torch.equal(labels0.long(), expected) and torch.equal(labels1.long(), torch.tensor([0, 2, 3])[expected])
    assert (labels0[:, 6:8, 6:8] == 1).all()
    (_, _), (_, terms) = own.losses(make_batch(x_u=x))
    assert (terms["picture"].target[:, 6:8, 6:8] > 0).any()


def test_the_host_reduces_pseudo_labels_when_the_views_are_on_their_way(monkeypatch):
    """The copy is asked for before the mixed pass, and waited for after it: a GPU computes meanwhile."""
    net, order = Recorder(TABLE0, TABLE1), []
    monkeypatch.setattr("runtime.device.fetch", lambda maps: order.append("copy") or (
        lambda: order.append("wait") or maps))
    net.register_forward_hook(lambda *_: order.append("pass"))
    list(method(net).losses(make_batch()))
    assert order == ["pass", "pass", "copy", "pass", "wait"]


def test_the_unlabelled_half_learns_from_reduced_pseudo_labels():
    net = Recorder(BLOB_TABLE0, BLOB_TABLE1)
    _, (_, terms) = method(net).losses(make_batch(x_u=blobs()))
    assert (terms["picture"].target > 0).any() and not (terms["picture"].target[:, 6:8, 6:8] > 0).any()


def test_empty_pseudo_labels_are_counted():
    x_u = constant_scans(5, 6, 6, 5)
    _, (_, terms) = method(Recorder(BLOB_TABLE0, BLOB_TABLE1)).losses(make_batch(x_u=x_u))
    assert int(terms["empty_pseudo_labels"]) == 4       # two scans, empty for both views


def test_pseudo_labels_are_drawn_in_training_mode(narrow):
    """Batch norm takes the pass into its running statistics, dropout acts, no graph is kept."""
    own = method(build("unet", 1, 4))
    x = torch.randn(4, 1, 32, 32)
    norms = [m for m in own.networks.modules() if isinstance(m, nn.BatchNorm2d)]
    before = [(int(m.num_batches_tracked), m.running_mean.clone()) for m in norms]
    first = own.pseudo_labels(x)()
    assert all(int(m.num_batches_tracked) == count + 1 and not torch.equal(m.running_mean, mean)
               for m, (count, mean) in zip(norms, before, strict=True))
    assert own.networks.training and all(m.training for m in own.networks.modules())
    second = own.pseudo_labels(x)()
    assert not all(map(torch.equal, first, second))
    assert not any(labels.requires_grad for labels in first)


def test_a_step_counts_three_passes_in_the_running_statistics(narrow):
    own = method(build("unet", 1, 4))
    x = torch.randn(8, 1, 32, 32)
    batch = make_batch(x[:4], x[4:])._replace(y_l=torch.randint(4, (4, 32, 32)))
    for loss, _ in own.losses(batch):
        loss.backward()
    counts = {int(m.num_batches_tracked) for m in own.networks.modules() if isinstance(m, nn.BatchNorm2d)}
    assert counts == {3}


# ---- the objective as a whole ----------------------------------------------------------------------------------


def exact(name):
    """A narrow pair in float64 without dropout: where two ways of computing must agree."""
    networks = build(name, 1, 3).double()
    for module in networks.modules():
        if hasattr(module, "p"):
            module.p = 0.0
    return networks


def eq4(networks, batch, beta, lambda_unsup, lambda_dis):
    """All of Eq. 4 in one graph."""
    b = len(batch.x_l) // 2
    masks = []

    def mixed(first, second):
        return torch.where(masks[-1] == 1, first, second)

    def supervision(logits, target):
        prob, onehot = logits.softmax(1), F.one_hot(target, logits.shape[1]).movedim(-1, 1)
        axes = tuple(range(2, logits.ndim))
        dice = (2 * (prob * onehot).sum(axes) + 1e-5) / (prob.sum(axes) + onehot.sum(axes) + 1e-5)
        return (F.cross_entropy(logits, target) + (1 - dice).mean()) / 2

    def likeness(f0, f1):
        unit0, unit1 = (f / f.norm(dim=1, keepdim=True) for f in (f0, f1))
        both = (unit0 * unit1.detach()).sum(1), (unit1 * unit0.detach()).sum(1)
        return 2 + both[0].mean() + both[1].mean()

    masks.append(zero_centered_mask(batch.x_l.shape[2:], beta, batch.generator))
    (l0, f0), (l1, f1) = networks(mixed(batch.x_l[:b], batch.x_l[b:]))
    y = mixed(batch.y_l[:b], batch.y_l[b:])
    total = supervision(l0, y) + supervision(l1, y) + lambda_dis * likeness(f0, f1)
    with torch.no_grad():
        y0, y1 = (torch.stack([torch.from_numpy(largest_component(m.numpy())) for m in logits.argmax(1)])
                  for logits, _ in networks(batch.x_u))
    masks.append(zero_centered_mask(batch.x_u.shape[2:], beta, batch.generator))
    (l0, f0), (l1, f1) = networks(mixed(batch.x_u[:b], batch.x_u[b:]))
    return total + lambda_dis * likeness(f0, f1) + lambda_unsup * (
        supervision(l0, mixed(y1[:b], y0[b:])) + supervision(l1, mixed(y0[:b], y1[b:])))


@pytest.mark.parametrize(("name", "size"), [("unet", (32, 32)), ("vnet", (32, 16, 32))])
def test_backward_half_by_half_equals_the_joint_objective(narrow, name, size):
    networks, generator = exact(name), torch.Generator().manual_seed(5)
    joint = copy.deepcopy(networks)
    x_l, x_u = (torch.randn(4, 1, *size, dtype=torch.float64, generator=generator) for _ in range(2))
    y_l = torch.randint(3, (4, *size), generator=generator)
    batch = make_batch(x_l, x_u)._replace(y_l=y_l)
    total = 0
    for loss, _ in method(networks, lambda_unsup=0.7, lambda_dis=0.3).losses(batch):
        loss.backward()
        total += loss.item()
    batch.generator.manual_seed(0)
    expected = eq4(joint.train(), batch, 0.5, 0.7, 0.3)
    expected.backward()
    assert total == pytest.approx(expected.item(), rel=1e-12)
    for (key, p), q in zip(networks.named_parameters(), joint.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-7, atol=1e-9, msg=key)
    for (key, p), q in zip(networks.named_buffers(), joint.buffers(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-10, atol=1e-12, msg=key)


@pytest.mark.parametrize(("lambda_unsup", "lambda_dis", "halves"), [(0, 0, 1), (0.5, 0, 2), (0, 0.1, 2)])
def test_the_unlabelled_half_is_skipped_when_nothing_weighs_it(lambda_unsup, lambda_dis, halves):
    net = Recorder(TABLE0, TABLE1)
    losses = list(method(net, lambda_unsup=lambda_unsup, lambda_dis=lambda_dis).losses(make_batch()))
    assert len(losses) == halves and len(net.inputs) == (1 if halves == 1 else 3)


def test_pretraining_is_the_labelled_half_alone():
    net = Recorder(TABLE0, TABLE1)
    own = method(net, lambda_dis=0.3)
    (loss, terms), = own.pretraining_losses(make_batch()._replace(x_u=None))
    first, again = terms, next(own.losses(make_batch()))
    assert len(net.inputs) == 2 and torch.equal(*net.inputs)
    assert loss.item() == again[0].item() == pytest.approx((first["sup_l"] + 0.3 * first["dis_l"]).item())
    assert set(terms) == {"sup_l", "dis_l", "picture"}


def test_pretraining_comes_first_and_self_training_follows():
    own = method()
    pre, self_ = own.stages(7, 11)
    assert (pre.name, pre.steps, pre.losses) == ("pre", 7, own.pretraining_losses)
    assert (self_.name, self_.steps, self_.losses) == ("self", 11, own.losses)


# ---- without mixing: CFL and CPS -------------------------------------------------------------------------------


def test_without_mixing_each_view_learns_the_others_raw_argmax_on_whole_scans():
    net, x_u = Recorder(BLOB_TABLE0, BLOB_TABLE1), blobs()
    batch = make_batch(x_u=x_u)
    (_, labelled), (_, terms) = method(net, kind=CFL, lambda_dis=0).losses(batch)
    assert len(net.inputs) == 2 and torch.equal(net.inputs[0], batch.x_l) and torch.equal(net.inputs[1], x_u)
    assert net.gradients == [True, True]
    assert torch.equal(labelled["picture"].target, batch.y_l)
    target0, target1 = (torch.tensor(table)[x_u[:, 0].long()] for table in (BLOB_TABLE1, BLOB_TABLE0))
    assert torch.equal(terms["picture"].target, target0) and (target0[:, 6:8, 6:8] > 0).all()     # small blobs stay
    logits0, logits1 = (logits.detach().numpy() for logits, _ in net.views(x_u))
    assert terms["sup_u"].item() == pytest.approx(eq2(logits0, target0) + eq2(logits1, target1), rel=1e-9)


def test_without_mixing_no_gradient_flows_through_the_labels_and_odd_batches_are_fine():
    net = Recorder(BLOB_TABLE0, BLOB_TABLE1)
    batch = make_batch(constant_scans(1, 2, 3), blobs()[:1])
    (_, _), (loss, terms) = method(net, kind=CFL, lambda_dis=0).losses(batch)
    assert not terms["picture"].target.requires_grad
    loss.backward()
    assert net.weight.grad.isfinite()


def test_predictions_are_the_mean_of_both_views_probabilities_or_of_their_logits():
    logits = [torch.tensor([4.0, 0.0]).view(1, 2, 1, 1), torch.tensor([0.0, 1.0]).view(1, 2, 1, 1)]

    class Fixed(nn.Module):
        def forward(self, x):
            return tuple((part, x) for part in logits)

    def probability(first, second):
        return math.exp(first) / (math.exp(first) + math.exp(second))

    for fusion, expected in (("softmax", (probability(4, 0) + probability(0, 1)) / 2), ("logits", probability(2, 0.5))):
        views = method(Fixed(), fusion=fusion).predict(torch.zeros(1, 1, 1, 1))
        assert list(views) == ["fused", "subnet0", "subnet1"]
        first = [float(probs[0, 0]) for probs in views.values()]
        assert first == pytest.approx([expected, probability(4, 0), probability(0, 1)])
