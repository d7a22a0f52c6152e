"""How good a method is on own data: the cases of all folds in one table, each tested by the run that never saw it.

Dice with a bootstrap interval over cases, surface distances, surface Dice, volumes, and the worst cases first.
"""
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from dataloaders.folds import FOLDS, fold_number
from evaluation import measurements, report, tables
from runtime.errors import InputError
from runtime.files import RESTORE
from runtime.ranks import Ranks
from runtime.records import read_json

MEASURED = ("dice", "hd95", "asd", "surface_dice", "error_ml")
CONFIDENCE = 0.95        # of the bootstrap interval
RESAMPLES = 9_999
BOOTSTRAP_SEED = 0
WORST = 10          # cases that are shown; the CSV holds all of them, in this order


@dataclass(kw_only=True)
class OwnOptions(report.ReportOptions):
    """Test a run, or the runs of folds, or any label maps: every case, the worst first."""

    spacing: Literal["voxel", "mm"] | None = None   # unit of the distances: of folds mm where known, of a run voxel
    tolerance: float = 2.0          # of the surface Dice, in the unit of the distances
    predictions: Path | None = None     # instead of a run: a folder of label maps, of any program
    labels: Path | None = None      # with --predictions: the folder of the reference label maps, cases by their names
    class_names: tuple[str, ...] = ()   # with --predictions: of the label values but 0, in rising order
    ignore_label: int | None = None     # with --predictions: reference voxels of this value are not measured
    label_map: tuple[str, ...] = ()     # with --predictions: value there:value in the references, such as 255:1
    same_voxels: bool = False       # with --predictions: the maps belong together voxel by voxel, whatever headers say
    geometry: Literal["itk", "sform"] | None = None     # with --predictions: as in prepare_folder.py, by default itk
    output: Path | None = None      # with --predictions: CSV to write; by default <predictions>_scores.csv beside it


class Interval(NamedTuple):
    """A mean and the ends of its bootstrap interval, in percent; the ends are NaN of a single case."""

    mean: float
    low: float
    high: float

    def __str__(self):
        return f"{self.mean:.2f}" + (f" [{self.low:.2f}, {self.high:.2f}]" if np.isfinite(self.low) else "")


def dice_interval(values, patients=None):
    """Dice of cases -> Interval of their mean: percentiles of the means of resampled patients, the same at every call.

    patients: whose scan each case is; by default each is of another patient.
    """
    values = 100 * np.asarray(values, float)
    _, whose = np.unique(np.arange(len(values)) if patients is None else patients, return_inverse=True)
    sums, counts = np.bincount(whose, values), np.bincount(whose)
    if len(counts) < 2:
        return Interval(float(values.mean()), np.nan, np.nan)
    from scipy.stats import bootstrap  # here: it takes as long as the rest of --help
    found = bootstrap((sums, counts), lambda total, count, axis: total.sum(axis) / count.sum(axis), paired=True,
                      n_resamples=RESAMPLES, confidence_level=CONFIDENCE, method="percentile",
                      rng=np.random.default_rng(BOOTSTRAP_SEED)).confidence_interval
    return Interval(float(values.mean()), float(found.low), float(found.high))


def mean_interval(rows, absent=None):
    """Interval of the rows' mean Dice over cases; absent: as of `case_dice`."""
    dice, whose = case_dice(rows, absent), {row["case"]: row.get("patient") or row["case"] for row in rows}
    return dice_interval(list(dice.values()), [whose[case] for case in dice])


def case_dice(rows, absent=None):
    """{case: mean Dice over its classes}, the worst first; absent: those left out, by default `absent_classes`."""
    absent, values = tables.absent_classes(rows) if absent is None else absent, {}
    for row in rows:
        if row["class"] not in absent:
            values.setdefault(row["case"], []).append(row["dice"])
    means = {case: float(np.mean(dice)) for case, dice in values.items()}
    return dict(sorted(means.items(), key=lambda item: (item[1], item[0])))


def worst_first(rows):
    """The rows, case by case, in the order of `case_dice`."""
    order = {case: place for place, case in enumerate(case_dice(rows))}
    return sorted(rows, key=lambda row: (order.get(row["case"], len(order)), row["case"], row["class"]))


# ---- the folds ---------------------------------------------------------------------------------------------------


def is_folds(folder):
    """Whether a folder holds the runs of folds, and is none itself."""
    return not (folder / "config.json").exists() and any(folder.glob("fold*/config.json"))


def fold_runs(folder, split="test"):
    """The runs of all folds in a folder, in order; InputError where one is missing, there twice or not finished, and
    for the cases of another list than each fold's own.
    """
    if split != "test":
        raise InputError(f"--split {split}: of folds, the cases of each fold are tested: leave --split out")
    runs, counts = {}, set()
    for path in sorted(folder.glob("fold*/config.json")):
        recipe = read_json(path, RESTORE).get("recipe")
        if not isinstance(recipe, dict):
            raise InputError(f"{path}: has no recipe: {RESTORE}")
        try:
            number, count = fold_number(recipe.get("fold"))
        except InputError:
            raise InputError(f"{path}: is no run of a fold; take it out of {folder}") from None
        if number in runs:
            raise InputError(f"{path.parent} and {runs[number]} are the same fold, {recipe['fold']}; take one of them "
                             f"out of {folder}")
        runs[number] = path.parent
        counts.add(count)
    if len(counts) != 1:
        raise InputError(f"{folder}: holds folds of {' and of '.join(map(str, sorted(counts)))}; take those apart")
    count = max(counts)
    for number in range(1, count + 1):
        if number not in runs or not (runs[number] / "last.pt").exists():
            raise InputError(f"{folder}: fold {number} of {count} is not trained to its end; start the training again "
                             f"with --folds {count}, or with --fold {number}/{count}")
    return [runs[number] for number in range(1, count + 1)]


def check_same_recipe(recipes):
    """InputError where runs {name: recipe} are not the same but for their fold, the labels that it leaves, and the
    steps that fitted into the same --hours.
    """
    (first, reference), *others = recipes.items()
    for name, recipe in others:
        free = {"fold", "labeled", "hours", "init_from"}
        if reference.hours is not None and recipe.hours == reference.hours:
            free |= {"pre_steps", "self_steps"}
        if differing := [key for key, value in reference.fields().items()
                         if key not in free and recipe.fields().get(key) != value]:
            raise InputError(f"{name} and {first} are runs of different recipes ({', '.join(differing)}) and make no "
                             "table together; train one of them again")


def check_folds_there(folder, runs):
    """InputError where nothing says which fold the cases of a data folder are in."""
    if folder.is_dir() and not (folder / FOLDS).exists():
        raise InputError(f"{folder}: has no {FOLDS}, so none of its cases is out of any fold of {runs}; test one of "
                         "the runs on its test.list, or score what predict.py makes with all of them by --predictions "
                         "and --labels")


def test_folds(options, load, dataset):
    """Test each fold's run on its cases, write and print the pooled table -> the rows, worst cases first."""
    runs = fold_runs(options.run, options.split)
    trained = {run.name: load(run, options.checkpoint, options.device, options.data_dir, dataset) for run in runs}
    check_same_recipe({name: one.recipe for name, one in trained.items()})
    check_folds_there(next(iter(trained.values())).recipe.data_dir, options.run)
    names = {fold: one.names("test") for fold, one in trained.items()}
    every = [name for some in names.values() for name in some]
    data = next(iter(trained.values())).data
    if options.spacing is None:
        known = all(np.isfinite(report.voxel_ml(data, name)) for name in every)
        options = replace(options, spacing="mm" if known else "voxel")
    path, ranks = report.result_path(options.run, options), Ranks()
    if ranks.main:
        report.check_result(path, every, options.force)
    ranks.wait()
    for fold, one in trained.items():
        one.check_cases(names[fold])
    rows = []
    for fold, one in trained.items():
        how = replace(options, run=one.run)
        rows += [{"case": row["case"], "fold": fold} | row for row in report.measure(one, names[fold], how)]
    together = {"list": measurements.OUT_OF_FOLD, "data": measurements.check_sum(every)}
    rows = worst_first([row | together for row in rows])
    if ranks.main:
        chosen = max(report.chosen_here(one, names[fold], options) for fold, one in trained.items())
        present_cases(rows, path, f"{options.run.name}: {options.checkpoint}.pt on {len(every)} out-of-fold cases "
                                  f"of {len(runs)} folds{chosen}")
    ranks.wait()
    return rows


def known(options):
    """The rows of `test_folds` as they were written since the runs were trained, or None where they were not."""
    runs = fold_runs(options.run)
    for unit in [options.spacing] if options.spacing else ["mm", "voxel"]:
        path = report.result_path(options.run, replace(options, spacing=unit))
        newest = max((run / f"{options.checkpoint}.pt").stat().st_mtime for run in runs)
        if path.exists() and path.stat().st_mtime > newest:
            rows = measurements.read_rows(path)
            if {row["tolerance"] for row in rows} == {f"{options.tolerance:g} {unit}"}:
                return rows
    return None


# ---- the table ---------------------------------------------------------------------------------------------------


def table_lines(rows):
    """Rows of the table: the mean over all classes that any case has, then each class."""
    absent = tables.absent_classes(rows)
    there = {row["class"]: row["name"] for row in rows if row["class"] not in absent}
    found = [_line("**all**" if len(there) > 1 else f"**{'; '.join(there.values())}**", rows, absent)]
    for label, name in sorted(there.items()) if len(there) > 1 else ():
        found.append(_line(name, [row for row in rows if row["class"] == label], absent))
    return found


def _line(title, rows, absent):
    stats = tables.statistics(rows, absent=absent, metrics=MEASURED)
    dice = str(mean_interval(rows)) if stats["cases"] else "–"
    return [title, dice, *(tables.cell(stats, metric) for metric in MEASURED[1:]), str(stats["empty"])]


def table_headings(rows):
    unit = rows[0]["unit"]
    return ["Dice (%) ↑", f"95HD ({unit}) ↓", f"ASD ({unit}) ↓", f"surface Dice at {rows[0]['tolerance']} (%) ↑",
            "volume error (ml)", "empty"]


def worst_lines(rows):
    """Of the WORST cases: Dice of each class, the largest distance and the volume errors."""
    found = []
    for case, dice in list(case_dice(rows).items())[:WORST]:
        own = [row for row in rows if row["case"] == case]
        found.append([case, own[0].get("fold", "–"), f"{100 * dice:.2f}",
                      ", ".join(f"{row['name']} {100 * row['dice']:.1f}" for row in own),
                      ", ".join("–" if np.isnan(row["hd95"]) else f"{row['hd95']:.1f}" for row in own),
                      ", ".join("–" if np.isnan(row["error_ml"]) else f"{row['error_ml']:+.2f}" for row in own)])
    return found


def present_cases(rows, path, title):
    """Print the table and the worst cases; write the rows, and both as Markdown, the table as LaTeX."""
    table, unit = table_lines(rows), rows[0]["unit"]
    worst = tables.markdown(worst_lines(rows), ["fold", "Dice (%)", "of the classes", f"95HD ({unit})", "error (ml)"])
    whom = "patients with all their cases" if rows[0].get("patient") else "cases"
    notes = [f"Dice: mean over the cases and its {100 * CONFIDENCE:.0f} % interval by {RESAMPLES:,} bootstrap samples "
             f"of {whom} (scipy, seeded); other columns: mean ± std over the cases in which they are defined. Surface "
             f"Dice: share of both surfaces' voxels within {rows[0]['tolerance']} of the other surface. Volume error: "
             "prediction minus reference. empty: results whose distances are undefined, since prediction or reference "
             "has no voxel of the class.", *tables.left_out(rows)]
    text = "\n\n".join([tables.markdown(table, table_headings(rows)), *notes, "Worst cases first:", worst])
    print(f"\n{title}\n\n{text}")
    report.write_result(path, rows, f"{title}\n\n{text}", tables.latex(table, table_headings(rows)))
