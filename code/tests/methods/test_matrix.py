"""Every method of the registry on every data set: trains, resumes, is tested, predicts, and runs on two processes.

A method joins by its line in the registry. This file is also what the two processes run: torchrun starts it with a
folder of recipes, and each leaves rank<r>.pt there.
"""
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

import predict
from evaluation import plots
from evaluation.agreement import agreement
from methods import cml_plus, registry
from networks import discriminator, unet
from runtime.device import Device
from runtime.errors import InputError
from runtime.files import load_tensors
from runtime.ranks import Ranks
from training import fit
from training.datasets import DATASETS
from training.trained import load_run

SIZES = {"LA": {"patch_size": (16, 16, 16), "stride": (16, 16, 16)}, "ACDC": {"patch_size": (16, 16)},
         "BraTS2019": {"patch_size": (16, 16, 16), "stride": (16, 16, 16)}}
# Data set and steps. Without weight decay nothing moves but by gradients
LENGTHS = [("ACDC", 8), *(pytest.param(case, marks=pytest.mark.slow) for case in (("LA", 30), ("BraTS2019", 30)))]
TINY = {"labeled_batch": 4, "unlabeled_batch": 4, "eval_every": 100, "weight_decay": 0.0, "lr": 0.03}
# Parameters and terms that wait for what so short a run does not bring: SS-Net's first class has no voxel that is found
# yet, UA-MT no voxel that is certain, and MCF's second network is not the better one of any batch
SELDOM = {("ss_net", "ACDC"): ("networks.selectors.0.",), ("ua_mt", "ACDC"): ("certain", "consistency"),
          ("mcf", "ACDC"): ("b_teaches",)}


def same(one, other):
    """Equality to the bit of nested states."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


# ---- one process ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def _trained():
    return {}


@pytest.fixture(params=LENGTHS, ids=lambda case: f"{case[0]}-{case[1]}")
def length(request):
    return request.param


@pytest.fixture
def small(request, length):
    """On volumes with all layers: without them SS-Net finds no voxel of the first class within so few steps."""
    request.getfixturevalue("shallow" if length[0] == "ACDC" else "narrow")


@pytest.fixture(params=registry.METHODS)
def trained(request, length, _trained, recipe, runs, small, no_curves, monkeypatch, tmp_path_factory):
    """One method's finished run, and what was seen of it: `terms` of each step (stage, {name: (value, whole number)});
    `halfway`, the run folder as it was in the middle; `idle`, parameters that no step used.
    """
    key = (request.param, *length)
    if key not in _trained:
        _trained[key] = None        # where training fails, it fails once
        _trained[key] = _train(*key, recipe, runs, monkeypatch, tmp_path_factory.mktemp(request.param))
    if _trained[key] is None:
        pytest.fail("its training failed when it was first asked for")
    return _trained[key]


def _train(method, dataset, steps, recipe, runs, monkeypatch, home):
    own = recipe(dataset, method=method, pre_steps=steps // 3, self_steps=steps - steps // 3, out=home / "run",
                 checkpoint_steps=5 if steps == 30 else 2, **TINY | SIZES[dataset])
    loop, terms, learned = runs.loop(own), [], set()
    before = {name: parameter.clone() for name, parameter in loop.method.named_parameters()}
    names = {id(parameter): name for name, parameter in loop.method.named_parameters()}
    numbers, average, save = fit.StepNumbers, Ranks.average_gradients, loop._save_checkpoint

    def noted_numbers(ranks, new, *flags):
        if flags:       # a step has one set of them before the optimiser's, and perhaps another one after it
            terms.append((loop.stages[loop.stage].name, {}))
        terms[-1][1].update({name: (value.detach().item(), not value.is_floating_point())
                             for name, value in new.items()})
        return numbers(ranks, new, *flags)

    def noted_average(ranks, parameters):
        learned.update(names[id(one)] for one in parameters if one.grad is not None and one.grad.any())
        return average(ranks, parameters)

    def noted_save():
        save()
        if loop.total_steps == steps // 2:
            shutil.copytree(own.out, home / "halfway")
    loop._save_checkpoint = noted_save
    with monkeypatch.context() as noted:    # ends with the run: the test that asked first may train, too
        noted.setattr(fit, "StepNumbers", noted_numbers)
        noted.setattr(Ranks, "average_gradients", noted_average)
        loop.run()
    moved = {name for name, parameter in loop.method.named_parameters() if not torch.equal(parameter, before[name])}
    # a module that moves without any gradient follows another one, as teachers do
    followers = {name.split(".")[0] for name in moved} - {name.split(".")[0] for name in learned}
    idle = {name for name in before.keys() - learned if name.split(".")[0] not in followers}
    return SimpleNamespace(recipe=own, run=own.out, halfway=home / "halfway", terms=terms, idle=idle,
                           method=loop.method.eval())


def seldom(trained):
    return SELDOM.get((trained.recipe.method, trained.recipe.dataset), ())


def test_its_terms_are_finite_and_move(trained):
    """Whole numbers are counts and may stay."""
    assert len(trained.terms) == trained.recipe.pre_steps + trained.recipe.self_steps
    for stage in dict.fromkeys(stage for stage, _ in trained.terms):
        rows = [row for name, row in trained.terms if name == stage]
        assert len(rows) > 0 and all(row.keys() == rows[0].keys() for row in rows)
        for term in rows[0].keys() - set(seldom(trained)):
            values = [row[term][0] for row in rows]
            assert all(map(math.isfinite, values)), (stage, term)
            assert rows[0][term][1] or len(rows) == 1 or len(set(values)) > 1, (stage, term, values)


def test_it_has_no_parameter_without_a_use(trained):
    """Each got a gradient that was not 0, or is part of a module that follows another one."""
    assert {name for name in trained.idle if not name.startswith(seldom(trained))} == set()


def test_it_resumes_from_the_middle_to_the_same_bits(trained, runs, tmp_path, small, no_curves):
    """Teacher, memory, discriminator and its optimiser included: all that is in last.pt and in the logs."""
    again = trained.recipe.__class__(**{**vars(trained.recipe), "out": tmp_path / "again"})
    shutil.copytree(trained.halfway, again.out)
    state = load_tensors(again.out / "checkpoint.pt")
    assert 0 < len(runs.rows(again.out)) == (again.pre_steps + again.self_steps) // 2 and state["step"] > 0
    runs.train(again)
    assert runs.losses(again.out) == runs.losses(trained.run)
    assert same(load_tensors(again.out / "last.pt"), load_tensors(trained.run / "last.pt"))
    last = [load_tensors(run / "checkpoint.pt") for run in (again.out, trained.run)]
    assert same(*({key: value for key, value in one.items() if key != "last_dice"} for one in last))


def test_its_test_script_gives_every_view_the_headline_first(trained, small):
    rows = DATASETS[trained.recipe.dataset].test.main(["--run", str(trained.run), "--device", "cpu", "--split", "test"])
    views = list(trained.method.predict(torch.zeros(1, 1, *trained.recipe.patch_size)))
    assert [key.removesuffix("_dice") for key in rows[0] if key.endswith("_dice")] == views
    assert all(0 <= row["dice"] == row[f"{views[0]}_dice"] <= 1 for row in rows)
    assert {row["class"] for row in rows} and (trained.run / "test_test_last.csv").exists()


def test_predict_segments_a_scan_on_its_own_grid(trained, small, tmp_path):
    name = "scan_flair.nii.gz" if trained.recipe.dataset == "BraTS2019" else "scan.nii.gz"
    (tmp_path / "scans").mkdir()
    scan = 1 + torch.rand(20, 18, 4 if trained.recipe.dataset == "ACDC" else 17).numpy()
    nibabel.save(nibabel.Nifti1Image(scan, np.eye(4)), tmp_path / "scans" / name)
    args = ["--run", trained.run, "--input", tmp_path / "scans", "--output", tmp_path / "out", "--device", "cpu"]
    more = ["--disagreement"] if trained.method.pair else []
    assert predict.main([*map(str, args), "--probabilities", "--overlay", *more]) == 0
    assert len(list((tmp_path / "out").glob("*.png"))) == 1
    probabilities = nibabel.load(next((tmp_path / "out").glob("*_probabilities.nii.gz"))).get_fdata()
    assert probabilities.shape == (*scan.shape, trained.recipe.num_classes)
    np.testing.assert_allclose(probabilities.sum(-1), 1, atol=1e-4)
    if trained.method.pair:
        assert 0 <= nibabel.load(next((tmp_path / "out").glob("*_disagreement.nii.gz"))).get_fdata().max() <= 1
    else:
        with pytest.raises((InputError, SystemExit)):
            predict.main([*map(str, args), "--force", "--disagreement"])


def test_views_that_nobody_asks_for_are_left_out_and_change_no_other(trained, small):
    x = torch.randn(2, 1, *trained.recipe.patch_size)
    method = trained.method.eval()
    with torch.no_grad():
        every = method.predict(x)
        names = list(every)
        for views in ((), names[1:2], names[-1:], method.pair or ()):
            some = method.predicted(x, views)
            assert list(some) == [view for view in names if view == names[0] or view in views]
            for view, probabilities in some.items():
                torch.testing.assert_close(probabilities, every[view])


def test_agreement_compares_the_two_views_or_says_that_there_are_none(trained, small):
    if trained.method.pair is None:
        with pytest.raises(InputError, match=f"its method is {trained.recipe.method}, expected one with two"):
            agreement(load_run(trained.run, device="cpu"), "test")
        return
    rows = agreement(load_run(trained.run, device="cpu"), "test")
    assert rows and all(0 <= row["dice"] <= 1 or math.isnan(row["dice"]) for row in rows)


# ---- two processes -------------------------------------------------------------------------------------------------

# Losses that are no mean over samples: a ratio or a competition over a process's own share. Two processes then step
# by the mean of their gradients, which is not the gradient of the whole batch
OWN_SHARE = {
    "ua_mt": "certain voxels are counted on each process",
    "urpc": "the weights of a scale are normalised on each process",
    "mcf": "mismatched voxels are counted on each process",
    "ss_net": "the Dice of its smoothness and its candidates are of each process",
    "bcp": "its Dice on slices is pooled over each process's batch",
}


def _alike(draw):
    """A random function of a shape -> the same with one draw for all of the first axis: whoever holds which sample."""
    def drawn(*shape, **options):
        shape = torch.Size(shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape)
        if not shape:
            return draw(shape, **options)
        return draw((1, *shape[1:]), **options).expand(shape).clone()
    return drawn


def _like(draw):
    def drawn(x, **options):
        return _alike(draw)(x.shape, dtype=x.dtype, device=x.device, **options)
    return drawn


def followed(recipe):
    """Train in float64; no dropout, batch norm by its running statistics, every process and sample the same draws.

    -> `gradients`: of each exchange, by name, this process's own and the exchanged ones; `state` at the end.
    """
    gradients = []
    place, image, average, take_step = Device.place, Device.image, Ranks.average_gradients, fit.Fit.take_step
    loop = None

    def noted_average(self, parameters):
        parameters = list(parameters)
        names = {id(parameter): name for name, parameter in loop.method.named_parameters()}
        own = [parameter.grad.clone() for parameter in parameters]
        average(self, parameters)
        gradients.append({names[id(parameter)]: (mine, parameter.grad.clone())
                          for parameter, mine in zip(parameters, own, strict=True)})

    def double(self, method):
        for module in method.modules():
            if isinstance(module, _DropoutNd):
                module.p = 0.0
        return place(self, method).double()

    def quiet_step(self, *args):
        with pytest.MonkeyPatch.context() as patch:
            seed = torch.manual_seed
            patch.setattr(torch, "manual_seed", lambda _: seed(self.total_steps))       # one for all processes
            for name in ("rand", "randn"):
                patch.setattr(torch, name, _alike(getattr(torch, name)))
                patch.setattr(torch, f"{name}_like", _like(getattr(torch, name)))
            patch.setattr(torch.distributions.Beta, "sample", lambda self, shape: torch.full(shape, 0.3))
            patch.setattr(cml_plus, "perturb", lambda x: 0.9 * x)
            return take_step(self, *args)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_BatchNorm, "train", lambda self, mode=True: nn.Module.train(self, False))
        patch.setattr(Device, "place", double)
        patch.setattr(Device, "image", lambda self, x: x if x is None else image(self, x).double())
        patch.setattr(Ranks, "average_gradients", noted_average)
        patch.setattr(fit.Fit, "take_step", quiet_step)
        folder = fit.RunFolder(recipe.out, recipe)
        loop = fit.Fit(recipe, DATASETS["ACDC"].data(recipe), folder)
        loop.run()
    return {"gradients": gradients, "state": {key: value for key, value in loop.method.state_dict().items()
                                              if isinstance(value, torch.Tensor)}}


def process(folder):
    """What each of the processes does with the recipes of `folder`."""
    torch.set_num_threads(1)
    unet.WIDTHS, discriminator.WIDTHS = (2, 4, 8, 16, 32), (8, 16, 32, 64)
    plots.curves = lambda run: None
    did = {}
    for name, values in json.loads((folder / "recipes.json").read_text(encoding="utf-8")).items():
        did[name] = followed(DATASETS["ACDC"].recipe.from_json(values, name))
    torch.save(did, folder / f"rank{Ranks().rank}.pt")
    Ranks().wait()


@pytest.fixture(scope="module")
def _two():
    return {}


@pytest.fixture
def two(_two, recipe, request, tmp_path_factory):
    """What two processes did with every method that a chosen test asks for, and their recipes."""
    if not _two:
        _two["errors"] = "the processes failed when they were first asked for"
        asked = {item.callspec.params["name"]: None for item in request.session.items if "two" in item.fixturenames}
        folder = tmp_path_factory.mktemp("two")
        recipes = {name: recipe("ACDC", method=name, out=folder / name, pre_steps=1, self_steps=2, **TINY
                                | SIZES["ACDC"]) for name in asked}
        (folder / "recipes.json").write_text(json.dumps({name: own.to_json() for name, own in recipes.items()}),
                                             encoding="utf-8")
        command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--", __file__, str(folder)]
        done = subprocess.run([sys.executable, *command], capture_output=True, encoding="utf-8", timeout=600, env={
            **os.environ, "PYTHONPATH": str(Path(fit.__file__).parents[1]), "OMP_NUM_THREADS": "1"})
        _two["errors"] = done.stderr[-3000:]
        if done.returncode == 0:
            _two.update(recipes=recipes, ranks=[torch.load(folder / f"rank{rank}.pt") for rank in (0, 1)])
    assert "ranks" in _two, _two["errors"]
    return _two


@pytest.mark.slow
@pytest.mark.parametrize("name", registry.METHODS)
def test_two_processes_average_every_gradient_and_their_states_agree(two, name):
    """Teacher, memory, heads and discriminator included."""
    first, second = (rank[name] for rank in two["ranks"])
    assert len(first["gradients"]) == len(second["gradients"]) >= 3
    differ = False
    for one, other in zip(first["gradients"], second["gradients"], strict=True):
        assert one.keys() == other.keys()
        for key, (mine, mean) in one.items():
            theirs, same_mean = other[key]
            assert mean.dtype == torch.float64 and torch.equal(mean, same_mean), key
            torch.testing.assert_close(mean, (mine + theirs) / 2, rtol=1e-12, atol=1e-14)
            differ |= not torch.equal(mine, theirs)
    assert differ and first["state"].keys() == second["state"].keys()
    assert [key for key, value in first["state"].items() if not torch.equal(value, second["state"][key])] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", registry.METHODS)
def test_two_processes_step_by_the_gradients_of_one_with_the_whole_batch(two, narrow, no_curves, tmp_path, name):
    if name in OWN_SHARE:
        pytest.skip(OWN_SHARE[name])
    own = two["recipes"][name]
    alone = followed(own.__class__(**{**vars(own), "out": tmp_path / "alone"}))
    rank = two["ranks"][0][name]
    assert len(alone["gradients"]) == len(rank["gradients"])
    for one, other in zip(alone["gradients"], rank["gradients"], strict=True):
        assert one.keys() == other.keys() and any(mean.abs().max() > 1e-3 for _, mean in one.values())
        for key, (_, mean) in one.items():
            assert (other[key][1] - mean).abs().max() <= 1e-8, key
    assert alone["state"].keys() == rank["state"].keys()


if __name__ == "__main__":
    process(Path(sys.argv[1]))
