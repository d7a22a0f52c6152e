"""Columns of tables: a heading and a function of a row's runs; and the layouts that the places name.

A column's function gets a `Line` and the other lines of its table, and returns the cell's text, "" where runs are
missing.
"""
import csv
import io
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from dataloaders.lists import published_list
from evaluation import measurements, tables
from reproduction.experiments import PLACES, SEEDS, Row
from reproduction.results import RESULTS, say
from reproduction.runs import Run, has_preset, kept
from training.datasets import DATASETS

VALIDATION = "val", "last"          # list and weights of the columns headed "validation"
IN_PAPER = {"dice": ("Dice (%) ↑", 0), "hd95": ("95HD (voxel) ↓", 1), "asd": ("ASD (voxel) ↓", 2)}   # place in `paper`


class Line(NamedTuple):
    """A row of a table and the runs of it that are there."""

    row: Row
    runs: dict          # seed -> Kept
    tested: tuple       # (list, weights) of the headline
    plain: dict         # seed -> Kept of the same experiment with the paper's augmentation; none where it is that one

    def cases(self, run, tested=None):
        """Rows of the test CSV of one of the runs, the headline's or that of `tested`; views as the row has them."""
        rows = run.tested(*(tested or self.tested))
        if not self.row.last:
            return rows
        return [{"case": row["case"], "class": row["class"],
                 **{key.removeprefix("last_").removeprefix("fused_"): value for key, value in row.items()
                    if key.startswith("last_")}} for row in rows]


class Column(NamedTuple):
    heading: str
    cell: Callable      # (line, {title: line}) -> text


def lines_of(place, preset=None, results=RESULTS, seeds=SEEDS):
    """{title: Line} of a place, rows without runs included; those of a data set without the preset left out."""
    lines, preset = {}, place.at(preset)
    for row in place.rows:
        if has_preset(row.experiment, preset):
            there, plain = ({seed: found for seed in seeds if experiment
                             and (found := kept(Run(experiment, preset, seed), results))}
                            for experiment in (row.experiment, row.experiment.plainly_augmented()))
            tested = Run(row.experiment, preset, seeds[0]).tested[0]
            row = beside_paper(row, there, tested) if preset == "paper" else row
            lines[row.title] = Line(row, there, tested, plain)
    for dataset in {line.row.experiment.dataset for line in lines.values()}:
        check_tested_alike([line for line in lines.values() if line.row.experiment.dataset == dataset])
    return lines


def beside_paper(row, runs, tested):
    """The row, without the paper's numbers where one of its runs was tested on other cases than those are of."""
    dataset = DATASETS[row.experiment.dataset].data
    names = {*published_list(dataset.dataset, dataset.lists["test"])}
    for run in runs.values() if row.paper else ():
        if {line["case"] for line in run.tested(*tested)} != names:
            say(f"not beside the paper's numbers: {run.folder} was tested on other cases than the published "
                f"{dataset.lists['test']} names")
            return row._replace(paper=None)
    return row


def check_tested_alike(lines):
    """InputError, which names the folders, unless the runs of each line were tested in the same way, and all of them on
    the same cases.
    """
    for tested in {*(line.tested for line in lines), VALIDATION}:
        of_lines = [{str(run.folder): rows for run in line.runs.values() if (rows := run.tested(*tested))}
                    for line in lines]
        for of_line in of_lines:
            measurements.check_alike(of_line)
        measurements.check_alike({name: [{"data": row.get("data")} for row in rows]
                                  for of_line in of_lines for name, rows in of_line.items()})


def table(place, preset=None, results=RESULTS):
    """(headings, [(title, cells, Line)]) of a place; beside the paper's numbers stand those of its recipes alone."""
    layout = place.columns if place.columns != "paper" or place.at(preset) == "paper" else "plain"
    columns, lines = LAYOUTS[layout](place), lines_of(place, preset, results)
    return ([column.heading for column in columns],
            [(title, [column.cell(line, lines) for column in columns], line) for title, line in lines.items()])


# ---- cells -------------------------------------------------------------------------------------------------------


def means(line, metric="dice", view="", tested=None):
    """Of each run the mean over cases, in percent or voxels; of another list or weights where `tested` says so."""
    prefix = f"{view}_" if view else ""
    groups = [line.cases(run, tested) for run in line.runs.values()]
    return [tables.statistics(rows, prefix)[metric][0] for rows in groups if rows and f"{prefix}{metric}" in rows[0]]


def over_runs(values, digits=2):
    """Mean ± sample standard deviation of one value per run; of one run the value alone; – where one is undefined."""
    if not len(values) or np.isnan(values).any():
        return "–" if len(values) else ""
    mean = f"{np.mean(values):.{digits}f}"
    return f"{mean} ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else mean


def metric(name, heading=None, **of):
    """Mean ± deviation over the runs; `of` as `means` takes it."""
    text = heading or dict(zip(measurements.METRICS, tables.HEADINGS, strict=True))[name]
    return Column(text, lambda line, _: over_runs(means(line, name, **of)))


def paper(name):
    """What the paper reports."""
    return Column("paper", lambda line, _: f"{line.row.paper[IN_PAPER[name][1]]:.2f}" if line.row.paper else "")


def difference(name):
    """Ours minus the paper's."""
    def cell(line, _):
        values = means(line, name)
        return f"{np.mean(values) - line.row.paper[IN_PAPER[name][1]]:+.2f}" if values and line.row.paper else ""
    return Column("difference", cell)


def seeds():
    return Column("seeds", lambda line, _: str(len(line.runs)) if line.runs else "")


def empty():
    """Undefined distances, of all."""
    def cell(line, _):
        rows = [row for run in line.runs.values() for row in line.cases(run)]
        return f"{tables.statistics(rows)['empty']} of {len(rows)}" if rows else ""
    return Column("empty", cell)


def against(title, heading="Δ to {} (p)", tested=None):
    """Mean difference in Dice to another row and p, paired over patients averaged over the seeds that both have.

    heading: with a place for the title; `tested` as `means` takes it.
    """
    return Column(heading.format(title), lambda line, lines: "" if title == line.row.title else
                  _gain(line, lines[title], tested))


def augmented(heading="Δ to the paper's augmentation (p)", tested=None):
    """As `against`, to the same experiment with the paper's augmentation."""
    return Column(heading, lambda line, _: _gain(line, line._replace(runs=line.plain), tested))


def _gain(line, other, tested):
    shared = [seed for seed in line.runs if seed in other.runs]
    rows, baseline = ([row for seed in shared for row in one.cases(one.runs[seed], tested)] for one in (line, other))
    if not rows or not baseline:
        return ""
    patient_of = DATASETS[line.row.experiment.dataset].data.patient_of
    points, p = tables.paired(rows, baseline, patient_of, (line.row.title, other.row.title))
    return f"{points:+.2f} ({p:.2g})"


def between(key, heading, scale, digits):
    """Mean over the cases that have it of what `reproduce.py agreement` measured between the two subnets."""
    def cell(line, _):
        groups = [run.rows("agreement_{}_{}".format(*line.tested), ("dice", "cosine")) for run in line.runs.values()]
        found = [[row[key] for row in rows if not np.isnan(row[key])] for rows in groups if rows]
        return over_runs([scale * np.mean(values) if values else np.nan for values in found], digits)
    return Column(heading, cell)


def validation():
    return metric("dice", "validation: Dice", tested=VALIDATION)


def settled():
    """Of a learning rate that never falls, the last weights are those of a better or worse moment; this is steadier."""
    return Column("last 5 validations: Dice", lambda line, _: over_runs(
        [np.mean(run.headlines[-5:]) for run in line.runs.values() if run.validations]))


def subnets():
    return [metric("dice", f"subnet {index}: Dice", view=f"subnet{index}") for index in (0, 1)]


def agreement():
    return [between("dice", "Dice between subnets (%)", 100, 2),
            between("cosine", "cosine of features", 1, 3)]


# ---- layouts -----------------------------------------------------------------------------------------------------


def _compared(place):
    return [seeds(), *map(metric, measurements.METRICS), empty(), *map(against, place.baselines), validation(),
            *(against(title, "validation: Δ to {} (p)", VALIDATION) for title in place.baselines)]


LAYOUTS = {
    "paper": lambda place: [seeds(), *(column for name, (heading, _) in IN_PAPER.items() for column in (
        metric(name, heading), paper(name), difference(name)))],
    "short": lambda place: [*_compared(place), *subnets(), *agreement()],
    "augmented": lambda place: [*_compared(place), augmented(),
                                augmented("validation: Δ to the paper's augmentation (p)", VALIDATION)],
    "mini": lambda place: [seeds(), *map(metric, measurements.METRICS), empty(), *map(against, place.baselines),
                           *subnets(), settled(), metric("dice", "`best`: Dice", tested=("val", "best")),
                           metric("hd95", "`best`: 95HD", tested=("val", "best")), *agreement()],
    "plain": lambda place: [seeds(), *map(metric, measurements.METRICS), empty(), *subnets()],
}


# ---- as text -----------------------------------------------------------------------------------------------------


def csv_text(lines, headings):
    """Rows of cells -> CSV."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([["", *headings], *lines])
    return text.getvalue().rstrip()


FORMS = {"md": tables.markdown, "tex": tables.latex, "csv": csv_text}


def texts(name, preset=None, results=RESULTS):
    """{suffix of a file: the table of a place in that form}"""
    headings, rows = table(PLACES[name], preset, results)
    return {suffix: form([[title, *cells] for title, cells, _ in rows], headings) for suffix, form in FORMS.items()}
