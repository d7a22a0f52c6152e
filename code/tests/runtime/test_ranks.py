"""Several processes against one: the same gradients, rows and files, whoever stops or fails.

This file is also what the processes run: it is started with a folder of recipes, each leaves rank<r>.pt there.
"""
import csv
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import traceback
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

import predict
import test_ACDC
from methods import teacher
from networks import unet, vnet
from runtime.device import Device
from runtime.errors import InputError
from runtime.files import load_tensors
from runtime.ranks import Ranks
from training import fit, logbook
from training.datasets import DATASETS
from training.step_numbers import StepNumbers

CODE = Path(fit.__file__).parents[1]
WIDTHS = (2, 4, 8, 16, 32)
PAIRS = {"labeled_batch": 4, "unlabeled_batch": 4}
# name -> data set and what its recipe changes
EXACT = {
    "cml": ("ACDC", {"pre_steps": 2, "self_steps": 3}),
    "released": ("ACDC", {"network": "released"}),
    "without mixing": ("ACDC", {"method": "cps"}),
    "labelled alone": ("ACDC", {"lambda_unsup": 0.0, "lambda_dis": 0.0}),
    "supervised": ("ACDC", {"method": "supervised"}),
    "mean_teacher": ("ACDC", {"method": "mean_teacher", "self_steps": 2}),
    "strong augmentation": ("ACDC", {"augment": "strong", "normalise": "zscore"}),
    "3D": ("LA", {}),
}
RARE = EXACT.keys() - {"cml"}      # which take the long tests' time
PATCHES = {"ACDC": (16, 16), "LA": (16, 16, 16)}


def train(recipe):
    return fit.train(recipe, DATASETS[recipe.dataset].data(recipe))


def followed(recipe):
    """Train in float64, with no dropout or noise and batch norm by its running statistics.

    -> of each step: its gradients, torch's seed, and how often gradients were exchanged until then.
    """
    gradients, seeds, exchanges = [], [], []
    place, image, step, average = Device.place, Device.image, torch.optim.SGD.step, Ranks.average_gradients

    def noted_step(self, *args):
        gradients.append([p.grad.clone() for group in self.param_groups for p in group["params"]])
        seeds.append(torch.initial_seed())
        return step(self, *args)

    def noted_average(self, parameters):
        exchanges.append(len(gradients))
        return average(self, parameters)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unet, "DROPOUTS", 5 * (0.0,))
        patch.setattr(vnet, "DROPOUT", 0.0)
        patch.setattr(teacher, "INPUT_NOISE", 0.0)
        patch.setattr(_BatchNorm, "train", lambda self, mode=True: nn.Module.train(self, False))
        patch.setattr(Device, "place", lambda self, module: place(self, module).double())
        patch.setattr(Device, "image", lambda self, x: x if x is None else image(self, x).double())
        patch.setattr(torch.optim.SGD, "step", noted_step)
        patch.setattr(Ranks, "average_gradients", noted_average)
        train(recipe)
    return {"gradients": gradients, "seeds": seeds, "exchanges": exchanges}


def stopped(recipe):
    """Rank 1 alone is told to stop, at the third step of self-training -> the exit code of this process."""
    take_step = fit.Fit.take_step

    def signalled(self, *rest):
        if (self.stages[self.stage].name, self.step, self.ranks.rank) == ("self", 2, 1):
            os.kill(os.getpid(), signal.SIGTERM)
        return take_step(self, *rest)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit.Fit, "take_step", signalled)
        with pytest.raises(SystemExit) as left:
            train(recipe)
    return left.value.code


def validated(recipe):
    """Train -> the running statistics that each validation found in this process."""
    seen, mean_dice = [], fit.mean_dice

    def noted(method, *rest):
        seen.append(torch.cat([buffer.flatten().double() for buffer in method.buffers()]))
        return mean_dice(method, *rest)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit, "mean_dice", noted)
        train(recipe)
    return seen


def process(folder):
    """What each of the processes does with the recipes of `folder`."""
    torch.set_num_threads(1)
    unet.WIDTHS = vnet.WIDTHS = WIDTHS
    logbook.plots.curves = lambda run: None
    recipes = {name: DATASETS[values.pop("dataset")].recipe.from_json(values, name)
               for name, values in json.loads((folder / "recipes.json").read_text(encoding="utf-8")).items()}
    did = {name: followed(recipes[name]) for name in EXACT if name in recipes}
    whole, halted = recipes["whole"].out, recipes["halted"]
    did["validated"] = validated(recipes["whole"])
    did["exit code"] = stopped(halted)
    did["halted"] = load_tensors(halted.out / "checkpoint.pt") | {"finished": (halted.out / "last.pt").exists()}
    train(halted)
    did["rows"] = repr(test_ACDC.main(["--run", str(whole), "--split", "val", "--device", "cpu"]))
    did["predicted"] = predict.main(["--run", str(whole), "--input", str(folder / "scans"), "--output",
                                     str(folder / "predicted"), "--device", "cpu"])
    device, ranks = Device("cpu"), Ranks()
    did["gathered"] = [ranks.gather(ranks.shard(list(range(n)))) for n in (0, 1, 2, 5)]
    did["device"] = str(device)
    torch.save(did, folder / f"rank{ranks.rank}.pt")
    ranks.wait()


def forked(folder):
    """`process` in two processes, as torchrun starts them, but forked when PyTorch is loaded, which takes seconds."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ.update(WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    children = set()
    for rank in "01":
        if child := os.fork():
            children.add(child)
            continue
        os.environ.update(RANK=rank, LOCAL_RANK=rank)
        try:
            process(folder)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        sys.stdout.flush()
        os._exit(0)
    while children:
        child, status = os.wait()
        children.discard(child)
        if status:
            for other in children:
                os.kill(other, signal.SIGKILL)
            sys.exit(1)


def started(*command):
    environment = {**os.environ, "PYTHONPATH": str(CODE), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([sys.executable, *map(str, command)], env=environment, encoding="utf-8",
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE) as launcher:
        try:
            output, errors = launcher.communicate(timeout=300)
        except subprocess.TimeoutExpired:
            launcher.terminate()        # and it ends the processes
            output, errors = launcher.communicate()
        assert launcher.returncode == 0, errors[-3000:]
    return output, errors


@pytest.fixture(scope="module")
def _done():
    return {}


@pytest.fixture
def two(recipe, phantoms, _done, request, tmp_path_factory):
    """What two processes did, by `process`; `recipes` and `folder` are those they worked with, of EXACT those that a
    chosen test asks for.
    """
    if not _done:
        _done["errors"] = "the processes failed when they were first asked for"
        folder = tmp_path_factory.mktemp("ranks")
        asked = {item.callspec.params["name"] for item in request.session.items
                 if item.originalname == test_the_gradients_are_those_of_one_process_at_the_same_batch.__name__}
        few = PAIRS | {"pre_steps": 1, "self_steps": 1, "eval_every": 100}
        recipes = {name: recipe(dataset, out=folder / name, **few | {"patch_size": PATCHES[dataset]} | changes)
                   for name, (dataset, changes) in EXACT.items() if name in asked}
        recipes |= {name: recipe(out=folder / name, **PAIRS | {"pre_steps": 2, "self_steps": 4})
                    for name in ("whole", "halted")}
        (folder / "recipes.json").write_text(json.dumps(
            {name: {"dataset": own.dataset, **own.to_json()} for name, own in recipes.items()}), encoding="utf-8")
        (folder / "scans").mkdir()
        for number, path in enumerate(sorted((phantoms("ACDC") / "data").glob("*_frame??.h5"))[:2]):
            with h5py.File(path) as file:
                volume = np.moveaxis(file["image"][:], 0, -1)
            nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), folder / "scans" / f"scan{number}.nii.gz")
        (folder / "scans" / "no_scan.nii.gz").write_bytes(b"nothing")
        output, errors = started(__file__, folder)
        _done.update(folder=folder, recipes=recipes, output=output, errors=errors,
                     ranks=[torch.load(folder / f"rank{rank}.pt") for rank in (0, 1)])
    assert "ranks" in _done, _done["errors"]
    return _done


def rows(path):
    with open(path, newline="", encoding="utf-8") as file:
        return [{key: value for key, value in row.items() if key not in ("seconds", "memory_gib")}
                for row in csv.DictReader(file)]


# ---- gradients -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow if name in RARE else ()) for name in EXACT])
def test_the_gradients_are_those_of_one_process_at_the_same_batch(two, narrow, no_curves, tmp_path, name):
    """Then the logged terms and the validation are, too: means of losses, sums of counts, every case once."""
    own = two["recipes"][name]
    alone = followed(own.__class__(**{**vars(own), "out": tmp_path / "alone"}))
    assert len(alone["gradients"]) == own.pre_steps + own.self_steps
    for rank in two["ranks"]:
        for one, other in zip(alone["gradients"], rank[name]["gradients"], strict=True):
            assert max(gradient.abs().max() for gradient in one) > 1e-3
            for gradient, expected in zip(other, one, strict=True):
                assert gradient.dtype == torch.float64
                torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-8)
    first, second = (rank[name]["seeds"] for rank in two["ranks"])      # of dropout and noise
    assert first == alone["seeds"] and not set(first) & set(second)
    logged, expected = (rows(folder / "log.csv") for folder in (own.out, tmp_path / "alone"))
    for row, other in zip(logged, expected, strict=True):
        assert row.keys() == other.keys() and row.pop("stage") == other.pop("stage")
        assert all((row[key] == other[key] == "") or float(row[key]) == pytest.approx(float(other[key]), abs=1e-8)
                   for key in row)
    assert (own.out / "val.csv").exists() == (own.dataset == "ACDC")
    if own.dataset == "ACDC":
        assert rows(own.out / "val.csv") == rows(tmp_path / "alone" / "val.csv")


def test_the_ranks_exchange_gradients_once_per_step_after_its_last_backward_pass(two):
    for rank in two["ranks"]:
        for name in two["recipes"].keys() & EXACT:
            assert rank[name]["exchanges"] == list(range(len(rank[name]["gradients"])))


def test_both_ranks_step_by_the_very_same_gradients(two):
    for name in two["recipes"].keys() & EXACT:
        for one, other in zip(*(rank[name]["gradients"] for rank in two["ranks"]), strict=True):
            assert all(map(torch.equal, one, other))


def test_all_ranks_stop_and_save_where_one_wants_to_and_terms_are_means_and_counts_sums(recipe, runs, narrow):
    loop = runs.loop(recipe())
    terms = {"loss": torch.tensor(2.0), "empty_pseudo_labels": torch.tensor(3)}

    def agree():
        return loop.agree(StepNumbers(loop.ranks, terms, loop.flags()), loop.stages[0], loop.streams(), 0)
    assert agree() == {"loss": 2, "empty_pseudo_labels": 3}
    assert (loop.stop_signal, loop.save_due) == (0, False)
    loop.ranks.stack = lambda mine: torch.stack([mine, mine.new_tensor([4, 5, signal.SIGTERM, 1]), mine])
    assert agree() == {"loss": 8 / 3, "empty_pseudo_labels": 11}
    assert (loop.stop_signal, loop.save_due) == (signal.SIGTERM, True)
    loop.saved_at -= 60 * loop.recipe.checkpoint_minutes
    loop.ranks.stack = lambda mine: mine[None]
    agree()
    assert loop.save_due


# ---- one run -------------------------------------------------------------------------------------------------------


def test_one_process_writes_and_the_checkpoint_knows_of_none(two, runs, narrow):
    run = two["folder"] / "whole"
    assert len(runs.rows(run)) == 6 and len(list((run / "tb").iterdir())) == 1
    assert [(row["stage"], row["step"]) for row in runs.rows(run, "val.csv")] == [
        ("pre", "2"), ("self", "2"), ("self", "4")]
    assert not list(run.glob("*.tmp")) + list(run.glob(".*.tmp"))
    weights = runs.weights(run)
    assert weights.keys() == runs.loop(two["recipes"]["whole"]).method.state_dict().keys()
    assert two["output"].count(f"finished: {run}") == 1 and two["output"].count(f"run folder: {run}") == 1
    command = json.loads((run / "config.json").read_text(encoding="utf-8"))["command"]
    assert command.startswith("torchrun --standalone --nproc-per-node 2 -- ")
    assert [rank["device"] for rank in two["ranks"]] == 2 * [f"2 processes, each on {Device('cpu')}"]


def test_every_rank_validates_with_the_running_statistics_of_the_first(two):
    first, second = (rank["validated"] for rank in two["ranks"])
    assert len(first) == len(second) == 3 and not torch.equal(first[0], first[1])
    assert all(map(torch.equal, first, second))


def test_a_signal_to_one_process_stops_all_after_the_same_step_and_the_run_resumes_to_the_same_bits(two, runs):
    for rank in two["ranks"]:
        assert rank["exit code"] == 128 + signal.SIGTERM and not rank["halted"]["finished"]
        assert (rank["halted"]["stage"], rank["halted"]["step"]) == (1, 3)
    assert two["output"].count("SIGTERM: saved after step 3 of stage self") == 1
    assert two["output"].count("resuming after step 3 of stage 2 of 2") == 1
    whole, halted = (two["folder"] / name for name in ("whole", "halted"))
    runs.assert_same(whole, halted)
    for name in ("pretrained.pt", "best.pt"):
        assert runs.same_tensors(runs.weights(whole, name), runs.weights(halted, name))


# ---- cases ---------------------------------------------------------------------------------------------------------


def test_what_the_ranks_made_of_their_shards_comes_back_in_the_lists_order(two):
    for rank in two["ranks"]:
        assert rank["gathered"] == [list(range(n)) for n in (0, 1, 2, 5)]


def test_the_test_script_gives_the_rows_of_one_process(two, narrow):
    run = two["folder"] / "whole"
    names = ("test_val_last.csv", "test_val_last.md")
    written = [(run / name).read_bytes() for name in names]
    alone = test_ACDC.main(["--run", str(run), "--split", "val", "--device", "cpu"])
    assert len(alone) == 2 * 3 and [rank["rows"] for rank in two["ranks"]] == 2 * [repr(alone)]
    assert [(run / name).read_bytes() for name in names] == written
    assert two["output"].count("last.pt on 2 val cases") == 1


def test_predict_gives_the_files_of_one_process_and_names_the_bad_scan_once(two, runs, narrow, tmp_path):
    folder = two["folder"]
    code = predict.main(["--run", str(folder / "whole"), "--input", str(folder / "scans"), "--output", str(tmp_path),
                         "--device", "cpu"])
    assert [rank["predicted"] for rank in two["ranks"]] == [code, code] == [2, 2]
    files = {path.name: np.asarray(nibabel.load(path).dataobj) for path in tmp_path.glob("*.nii.gz")}
    names = {path.name for path in (folder / "predicted").iterdir()}
    assert {"predictions.csv", "scan0.nii.gz", "scan1.nii.gz"} == {*files, "predictions.csv"} == names
    assert all(np.array_equal(labels, nibabel.load(folder / "predicted" / name).dataobj)
               for name, labels in files.items())
    one, other = (runs.rows(path, "predictions.csv") for path in (tmp_path, folder / "predicted"))
    named = "case", "class", "voxels", "components", "file", "made_from"
    assert [{key: row[key] for key in named} for row in one] == [{key: row[key] for key in named} for row in other]
    assert two["output"].count("2 segmented, 0 skipped") == 1 and two["errors"].count("bad case no_scan: ") == 1


# ---- what cannot be shared -----------------------------------------------------------------------------------------


@pytest.fixture
def among(monkeypatch):
    """among(world) -> the environment of the last of so many processes, without the others."""
    def start(world):
        for name, value in {"RANK": world - 1, "LOCAL_RANK": world - 1, "WORLD_SIZE": world,
                            "LOCAL_WORLD_SIZE": world}.items():
            monkeypatch.setenv(name, str(value))
        return Ranks()
    return start


@pytest.mark.parametrize(("world", "sizes", "fitting"), [
    (3, {"--labeled-batch": 4, "--unlabeled-batch": 4}, "start 1 or 2, or make the batches multiples of 6"),
    (4, {"--labeled-batch": 12, "--unlabeled-batch": 12}, "start 1 or 2 or 3 or 6, or"),
    (2, {"--labeled-batch": 4, "--unlabeled-batch": 6}, "start 1, or make the batches multiples of 4"),
    (2, {"--labeled-batch": 2}, "start 1, or"),
    (2, {"--labeled-batch": 5}, "start 1, or"),
])
def test_a_batch_that_cannot_be_shared_names_the_options_and_the_counts_that_fit(among, world, sizes, fitting):
    with pytest.raises(InputError) as error:
        among(world).check_batches(sizes)
    for part in (fitting, f"{world} processes", *(f"{option} {size}" for option, size in sizes.items())):
        assert part in str(error.value)


@pytest.mark.parametrize(("world", "size"), [(1, 3), (1, 1), (2, 4), (3, 12), (4, 8)])
def test_a_batch_that_can_be_shared_is_not_refused(among, world, size):
    among(world).check_batches({"--labeled-batch": size})


def test_every_process_takes_a_gpu_of_its_own(among, monkeypatch):
    among(2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for name, gpus in (("cuda:1", 2), ("cuda", 1), ("auto", 1)):
        monkeypatch.setattr(torch.cuda, "device_count", lambda gpus=gpus: gpus)
        with pytest.raises(InputError, match=f"2 processes take a GPU each, and this PyTorch sees {gpus}"):
            Device(name)


@pytest.mark.parametrize(("variables", "found"), [
    ({"RANK": "1"}, "RANK=1 of WORLD_SIZE=1"), ({"RANK": "5", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}, "RANK=5 of WORLD"),
    ({"WORLD_SIZE": "0"}, "RANK=0 of WORLD_SIZE=0"), ({"RANK": "3", "WORLD_SIZE": "1"}, "RANK=3 of WORLD_SIZE=1"),
    ({"RANK": "1", "LOCAL_RANK": "2", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}, "LOCAL_RANK=2 of LOCAL_"),
    ({"WORLD_SIZE": "2"}, "WORLD_SIZE=2 without RANK and LOCAL_RANK")])
def test_stray_variables_are_refused_at_once(monkeypatch, variables, found):
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=f"^{found}.*torchrun"):
        Ranks()


@pytest.mark.parametrize("variables", [{}, {"RANK": "0"}, {"LOCAL_RANK": "0"}, {"RANK": "0", "WORLD_SIZE": "1"}])
def test_variables_of_one_process_are_fine(monkeypatch, variables):
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert Ranks().main and Ranks().world == 1


@pytest.mark.parametrize(("others", "found"), [
    ({"lr": 0.02, "seed": 1}, "lr is 0.01 in process 0, 0.02 in process 1$"),
    ({"lr": 0.01}, "seed is 1 in process 0, None in process 1"),
    ({"lr": 0.01, "seed": 1, "labelled scan a": (1, 2)}, r"scan a is None in process 0, \(1, 2\) in process 1")])
def test_processes_that_differ_are_refused_by_all(among, monkeypatch, others, found):
    """Options and data alike; equal ones are not."""
    own, told = {"lr": 0.01, "seed": 1}, []

    def exchange(everyone, values):
        told.append(values)
        everyone[:] = [own, *others_of]
    monkeypatch.setattr(torch.distributed, "all_gather_object", exchange)
    ranks, others_of = among(2), [own]
    ranks.check_alike(own)
    others_of = [others]
    with pytest.raises(InputError, match=f"the same options and the same data: .*{found}"):
        ranks.check_alike(own)
    assert told == [own, own]


@pytest.mark.parametrize("words", ["[..] Connection closed by peer [127.0.0.1]:3", "NCCL communicator was aborted",
                                   "Timed out waiting 43200000ms for recv operation"])
def test_a_process_that_has_lost_another_says_so_in_one_line(among, monkeypatch, words):
    def barrier(*_):
        raise RuntimeError(words)
    monkeypatch.setattr(torch.distributed, "barrier", barrier)
    with pytest.raises(InputError, match="process 1 of 2 has lost another one .*same command"):
        among(2).wait()
    words = "a fault of ours"
    with pytest.raises(RuntimeError, match=words):
        among(2).wait()


ALONE = """
import sys
sys.path.insert(0, {code!r})
from datetime import timedelta
import torch
from runtime import ranks
from runtime.script import reported
ranks.MEETING, ranks.PATIENCE = timedelta(seconds=3), 0.5
reported(lambda args: ranks.Ranks().start(torch.device("cpu")))([])
"""


@pytest.mark.slow
@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_process_whose_others_do_not_come_says_that_it_waits_and_gives_up(rank):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
                   "MASTER_PORT": str(port)}
    done = subprocess.run([sys.executable, "-c", ALONE.format(code=str(CODE))], env={**os.environ, **environment},
                          capture_output=True, encoding="utf-8", timeout=120)
    lines = [line for line in done.stderr.splitlines() if line.startswith(("process", "error"))]
    assert done.returncode == 2 and len(lines) == 2
    assert lines[0].startswith(f"process {rank} of 2 waits for the others") and "torchrun" in lines[1]


# ---- as a user starts them -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_torchrun_trains_at_full_width(phantoms, tmp_path):
    args = ["mini", "--labeled", "2", "--labeled-batch", "4", "--unlabeled-batch", "4", "--patch-size", "32", "32",
            "--pre-steps", "0", "--self-steps", "1", "--workers", "1", "--device", "cpu", "--data-dir",
            phantoms("ACDC"), "--out", tmp_path / "run"]
    output, _ = started("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--",
                        CODE / "train_ACDC.py", *args)
    assert output.count("finished: ") == output.count("12 labelled, 12 unlabelled, 2 validation") == 1
    assert [row["stage"] for row in rows(tmp_path / "run" / "log.csv")] == ["self"]
    assert {path.name for path in (tmp_path / "run").iterdir()} >= {"last.pt", "best.pt", "curves.png", "checkpoint.pt"}


if __name__ == "__main__":
    importlib.import_module("torch._dynamo")        # which an optimiser loads
    forked(Path(sys.argv[1]))
