"""Tables of tested runs: mean ± std over cases, per class and view, beside the paper; methods side by side."""
import math

import numpy as np

from evaluation.measurements import METRICS, check_alike, views_of
from runtime.errors import InputError

HEADINGS = ("Dice (%) ↑", "Jaccard (%) ↑", "95HD (voxel) ↓", "ASD (voxel) ↓")


def percent(metric):
    """100 for Dice, Jaccard and surface Dice, which are shown in percent; 1 for distances and volumes."""
    return 100 if metric in ("dice", "jaccard", "surface_dice") else 1


def views_of_validation(row):
    """Names of the views in a row of val.csv, the tested one first."""
    return [name for name in row if name not in ("stage", "step", "split")]


def absent_classes(rows):
    """Classes that neither the reference nor any view's prediction has in any of the rows' cases."""
    there = set()
    for row in rows:        # of runs of several methods, whose views have other names
        if row["class"] not in there:
            empty = [value for key, value in row.items() if key.endswith(("empty_pred", "empty_ref"))]
            if not (empty and all(empty)):
                there.add(row["class"])
    return {row["class"] for row in rows} - there


def left_out(rows):
    """A list of the sentence on `absent_classes`, empty where there are none."""
    absent = ", ".join(f"{label:g}" for label in sorted(absent_classes(rows)))
    return [f"Left out of all means: class {absent}, which neither the reference nor a prediction of any case has."
            ] * bool(absent)


def statistics(rows, prefix="", empty_as=math.nan, absent=None, metrics=METRICS):
    """{metric: (mean, std)} of the rows of one or several classes; the numbers of `cases` and of undefined distances,
    `empty`.

    Mean over the defined cases of each class, then over the classes; std over the cases' means, NaN of a single one.
    Overlaps and surface Dice in percent. `empty_as`: what an undefined distance counts as, 0 in the authors' release;
    `absent`: classes that are left out, by default `absent_classes` of the rows.
    """
    absent = absent_classes(rows) if absent is None else absent
    rows = [row for row in rows if row["class"] not in absent]
    result = {"cases": len({row["case"] for row in rows}),
              "empty": sum(math.isnan(row[f"{prefix}hd95"]) for row in rows)}
    for metric in metrics:
        grid = _grid(rows, prefix + metric, "class")
        grid[np.isnan(grid)] = empty_as
        means = [column[~np.isnan(column)].mean() for column in grid.T if not np.isnan(column).all()]
        spread = [line[~np.isnan(line)].mean() for line in grid if not np.isnan(line).all()]
        pair = (np.mean(means), np.std(spread) if len(spread) > 1 else math.nan) if means else (math.nan, math.nan)
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
    """A table row of `statistics`: title, four metrics, – where nothing defines one, number of empties."""
    return [title, *(cell(stats, metric) for metric in METRICS), str(stats["empty"])]


def cell(stats, metric):
    """Mean ± std of `statistics`; where one case defines it the value alone, where none does –."""
    mean, std = stats[metric]
    return "–" if math.isnan(mean) else f"{mean:.2f}" + f" ± {std:.2f}" * (not math.isnan(std))


def markdown(lines, headings=(*HEADINGS, "empty")):
    """Rows of cells -> Markdown."""
    lines = [["", *headings], ["---"] * (len(headings) + 1), *lines]
    return "\n".join(" | ".join(["", *(cell.replace("|", r"\|") for cell in cells), ""]).strip() for cells in lines)


def latex(lines, headings=(*HEADINGS, "empty")):
    """Rows of cells -> a LaTeX tabular for the booktabs package."""
    signs = {"\\": "\0", "{": r"\{", "}": r"\}", "\0": r"\textbackslash{}", "~": r"\textasciitilde{}",
             "^": r"\textasciicircum{}", "&": r"\&", "#": r"\#", "$": r"\$",
             "±": r"$\pm$", "%": r"\%", "↑": r"$\uparrow$", "↓": r"$\downarrow$", "–": "--", "_": r"\_", "**": "",
             "<": "$<$", "Δ": r"$\Delta$", "β": r"$\beta$", "λ": r"$\lambda$", "×": r"$\times$", "`": ""}

    def row(cells):
        for sign, command in signs.items():
            cells = [cell.replace(sign, command) for cell in cells]
        return " & ".join(cells) + r" \\"

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
        absent = absent_classes(rows)
        lines += [line(f"{headline}, {name}" + ", which nobody has" * (label in absent),
                       statistics([row for row in rows if row["class"] == label]))
                  for label, name in enumerate(class_names, 1)]
    lines.append(line(f"{headline}, `paper` convention: empty is 0", statistics(rows, empty_as=0.0)))
    if reference:
        text, values = reference
        lines.append([text, *("–" if value is None else f"{value:.2f}" for value in values), ""])
    return lines


def compare_lines(runs, patient_of=str):
    """Methods side by side: {name: rows} -> table rows; the first run is what the others are tested against.

    The last two cells are `paired`'s. InputError if the runs were not tested on the same cases.
    """
    first, *_ = runs
    check_alike(runs)
    absent = absent_classes([row for rows in runs.values() for row in rows])
    lines = []
    for name, rows in runs.items():
        points, p = paired(rows, runs[first], patient_of, (name, first))
        cells = ["–", "–"] if name == first else [f"{points:+.2f}", f"{p:.3g}"]
        lines.append(line(name, statistics(rows, absent=absent)) + cells)
    return lines


COMPARE_HEADINGS = (*HEADINGS, "empty", "Δ Dice", "p (Wilcoxon)")


def paired(rows, baseline, patient_of=str, names=("this run", "the baseline")):
    """(mean difference in Dice to the baseline's rows in points, p of the two-sided Wilcoxon signed-rank test).

    Paired over patients, both over a patient's mean Dice of classes and scans; rows of several seeds may stand
    together, and are averaged patient by patient. InputError if the cases differ.
    """
    check_alike({names[1]: baseline, names[0]: rows})
    absent = absent_classes([*rows, *baseline])
    dice, other = (_patient_dice(some, patient_of, absent) for some in (rows, baseline))
    if dice.keys() != other.keys():
        raise InputError(f"{names[1]} and {names[0]} were tested on different cases: test both on the same data")
    differences = [100 * (dice[patient] - other[patient]) for patient in other]
    return float(np.mean(differences)), signed_rank(differences)


def signed_rank(differences):
    """p of the two-sided Wilcoxon signed-rank test of differences in points, exact for any number of them, with ties.

    Zeros are left out. Differences are rounded to 1e-9 of a point before they are ranked, so that equal ones share a
    rank whatever their rounding error; the distribution of the sum of ranks is that of all 2^n signs.
    """
    from scipy.stats import rankdata  # here: it takes a second to load
    rounded = np.round(differences, 9)
    rounded = rounded[rounded != 0]
    doubled = np.rint(2 * rankdata(np.abs(rounded))).astype(int)     # mean ranks end in .0 or .5
    share = np.ones(1)                          # of the signs, by twice the sum of the positive ranks
    for rank in doubled:
        share = (np.pad(share, (0, rank)) + np.pad(share, (rank, 0))) / 2
    observed = doubled[rounded > 0].sum()
    return min(1.0, 2 * float(min(share[:observed + 1].sum(), share[observed:].sum())))


def _patient_dice(rows, patient_of, absent):
    """{patient: mean Dice over scans and those classes that are not absent}; rows may say whose scan a case is."""
    values = {}
    for row in (row for row in rows if row["class"] not in absent):
        values.setdefault(row.get("patient") or patient_of(row["case"]), []).append(row["dice"])
    return {patient: float(np.mean(dice)) for patient, dice in values.items()}
