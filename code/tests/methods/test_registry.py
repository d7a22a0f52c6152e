"""The compared methods through the interface that the training loop uses."""
import dataclasses
import math
import typing

import pytest
import torch

from cml import CML, segmentation_loss
from method import Batch
from methods import registry
from methods.mean_teacher import MeanTeacher
from methods.ramps import sigmoid_ramp_up
from networks.two_view import AXES
from runtime.errors import InputError
from train_ACDC import PRESETS
from training.recipe import NetworkName

EVERY = ["cml", "cfl", "cps", "supervised", "mean_teacher"]
every_method = pytest.mark.parametrize("name", EVERY)


@pytest.fixture(autouse=True)
def _narrow(narrow):
    pass


def build(name, seed=0, **changes):
    torch.manual_seed(seed)
    return registry.build(dataclasses.replace(PRESETS["mini"], method=name, **changes)).train()


def make_batch(step=50, steps=100, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x_l, x_u = (torch.randn(4, 1, 32, 32, generator=generator) for _ in range(2))
    return Batch(x_l, torch.randint(4, (4, 32, 32), generator=generator), x_u, step, steps,
                 torch.Generator().manual_seed(seed))


def losses(method, batch):
    torch.manual_seed(7)        # dropout and noise
    result = []
    for loss, terms in method.losses(batch):
        loss.backward()
        terms.pop("picture", None)
        result.append((float(loss.detach()), {k: v.detach().clone() for k, v in terms.items()}))
    return result


def gradients(method):
    return {key: p.grad for key, p in method.named_parameters() if p.grad is not None}


def test_the_networks_on_the_command_line_are_those_that_are_built():
    assert typing.get_args(NetworkName) == tuple(AXES)


def test_the_methods_on_the_command_line():
    assert set(EVERY) <= set(registry.METHODS)
    with pytest.raises(InputError, match=f"--method vat.*{', '.join(registry.METHODS)}"):
        build("vat")


@pytest.mark.parametrize("network", ["vnet", "resnet"])
def test_a_network_for_other_patches_is_refused_with_the_ones_that_fit(network):
    with pytest.raises(InputError, match=f"--network {network}: choose one for 2 axes, unet or released"):
        build("cml", network=network)


@pytest.mark.parametrize(("name", "option", "value"), [
    ("mean_teacher", "consistency", -0.1), ("mean_teacher", "delay", math.nan), ("bcp", "pseudo_weight", math.inf),
    ("cml_plus", "decay", 1.0)])
def test_a_hyperparameter_out_of_range_is_refused_in_one_line(name, option, value):
    hyper = dataclasses.replace(registry.METHODS[name].defaults("ACDC"), **{option: value})
    with pytest.raises(InputError, match=f"--hyper.{option} {value:g}: ") as error:
        build(name, hyper=hyper)
    assert "\n" not in str(error.value)


@every_method
def test_losses_are_finite_and_reach_every_trained_parameter(name):
    method = build(name)
    assert all(math.isfinite(loss) for loss, _ in losses(method, make_batch()))
    missing = [key for key, p in method.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == [] and {id(p) for p in method.trained_parameters()} == {
        id(p) for p in method.parameters() if p.requires_grad}


@every_method
def test_terms_are_scalar_tensors(name):
    for _, terms in losses(build(name), make_batch()):
        assert "sup_l" in terms or "sup_u" in terms
        for term, value in terms.items():
            assert isinstance(value, torch.Tensor)
            assert value.ndim == 0, term


@every_method
def test_a_method_shows_what_it_learned_from(name):
    *_, (_, terms) = build(name).losses(make_batch())
    image, target, views = terms["picture"]
    assert image.shape[1:] == (1, 32, 32) and views
    assert all(scores.shape == (len(image), 4, 32, 32) and not scores.requires_grad for scores in views.values())
    assert target is None or target.shape == (len(image), 32, 32)


@every_method
def test_predictions_are_probabilities_with_the_headline_first(name):
    views = build(name).eval().predict(torch.randn(2, 1, 32, 32))
    expected = {"supervised": ["network"], "mean_teacher": ["student", "teacher"]}
    assert list(views) == expected.get(name, ["fused", "subnet0", "subnet1"])
    for probs in views.values():
        assert probs.shape == (2, 4, 32, 32) and (probs >= 0).all()
        torch.testing.assert_close(probs.sum(1), torch.ones(2, 32, 32))


@every_method
def test_stages_take_all_steps(name):
    stages = build(name).stages(30, 70)
    assert sum(stage.steps for stage in stages) == 100
    assert [stage.name for stage in stages] == (["pre", "self"] if name in ("cml", "cfl", "cps") else ["self"])


@pytest.mark.parametrize(("name", "lambda_dis"), [("cml", 0.1), ("cfl", 0.1), ("cps", 0)])
def test_cps_and_cfl_are_cml_with_other_halves(name, lambda_dis):
    method = build(name)
    assert isinstance(method, CML)
    assert (method.lambda_dis, method.lambda_unsup, method.beta) == (lambda_dis, 0.5, 0.5)


def test_cps_is_cfl_without_the_discrepancy():
    cps, cfl = build("cps"), build("cfl", lambda_dis=0.0)
    batch = make_batch()
    for (loss, terms), (other, others) in zip(losses(cps, batch), losses(cfl, batch), strict=True):
        assert loss == other and terms.keys() == others.keys()
        assert all(torch.equal(terms[key], others[key]) for key in terms)
    one, other = gradients(cps), gradients(cfl)
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    assert losses(build("cfl"), batch)[0][0] != losses(build("cps"), batch)[0][0]


def test_an_ablation_without_unlabelled_terms_does_not_look_at_the_unlabelled_scans():
    batch = make_batch()._replace(x_u=None)
    assert len(losses(build("cml", lambda_unsup=0.0, lambda_dis=0.0), batch)) == 1


def test_supervised_is_one_network_and_eq_2_on_the_labelled_batch():
    method, batch = build("supervised"), make_batch()._replace(x_u=None)
    (loss, terms), = losses(method, batch)
    torch.manual_seed(7)
    expected = segmentation_loss(method.networks(batch.x_l)[0], batch.y_l)
    assert loss == expected.item() == terms["sup_l"].item()
    assert not any(stage.unlabelled for stage in method.stages(1, 1))
    pair = sum(p.numel() for p in build("cml").parameters())
    assert sum(p.numel() for p in method.parameters()) < 0.6 * pair


# ---- mean teacher ----------------------------------------------------------------------------------------------


def test_the_ramp_rises_from_exp_minus_5_to_1():
    assert [sigmoid_ramp_up(t) for t in (-1, 0, 0.5, 1, 2)] == pytest.approx(
        [math.exp(-5), 0.0067379, math.exp(-1.25), 1, 1], rel=1e-4)


@pytest.mark.parametrize(("step", "weight"), [(0, 0), (3, 0), (4, 0.1 * math.exp(-5 * 0.96 ** 2)),
                                              (50, 0.1 * math.exp(-1.25)), (99, 0.1 * math.exp(-5e-4))])
def test_consistency_is_weighed_by_the_ramp_after_a_thirtieth(step, weight):
    (loss, terms), = losses(build("mean_teacher"), make_batch(step, 100))
    consistency = float(terms["consistency"])
    assert consistency > 0 and loss - float(terms["sup_l"]) == pytest.approx(weight * consistency, abs=2e-7)


def test_the_teacher_sees_unlabelled_scans_under_bounded_noise():
    method, batch, seen = build("mean_teacher"), make_batch(), []
    method.teacher.register_forward_hook(lambda _, inputs, output: seen.append(inputs[0]))
    losses(method, batch)
    noise = seen[0] - batch.x_u
    assert len(seen) == 1 and 0.19 < noise.abs().max() <= 0.2 + 1e-6
    assert float(noise.std()) == pytest.approx(0.0959, abs=0.003)    # a normal of 0.1 clipped at two deviations


def test_consistency_compares_student_and_teacher_on_unlabelled_scans():
    method, batch, seen = build("mean_teacher"), make_batch(), {}
    for name, part in (("student", method.networks), ("teacher", method.teacher)):
        part.register_forward_hook(lambda _, inputs, output, name=name: seen.update({name: output[0].detach()}))
    (_, terms), = losses(method, batch)
    difference = seen["student"][4:].softmax(1) - seen["teacher"].softmax(1)
    assert float(terms["consistency"]) == pytest.approx(float(difference.square().mean()), rel=1e-5)
    assert float(terms["sup_l"]) == pytest.approx(float(segmentation_loss(seen["student"][:4], batch.y_l)), rel=1e-5)


def test_the_first_step_copies_the_student_and_later_ones_average_parameters_alone():
    method = build("mean_teacher")
    teacher, student = ([p.detach().clone() for p in part.parameters()] for part in (method.teacher, method.networks))
    buffers = [b.clone() for b in method.teacher.buffers()]
    assert not torch.equal(teacher[0], student[0])
    method.after_step(make_batch(step=0))
    assert all(torch.allclose(p, s) for p, s in zip(method.teacher.parameters(), student, strict=True))
    for step, decay in ((1, 0.5), (9, 0.9), (500, 0.99)):
        before = [p.clone() for p in method.teacher.parameters()]
        with torch.no_grad():
            for p in method.networks.parameters():
                p.add_(1)
        method.after_step(make_batch(step=step))
        for p, old, new in zip(method.teacher.parameters(), before, method.networks.parameters(), strict=True):
            torch.testing.assert_close(p.detach(), (decay * old + (1 - decay) * new).detach())
    assert all(torch.equal(b, old) for b, old in zip(method.teacher.buffers(), buffers, strict=True))


def test_the_teacher_is_not_trained_but_saved():
    method = build("mean_teacher")
    assert isinstance(method, MeanTeacher)
    losses(method, make_batch())
    assert all(p.grad is None for p in method.teacher.parameters())
    trained = {id(p) for p in method.trained_parameters()}
    assert trained == {id(p) for p in method.networks.parameters()}
    assert any(key.startswith("teacher.") for key in method.state_dict())


def test_the_options_of_some_methods_are_those_that_their_classes_name():
    assert registry.OPTIONS == frozenset().union(*(method.OPTIONS for method in registry.METHODS.values()))
