"""Runs of experiments: their names and commands, which of them are there, how one is trained, tested and kept."""
import functools
import json
import math
import os
import re
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from evaluation import agreement, published, tables
from evaluation.report import write_rows
from methods import registry
from reproduction.experiments import PLACES, SEEDS, Experiment, fraction, places_of
from runtime.errors import InputError, one_line
from runtime.files import ROOT, Table, inside, is_case_name, read_text, write_text
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
    """A run's config.json and CSV files, where they are kept or where it was trained; InputError for damaged ones."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self._tables = {}

    def unlike(self, run):
        """How its config.json differs from what the run's name stands for, in words; none where it is that run."""
        path = self.folder / "config.json"
        if self.config["dataset"] != run.dataset:
            return [f"the data set is {self.config['dataset']}, not {run.dataset}"]
        held = type(run.recipe).from_json(self.config["recipe"], path).fields()
        return [f"{name} is {held.get(name)}, not {value}" for name, value in run.recipe.fields().items()
                if held.get(name) != value and name != "preset"]        # a preset is a name for the other values

    def rows(self, name, columns=("case", "class", *tables.METRICS)):
        """Rows of a CSV file, [] where there is none."""
        if name not in self._tables:
            path = self.folder / f"{name}.csv"
            self._tables[name] = tables.read_rows(path, columns) if path.exists() else []
        return self._tables[name]

    def tested(self, split, checkpoint):
        return self.rows(f"test_{split}_{checkpoint}")

    def logged(self, name, columns=None):
        """Rows of log.csv or val.csv: `stage` and `split` as text, `columns` (of val.csv, all) as numbers."""
        table = Table(self.folder / f"{name}.csv")
        rows = table.rows()
        columns = columns or [column for column in table.columns if column not in ("stage", "split")]
        try:
            if missing := {"stage", *columns} - set(table.columns if rows else ["stage", *columns]):
                raise ValueError(f"no {', '.join(sorted(missing))}")
            return [row | {column: float(row[column] or "nan") for column in columns} for row in rows]
        except ValueError as error:
            raise InputError(f"{table.path} is none that a train script wrote ({one_line(error)}): restore it from a "
                             "copy, or remove it") from error

    @functools.cached_property
    def validations(self):
        """Rows of val.csv: stage, step, split and the Dice of each view, the tested one first."""
        rows = self.logged("val")
        if rows and ("step" not in rows[0] or len(rows[0]) < 4):
            raise InputError(f"{self.folder / 'val.csv'} is none that a train script wrote (no step, or no Dice): "
                             "restore it from a copy, or remove it")
        return rows

    @property
    def headlines(self):
        """Dice in percent at each validation, of the view that the method is tested with."""
        return [100 * row[views_of(row)[0]] for row in self.validations]

    @functools.cached_property
    def config(self):
        return read_config(self.folder)

    @functools.cached_property
    def seconds(self):
        """{stage: median seconds of a step}; validation is left out."""
        times = {}
        for row in self.logged("log", ["seconds"]):
            times.setdefault(row["stage"], []).append(row["seconds"])
        return {stage: float(np.median(values)) for stage, values in times.items()}

    @property
    def memory(self):
        """The most memory that a step of training held, in GiB: resident on a CPU, allocated on a GPU."""
        return max(row["memory_gib"] for row in self.logged("log", ["memory_gib"]))

    @property
    def hours(self):
        """Of all steps of training; validation is left out."""
        return sum(row["seconds"] for row in self.logged("log", ["seconds"])) / 3600


def views_of(validation):
    """Names of the views in a row of val.csv, the tested one first."""
    return [name for name in validation if name not in ("stage", "step", "split")]


def kept(run, results=RESULTS):
    """The run's `Kept`, or None if it is not there with everything that is tested.

    A folder of its name that holds another run, by its config.json, does not count; that is said once on stderr.
    """
    for folder in results:
        found = Kept(folder / run.name)
        if all((found.folder / f"test_{split}_{weights}.csv").exists() for split, weights in run.tested):
            if not (words := _why_not(run, found)):
                return found
            _say(f"not counted: {found.folder} is not the run that its name stands for: {words}")
    return None


def _why_not(run, found):
    """Why a folder with the run's name is not that run, in words; "" where it is."""
    try:
        return "; ".join(found.unlike(run))
    except InputError as error:
        return one_line(error)


@functools.cache
def _say(line):
    """A line on stderr, once."""
    print(line, file=sys.stderr)


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
    for place in (folder, Path(results) / run.name):
        if (place / "config.json").exists() and (words := _why_not(run, Kept(place))):
            raise InputError(f"{place} is not the run that its name stands for ({words}): rename it, or name other "
                             "folders with --out and --results")
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


PUBLISHED = re.compile(r"(log|val|pseudo_labels|(test|agreement)_(test|val)_(last|best|pretrained)\w*)\.csv")


def publish(folder, results):
    """Copy config.json and the CSV files of a run to where results are kept, without the paths of this machine.

    Other files and links are left aside, and named. InputError where another run is kept under that name: what is there
    is only added to by its own run, whose log goes on where the kept one ends.
    """
    folder = Path(os.path.abspath(folder))      # so that `.` has a name
    config = read_config(folder)
    text = json.dumps(config, indent=2).replace(f"{ROOT}/", "") + "\n"
    text = re.sub(r"(?<![^\s\"'=])/(?:[^\s\"'/]+/)*", "", text)
    if not is_case_name(config["dataset"]) or not is_case_name(folder.name):
        raise InputError(f"{folder / 'config.json'}: {config['dataset']!r} and {folder.name!r} cannot name a folder of "
                         "results: expected the data set and the run, without a path")
    target = Path(results) / config["dataset"] / folder.name
    tables = {}
    for path in sorted(folder.glob("*.csv")):
        if path.is_symlink() or not PUBLISHED.fullmatch(path.name):
            print(f"left aside: {path} is {'a link' if path.is_symlink() else 'no table of a run'}")
        else:
            tables[path.name] = read_text(path)
    if why := _another_run(target, json.loads(text), tables):
        raise InputError(f"{target} keeps another run of this name ({why}): move it away first if this one shall take "
                         "its place, or name another folder with --results")
    for name, content in {"config.json": text, **tables}.items():
        write_text(inside(results, target / name), content)
    return target


def _another_run(target, config, tables):
    """Why the run that is kept in a folder is another one than that of config and tables; "" where it is the same."""
    if not target.exists() or not any(target.iterdir()):
        return ""
    there = read_config(target)
    if differing := [name for name in there["recipe"] if there["recipe"][name] != config["recipe"].get(name)]:
        return f"another {', '.join(differing)}"
    log = target / "log.csv"
    if log.exists() and not tables.get("log.csv", "").startswith(read_text(log)):
        return "its log.csv has other rows, or more of them"
    return "" if there.get("commit") == config.get("commit") else "trained by another commit"


# ---- plan --------------------------------------------------------------------------------------------------------


# Fields on which the time of a step does not depend
ANYHOW = "preset", "seed", "labeled", "labeled_draw", "pre_steps", "self_steps"


def hours(run, results=RESULTS, model=MODEL):
    """(hours of training, whether by this very method) on the machines of runs that are there, of the same sizes.

    Medians of their seconds per step, by stage, times the run's steps; of the method's own runs, those with the options
    nearest to this one's. nan where there is none. What cannot be read is left out, and said.
    """
    recipe, times = run.recipe, []      # (another method, how many options differ), seconds
    fields = {name: value for name, value in json.loads(json.dumps(recipe.fields())).items() if name not in ANYHOW}
    for log in [path for root in (model, *results) for path in sorted((Path(root) / run.dataset).glob("*/log.csv"))]:
        try:
            other = read_config(log.parent)["recipe"]
            if all(other.get(name) == fields[name] for name in ("patch_size", "labeled_batch", "unlabeled_batch")):
                other |= {f"hyper.{name}": value for name, value in (other.get("hyper") or {}).items()}
                differing = sum(other.get(name, value) != value for name, value in fields.items())
                foreign = other.get("method") != recipe.method
                times.append(((foreign, 0 if foreign else differing), Kept(log.parent).seconds))
        except InputError as error:
            _say(f"left out: {one_line(error)}")
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
if [ $status -gt 128 ]; then
    scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"
fi
exit $status
"""
