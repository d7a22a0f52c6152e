"""What SASSNet and DAN share: whom the discriminator is told what, and when it steps."""
import copy
import math

import pytest
import torch

from methods.adversarial import fool, judge
from runtime.files import load_tensors

both = pytest.mark.parametrize("name", ["sassnet", "dan"])
LOGITS = torch.tensor([[0.0, 2.0], [1.0, 0.0], [0.0, 0.5]], dtype=torch.float64)


def cross_entropy(row, target):
    return math.log(sum(math.exp(v) for v in row)) - row[target]


def test_the_network_wants_its_unlabelled_maps_taken_for_labelled_ones():
    assert float(fool(LOGITS)) == pytest.approx(sum(cross_entropy(row, 1) for row in LOGITS.tolist()) / 3)
    assert float(fool(torch.tensor([[-20.0, 20.0]]))) == pytest.approx(0)


def test_the_discriminator_is_told_which_samples_are_labelled():
    first, second, third = LOGITS.tolist()
    expected = (cross_entropy(first, 1) + cross_entropy(second, 0) + cross_entropy(third, 0)) / 3
    assert float(judge(LOGITS, 1)) == pytest.approx(expected)
    assert float(judge(torch.tensor([[-9.0, 9.0], [-9.0, 9.0], [9.0, -9.0]]), 2)) == pytest.approx(0, abs=1e-6)
    assert judge(LOGITS, 2).dtype == torch.float64


def spy(module, seen):
    module.register_forward_hook(lambda module, inputs, output: seen.append(
        (module.training, [x.detach().clone() for x in inputs], output)))


@both
@pytest.mark.parametrize("dataset", ["LA", "ACDC"])
def test_the_networks_step_finds_the_discriminator_frozen_and_without_dropout(setting, step, name, dataset):
    s = setting(name, dataset)
    before, seen = copy.deepcopy(s.method.discriminator.state_dict()), []
    spy(s.method.discriminator, seen)
    total, terms = step(s.method.losses, s.batch)
    (training, (maps, images), logits), = seen
    assert not training and torch.equal(images, s.batch.x_u) and len(maps) == len(images)
    torch.testing.assert_close(terms["adversarial"], fool(logits))
    assert all(p.grad is None for p in s.method.discriminator.parameters())
    after = s.method.discriminator.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    trained = {id(p) for p in s.method.trained_parameters()}
    assert trained == {id(p) for p in s.method.networks.parameters()}
    assert all(p.grad is not None for p in s.method.networks.parameters())


@both
@pytest.mark.parametrize("dataset", ["BraTS2019", "ACDC"])
def test_the_discriminators_own_step(setting, step, name, dataset):
    """All samples as the updated network sees them in evaluation mode; Adam; nothing else moves."""
    s = setting(name, dataset)
    step(s.method.losses, s.batch)
    with torch.no_grad():
        for p in s.method.networks.parameters():        # the recipe's optimiser steps
            p.sub_(1e-2 * p.grad)
    for p in s.method.discriminator.parameters():
        p.grad = torch.full_like(p, 1e3)                # must not count
    networks, discriminator = (copy.deepcopy(part) for part in (s.method.networks, s.method.discriminator))
    state, seen, passes = copy.deepcopy(s.method.networks.state_dict()), [], []
    spy(s.method.networks, passes)
    spy(s.method.discriminator, seen)
    torch.manual_seed(3)
    terms = s.method.after_step(s.batch)

    images = torch.cat([s.batch.x_l, s.batch.x_u])
    (training, (given,), output), = passes
    assert not training and torch.equal(given, images) and not output[0].requires_grad
    assert all(torch.equal(state[key], value) for key, value in s.method.networks.state_dict().items())
    assert all(module.training for module in s.method.networks.modules())
    (training, (maps, given), _), = seen
    assert training and torch.equal(given, images)
    with torch.no_grad():
        torch.testing.assert_close(maps, s.method.maps(networks.eval()(images)))

    adam = torch.optim.Adam(discriminator.requires_grad_(True).parameters(), 1e-4, (0.9, 0.99))
    for seed in (3, 4):         # the second step tells the optimiser's averages
        adam.zero_grad()
        torch.manual_seed(seed)
        loss = judge(discriminator.train()(maps, images), len(s.batch.x_l))
        loss.backward()
        adam.step()
        torch.testing.assert_close(terms["discriminator"], loss.detach())
        assert not terms["discriminator"].requires_grad
        torch.manual_seed(4)
        terms = s.method.after_step(s.batch) if seed == 3 else terms
    for own, other in zip(s.method.discriminator.parameters(), discriminator.parameters(), strict=True):
        torch.testing.assert_close(own, other.detach(), check_stride=False)
        assert not own.requires_grad


@both
def test_running_statistics_take_the_networks_own_pass_alone(setting, step, name):
    s = setting(name)
    step(s.method.losses, s.batch)
    s.method.after_step(s.batch)
    assert {int(b) for key, b in s.method.networks.named_buffers() if key.endswith("num_batches_tracked")} == {1}


@both
def test_the_discriminator_steps_after_the_network_in_the_training_loop(recipe, runs, narrow, name):
    loop = runs.loop(recipe("ACDC", method=name))
    method, events = loop.method, []
    weight = next(method.networks.parameters())
    loop.optimizer.register_step_post_hook(lambda *_: events.append(("network", weight.detach().clone())))
    method.optimizer.register_step_pre_hook(lambda *_: events.append(("discriminator", weight.detach().clone())))
    streams = loop.streams()
    numbers = loop.take_step(streams, streams[0])()
    assert [event for event, _ in events] == ["network", "discriminator"]
    assert torch.equal(events[0][1], events[1][1])
    assert {"adversarial", "discriminator", "sup_l"} < numbers.keys()
    assert all(id(p) not in {id(q) for group in loop.optimizer.param_groups for q in group["params"]}
               for p in method.discriminator.parameters())


@both
def test_a_checkpoint_holds_the_discriminator_and_its_optimiser(setting, name, tmp_path):
    s, other = setting(name), setting(name)
    for _ in range(2):
        s.method.after_step(s.batch)
    torch.save(s.method.state_dict(), tmp_path / "x.pt")
    state = load_tensors(tmp_path / "x.pt")         # nothing that would have to be executed
    assert any(key.startswith("discriminator.") for key in state)
    other.method.load_state_dict(state)
    for one in (s, other):
        torch.manual_seed(5)
        one.method.after_step(one.batch)
    for own, twin in zip(s.method.discriminator.parameters(), other.method.discriminator.parameters(), strict=True):
        assert torch.equal(own, twin)
    fresh = setting(name)
    fresh.method.discriminator.load_state_dict(s.method.discriminator.state_dict())
    assert fresh.method.get_extra_state()["optimizer"]["state"] == {}


@both
def test_the_discriminators_gradients_are_averaged_over_processes(setting, name, monkeypatch):
    s, seen = setting(name), []
    monkeypatch.setattr("runtime.ranks.Ranks.average_gradients",
                        lambda self, parameters: seen.append([p.grad.clone() for p in parameters]))
    s.method.after_step(s.batch)
    assert len(seen) == 1 and len(seen[0]) == len(list(s.method.discriminator.parameters()))
    assert all(gradient.any() for gradient in seen[0])
