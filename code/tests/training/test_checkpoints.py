"""A checkpoint is believed only as far as the run that reads it could have come."""
import copy
import math

import pytest
import torch
from torch import nn

from runtime.errors import InputError
from runtime.files import load_tensors
from training.checkpoints import Checkpoints

LENGTHS = [4, 6]


@pytest.fixture
def saved(tmp_path):
    """saved(**changes) -> Checkpoints over a checkpoint.pt of step 3 of stage 1, changed."""
    def make(change=None, **progress):
        torch.manual_seed(0)
        method = nn.Linear(3, 2)
        optimizer = torch.optim.SGD(method.parameters(), 0.1, momentum=0.9, fused=False)
        method(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        own = Checkpoints(tmp_path, method, optimizer, LENGTHS, {"seed": 1337, "box": (1, 2)})
        own.save(**({"stage": 1, "step": 3, "best": 0.5, "last_dice": None} | progress))
        if change:
            content = load_tensors(tmp_path / "checkpoint.pt")
            change(content)
            torch.save(content, tmp_path / "checkpoint.pt")
        return own
    return make


def test_another_runs_checkpoint_is_not_gone_on_from(saved, tmp_path):
    own = saved()
    assert own.load()["step"] == 3
    for recipe, taken in (({"box": [1, 2.0], "seed": 1337}, True), ({"seed": 7, "box": (1, 2)}, False)):
        other = Checkpoints(tmp_path, own.method, own.optimizer, LENGTHS, recipe)
        if taken:
            assert other.load()["step"] == 3
        else:
            with pytest.raises(InputError, match="checkpoint.pt is of another run, whose recipe differs"):
                other.load()
    saved(lambda content: content.pop("recipe"))
    assert other.load()["step"] == 3        # of earlier code


def test_another_runs_weights_are_not_gone_on_from(saved):
    saved().save_weights("pretrained.pt", 4, optimizer=True)
    saved().load_weights("pretrained.pt")
    other = saved()
    other.fields = other.fields | {"seed": 7}
    with pytest.raises(InputError, match=r"pretrained\.pt is of another run \(seed was 1337, is 7\): restore"):
        other.load_weights("pretrained.pt")


@pytest.mark.parametrize("progress", [{}, {"step": 6}, {"stage": 0, "step": 4}, {"stage": 2, "step": 0},
                                      {"best": -math.inf}, {"last_dice": 0.25}])
def test_a_place_that_a_run_reaches_is_taken_over(saved, progress):
    state = saved(**progress).load()
    assert {name: state[name] for name in progress} == progress


@pytest.mark.parametrize("progress", [
    {"stage": 99}, {"stage": 3, "step": 0}, {"stage": -1}, {"stage": "x"}, {"stage": None}, {"stage": True},
    {"stage": 1.0}, {"step": 7}, {"step": -1}, {"step": None}, {"step": "3"}, {"step": 3.0}, {"stage": 0, "step": 5},
    {"stage": 2, "step": 1}, {"best": math.nan}, {"best": None}, {"best": "high"}, {"best": 1}, {"last_dice": "x"}])
def test_a_place_that_it_cannot_reach_is_no_checkpoint(saved, progress):
    with pytest.warns(UserWarning, match=r"checkpoint\.pt is damaged .*restore.*going on from an earlier checkpoint"):
        assert saved(**progress).load() is None


def test_the_one_before_is_taken_in_its_place(saved):
    saved(step=2)
    with pytest.warns(UserWarning, match="step 99 of stage 1, and this run has 2 of 4 and 6 steps"):
        assert saved(step=99).load()["step"] == 2


@pytest.mark.parametrize("change", [
    lambda content: content["optimizer"]["state"][0].update(momentum_buffer=torch.ones(5)),
    lambda content: content["optimizer"]["state"][1].update(momentum_buffer=torch.ones(2, 3)),
    lambda content: content["optimizer"]["param_groups"].pop(),
    lambda content: content.update(optimizer=3)], ids=range(4))
def test_an_optimiser_that_does_not_fit_is_refused(saved, change):
    with pytest.raises(InputError, match=r"checkpoint\.pt does not fit the optimiser"):
        saved(change).load()


def test_the_recipes_optimiser_stays_whatever_the_file_says(saved):
    def change(content):
        for group in content["optimizer"]["param_groups"]:
            group.update(momentum=None, weight_decay="x", fused=True, lr=7.0)
    own = saved(change)
    before, kept = copy.deepcopy(own.optimizer.param_groups[0]), own.optimizer.state_dict()["state"]
    own.load()
    group = own.optimizer.param_groups[0]
    assert {key: group[key] for key in group if key != "params"} == {
        key: before[key] for key in before if key != "params"}
    assert all(torch.equal(kept[key]["momentum_buffer"], state["momentum_buffer"])
               for key, state in own.optimizer.state_dict()["state"].items())
