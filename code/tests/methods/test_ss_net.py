"""SS-Net: distances, the adversarial direction, memory and separation in NumPy, and the passes of a step."""
import copy
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from methods import ss_net
from methods.losses import supervised_loss
from methods.ss_net import Memory, adversarial_direction, distance_2d, distance_3d, memorable, scores_of, separation


def softmaxes(*shape):
    return torch.randn(2, *shape, dtype=torch.float64).softmax(2)


# ---- smoothness --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2, 4, 5, 6), (2, 3, 4, 5, 6)])
def test_distances_are_their_formulas(shape):
    p, q = softmaxes(*shape)
    a, b = p.numpy(), q.numpy()
    pooled = [1 - (2 * (a[:, c] * b[:, c]).sum() + 1e-10) / ((a[:, c] ** 2).sum() + (b[:, c] ** 2).sum() + 1e-10)
              for c in range(shape[1])]
    assert float(distance_2d(p, q)) == pytest.approx(np.mean(pooled), rel=1e-12)
    assert float(distance_3d(p, q)) == pytest.approx(1 - (2 * (a * b).sum() + 1e-8) / (a.sum() + b.sum() + 1e-8))
    assert distance_2d(p, q).dtype == distance_3d(p, q).dtype == torch.float64
    p.requires_grad_(), q.requires_grad_()
    assert torch.autograd.gradcheck(distance_2d, (p, q)) and torch.autograd.gradcheck(distance_3d, (p, q))


def test_equal_maps_are_at_distance_0_in_2d_but_not_in_3d():
    p, _ = softmaxes(2, 2, 4, 4, 4)
    assert float(distance_2d(p, p)) == pytest.approx(0, abs=1e-12)
    assert float(distance_3d(p, p)) == pytest.approx(1 - float(p.square().sum() / p.sum()))


@pytest.mark.parametrize("distance", [distance_2d, distance_3d])
def test_the_direction_is_the_gradient_after_one_step_of_length_10(distance):
    net = nn.Conv2d(1, 3, 3, padding=1).double()
    x, noise = torch.randn(2, 1, 4, 4, dtype=torch.float64), torch.rand(2, 1, 4, 4, dtype=torch.float64) - 0.5

    def predict(x):
        return (0.3 * net(x)).softmax(1)
    target = predict(x).detach()
    net.weight.grad = torch.full_like(net.weight, 5)
    d = adversarial_direction(predict, x, target, noise, distance)
    assert (net.weight.grad == 5).all() and net.bias.grad is None and not d.requires_grad
    assert d.flatten(1).norm(dim=1).tolist() == pytest.approx([1, 1], rel=1e-5)       # but for the 1e-8

    start = noise / noise.flatten(1).norm(dim=1).reshape(2, 1, 1, 1)
    differences = torch.zeros_like(x)
    with torch.no_grad():
        for place in np.ndindex(*x.shape):
            step = torch.zeros_like(x)
            step[place] = 1e-5
            differences[place] = (distance(predict(x + 10 * (start + step)), target)
                                  - distance(predict(x + 10 * (start - step)), target)) / 2e-5
    expected = differences / differences.flatten(1).norm(dim=1).reshape(2, 1, 1, 1)
    torch.testing.assert_close(d, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("distance", [distance_2d, distance_3d])
def test_a_network_that_no_perturbation_changes_has_no_direction_in_half_precision_either(distance):
    x, thirds = torch.rand(2, 1, 4, 4).half(), torch.full((2, 3, 4, 4), 1 / 3).half()
    d = adversarial_direction(lambda x: (0 * x).repeat(1, 3, 1, 1).softmax(1), x, thirds, x - 0.5, distance)
    assert d.dtype == x.dtype and not d.any()


# ---- memory and separation ---------------------------------------------------------------------------------------


class FirstFeature(nn.Module):
    """A selector whose score is the first feature."""

    def forward(self, features):
        return features[:, :1]


def test_the_lowest_scores_are_remembered_in_ascending_order():
    features = torch.randn(50, 32)
    kept = memorable(FirstFeature(), features)
    assert torch.equal(kept, features[features[:, 0].argsort()[:32]])
    assert (kept[1:, 0] > kept[:-1, 0]).all()


@pytest.mark.parametrize("n", [1, 31, 32])
def test_up_to_32_features_are_remembered_as_they_are(n):
    features = torch.randn(n, 32)
    assert torch.equal(memorable(FirstFeature(), features), features)


def test_the_selector_is_used_in_the_mode_it_is_in():
    features, selector = torch.randn(40, 32) + 3, nn.Sequential(nn.BatchNorm1d(32), nn.Linear(32, 1))
    for training, batches in ((True, 1), (False, 1)):
        selector.train(training)
        kept = memorable(selector, features)
        assert not kept.requires_grad and int(selector[0].num_batches_tracked) == batches


def separation_in_numpy(features, labels, memory, selectors):
    total = 0
    for c, (rows, selector) in enumerate(zip(memory, selectors, strict=True)):
        f = features[labels == c]
        if rows is None or len(rows) < 2 or len(f) < 2:
            continue
        s = selector(f).sigmoid().detach().numpy()[:, 0]
        f, m = f.detach().numpy(), rows.numpy()
        cosine = f @ m.T / np.linalg.norm(f, axis=1)[:, None] / np.linalg.norm(m, axis=1)
        total += np.mean(len(f) * s[:, None] / s.sum() * (1 - cosine))
    return total / len(memory)


@pytest.mark.parametrize("sizes", [(None, 32, 5), (None, 1, 32), (None, None, 2), (4, 3, 2)])
def test_separation_is_its_formula_over_the_classes_that_take_part(sizes):
    features, labels = torch.randn(40, 32, dtype=torch.float64), torch.randint(3, (40,))
    memory = [None if n is None else torch.randn(n, 32, dtype=torch.float64) for n in sizes]
    selectors = [nn.Linear(32, 1).double() for _ in sizes]
    loss = separation(features, labels, memory, selectors)
    assert float(loss.detach()) == pytest.approx(separation_in_numpy(features, labels, memory, selectors), rel=1e-9)


def test_a_class_with_one_feature_or_without_memory_takes_no_part_and_the_loss_is_a_zero_with_gradient():
    features = torch.randn(5, 32, requires_grad=True)
    labels, memory = torch.tensor([0, 0, 0, 0, 1]), [None, torch.randn(4, 32), None]
    loss = separation(features, labels, memory, [None, FirstFeature(), None])
    loss.backward()
    assert float(loss.detach()) == 0 and not features.grad.any()


def test_the_shares_train_the_selector_and_the_cosines_the_features():
    features, memory = torch.randn(6, 32, dtype=torch.float64), torch.randn(4, 32, dtype=torch.float64)
    features.requires_grad_()
    selector = nn.Linear(32, 1).double()
    separation(features, torch.ones(6, dtype=torch.long), [None, memory], [None, selector]).backward()
    assert selector.weight.grad.abs().min() > 0
    share = selector(features).sigmoid().detach()[:, 0]
    share = 6 * share / share.sum()
    again = features.detach().requires_grad_()
    (share * (1 - nn.functional.normalize(again) @ nn.functional.normalize(memory).mean(0))).mean().div(2).backward()
    torch.testing.assert_close(features.grad, again.grad)


def per_class(memory):
    """[None for the background, then the remembered features (n_c, 32), or None]."""
    return [None, *(features[:n] if n else None
                    for features, n in zip(memory.features, memory.filled.tolist(), strict=True))]


def replace(memory, c, features):
    memory.replace(c, features, torch.tensor(len(features)))


def test_memory_is_replaced_class_by_class_and_part_of_the_state():
    memory = Memory(3)
    assert per_class(memory) == [None, None, None] and not any(known for _, known in memory.means()[1:])
    one, two = torch.randn(32, 32), torch.randn(3, 32)
    replace(memory, 1, one)
    replace(memory, 2, two)
    replace(memory, 1, one[:5])
    memory.replace(2, one, torch.tensor(0))
    background, first, second = per_class(memory)
    assert background is None and torch.equal(first, one[:5]) and torch.equal(second, two)
    loaded = Memory(3)
    loaded.load_state_dict(memory.state_dict())
    assert torch.equal(per_class(loaded)[2], two) and not list(memory.parameters())
    for rows, (mean, known) in zip((first, second), memory.means()[1:], strict=True):
        torch.testing.assert_close(mean, nn.functional.normalize(rows).mean(0))
        assert known


@pytest.mark.parametrize("count", [0, 1, 2, 9])
def test_scores_are_those_of_the_chosen_rows_alone(count):
    """Scores, gradients and running statistics, as if the other rows were not there, or nothing had been asked."""
    rows, chosen = torch.randn(9, 32, dtype=torch.float64), torch.zeros(9, dtype=torch.bool)
    chosen[torch.randperm(9)[:count]] = True
    selector = nn.Sequential(nn.Linear(32, 4), nn.BatchNorm1d(4), nn.LeakyReLU(), nn.Linear(4, 1)).double()
    other = copy.deepcopy(selector)
    found = scores_of(selector, rows, chosen, torch.tensor(count > 1))[chosen]
    assert found.isfinite().all()
    if count > 1:
        expected = other(rows[chosen])
        torch.testing.assert_close(found, expected)
        for scores in (found, expected):
            scores.sin().sum().backward()
        for mine, theirs in zip(selector.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(mine.grad, theirs.grad)
    for mine, theirs in zip(selector.buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("dataset", [pytest.param("LA", marks=pytest.mark.slow), "ACDC"])
def test_a_step_that_keeps_all_rows_is_the_one_that_picks_them(setting, step, monkeypatch, dataset):
    """As on a GPU: loss, gradients, memory and running statistics."""
    found = []
    for keep in (False, True):
        if keep:
            monkeypatch.setattr(ss_net, "rows_of", lambda chosen, *tensors: (*tensors, chosen))
        s = setting("ss_net", dataset, step=449, steps=1000)
        for _ in range(2):
            total, terms = step(s.method.losses, s.batch)
        found.append([total, terms["separation"], *s.method.buffers(), *(p.grad for p in s.method.parameters())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


# ---- the step ----------------------------------------------------------------------------------------------------


def heads(method):
    """What projection and prediction saw and gave: lists of (input, output, training)."""
    seen = SimpleNamespace(projection=[], prediction=[])
    for name, calls in vars(seen).items():
        getattr(method.networks, name).register_forward_hook(
            lambda part, inputs, output, calls=calls: calls.append((inputs[0].detach(), output.detach(),
                                                                    part.training)))
    return seen


def rows(maps):
    return torch.stack([maps[n, :, *place] for n in range(len(maps)) for place in np.ndindex(*maps.shape[2:])])


@pytest.mark.parametrize(("dataset", "protocol"), [("LA", "original"), ("ACDC", "original"), ("ACDC", "matched")])
def test_a_step(setting, step, watch, dataset, protocol):
    s = setting("ss_net", dataset, protocol, step=449, steps=1000)
    embeddings, batch, axes = [], s.batch, 3 if dataset == "LA" else 2
    passes, seen = watch(s.method.networks), heads(s.method)
    s.method.networks.register_forward_hook(lambda *call: embeddings.append(call[2][1].detach()))
    total, terms = step(s.method.losses, batch)

    main, clean, power, perturbed = passes
    x = torch.cat([batch.x_l, batch.x_u])
    assert torch.equal(main.x, x) and torch.equal(clean.x, x) and not clean.gradient
    assert all(one.training for one in passes) and not torch.equal(main.logits, clean.logits)       # new dropout
    radius, distance = (10, distance_3d) if axes == 3 else (6, distance_2d)
    assert (power.x - x).flatten(1).norm(dim=1).tolist() == pytest.approx([10] * 8)
    assert (perturbed.x - x).flatten(1).norm(dim=1).tolist() == pytest.approx([radius] * 8, rel=1e-4)
    smooth = distance(perturbed.logits.softmax(1), clean.logits.softmax(1))
    torch.testing.assert_close(terms["smoothness"].detach(), smooth)

    # candidates: labelled foreground voxels that the main pass has right, projected with running statistics
    guess, y = main.logits.argmax(1).flatten(), batch.y_l.flatten()
    voxels = rows(embeddings[0])
    right = (guess[:len(y)] == y) & (y > 0)
    (chosen, candidates, mode), (all_l, _, mode_l), (all_u, _, mode_u) = seen.projection
    assert torch.equal(chosen, voxels[:len(y)][right]) and (mode, mode_l, mode_u) == (False, True, True)
    assert torch.equal(all_l, voxels[:len(y)]) and torch.equal(all_u, voxels[len(y):])

    # memory: after the step, from this step's candidates; selectors are in training mode
    memory, selectors = per_class(s.method.memory), [None, *s.method.networks.selectors]
    for c in range(1, len(memory)):
        of_class = candidates[y[right] == c]
        expected = of_class
        if len(of_class) > 32:
            expected = of_class[selectors[c](of_class)[:, 0].argsort()[:32]]
        assert memory[c] is None if len(of_class) == 0 else torch.equal(memory[c], expected)
    assert memory[0] is None and any(rows is not None and len(rows) == 32 for rows in memory)

    (_, f_l, _), (_, f_u, _) = seen.prediction
    separated = separation(f_l, y, memory, selectors) + separation(f_u, guess[len(y):], memory, selectors)
    torch.testing.assert_close(terms["separation"].detach(), separated.detach())
    name = "eq2" if protocol == "matched" else "dlin_fg" if axes == 3 else "dsq_all_1e-10"
    sup = supervised_loss(name)(main.logits[:4], batch.y_l)
    # on volumes the released counter is one step ahead: the third stair instead of the second
    ceiling, progress = (1.0, 450 / 400) if axes == 3 else (0.1, 0.3 if protocol == "original" else 0.449)
    weight = ceiling * math.exp(-5 * (1 - min(progress, 1)) ** 2)
    torch.testing.assert_close(total, sup + weight * (smooth + 0.1 * separated.detach()))


def test_running_statistics_see_the_main_and_the_clean_pass(setting, step):
    s = setting("ss_net")
    step(s.method.losses, s.batch)
    counts = {name: int(b) for name, b in s.method.networks.named_buffers() if name.endswith("num_batches_tracked")}
    assert {n for name, n in counts.items() if name.startswith(("encoder", "trunk"))} == {2}
    assert {n for name, n in counts.items() if name.startswith(("projection", "prediction"))} == {2}
    # the memory's choice, then both halves
    assert {n for name, n in counts.items() if name.startswith("selectors")} == {3}


def test_frozen_statistics_do_not_move_and_batch_statistics_still_act():
    norm, x = nn.BatchNorm1d(3).train(), torch.randn(8, 3) + 5
    expected = nn.BatchNorm1d(3).train()(x)
    with ss_net.frozen_statistics(norm):
        out = norm(x)
    assert torch.equal(out, expected) and not norm.running_mean.any() and int(norm.num_batches_tracked) == 0
    norm(x)
    assert norm.running_mean.any()


def test_a_class_without_candidates_keeps_its_memory(setting):
    s = setting("ss_net")
    replace(s.method.memory, 1, torch.ones(2, 32))
    replace(s.method.memory, 3, torch.ones(7, 32))
    embedding, y = torch.randn(6, 2, dtype=torch.float64), torch.tensor([0, 1, 1, 2, 2, 2])
    guess = torch.tensor([0, 1, 1, 2, 3, 0])
    s.method.remember(embedding, y, guess)
    networks = s.method.networks.eval()
    _, first, second, third = per_class(s.method.memory)
    torch.testing.assert_close(first, networks.projection(embedding[1:3]))
    torch.testing.assert_close(second, networks.projection(embedding[3:4]))
    assert torch.equal(third, torch.ones(7, 32, dtype=torch.float64))


def test_nothing_right_leaves_memory_and_modes_alone(setting):
    s = setting("ss_net")
    s.method.remember(torch.randn(4, 2, dtype=torch.float64), torch.tensor([0, 1, 2, 3]), torch.tensor([0, 0, 0, 0]))
    assert per_class(s.method.memory) == [None] * 4 and s.method.networks.projection.training


def test_several_processes_share_the_first_ones_memory(setting, monkeypatch):
    shared = []

    class Two:
        def share_buffers(self, module):
            shared.append(module)
    monkeypatch.setattr(ss_net, "Ranks", Two)
    s = setting("ss_net")
    s.method.remember(torch.randn(4, 2, dtype=torch.float64), torch.tensor([0, 1, 2, 3]), torch.tensor([0, 1, 2, 3]))
    assert shared == [s.method.memory]
    assert all(selector.local_batch_norm for selector in s.method.networks.selectors)


def test_the_network_is_tested_without_its_memory(setting):
    s = setting("ss_net", "BraTS2019", "original")
    views = s.method.eval().predict(s.batch.x_u)
    assert list(views) == ["network"]
    torch.testing.assert_close(views["network"], s.method.networks(s.batch.x_u)[0].softmax(1))
    assert s.method.hyper == setting("ss_net", "LA", "original").method.hyper
