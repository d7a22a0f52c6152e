"""The training loop: schedules, a whole run, selection, and the way from pre-training to self-training."""
import copy
import dataclasses
import itertools
import json
import math
import shutil

import h5py
import numpy as np
import pytest
import torch

from methods import registry
from runtime.errors import InputError
from runtime.files import load_tensors
from training import datasets, fit
from training.schedules import learning_rate, rate_at

pytestmark = pytest.mark.usefixtures("shallow")
unpainted = pytest.mark.usefixtures("no_curves")


# ---- learning rate -----------------------------------------------------------------------------------------------


def test_the_step_schedule_drops_every_2500_of_15000():
    rates = {step: learning_rate("step", 0.01, step, 15_000)
             for step in (0, 2_499, 2_500, 4_999, 5_000, 12_499, 12_500, 14_999)}
    assert rates == pytest.approx({0: 1e-2, 2_499: 1e-2, 2_500: 1e-3, 4_999: 1e-3, 5_000: 1e-4, 12_499: 1e-6,
                                   12_500: 1e-7, 14_999: 1e-7})


@pytest.mark.parametrize("steps", [6, 100, 800, 1_201])
def test_the_step_schedule_scales_with_the_stage(steps):
    rates = [learning_rate("step", 1.0, step, steps) for step in range(steps)]
    levels = [round(-math.log10(rate)) for rate in rates]
    assert sorted(set(levels)) == list(range(6)) and levels == sorted(levels)
    assert all(abs(levels.count(level) - steps / 6) < 1 for level in range(6))


def test_the_polynomial_schedule_by_hand():
    assert [learning_rate("poly", 0.01, step, 10) for step in (0, 5, 9)] == pytest.approx(
        [0.01, 0.01 * 0.5 ** 0.9, 0.01 * 0.1 ** 0.9])
    assert learning_rate("constant", 0.01, 9, 10) == 0.01
    with pytest.raises(ValueError, match="'cosine'.*constant, step or poly"):
        learning_rate("cosine", 0.01, 0, 10)


def rates(dataset, method, preset="paper", **changes):
    """The rate at each step of a whole run."""
    recipe = dataclasses.replace(datasets.DATASETS[dataset].presets[preset], method=method, **changes)
    with torch.device("meta"):
        stages = registry.build(recipe).stages(recipe.pre_steps, recipe.self_steps)
    return [rate_at(recipe, stage, step) for stage in stages for step in range(stage.steps)]


@pytest.mark.parametrize("preset", ["paper", "mini", "short"])
@pytest.mark.parametrize("method", ["supervised", "mean_teacher", "mcf", "bcp"])
def test_on_LA_methods_of_one_stage_have_the_rates_of_cml(method, preset):
    found = rates("LA", method, preset)
    assert found == rates("LA", "cml", preset)
    if preset == "paper":
        drops = {0: 1e-2, 4_499: 1e-2, 4_500: 1e-3, 6_999: 1e-3, 7_000: 1e-4, 14_500: 1e-7, 16_999: 1e-7}
        assert len(found) == 17_000 and {step: found[step] for step in drops} == pytest.approx(drops)
        assert sum(found) == pytest.approx(0.01 * (4_500 + 250 + 25 + 2.5 + 0.25) + 2_500e-7)


def test_matched_rates_are_those_of_both_stages_whatever_the_schedules():
    for pre, later in itertools.product(("constant", "step", "poly"), repeat=2):
        changes = {"pre_steps": 40, "self_steps": 60, "drop_every": 25, "pre_schedule": pre, "self_schedule": later}
        one, two = (rates("LA", method, **changes) for method in ("supervised", "cml"))
        assert (one == two) == ((pre, later) != ("poly", "poly"))


def test_a_polynomial_covers_one_stage_as_one_and_original_counts_from_the_start():
    assert rates("BraTS2019", "supervised") == [learning_rate("poly", 0.01, step, 40_000) for step in range(40_000)]
    own = {"pre_steps": 0, "self_steps": 6_000, "protocol": "original"}
    assert rates("LA", "ua_mt", **own)[2_499:2_501] == pytest.approx([1e-2, 1e-3])
    short = rates("LA", "ua_mt", "mini", protocol="original", drop_every=2_500 / 6_000)
    assert [round(-math.log10(rate)) for rate in short] == [2] * 417 + [3] * 417 + [4] * 166


@unpainted
def test_each_stage_follows_its_schedule_from_the_start_and_the_optimiser_runs_at_the_logged_rate(recipe, runs,
                                                                                               monkeypatch):
    rates, step = [], torch.optim.SGD.step
    monkeypatch.setattr(torch.optim.SGD, "step", lambda self, *args: (
        rates.append([group["lr"] for group in self.param_groups]), step(self, *args))[1])
    folder = runs.train(recipe(pre_steps=3, self_steps=6, eval_every=100, pre_schedule="poly", self_schedule="step",
                               drop_every=1 / 6, lr=0.02))
    logged = [float(row["lr"]) for row in runs.rows(folder)]
    assert logged == pytest.approx([0.02, 0.02 * (2 / 3) ** 0.9, 0.02 * (1 / 3) ** 0.9,
                                    *(0.02 * 10.0 ** -k for k in range(6))], rel=1e-5)
    assert logged == pytest.approx([rate for rate, in rates], rel=1e-5)


# ---- the step ----------------------------------------------------------------------------------------------------


def test_gradients_that_are_added_all_at_once_are_those_of_backward_bit_for_bit():
    """As on a GPU; of parameters in one loss, in both and in none, and the gradients stay the tensors they are."""
    found = []
    for launched in (False, True):
        torch.manual_seed(0)
        layers = [torch.nn.Linear(5, 5) for _ in range(4)]
        parameters = [parameter for layer in layers for parameter in layer.parameters()]
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        kept, x = [parameter.grad for parameter in parameters], torch.randn(3, 5)
        losses = ((layers[1](layers[0](x)).square().mean(), {"a": torch.ones(())}),
                  (layers[2](layers[1](x)).square().mean(), {"b": torch.zeros(())}))
        total, terms = fit.backward(iter(losses), launched=parameters if launched else ())
        assert all(parameter.grad is own for parameter, own in zip(parameters, kept, strict=True)) and len(terms) == 2
        found.append([total, *kept])
    assert all(map(torch.equal, *found)) and not found[1][-1].any() and found[1][1].any()


# ---- a whole run -------------------------------------------------------------------------------------------------


def test_a_run_leaves_a_folder_that_explains_itself(recipe, runs, capsys):
    own = recipe(self_steps=10, eval_every=4)
    folder = runs.train(own)
    names = {path.name for path in folder.iterdir()}
    assert names >= {"config.json", "log.csv", "val.csv", "tb", "checkpoint.pt", "checkpoint_prev.pt", "pretrained.pt",
                     "best.pt", "last.pt", "curves.png"}
    assert not any(name.endswith(".tmp") or "new" in name for name in names)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert type(own).from_json(config["recipe"], "") == own.complete()
    assert config["dataset"] == "ACDC" and {"commit", "device", "versions", "command"} <= set(config)
    log = runs.rows(folder)
    assert [(row["stage"], int(row["step"])) for row in log] == [
        *(("pre", step) for step in range(1, 5)), *(("self", step) for step in range(1, 11))]
    assert all(float(row[term]) > 0 for row in log for term in ("loss", "sup_l", "dis_l", "grad_norm"))
    assert all((row["sup_u"] == "") == (row["stage"] == "pre") for row in log)
    val = runs.rows(folder, "val.csv")
    assert [(row["stage"], row["step"], row["split"]) for row in val] == [
        (stage, str(step), "val") for stage, step in (("pre", 4), ("self", 4), ("self", 8), ("self", 10))]
    assert all(0 <= float(row[view]) <= 1 for row in val for view in ("fused", "subnet0", "subnet1"))
    assert (folder / "curves.png").read_bytes()[:4] == b"\x89PNG"
    events = b"".join(path.read_bytes() for path in (folder / "tb").iterdir())
    assert b"val/dice_fused" in events and b"train/input, target, views" in events and b"train/sup_l" in events
    assert str(folder) in capsys.readouterr().out


@unpainted
def test_logged_loss_is_the_weighted_sum_of_the_logged_terms(recipe, runs):
    folder = runs.train(recipe(lambda_unsup=0.7, lambda_dis=0.3, pre_steps=2, self_steps=2))
    for row in runs.losses(folder):
        terms = {key: float(value) for key, value in row.items() if value and key != "stage"}
        expected = terms["sup_l"] + 0.7 * terms.get("sup_u", 0) + 0.3 * (terms["dis_l"] + terms.get("dis_u", 0))
        assert terms["loss"] == pytest.approx(expected, rel=1e-5)


@unpainted
@pytest.mark.slow       # of each method, methods/test_matrix.py asks more
@pytest.mark.parametrize("method", ["mean_teacher", "cps", "supervised", "cfl"])
def test_every_method_trains_and_validates(recipe, runs, method):
    folder = runs.train(recipe(method=method, pre_steps=5, self_steps=5, eval_every=5))
    log, val = runs.rows(folder), runs.rows(folder, "val.csv")
    assert len(log) == 10 and len(val) == 2 and (folder / "best.pt").exists()
    assert (folder / "pretrained.pt").exists() == (method in ("cfl", "cps"))
    headline = {"supervised": "network", "mean_teacher": "student"}.get(method, "fused")
    assert all(row[headline] for row in val)


@unpainted
def test_one_step_is_the_optimisers_on_the_summed_gradient(recipe, runs):
    """SGD with momentum and weight decay, from fresh buffers: w - lr (g + decay w)."""
    loop = runs.loop(recipe(momentum=0.9, weight_decay=0.1, lr=0.05, pre_steps=1))
    before = {key: p.detach().clone() for key, p in loop.method.named_parameters()}
    streams = loop.streams()
    loop.take_step(streams, streams[0])
    for key, p in loop.method.named_parameters():
        torch.testing.assert_close(p.detach(), before[key] - 0.05 * (p.grad + 0.1 * before[key]), msg=key)


@unpainted
def test_no_test_case_is_opened_during_training(recipe, runs, phantoms, tmp_path):
    root = shutil.copytree(phantoms("ACDC"), tmp_path / "data")
    own = recipe(data_dir=root, pre_steps=1, self_steps=1)
    for name in runs.data(own).split().test:
        (root / "data" / f"{name}.h5").unlink()
    assert (runs.train(own) / "last.pt").exists()


@unpainted
@pytest.mark.parametrize("dataset", ["ACDC", pytest.param("LA", marks=pytest.mark.slow)])
def test_labels_of_unlabelled_scans_change_nothing(recipe, runs, phantoms, tmp_path, dataset):
    """As they are, or absent in some files and garbage of another shape in others: logs and weights are the same."""
    short = {"pre_steps": 1, "self_steps": 2}
    untouched = runs.train(recipe(dataset, out=tmp_path / "untouched", **short))
    root = shutil.copytree(phantoms(dataset), tmp_path / "copy")
    own = recipe(dataset, data_dir=root, **short)
    names = runs.data(own).split().unlabelled
    assert len(names) > 1
    for i, name in enumerate(names):
        with h5py.File(runs.data(own).path_of(name), "a") as file:
            del file["label"]
            if i % 2:
                file["label"] = np.full((3, 2), -77.7)
    runs.assert_same(untouched, runs.train(own))


@unpainted
@pytest.mark.filterwarnings("ignore:This DataLoader will create")     # more workers than cores
def test_the_number_of_workers_does_not_matter_and_a_rerun_is_the_same(recipe, runs, tmp_path):
    """At 0 and 3 workers, and once more at 0."""
    folders = [runs.train(recipe(pre_steps=2, self_steps=5, eval_every=100, workers=workers, out=tmp_path / str(i)))
               for i, workers in enumerate((0, 3, 0))]
    assert len(runs.losses(folders[0])) == 7
    for other in folders[1:]:
        runs.assert_same(folders[0], other)


@unpainted
def test_another_seed_is_another_run(recipe, runs, tmp_path):
    one, other = (runs.losses(runs.trained(recipe(seed=seed, pre_steps=1, self_steps=1, out=tmp_path / str(seed))))
                  for seed in (1337, 2))
    assert all(a["loss"] != b["loss"] for a, b in zip(one, other, strict=True))


@unpainted
def test_all_cases_labelled_leave_nothing_to_a_semi_supervised_method(recipe, runs, tmp_path):
    with pytest.raises(InputError, match="--labeled 4 leaves no unlabelled scans: use --method supervised"):
        runs.train(recipe(labeled=4))
    assert (runs.train(recipe(labeled=4, method="supervised", pre_steps=1, self_steps=1, out=tmp_path / "all"))
            / "last.pt").exists()


def test_compile_is_for_the_networks_and_asked_for(recipe, runs, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compiled.append(type(self).__name__))
    runs.loop(recipe())
    assert compiled == []
    runs.loop(recipe(compile=True))
    assert compiled == ["TwoView"]


@unpainted
@pytest.mark.parametrize("preset", ["paper", "mini"])
def test_every_start_says_how_long_it_takes(recipe, runs, capsys, tmp_path, preset):
    """Of the steps that are left, by the third one's time; without a GPU, the paper's preset names shorter ones."""
    own = recipe(preset=preset, pre_steps=4, self_steps=1, eval_every=100)
    runs.train(own)
    shown = capsys.readouterr().out
    [said] = [line for line in shown.splitlines() if "to go without validation" in line]
    assert ("the presets `short` and `mini` fit this machine" in said) == (preset == "paper")
    seconds = float(runs.rows(own.out)[2]["seconds"])
    minutes = float(said.split("about ")[1].split()[0])
    assert minutes == pytest.approx(seconds * (1 + 8 / 3) / 60, rel=0.06, abs=1e-3) and "minutes" in said


# ---- selection, and the way into self-training -------------------------------------------------------------------


@pytest.fixture
def scripted_dice(monkeypatch):
    """scripted_dice([...]) -> validations give these values in turn; what was trained by then is kept beside them."""
    def script(values):
        values, kept = iter(values), []

        def mean_dice(method, scans, segment, num_classes):
            kept.append({key: value.clone() for key, value in method.state_dict().items()})
            value = next(values)
            return {"fused": value, "subnet0": 1 - value, "subnet1": 0.5}
        monkeypatch.setattr(fit, "mean_dice", mean_dice)
        return kept
    return script


@pytest.fixture
def entering(monkeypatch):
    """Stage name -> weights and optimiser as the stage's first step finds them."""
    seen, run_stage = {}, fit.Fit._run_stage

    def recorded(self, stage):
        seen[stage.name] = copy.deepcopy((self.method.state_dict(), self.optimizer.state_dict()))
        return run_stage(self, stage)
    monkeypatch.setattr(fit.Fit, "_run_stage", recorded)
    return seen


def momenta(state):
    return [state["state"][key]["momentum_buffer"] for key in sorted(state["state"])]


@unpainted
def test_self_training_starts_from_the_best_pretrained_weights_with_their_momentum(
        recipe, runs, scripted_dice, entering):
    kept = scripted_dice([0.2, 0.6, 0.4, 0.1, 0.1, 0.1])
    folder = runs.train(recipe(pre_steps=6))
    pretrained = load_tensors(folder / "pretrained.pt")
    weights, optimizer = entering["self"]
    assert pretrained["step"] == 4
    assert runs.same_tensors(pretrained["method"], kept[1]) and runs.same_tensors(weights, kept[1])
    assert not runs.same_tensors(weights, kept[2])
    restored, saved = momenta(optimizer), momenta(pretrained["optimizer"])
    assert len(restored) == len(saved) > 0 and all(map(torch.equal, restored, saved))
    assert any(buffer.abs().max() > 0 for buffer in saved)


@unpainted
def test_the_saved_momentum_is_that_of_the_best_step(recipe, runs, scripted_dice, entering, tmp_path):
    """The steps after it are another run's business: a run that stops there holds the same buffers."""
    scripted_dice([0.6, 0.1, 0.1, 0.1, 0.1])
    runs.train(recipe())
    _, optimizer = entering["self"]
    loop = runs.loop(recipe(out=tmp_path / "by hand", eval_every=100))
    streams = loop.streams()
    for step in range(2):
        loop.step = step
        loop.take_step(streams, streams[step])
    assert all(map(torch.equal, momenta(optimizer), momenta(loop.optimizer.state_dict())))


@unpainted
def test_without_validation_cases_self_training_starts_from_the_last_pretrained_weights(recipe, runs, entering):
    folder = runs.train(recipe("LA", pre_steps=2, self_steps=1))
    pretrained = load_tensors(folder / "pretrained.pt")
    weights, optimizer = entering["self"]
    assert pretrained["step"] == 2 and runs.same_tensors(weights, pretrained["method"])
    assert all(map(torch.equal, momenta(optimizer), momenta(pretrained["optimizer"])))
    assert not (folder / "best.pt").exists() and runs.rows(folder, "log.csv")
    assert not (folder / "val.csv").exists()


@unpainted
def test_best_is_the_highest_validation_of_self_training_and_the_earlier_on_a_tie(recipe, runs, scripted_dice):
    kept = scripted_dice([0.9, 0.9, 0.3, 0.6, 0.6, 0.5])
    folder = runs.train(recipe(pre_steps=4, self_steps=8))
    best = load_tensors(folder / "best.pt")
    assert best["step"] == 4 + 4 and runs.same_tensors(best["method"], kept[3])
    assert load_tensors(folder / "pretrained.pt")["step"] == 2
    assert load_tensors(folder / "last.pt")["step"] == 12
    assert [float(row["fused"]) for row in runs.rows(folder, "val.csv")][2:] == [0.3, 0.6, 0.6, 0.5]


@unpainted
@pytest.mark.parametrize("dataset", ["ACDC", pytest.param("LA", marks=pytest.mark.slow)])
def test_pretraining_may_be_left_out(recipe, runs, entering, dataset):
    folder = runs.train(recipe(dataset, pre_steps=0, self_steps=1))
    weights, optimizer = entering["self"]
    assert load_tensors(folder / "pretrained.pt")["step"] == 0 and not optimizer["state"]
    assert runs.same_tensors(weights, runs.weights(folder, "pretrained.pt"))
    assert [row["stage"] for row in runs.rows(folder)] == ["self"]


@unpainted
def test_the_last_step_of_a_stage_is_validated_too(recipe, runs):
    folder = runs.train(recipe(pre_steps=1, self_steps=3, eval_every=2))
    steps = [(row["stage"], int(row["step"])) for row in runs.rows(folder, "val.csv")]
    assert steps == [("pre", 1), ("self", 2), ("self", 3)]


@unpainted
def test_monitoring_test_cases_draws_their_curve_and_selects_nothing(recipe, runs, scripted_dice, tmp_path):
    watched = [0.2, 0.9, 0.1, 0.8, 0.3, 0.1, 0.2, 0.9]      # validation and test in turn
    scripted_dice(watched)
    folder = runs.train(recipe(pre_steps=4, self_steps=4, monitor="test"))
    rows = runs.rows(folder, "val.csv")
    assert [row["split"] for row in rows] == 4 * ["val", "test"]
    assert [float(row["fused"]) for row in rows] == watched
    assert load_tensors(folder / "best.pt")["step"] == 4 + 2 and load_tensors(folder / "pretrained.pt")["step"] == 2


@unpainted
def test_selection_on_test_cases_and_on_held_out_ones_must_be_asked_for(recipe, runs, tmp_path):
    chosen = runs.trained(recipe("LA", pre_steps=1, self_steps=1, select_on="test", out=tmp_path / "test"))
    assert [row["split"] for row in runs.rows(chosen, "val.csv")] == ["test", "test"]
    held = runs.trained(recipe("LA", pre_steps=1, self_steps=1, holdout_val=1, out=tmp_path / "held"))
    assert [row["split"] for row in runs.rows(held, "val.csv")] == ["val", "val"]
    assert (chosen / "best.pt").exists() and (held / "best.pt").exists()
