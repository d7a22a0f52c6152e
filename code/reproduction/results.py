"""What is kept of runs: their config.json and CSV files, read, compared with what their names stand for, published."""
import csv
import functools
import io
import json
import os
import re
import sys
from pathlib import Path

import numpy as np

from evaluation import measurements, published, tables
from runtime.csv_table import Table
from runtime.errors import InputError, one_line
from runtime.files import ROOT, inside, is_case_name, read_text, write_text
from training.recipe import check_run_folder, read_config

# Where results are kept: the first is written to, all are read
RESULTS = ROOT / "model/results", ROOT / "model/mini_results"


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
        return differing(run, type(run.recipe).from_json(self.config["recipe"], path).fields())

    def rows(self, name, columns=("case", "class", *measurements.METRICS)):
        """Rows of a CSV file, [] where there is none."""
        if name not in self._tables:
            path = self.folder / f"{name}.csv"
            self._tables[name] = measurements.read_rows(path, columns) if path.exists() else []
        return self._tables[name]

    def tested(self, split, checkpoint):
        name = f"test_{split}_{checkpoint}"
        return measurements.check_named(self.folder / f"{name}.csv", self.rows(name), list=split, weights=checkpoint,
                                  unit="voxel", **measurements.recorded(self.folder / "config.json"))

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
        """Rows of val.csv: stage, step, split and the Dice of each view, the tested one first; of one list, the
        validation cases where these were watched beside others.
        """
        rows = self.logged("val")
        if rows and ("step" not in rows[0] or len(rows[0]) < 4):
            raise InputError(f"{self.folder / 'val.csv'} is none that a train script wrote (no step, or no Dice): "
                             "restore it from a copy, or remove it")
        return [row for row in rows if row["split"] == "val"] or rows

    @property
    def headlines(self):
        """Dice in percent at each validation, of the view that the method is tested with."""
        return [100 * row[tables.views_of_validation(row)[0]] for row in self.validations]

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


def differing(run, fields):
    """How a recipe's fields differ from what the run's name stands for, in words."""
    meant = run.recipe.fields()
    if run.preset == "paper":       # whatever the train script and the method's file were edited to
        meant |= published.chosen(run.dataset, run.experiment.method) | dict(run.experiment.changes)
    return [f"{name} is {fields.get(name)}, not {meant.get(name)}" for name in meant | fields
            if fields.get(name) != meant.get(name) and name != "preset"]        # which is a name for the other values


def why_not(run, found):
    """Why a folder with the run's name is not that run, in words; "" where it is."""
    try:
        return "; ".join(found.unlike(run))
    except InputError as error:
        return one_line(error)


@functools.cache
def say(line):
    """A line on stderr, once."""
    print(line, file=sys.stderr)


KEPT_FILES = re.compile(r"(log|val|pseudo_labels|(test|agreement|trust)_(test|val)_(last|best|pretrained)\w*)\.csv")


def publish(folder, results):
    """Copy config.json and the CSV files of a run to where results are kept, without the paths of this machine.

    Other files and links are left aside, and named. InputError for a test's table that is not whole, and where another
    run is kept under that name: what is there is only added to by its own run, whose log goes on where the kept one
    ends.
    """
    check_run_folder(folder)
    folder = Path(os.path.abspath(folder))      # so that `.` has a name
    config = read_config(folder)
    text = json.dumps(config, indent=2).replace(f"{ROOT}/", "") + "\n"
    text = re.sub(r"(?<![^\s\"'=])/(?:[^\s\"'/]+/)*", "", text)
    if not is_case_name(config["dataset"]) or not is_case_name(folder.name):
        raise InputError(f"{folder / 'config.json'}: {config['dataset']!r} and {folder.name!r} cannot name a folder of "
                         "results: expected the data set and the run, without a path")
    target = Path(results) / config["dataset"] / folder.name
    texts = {}
    for path in sorted(folder.glob("*.csv")):
        if path.is_symlink() or not KEPT_FILES.fullmatch(path.name):
            print(f"left aside: {path} is {'a link' if path.is_symlink() else 'no table of a run'}")
        else:
            texts[path.name] = read_text(path)
            if path.name.startswith("test_"):
                measurements.read_rows(path)
    if why := _another_run(target, json.loads(text), texts):
        raise InputError(f"{target} keeps another run of this name ({why}): move it away first if this one shall take "
                         "its place, or name another folder with --results")
    for name, content in {"config.json": text, **texts}.items():
        write_text(inside(results, target / name), content)
    return target


def _another_run(target, config, tables):
    """Why the run that is kept in a folder is another one than that of config and tables; "" where it is the same."""
    if not target.exists() or not any(target.iterdir()):
        return ""
    there = read_config(target)
    if differing := [name for name in there["recipe"] if there["recipe"][name] != config["recipe"].get(name)]:
        return f"another {', '.join(differing)}"
    for name in tables.keys() & {path.name for path in target.glob("test_*.csv")}:
        there_on, here_on = ({row["case"] for row in csv.DictReader(io.StringIO(text))}
                             for text in (read_text(target / name), tables[name]))
        if there_on - here_on:
            return f"its {name} is of other cases"
    log = target / "log.csv"
    if log.exists() and not tables.get("log.csv", "").startswith(read_text(log)):
        return "its log.csv has other rows, or more of them"
    return "" if there.get("commit") == config.get("commit") else "trained by another commit"
