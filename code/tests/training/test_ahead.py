"""Numbers that are read one step late, as on a GPU, run on a CPU: same run."""
import math
import signal
from dataclasses import replace

import pytest
import torch

from cml import CML
from runtime.device import Device
from runtime.errors import InputError
from runtime.files import load_tensors
from training import fit
from training.logbook import Logbook

PLAIN = Device.__init__

pytestmark = pytest.mark.usefixtures("shallow", "no_curves")


@pytest.fixture
def ahead(monkeypatch):
    """The host runs ahead of a device that is a CPU."""
    def started(self, *args, **options):
        PLAIN(self, *args, **options)
        self.ahead = True
    monkeypatch.setattr(Device, "__init__", started)


@pytest.fixture
def events(monkeypatch):
    """What happened in which order: step, row of log.csv, validation, checkpoint."""
    noted = []
    for owner, name, letter in ((torch.optim.SGD, "step", "s"), (Logbook, "log", "r"),
                                (fit.Fit, "_validate", "V"), (fit.Fit, "_save_checkpoint", "C")):
        monkeypatch.setattr(owner, name, _noted(noted, letter, getattr(owner, name)))
    return noted


def assert_alike(runs, one, other):
    """Up to roundings of the optimiser, which are the fused one's own."""
    for name in ("log.csv", "val.csv"):
        for row, expected in zip(runs.rows(one, name), runs.rows(other, name), strict=True):
            assert row.keys() == expected.keys()
            for key in row.keys() - {"seconds", "memory_gib", "stage", "split"}:
                assert row[key] == expected[key] or float(row[key]) == pytest.approx(float(expected[key]), rel=1e-4)
    for mine, theirs in zip(runs.weights(one).values(), runs.weights(other).values(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_a_run_ahead_of_its_device_is_the_same_run(recipe, runs, ahead, events, monkeypatch, tmp_path):
    """Every row and validation; a row is written a step later, and before a validation or a checkpoint."""
    own = recipe(pre_steps=3, self_steps=7, eval_every=4, checkpoint_steps=3)
    late = runs.train(own)
    assert "".join(events) == "s sr srrVC C s sr srrC srV s srrC srV C".replace(" ", "")
    with monkeypatch.context() as patch:
        patch.setattr(Device, "__init__", PLAIN)
        plain = runs.train(replace(own, out=tmp_path / "plain"))
    assert_alike(runs, late, plain)
    assert [load_tensors(run / "checkpoint.pt")["optimizer"]["param_groups"][0]["fused"] for run in (late, plain)] == [
        True, False]


@pytest.mark.parametrize("first", [pytest.param(True, id="ahead at first"),
                                   pytest.param(False, id="ahead later", marks=pytest.mark.slow)])
def test_a_run_goes_on_where_the_host_is_ahead_or_is_not(recipe, runs, ahead, monkeypatch, tmp_path, first):
    """As from a GPU to a CPU: the checkpoint's optimiser becomes that of the device."""
    own, started, validate = recipe(pre_steps=1, self_steps=5, checkpoint_steps=2), Device.__init__, fit.Fit._validate

    def stopping(self, stage):
        if (stage.name, self.step) == ("self", 4):
            raise KeyboardInterrupt
        return validate(self, stage)
    monkeypatch.setattr(Device, "__init__", PLAIN)
    whole = runs.trained(replace(own, out=tmp_path / "whole"))
    monkeypatch.setattr(Device, "__init__", started if first else PLAIN)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(fit.Fit, "_validate", stopping)
        runs.train(own)
    monkeypatch.setattr(Device, "__init__", PLAIN if first else started)
    assert_alike(runs, whole, runs.train(own))


@pytest.mark.parametrize("at", [1, 2])
def test_a_step_that_is_not_finite_changes_nothing_and_neither_does_the_next(recipe, runs, ahead, monkeypatch, at):
    """It is found when the next step is on its way, or before a validation that is due, as after every second one."""
    seen, objective, take_step = {}, CML.objective, fit.Fit.take_step

    def sick(self, half, *rest):
        loss, terms = objective(self, half, *rest)
        return (loss * math.nan if seen["step"] == ("self", at) else loss), terms

    def watched(self, *rest):
        seen.update(step=(self.stages[self.stage].name, self.step), loop=self)
        if seen["step"] == ("self", at):
            seen["before"] = [p.detach().clone() for p in self.method.parameters()]
        return take_step(self, *rest)
    monkeypatch.setattr(CML, "objective", sick)
    monkeypatch.setattr(fit.Fit, "take_step", watched)
    own = recipe()
    with pytest.raises(InputError, match=f"at step {at + 1} of stage self: loss nan") as error:
        runs.train(own)
    assert seen["step"] == ("self", at + (at + 1) % 2)
    labelled, unlabelled = seen["loop"].streams().names(at)
    assert all(name in str(error.value) for name in labelled + unlabelled)
    assert all(map(torch.equal, seen["before"], seen["loop"].method.parameters()))
    assert load_tensors(own.out / "checkpoint.pt")["stage"] == 1 and runs.rows(own.out)[-1]["step"] == str(at)


def test_a_signal_stops_a_run_ahead_of_its_device_with_every_row_written(recipe, runs, ahead, monkeypatch):
    own, take_step = recipe(eval_every=100), fit.Fit.take_step

    def signalled(self, *rest):
        if (self.stages[self.stage].name, self.step) == ("self", 2):
            signal.raise_signal(signal.SIGTERM)
        return take_step(self, *rest)
    monkeypatch.setattr(fit.Fit, "take_step", signalled)
    with pytest.raises(SystemExit):
        runs.train(own)
    saved = load_tensors(own.out / "checkpoint.pt")
    assert saved["step"] == int(runs.rows(own.out)[-1]["step"]) == 4


def _noted(order, name, function):
    def noted(*args, **options):
        order.append(name)
        return function(*args, **options)
    return noted
