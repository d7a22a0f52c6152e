"""Runs of experiments: their names and commands, which of them are there, how one is trained, tested and kept."""
import functools
import json
import math
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from evaluation import agreement, published, tables
from evaluation.report import write_rows
from methods import registry
from reproduction.experiments import PLACES, SEEDS, Experiment, fraction, places_of
from runtime.errors import InputError
from runtime.files import ROOT, Table, make_folder, write_text
from runtime.locks import locked
from training.datasets import DATASETS
from training.recipe import read_config
from training.trained import load_run

# Where results are kept: the first is written to, all are read
RESULTS = ROOT / "model/results", ROOT / "model/mini_results"
MODEL = ROOT / "model"
# (data set, preset) -> (list, weights) that are tested, the headline first; presets that are not named as `paper`
TESTED = {
    ("ACDC", "paper"): (("test", "last"), ("test", "best")),
    ("ACDC", "short"): (("test", "last"), ("test", "best"), ("val", "last"), ("val", "best")),
    ("ACDC", "mini"): (("val", "last"), ("val", "best")),
    ("LA", "paper"): (("test", "last"),),
    ("BraTS2019", "paper"): (("test", "last"), ("test", "best")),
}


class Run(NamedTuple):
    """An experiment with a preset and a seed."""

    experiment: Experiment
    preset: str
    seed: int

    @property
    def dataset(self):
        return self.experiment.dataset

    @property
    def labeled(self):
        """All cases where the preset holds some out."""
        everything = max(published.TABLES[self.dataset]["supervised"])
        held_out = getattr(DATASETS[self.dataset].presets[self.preset], "holdout_test", 0)
        return min(self.experiment.labeled, everything - held_out)

    @property
    def recipe(self):
        """The train script's recipe."""
        return _recipe(self)

    @property
    def name(self):
        """<data set>/<folder>, as the train script names it."""
        return _name(self)

    @property
    def options(self):
        """Of the train script."""
        words = [] if self.preset == "paper" else [self.preset]
        words += ["--method", self.experiment.method, "--labeled", str(self.labeled), "--seed", str(self.seed)]
        for name, value in self.experiment.changes:
            values = value if isinstance(value, tuple) else [fraction(value) if name == "beta" else value]
            words += [f"--{name.replace('_', '-')}", *map(str, values)]
        watched = self.preset != "paper" or "figure2" in places_of(self.experiment, self.preset)
        return words + ["--monitor", "test"] * (self.dataset == "LA" and watched)    # it has no validation list

    @property
    def command(self):
        return shlex.join(["python", f"code/{DATASETS[self.dataset].train.__name__}.py", *self.options])

    @property
    def tested(self):
        return TESTED.get((self.dataset, self.preset)) or TESTED[self.dataset, "paper"]


@functools.cache
def _recipe(run):
    dataset, method, _, changes = run.experiment
    changes = dict(changes)
    own = {name.removeprefix("hyper."): changes.pop(name) for name in list(changes) if name.startswith("hyper.")}
    preset = DATASETS[dataset].presets[run.preset]
    recipe = replace(preset, method=method, labeled=run.labeled, seed=run.seed, **changes)
    return replace(recipe, hyper=replace(registry.hyper_of(recipe), **own))


@functools.cache
def _name(run):
    return f"{run.dataset}/{run.recipe.folder(DATASETS[run.dataset].presets).name}"


class Kept:
    """A run's config.json and CSV files, where they are kept or where it was trained."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self._tables = {}

    def rows(self, name, columns=("case", "class", *tables.METRICS)):
        """Rows of a CSV file, [] where there is none."""
        if name not in self._tables:
            path = self.folder / f"{name}.csv"
            self._tables[name] = tables.read_rows(path, columns) if path.exists() else []
        return self._tables[name]

    def tested(self, split, checkpoint):
        return self.rows(f"test_{split}_{checkpoint}")

    def text_rows(self, name):
        """Rows of log.csv or val.csv, as text."""
        return Table(self.folder / f"{name}.csv").rows()

    @functools.cached_property
    def validations(self):
        """Dice in percent of val.csv's rows, of the view that the method is tested with."""
        views = [[value for key, value in row.items() if key not in ("stage", "step", "split")]
                 for row in self.text_rows("val")]
        return [100 * float(headline) for headline, *_ in views]

    @functools.cached_property
    def config(self):
        return read_config(self.folder)

    @functools.cached_property
    def seconds(self):
        """{stage: median seconds of a step}; validation is left out."""
        times = {}
        for row in self.text_rows("log"):
            times.setdefault(row["stage"], []).append(float(row["seconds"]))
        return {stage: float(np.median(values)) for stage, values in times.items()}

    @property
    def memory(self):
        """The most memory that a step of training held, in GiB: resident on a CPU, allocated on a GPU."""
        return max(float(row["memory_gib"]) for row in self.text_rows("log"))

    @property
    def hours(self):
        """Of all steps of training; validation is left out."""
        return sum(float(row["seconds"]) for row in self.text_rows("log")) / 3600


def kept(run, results=RESULTS):
    """The run's `Kept`, or None if it is not there with everything that is tested."""
    for folder in results:
        found = Kept(folder / run.name)
        if all((found.folder / f"test_{split}_{weights}.csv").exists() for split, weights in run.tested):
            return found
    return None


def has_preset(experiment, preset):
    return preset in DATASETS[experiment.dataset].presets


def runs_of(names=(), preset=None, seeds=None):
    """Runs of the named places (all without names) or of single names <data set>/<folder>, each once.

    preset: of the places that have none of their own; seeds: how many, by default what a row says. InputError for a
    name that is neither. Experiments of a data set without that preset are left out.
    """
    runs = []
    for name in names or PLACES:
        if name in PLACES:
            place = PLACES[name]
            at = place.at(preset)
            runs += [Run(row.experiment, at, seed) for row in place.rows if has_preset(row.experiment, at)
                     for seed in SEEDS[:seeds or row.seeds]]
        else:
            runs.append(named(name))
    return list(dict.fromkeys(runs))


def named(name):
    """The run of a name <data set>/<folder>, a seed that is not in any place among them."""
    found = re.search(r"_seed(\d+)", name)
    for run in runs_of((), None) + runs_of((), "short") + runs_of((), "mini") if found else ():
        if (other := run._replace(seed=int(found[1]))).name == name:
            return other
    raise InputError(f"{name!r} is no experiment: choose of {', '.join(PLACES)}, or give a run as "
                     "`reproduce.py list` names it")


# ---- run ---------------------------------------------------------------------------------------------------------


def carry_out(run, results, model=MODEL, data_dir=None, device="auto"):
    """Train, test, measure and keep a run; what is finished is skipped, an unfinished run goes on.

    model, data_dir: folders with one folder per data set, of run folders and of scans. InputError where another process
    holds the run, or training or a test refuses.
    """
    folder = Path(model) / run.name
    modules = DATASETS[run.dataset]
    where = ["--device", device] + (["--data-dir", str(Path(data_dir) / run.dataset)] if data_dir else [])
    with locked(folder, "run, or --out"):
        if not (folder / "last.pt").exists():
            modules.train.main.__wrapped__([*run.options, "--out", str(folder), *where])
        for split, weights in run.tested:
            if not (folder / f"test_{split}_{weights}.csv").exists():
                modules.test.main.__wrapped__(["--run", str(folder), "--split", split, "--checkpoint", weights, *where])
        split, weights = run.tested[0]
        measured = folder / f"agreement_{split}_{weights}.csv"
        if registry.method_class(run.experiment.method).pair and not measured.exists():
            write_rows(measured, agreement.agreement(
                load_run(folder, weights, device, data_dir and Path(data_dir) / run.dataset), split))
        return publish(folder, results)


def publish(folder, results):
    """Copy config.json and the CSV files of a run to where results are kept, without the paths of this machine."""
    config = read_config(folder)
    target = make_folder(Path(results) / config["dataset"] / Path(folder).name)
    text = json.dumps(config, indent=2).replace(f"{ROOT}/", "") + "\n"
    write_text(target / "config.json", re.sub(r"(?<![^\s\"'=])/(?:[^\s\"'/]+/)*", "", text))
    for table in Path(folder).glob("*.csv"):
        write_text(target / table.name, table.read_text())
    return target


# ---- plan --------------------------------------------------------------------------------------------------------


def hours(run, results=RESULTS, model=MODEL):
    """(hours of training, whether by this very method) from runs of the same data set and sizes that are there.

    Medians of their seconds per step, by stage, times the run's steps; nan where there is none.
    """
    recipe, times = run.recipe, {}
    sizes = "patch_size", "labeled_batch", "unlabeled_batch"
    for log in [path for root in (model, *results) for path in (Path(root) / run.dataset).glob("*/log.csv")]:
        other = read_config(log.parent)["recipe"]
        if all(tuple(np.atleast_1d(other[name])) == tuple(np.atleast_1d(getattr(recipe, name))) for name in sizes):
            times.setdefault(other["method"], []).append(Kept(log.parent).seconds)
    own = times.get(run.experiment.method)
    runs = own or [seconds for values in times.values() for seconds in values]
    if not runs:
        return float("nan"), False
    a_step = {stage: np.median([seconds[stage] for seconds in runs if stage in seconds]) for stage in ("pre", "self")
              if any(stage in seconds for seconds in runs)}
    steps = {"pre": recipe.pre_steps, "self": recipe.self_steps} if "pre" in a_step else {
        "self": recipe.pre_steps + recipe.self_steps}
    return sum(steps[stage] * a_step.get(stage, math.nan) for stage in steps) / 3600, bool(own)


def slurm(runs, options=""):
    """A job-array script, one run per task: a task that is stopped saves, is queued again, and goes on.

    options: of `reproduce.py run`, with a blank in front.
    """
    names = "\n".join(f"    {run.name}" for run in runs)
    return f"""#!/bin/bash
#SBATCH --job-name=reproduce
#SBATCH --array=0-{len(runs) - 1}
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=4
#SBATCH --mem=32G
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=reproduce_%A_%a.log
# From the repository's root: sbatch this file. Two minutes before the time is over the run saves and is queued again.
RUNS=(
{names}
)
srun python code/reproduce.py run "${{RUNS[$SLURM_ARRAY_TASK_ID]}}"{options}
status=$?
if [ $status -gt 128 ]; then
    scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"
fi
exit $status
"""
