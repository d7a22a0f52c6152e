"""Fixtures of all tests: tiny phantom data sets, narrow networks, short recipes, and runs to compare."""
# ruff: noqa: E402
import os
import sys

# The suite starts many processes, and PyTorch's modules take seconds to compile: what one has compiled, others read.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

import csv
import dataclasses
import functools
import gc
import importlib
import re
import shlex
import shutil
import subprocess
from types import SimpleNamespace

import pytest
import torch
from hypothesis import settings
from tyro._docstrings import _ClassTokenization

import train_ACDC
import train_BraTS
import train_LA
from dataloaders.acdc import ACDC
from dataloaders.brats import BraTS
from dataloaders.la import LA
from dataloaders.phantom import write_phantoms
from evaluation import plots
from networks import discriminator, unet, unet3d, vnet
from runtime.device import Device
from runtime.files import ROOT, load_tensors
from training import fit
from training.run_folder import RunFolder

# tyro reads the source of a recipe's class at each call, and under pytest once more at every tenth look-up
_ClassTokenization.make = staticmethod(functools.cache(_ClassTokenization.make))
settings.register_profile("suite", deadline=None, derandomize=True, database=None, max_examples=50)
settings.load_profile("suite")
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"      # of the processes that tests start: several tests may run at once

# What is drawn of each set: in-plane extents differ, and LA and BraTS have axes on both sides of the patch's 32
PHANTOMS = {
    "LA": {"train": 5, "test": 2, "size": (40, 36, 34)},
    "ACDC": {"train": 4, "val": 1, "test": 1, "size": (3, 40, 36)},
    "BraTS2019": {"train": 4, "val": 1, "test": 1, "size": (66, 60, 58)},
}
DATASETS = {
    "LA": (LA, train_LA.PRESETS["paper"], {"patch_size": (16, 32, 16), "stride": (16, 16, 16)}),
    "ACDC": (ACDC, train_ACDC.PRESETS["mini"], {"patch_size": (32, 32)}),
    "BraTS2019": (BraTS, train_BraTS.PRESETS["mini"], {"patch_size": (16, 32, 16), "stride": (16, 16, 16)}),
}
SHORT = {"labeled": 2, "labeled_batch": 2, "unlabeled_batch": 2, "pre_steps": 4, "self_steps": 6, "eval_every": 2,
         "checkpoint_steps": 100, "workers": 0, "device": "cpu"}


def pytest_addoption(parser):
    parser.addoption("--record-golden", action="store_true", help="write the losses that test_golden.py compares with")


def pytest_collection_finish():
    """What PyTorch and the collection leave lasts to the end: it is not looked through for garbage again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _seeded():
    """Random weights and inputs are the same in every run of a test."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory):
    """dataset -> folder of its phantoms, drawn when first asked for; tests that change files copy it."""
    roots = {}

    def root_of(dataset):
        if dataset not in roots:
            roots[dataset] = write_phantoms(tmp_path_factory.mktemp(dataset), dataset, **PHANTOMS[dataset])
        return roots[dataset]
    return root_of


@pytest.fixture
def narrow(monkeypatch):
    """Networks an eighth as wide: a training step in milliseconds."""
    for backbone in (unet, vnet, unet3d):
        monkeypatch.setattr(backbone, "WIDTHS", (2, 4, 8, 16, 32))
    monkeypatch.setattr(discriminator, "WIDTHS", (8, 16, 32, 64))


@pytest.fixture
def shallow(narrow, monkeypatch):
    """And one convolution per stage instead of one to three: where the network itself is not what is tested."""
    monkeypatch.setattr(vnet, "ENCODER_CONVS", (1,) * 5)
    monkeypatch.setattr(vnet, "DECODER_CONVS", (1,) * 4)
    for backbone in (unet, unet3d):     # with dropout, where there is any
        monkeypatch.setattr(backbone, "block", _first_half(backbone.block))


@functools.cache
def _first_half(block):
    return lambda *args: (layers := block(*args))[:(len(layers) + 1) // 2]


def _nothing(run):
    pass


@pytest.fixture
def no_curves(monkeypatch):
    """Without the picture of the curves, which takes longer than the steps it shows."""
    monkeypatch.setattr(plots, "curves", _nothing)


@pytest.fixture
def copied(tmp_path):
    """A copy of the code, the split lists and the settings, without scans and runs, to be changed and tested.

    replace(file, old, new); tests(*arguments) -> finished pytest; must_notice(names): test files that turn red.
    """
    shutil.copytree(ROOT / "code", tmp_path / "code", ignore=shutil.ignore_patterns("__pycache__", ".*_cache"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for path in [*ROOT.glob("data/*/*.list"), *ROOT.glob("data/*/*.txt")]:
        target = tmp_path / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)

    def replace(file, old, new):
        path = tmp_path / "code" / file
        path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")

    def tests(*arguments):
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
        return subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
                              cwd=tmp_path, env={**environment, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""},
                              capture_output=True, encoding="utf-8")

    def fast(names):
        return tests("-x", "-m", "not slow", *(f"code/tests/{name}" for name in names))

    def must_notice(names):
        done = fast(names)
        assert done.returncode == 1, done.stdout[-3000:]        # 1: tests failed; 2 and more: they did not run
        assert re.search(r"^FAILED ", done.stdout, re.MULTILINE), done.stdout[-3000:]
        assert not re.search(r"^ERROR ", done.stdout, re.MULTILINE), done.stdout[-3000:]
    return SimpleNamespace(root=tmp_path, replace=replace, tests=tests, fast=fast, must_notice=must_notice)


@pytest.fixture
def recipe(phantoms, tmp_path):
    """recipe(dataset, **changes) -> a short recipe on phantoms, its run folder in tmp_path."""
    def make(dataset="ACDC", **changes):
        _, preset, tiny = DATASETS[dataset]
        values = SHORT | tiny | {"out": tmp_path / "run"} | changes
        if "data_dir" not in values:
            values["data_dir"] = phantoms(dataset)
        return dataclasses.replace(preset, **values)
    return make


@pytest.fixture(scope="session")
def _trained():
    return {}


@pytest.fixture
def runs(_trained, tmp_path_factory):
    """To train a recipe, take its loop apart, and read what it wrote."""
    def data(recipe):
        return DATASETS[recipe.dataset][0](recipe)

    def train(recipe):
        return fit.train(recipe, data(recipe))

    def trained(recipe):
        """A copy of the recipe's finished run, in its folder; tests that need the same run share one training."""
        key = (*(repr(value) for name, value in vars(recipe).items() if name != "out"), unet.WIDTHS,
               unet.block, plots.curves)
        if key not in _trained:
            _trained[key] = train(dataclasses.replace(recipe, out=tmp_path_factory.mktemp("trained") / "run"))
        return shutil.copytree(_trained[key], recipe.out)

    def loop(recipe):
        folder = RunFolder(recipe.out, recipe)
        folder.open(Device("cpu"))
        return fit.Fit(recipe, data(recipe), folder)

    def rows(folder, name="log.csv"):
        with open(folder / name, newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def losses(folder):
        """log.csv without what differs from machine to machine."""
        return [{key: value for key, value in row.items() if key not in ("seconds", "memory_gib")}
                for row in rows(folder)]

    def weights(folder, name="last.pt"):
        return load_tensors(folder / name)["method"]

    def same_tensors(one, other):
        """Of two states, a method's own optimiser included."""
        if isinstance(one, dict):
            return one.keys() == other.keys() and all(same_tensors(one[key], other[key]) for key in one)
        if isinstance(one, list | tuple):
            return len(one) == len(other) and all(map(same_tensors, one, other))
        return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other

    def assert_same(one, other):
        assert losses(one) == losses(other)
        validated = [(folder / "val.csv").exists() for folder in (one, other)]
        assert validated[0] == validated[1]
        assert not any(validated) or rows(one, "val.csv") == rows(other, "val.csv")
        assert same_tensors(weights(one), weights(other))

    return SimpleNamespace(data=data, train=train, trained=trained, loop=loop, rows=rows, losses=losses,
                           weights=weights, same_tensors=same_tensors, assert_same=assert_same)


class Way:
    """Runs commands, and after each the one that it printed last."""

    def __init__(self, capsys):
        self.capsys, self.told = capsys, ""

    def go(self, script, *options):
        """What a command says; its exit code is 0, or it returns what it made."""
        self.capsys.readouterr()
        code = importlib.import_module(script).main(list(map(str, options)))
        assert code == 0 or not isinstance(code, int)
        self.told = self.capsys.readouterr().out
        return self.told

    def on(self, script, *more, preset=()):
        """The command that was printed, which is of this script, with further options."""
        [line] = [line for line in self.told.splitlines() if line.startswith("next: ")]
        python, path, *options = shlex.split(line.removeprefix("next: "))
        assert (python, path) == ("python", f"code/{script}.py")
        if preset:
            options = [*preset, *(option for option in options if option not in ("paper", "short", "mini"))]
        return self.go(script, *options, *more)


@pytest.fixture
def way(capsys):
    return Way(capsys)
