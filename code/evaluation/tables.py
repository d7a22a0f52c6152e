"""Tables of tested runs: mean ± std over cases, per class and view, beside the paper; methods side by side."""
import csv
import math
from pathlib import Path

import numpy as np
from scipy.stats import rankdata

from runtime.errors import InputError
from runtime.files import is_case_name

METRICS = ("dice", "jaccard", "hd95", "asd")
HEADINGS = ("Dice (%) ↑", "Jaccard (%) ↑", "95HD (voxel) ↓", "ASD (voxel) ↓")


def percent(metric):
    """Overlaps are shown in percent."""
    return 100 if metric in ("dice", "jaccard") else 1


def views_of(rows):
    """Names of the views that rows of a tested run hold, the headline first."""
    return [key.removesuffix("_dice") for key in rows[0] if key.endswith("_dice")]


def statistics(rows, prefix="", empty_as=math.nan):
    """{metric: (mean, std)} of the rows of one or several classes, and `empty`, the number of undefined distances.

    Mean over the defined cases of each class, then over the classes; std over the cases' means. Dice and Jaccard
    in percent. `empty_as`: what an undefined distance counts as (0 is the authors' release's convention).
    """
    result = {"empty": sum(math.isnan(row[f"{prefix}hd95"]) for row in rows)}
    for metric in METRICS:
        grid = _grid(rows, prefix + metric, "class")
        grid[np.isnan(grid)] = empty_as
        means = [column[~np.isnan(column)].mean() for column in grid.T if not np.isnan(column).all()]
        spread = [line[~np.isnan(line)].mean() for line in grid if not np.isnan(line).all()]
        pair = (np.mean(means), np.std(spread)) if means else (math.nan, math.nan)
        result[metric] = tuple(percent(metric) * float(value) for value in pair)
    return result


def _grid(rows, key, column):
    """Array (cases, columns) of rows[key], in order of appearance."""
    cases, columns = (list(dict.fromkeys(row[name] for row in rows)) for name in ("case", column))
    grid = np.full((len(cases), len(columns)), np.nan)
    for row in rows:
        grid[cases.index(row["case"]), columns.index(row[column])] = row[key]
    return grid


def line(title, stats):
    """A table row of `statistics`: title, four metrics, number of empties."""
    return [title, *(f"{mean:.2f} ± {std:.2f}" for mean, std in (stats[metric] for metric in METRICS)),
            str(stats["empty"])]


def markdown(lines, headings=(*HEADINGS, "empty")):
    """Rows of cells -> Markdown."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [["", *headings], ["---"] * (len(headings) + 1), *lines])


def latex(lines, headings=(*HEADINGS, "empty")):
    """Rows of cells -> a LaTeX tabular for the booktabs package."""
    signs = {"±": r"$\pm$", "%": r"\%", "↑": r"$\uparrow$", "↓": r"$\downarrow$", "–": "--", "_": r"\_", "**": "",
             "<": "$<$", "Δ": r"$\Delta$", "β": r"$\beta$", "λ": r"$\lambda$", "×": r"$\times$", "`": ""}

    def row(cells):
        text = " & ".join(cells)
        for sign, command in signs.items():
            text = text.replace(sign, command)
        return text + r" \\"

    return "\n".join([rf"\begin{{tabular}}{{l{'c' * len(headings)}}}", r"\toprule", row(["", *headings]), r"\midrule",
                      *map(row, lines), r"\bottomrule", r"\end{tabular}"])


def run_lines(rows, class_names, reference=None):
    """The rows of one tested run: every view, the headline's classes, the release's convention, the paper's row.

    reference: (text, values by METRICS) of the paper, a value None where it reports nothing.
    """
    views = views_of(rows)
    headline = views[0]
    lines = [line(f"**{view}**" if view == headline else view, statistics(rows, f"{view}_")) for view in views]
    if len(class_names) > 1:
        lines += [line(f"{headline}, {name}", statistics([row for row in rows if row["class"] == label]))
                  for label, name in enumerate(class_names, 1)]
    lines.append(line(f"{headline}, `paper` convention: empty is 0", statistics(rows, empty_as=0.0)))
    if reference:
        text, values = reference
        lines.append([text, *("–" if value is None else f"{value:.2f}" for value in values), ""])
    return lines


def read_rows(path, columns=("case", "class", *METRICS)):
    """The CSV that a test script wrote -> rows with numbers; InputError if it is missing or lacks a column."""
    if not Path(path).exists():
        raise InputError(f"{path} does not exist: test that run first, with the same --split and --checkpoint")
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = [{key: value if key == "case" else float(value) for key, value in row.items()}
                    for row in csv.DictReader(file)]
        if missing := set(columns) - set(*rows[:1]):
            raise ValueError(f"no {', '.join(sorted(missing))}")
        if strange := [row["case"] for row in rows if "case" in row and not is_case_name(row["case"])]:
            raise ValueError(f"{strange[0]!r} cannot be the name of a case")
    except (OSError, TypeError, ValueError, csv.Error) as error:
        raise InputError(f"{path} is not a test script's CSV ({error}): test that run again") from error
    return rows


def compare_lines(runs, patient_of=str):
    """Methods side by side: {name: rows} -> table rows; the first run is what the others are tested against.

    The last two cells are `paired`'s. InputError if the runs were not tested on the same cases.
    """
    first, *_ = runs
    lines = []
    for name, rows in runs.items():
        points, p = paired(rows, runs[first], patient_of, (name, first))
        lines.append(line(name, statistics(rows)) + (["–", "–"] if name == first else [f"{points:+.2f}", f"{p:.3g}"]))
    return lines


COMPARE_HEADINGS = (*HEADINGS, "empty", "Δ Dice", "p (Wilcoxon)")


def paired(rows, baseline, patient_of=str, names=("this run", "the baseline")):
    """(mean difference in Dice to the baseline's rows in points, p of the two-sided Wilcoxon signed-rank test).

    Paired over patients, both over a patient's mean Dice of classes and scans; rows of several seeds may stand
    together, and are averaged patient by patient. InputError if the cases differ.
    """
    dice, other = _patient_dice(rows, patient_of), _patient_dice(baseline, patient_of)
    if dice.keys() != other.keys():
        raise InputError(f"{names[1]} and {names[0]} were tested on different cases: test both on the same data")
    differences = [100 * (dice[patient] - other[patient]) for patient in other]
    return float(np.mean(differences)), signed_rank(differences)


def signed_rank(differences):
    """p of the two-sided Wilcoxon signed-rank test of differences in points, exact for any number of them, with ties.

    Zeros are left out. Differences are rounded to 1e-9 of a point before they are ranked, so that equal ones share a
    rank whatever their rounding error; the distribution of the sum of ranks is that of all 2^n signs.
    """
    rounded = np.round(differences, 9)
    rounded = rounded[rounded != 0]
    doubled = np.rint(2 * rankdata(np.abs(rounded))).astype(int)     # mean ranks end in .0 or .5
    share = np.ones(1)                          # of the signs, by twice the sum of the positive ranks
    for rank in doubled:
        share = (np.pad(share, (0, rank)) + np.pad(share, (rank, 0))) / 2
    observed = doubled[rounded > 0].sum()
    return min(1.0, 2 * float(min(share[:observed + 1].sum(), share[observed:].sum())))


def _patient_dice(rows, patient_of):
    """{patient: mean Dice over classes and scans}."""
    values = {}
    for row in rows:
        values.setdefault(patient_of(row["case"]), []).append(row["dice"])
    return {patient: float(np.mean(dice)) for patient, dice in values.items()}


def over_runs(values, digits=2):
    """Mean ± sample standard deviation of a value a run; of one run the value alone; – where one is undefined."""
    if np.isnan(values).any():
        return "–"
    mean = f"{np.mean(values):.{digits}f}"
    return f"{mean} ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else mean
