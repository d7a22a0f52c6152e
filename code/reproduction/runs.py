"""Runs of experiments: their names and commands, which of them are there, how one is trained and tested."""
import functools
import json
import math
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dataloaders.lists import published_list, read_list
from evaluation import published
from evaluation.report import write_rows
from imaging.record import read_preprocessing
from methods import registry
from reproduction.experiments import PLACES, SEEDS, Experiment, fraction, places_of
from reproduction.results import RESULTS, Kept, differing, publish, say, why_not
from runtime.errors import InputError, one_line
from runtime.files import ROOT
from runtime.locks import locked
from training.checkpoints import is_finished
from training.datasets import DATASETS
from training.recipe import read_config
from training.trained import load_run, prepared_otherwise

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


def kept(run, results=RESULTS):
    """The run's `Kept`, or None if it is not there with everything that is tested.

    A folder of its name that holds another run, by its config.json, does not count; that is said once on stderr.
    """
    for folder in results:
        found = Kept(folder / run.name)
        if all((found.folder / f"test_{split}_{weights}.csv").exists() for split, weights in run.tested):
            if not (words := why_not(run, found)):
                return found
            say(f"not counted: {found.folder} is not the run that its name stands for: {words}")
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
    if words := differing(run, run.recipe.fields()):
        raise InputError(f"{modules.train.__name__}.py or the file of {run.experiment.method} was edited "
                         f"({'; '.join(words)}), so that the result would stand in no table: set it back, or train "
                         "with that script alone")
    for place in (folder, Path(results) / run.name):
        if (place / "config.json").exists() and (words := why_not(run, Kept(place))):
            raise InputError(f"{place} is not the run that its name stands for ({words}): rename it, or name other "
                             "folders with --out and --results")
    where = ["--device", device] + (["--data-dir", str(Path(data_dir) / run.dataset)] if data_dir else [])
    scans = Path(data_dir) / run.dataset if data_dir else run.recipe.data_dir
    check_scans(scans, run.dataset)
    check_lists(scans, run)
    with locked(folder, "run, or --out"):
        if not is_finished(folder):
            modules.train.main.__wrapped__([*run.options, "--out", str(folder), *where])
        for split, weights in run.tested:
            if not is_newer(folder / f"test_{split}_{weights}.csv", folder / f"{weights}.pt"):
                modules.test.main.__wrapped__(["--run", str(folder), "--split", split, "--checkpoint", weights, *where])
        split, weights = run.tested[0]
        measured = folder / f"agreement_{split}_{weights}.csv"
        if registry.method_class(run.experiment.method).pair and not is_newer(measured, folder / f"{weights}.pt"):
            from evaluation.agreement import agreement  # here: options are read without PyTorch
            write_rows(measured, agreement(
                load_run(folder, weights, device, data_dir and Path(data_dir) / run.dataset), split))
        return publish(folder, results)


def check_scans(folder, dataset):
    """InputError for scans that were not prepared as the published ones: no table mixes them."""
    if (record := read_preprocessing(folder)) and (words := prepared_otherwise(record.to_dict(), dataset)):
        raise InputError(f"{folder}: these scans were prepared in another way than the published ones "
                         f"({'; '.join(words)}), and no table mixes their results: prepare them as published, or train "
                         f"with {DATASETS[dataset].train.__name__}.py alone")


def check_lists(folder, run):
    """InputError for lists of other cases than the published ones, where the result would stand beside the paper's."""
    for role, file in DATASETS[run.dataset].data.lists.items() if run.preset == "paper" else ():
        path, published_names = folder / file, published_list(run.dataset, file)
        own = read_list(path) if path.exists() else published_names
        if own != published_names and (role == "train" or {*own} != {*published_names}):
            raise InputError(f"{path}: names other cases than the published list, or the labelled ones in another "
                             "order, and the paper's numbers do not stand beside their results: take the published "
                             f"list, or train with {DATASETS[run.dataset].train.__name__}.py alone")


def is_newer(table, weights):
    """Whether a table is there and was made of these weights, and not of earlier ones while training went on."""
    return table.exists() and table.stat().st_mtime >= weights.stat().st_mtime


# ---- plan --------------------------------------------------------------------------------------------------------


# Fields on which the time of a step does not depend
NOT_TIMED = "preset", "seed", "labeled", "labeled_draw", "pre_steps", "self_steps"


def hours(run, results=RESULTS, model=MODEL):
    """(hours of training, whether by this very method) on the machines of runs that are there, of the same sizes.

    Medians of their seconds per step, by stage, times the run's steps; of the method's own runs, those with the options
    nearest to this one's. nan where there is none. What cannot be read is left out, and said.
    """
    recipe, times = run.recipe, []      # (another method, how many options differ), seconds
    fields = {name: value for name, value in json.loads(json.dumps(recipe.fields())).items() if name not in NOT_TIMED}
    for log in [path for root in (model, *results) for path in sorted((Path(root) / run.dataset).glob("*/log.csv"))]:
        try:
            other = read_config(log.parent)["recipe"]
            if all(other.get(name) == fields[name] for name in ("patch_size", "labeled_batch", "unlabeled_batch")):
                other |= {f"hyper.{name}": value for name, value in (other.get("hyper") or {}).items()}
                differing = sum(other.get(name, value) != value for name, value in fields.items())
                foreign = other.get("method") != recipe.method
                times.append(((foreign, 0 if foreign else differing), Kept(log.parent).seconds))
        except InputError as error:
            say(f"left out: {one_line(error)}")
    if not times:
        return math.nan, False
    nearest = min(rank for rank, _ in times)
    runs = [seconds for rank, seconds in times if rank == nearest]
    a_step = {stage: np.median([seconds[stage] for seconds in runs if stage in seconds]) for stage in ("pre", "self")
              if any(stage in seconds for seconds in runs)}
    steps = {"pre": recipe.pre_steps, "self": recipe.self_steps} if "pre" in a_step else {
        "self": recipe.pre_steps + recipe.self_steps}
    return sum(steps[stage] * a_step.get(stage, math.nan) for stage in steps) / 3600, not nearest[0]


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
case $status in 129|130|143)     # stopped; not killed, as for its memory
    scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}";;
esac
exit $status
"""
