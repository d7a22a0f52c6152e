"""A run that is stopped, killed or sick: what it leaves, and how it goes on."""
import csv
import dataclasses
import math
import os
import shutil
import signal
import time

import pytest
import torch

import cml
from dataloaders.acdc import patient_of
from runtime import stopping
from runtime.errors import InputError
from runtime.files import load_tensors
from training import checkpoints, fit

pytestmark = pytest.mark.usefixtures("shallow")
unpainted = pytest.mark.usefixtures("no_curves")


def cut(path):
    path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])


class Killed(BaseException):
    """Nothing catches it, like a kill."""


@pytest.fixture
def reference(recipe, runs, no_curves, tmp_path):
    """reference(dataset, **changes) -> folder of the same run, never stopped."""
    return lambda dataset="ACDC", **changes: runs.trained(recipe(dataset, **changes, out=tmp_path / "reference"))


@pytest.fixture(scope="module")
def _killed(tmp_path_factory):
    return tmp_path_factory.mktemp("killed") / "run"


@pytest.fixture
def killed(recipe, killed_at, no_curves, _killed):
    """A recipe whose run was killed at step 5 of self-training; its checkpoints are of the steps 4 and 2."""
    own = recipe(checkpoint_steps=2)
    if not _killed.exists():
        killed_at(dataclasses.replace(own, out=_killed), "self", 5)
    shutil.copytree(_killed, own.out)
    return own


@pytest.fixture
def killed_at(monkeypatch, runs):
    """killed_at(recipe, stage, step): train until that step is about to run (steps done are counted from 0)."""
    def train(recipe, stage_name, at, how="take_step"):
        original = getattr(fit.Fit, how)

        def dying(self, *args):
            if self.stages[self.stage].name == stage_name and self.step == at:
                raise Killed
            return original(self, *args)
        with monkeypatch.context() as patch:
            patch.setattr(fit.Fit, how, dying)
            with pytest.raises(Killed):
                runs.train(recipe)
        return recipe.out
    return train


KILLS = {
    "before the first checkpoint": ("pre", 1, "take_step"),
    "in pre-training": ("pre", 3, "take_step"),
    "between the stages": ("self", 0, "_enter"),
    "at the first step of self-training": ("self", 0, "take_step"),
    "in a validation": ("self", 4, "_validate"),
    "in self-training, on a checkpoint": ("self", 4, "take_step"),
    "in self-training, past a checkpoint": ("self", 5, "take_step"),
}


@unpainted
@pytest.mark.parametrize("kills", [pytest.param(list(KILLS), id="one after the other"), *(
    pytest.param([name], id=name, marks=pytest.mark.slow) for name in KILLS)])
def test_a_killed_run_resumes_to_the_same_bits(recipe, runs, reference, killed_at, capsys, kills):
    own, expected = recipe(checkpoint_steps=2), reference()
    for kill in kills:
        capsys.readouterr()
        killed_at(own, *KILLS[kill])
        assert ("resuming after step" in capsys.readouterr().out) == (kill not in (kills[0], "in pre-training"))
        assert not (own.out / "last.pt").exists()
    runs.train(own)
    assert ("resuming after step" in capsys.readouterr().out) == (kills != ["before the first checkpoint"])
    runs.assert_same(expected, own.out)
    for name in ("pretrained.pt", "best.pt"):
        assert runs.same_tensors(runs.weights(expected, name), runs.weights(own.out, name))


@unpainted
@pytest.mark.slow
def test_a_run_may_be_killed_again_and_again(recipe, runs, reference, killed_at):
    own = recipe(method="mean_teacher", checkpoint_steps=3)
    for at in (2, 5, 5, 8, 9):
        killed_at(own, "self", at)
    runs.train(own)
    runs.assert_same(reference(method="mean_teacher"), own.out)


@unpainted
def test_a_killed_run_without_validation_cases_resumes_to_the_same_bits(recipe, runs, reference, killed_at):
    steps = {"pre_steps": 1, "self_steps": 1}
    own = recipe("LA", **steps)
    killed_at(own, "self", 0, "_enter")
    runs.train(own)
    runs.assert_same(reference("LA", **steps), own.out)


@unpainted
@pytest.mark.parametrize("damage", [
    pytest.param(cut, id="cut"), pytest.param(lambda path: path.write_bytes(b""), id="empty", marks=pytest.mark.slow)])
def test_a_damaged_checkpoint_falls_back_to_its_predecessor(killed, runs, reference, damage):
    damage(killed.out / "checkpoint.pt")
    with pytest.warns(UserWarning, match=r"checkpoint\.pt is damaged.*earlier checkpoint"):
        runs.train(killed)
    runs.assert_same(reference(), killed.out)


def test_a_fall_back_into_the_stage_before_draws_its_curves(recipe, runs, killed_at):
    """The log then has columns of the later stage and no row of it."""
    own = recipe(pre_steps=3, self_steps=2, eval_every=100, checkpoint_steps=2)
    folder = killed_at(own, "self", 1)
    cut(folder / "checkpoint.pt")
    with pytest.warns(UserWarning, match="damaged"):
        runs.train(own)
    assert len(runs.rows(folder)) == 5 and (folder / "curves.png").read_bytes()[:4] == b"\x89PNG"


@unpainted
def test_a_run_that_shall_go_on_for_ever_begins_at_once(recipe, runs, killed_at):
    begun = time.process_time()
    killed_at(recipe(pre_steps=1, self_steps=10 ** 8), "self", 1)
    assert time.process_time() - begun < 5


@unpainted
@pytest.mark.parametrize("left", ["checkpoint_prev.pt", "nothing"])
def test_a_kill_between_the_renames_or_two_damaged_checkpoints_cost_steps_only(killed, runs, reference, left):
    own, folder = killed, killed.out
    if left == "nothing":
        cut(folder / "checkpoint.pt")
        cut(folder / "checkpoint_prev.pt")
        with pytest.warns(UserWarning, match="damaged"):
            runs.train(own)
    else:
        (folder / "checkpoint.pt").rename(folder / "checkpoint_new.pt")
        runs.train(own)
    runs.assert_same(reference(), folder)


@unpainted
def test_a_kill_while_a_checkpoint_is_written_leaves_the_one_before(recipe, runs, reference, monkeypatch):
    own, save, count = recipe(checkpoint_steps=2), checkpoints.save_tensors, iter(range(100))

    def dying(path, content):
        if path.name == "checkpoint_new.pt" and next(count) == 3:
            path.with_name(f".{path.name}.tmp").write_bytes(b"half a checkp")
            raise Killed
        save(path, content)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save_tensors", dying)
        with pytest.raises(Killed):
            runs.train(own)
    runs.train(own)
    runs.assert_same(reference(), own.out)


@unpainted
@pytest.mark.parametrize("number", [signal.SIGTERM, *(
    pytest.param(number, marks=pytest.mark.slow) for number in (signal.SIGINT, signal.SIGHUP))])
def test_a_polite_stop_saves_first_and_says_how_to_go_on(recipe, runs, reference, monkeypatch, capsys, number):
    own, take_step, handler = recipe(), fit.Fit.take_step, signal.getsignal(number)

    def signalled(self, *rest):
        if (self.stages[self.stage].name, self.step) == ("self", 2):
            os.kill(os.getpid(), number)
        return take_step(self, *rest)
    with monkeypatch.context() as patch:
        patch.setattr(fit.Fit, "take_step", signalled)
        with pytest.raises(SystemExit) as stopped:
            runs.train(own)
    assert stopped.value.code == 128 + number and signal.getsignal(number) == handler
    assert f"{number.name}: saved after step 3 of stage self" in capsys.readouterr().out
    state = load_tensors(own.out / "checkpoint.pt")
    assert (state["stage"], state["step"]) == (1, 3) and len(runs.rows(own.out)) == 4 + 3
    runs.train(own)
    runs.assert_same(reference(), own.out)


@unpainted
def test_ctrl_c_is_answered_and_a_second_one_stops_at_once(recipe, runs, monkeypatch, capfd):
    """A step may take minutes; the signal that comes twice at once, of `timeout` say, counts once."""
    own, take_step = recipe(checkpoint_steps=2), fit.Fit.take_step

    def signalled(self, *rest):
        if (self.stages[self.stage].name, self.step) == ("self", 3):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            assert "Ctrl-C again stops it at once" in capfd.readouterr().err
            monkeypatch.setattr(stopping, "TWICE", 0)
            os.kill(os.getpid(), signal.SIGINT)
        return take_step(self, *rest)
    with monkeypatch.context() as patch:
        patch.setattr(fit.Fit, "take_step", signalled)
        with pytest.raises(KeyboardInterrupt):
            runs.train(own)
    assert load_tensors(own.out / "checkpoint.pt")["step"] == 2


@unpainted
def test_a_stop_after_the_last_step_ends_the_process_too(recipe, runs, monkeypatch, capsys):
    """While the finished run is validated, say: no other fold or run begins."""
    own, validate = recipe(), fit.Fit._validate

    def signalled(self, stage):
        if (stage.name, self.step) == ("self", stage.steps):
            os.kill(os.getpid(), signal.SIGTERM)
        return validate(self, stage)
    monkeypatch.setattr(fit.Fit, "_validate", signalled)
    with pytest.raises(SystemExit) as stopped:
        runs.train(own)
    assert stopped.value.code == 128 + signal.SIGTERM and (own.out / "last.pt").exists()
    assert "SIGTERM: saved after its last step; go on with" in capsys.readouterr().out


@unpainted
def test_a_finished_run_says_so_and_is_left_alone(recipe, runs, capsys):
    own = recipe()
    folder = runs.trained(own)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    capsys.readouterr()
    assert runs.train(dataclasses.replace(own, workers=1, device="auto")) == folder
    assert "this run is finished" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


@unpainted
def test_another_recipe_in_the_same_folder_is_refused_with_the_fields(recipe, runs, killed_at):
    folder = killed_at(recipe(checkpoint_steps=1), "pre", 2)
    before = (folder / "config.json").read_bytes()
    with pytest.raises(InputError) as error:
        runs.train(recipe(seed=7, beta=0.25, workers=1))
    for part in (str(folder), "seed was 1337, is 7", "beta was 0.5, is 0.25", "--out"):
        assert part in str(error.value)
    assert "workers" not in str(error.value) and (folder / "config.json").read_bytes() == before
    with pytest.raises(InputError, match="data set was ACDC, is LA"):
        runs.train(recipe("LA"))


def test_a_folder_of_something_else_is_refused(recipe, runs, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match=r"is no run folder \(no config\.json\).*--out"):
        runs.train(recipe())
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.txt"]


@unpainted
@pytest.mark.parametrize(("stage", "at"), [("pre", 1), ("self", 2)])
def test_a_loss_that_is_not_a_number_stops_before_the_optimiser_steps(recipe, runs, monkeypatch, tmp_path, stage, at):
    own, held = recipe(checkpoint_steps=1), {}
    objective, take_step = cml.CML.objective, fit.Fit.take_step

    def sick(self, half, *rest):
        loss, terms = objective(self, half, *rest)
        return (loss * math.nan if held.get("now") else loss), terms

    def watched(self, streams, arrays):
        held["now"] = (self.stages[self.stage].name, self.step) == (stage, at)
        held["names"] = streams.names(self.step)
        held["before"] = [p.detach().clone() for p in self.method.parameters()]
        held["loop"] = self
        return take_step(self, streams, arrays)
    monkeypatch.setattr(cml.CML, "objective", sick)
    monkeypatch.setattr(fit.Fit, "take_step", watched)
    with pytest.raises(InputError) as error:
        runs.train(own)
    words = [f"step {at + 1} of stage {stage}", "loss nan", "checkpoint.pt", "--lr", *sum(held["names"], [])]
    assert [word for word in words if word not in str(error.value)] == []
    assert all(map(torch.equal, held["before"], held["loop"].method.parameters()))
    assert load_tensors(own.out / "checkpoint.pt")["step"] == at
    assert runs.rows(own.out)[-1]["loss"] != "nan"


@unpainted
def test_a_diverging_run_stops_by_itself(recipe, runs):
    with pytest.raises(InputError, match="training went non-finite at step"):
        runs.train(recipe(lr=1e30))


@unpainted
def test_the_named_cases_are_those_of_the_batch(recipe, runs):
    loop = runs.loop(recipe())
    loop.stage = 1
    labelled, unlabelled = loop.streams().names(0)
    split = runs.data(loop.recipe).split()
    assert set(labelled) <= set(split.labelled) and set(unlabelled) <= set(split.unlabelled)
    assert len(labelled) == len(unlabelled) == 2
    assert not set(map(patient_of, labelled)) & set(map(patient_of, unlabelled))


@unpainted
@pytest.mark.parametrize("cell", ["0,5", "half", "1.2.3"])
def test_a_log_whose_numbers_are_none_is_refused_in_one_line(killed, runs, cell):
    """Decimal commas of a spreadsheet, say."""
    rows = runs.rows(killed.out)
    rows[1]["loss"] = cell
    with (killed.out / "log.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    with pytest.raises(InputError, match=rf"log\.csv is damaged .*{cell}.*no stage, step or number.*delete it"):
        runs.train(killed)
