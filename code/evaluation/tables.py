"""Tables of tested runs: mean ± std over cases, per class and view, beside the paper; methods side by side.

A row of a result says how it was made, in the columns SETTINGS; what differs there does not stand in one table.
"""
import csv
import json
import math
import re
import zlib
from pathlib import Path

import numpy as np

from runtime.csv_table import other_separators
from runtime.errors import InputError
from runtime.files import check_readable, is_case_name, read_text

METRICS = ("dice", "jaccard", "hd95", "asd")
COLUMNS = ("case", "class", *METRICS)       # that every result has
# column -> its words; `data` is the check sum of the cases' names
SETTINGS = {"list": "list of cases", "weights": "weights", "unit": "unit of distances", "windows": "windows",
            "largest_component": "classes reduced to their largest component", "data": "cases",
            "voxels": "scans resampled to",
            "tolerance": "tolerance of the surface Dice"}
OUT_OF_FOLD = "out-of-fold"     # the list of the cases of all folds, each tested by the run that never saw it
TEXT = "case", "patient", "name", "fold", "flags"       # columns that hold words, beside the SETTINGS
AS_WRITTEN = 2e-6       # by which numbers in a result differ from those that it was written from, at most
HEADINGS = ("Dice (%) ↑", "Jaccard (%) ↑", "95HD (voxel) ↓", "ASD (voxel) ↓")


def percent(metric):
    """100 for Dice, Jaccard and surface Dice, which are shown in percent; 1 for distances and volumes."""
    return 100 if metric in ("dice", "jaccard", "surface_dice") else 1


def views_of(rows):
    """Names of the views that rows of a tested run hold, the headline first."""
    return [key.removesuffix("_dice") for key in rows[0]
            if key.endswith("_dice") and not key.endswith("surface_dice")]


def views_of_validation(row):
    """Names of the views in a row of val.csv, the tested one first."""
    return [name for name in row if name not in ("stage", "step", "split")]


def check_sum(cases):
    """Eight hexadecimal digits of a set of case names."""
    return f"{zlib.crc32(chr(10).join(sorted(set(cases))).encode()):08x}"


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


def read_rows(path, columns=COLUMNS):
    """The CSV that a test script wrote -> rows with numbers; InputError if it is missing or lacks a column.

    SETTINGS that a file of an earlier version lacks are filled in: in voxels, the rest as the run's config.json has it.
    """
    if not Path(path).exists():
        raise InputError(f"{path} does not exist: test that run first, with the same --split, --checkpoint and "
                         "--spacing")
    check_readable(path)
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:      # spreadsheets mark it
            lines = csv.DictReader(file)
            if why := other_separators(lines.fieldnames or []):
                raise ValueError(why)
            rows = [{key: value if key in (*TEXT, *SETTINGS) else float(value) for key, value in row.items()}
                    for row in lines]
        if missing := set(columns) - set(*rows[:1]):
            raise ValueError(f"no {', '.join(sorted(missing))}")
        if strange := [row["case"] for row in rows if "case" in row and not is_case_name(row["case"])]:
            raise ValueError(f"{strange[0]!r} cannot be the name of a case")
        if set(COLUMNS) <= set(*rows[:1]):
            _check_whole(rows)
    except (OSError, TypeError, ValueError, csv.Error) as error:
        raise InputError(f"{path} is not a test script's CSV ({error}): test that run again") from error
    of = re.fullmatch(r"test_(test|val)_(last|best|pretrained)", Path(path).stem)
    if of and rows and "unit" not in rows[0]:
        known = {"list": of[1], "weights": of[2], "unit": "voxel", **recorded(Path(path).with_name("config.json")),
                 "data": check_sum(row["case"] for row in rows)}
        rows = [row | known for row in rows]
    return rows


def _check_whole(rows):
    """ValueError unless each case has one row per class, with values that metrics can have, and no case is missing."""
    pairs = [(row["case"], row["class"]) for row in rows]
    cases, classes = (len(set(names)) for names in zip(*pairs, strict=True))
    if not len(set(pairs)) == len(pairs) == cases * classes:
        raise ValueError(f"{len(pairs)} rows of {cases} cases and {classes} classes: some are missing or twice")
    if {row.get("data") for row in rows} - {None, check_sum(case for case, _ in pairs)}:
        raise ValueError("cases are missing, or others: their names do not have the check sum in `data`")
    for row in rows:
        if not all(_can_be(key, value) for key, value in row.items() if key.endswith(METRICS)):
            raise ValueError(f"{row['case']} has values that no metric has")
        for key in [f"{view}_{metric}" for view in views_of(rows)[:1] for metric in METRICS]:
            metric = key.rpartition("_")[2]
            if repr(row.get(key, row[metric])) != repr(row[metric]):        # nan is nan
                raise ValueError(f"{row['case']}: {metric} and {key} are the same, and one was changed by hand")


def _can_be(key, value):
    """Whether a metric can have this value; distances may be undefined, and so may a surface Dice."""
    if key.endswith(("hd95", "asd")):
        return math.isnan(value) or 0 <= value < math.inf
    return 0 <= value <= 1 or key.endswith("surface_dice") and math.isnan(value)


def recorded(config):
    """Windows and post-processing of a run's tests by its config.json, as SETTINGS has them; {} where there is none to
    read.
    """
    try:
        recipe = json.loads(read_text(config))["recipe"]
        windows = f"{'x'.join(map(str, recipe['stride']))} uniform" if "stride" in recipe else "slices"
        return {"windows": windows, "largest_component": "each" if recipe["keep_largest"] else "none"}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def check_named(path, rows, **expected):
    """The rows of a result; InputError where its columns say other settings than its name does (`list`, `weights`,
    `unit`), or its run's config.json (`windows`, `largest_component`).
    """
    for key, value in expected.items():
        if other := {row.get(key) for row in rows} - {None, "", value}:
            says = "its name" if key in ("list", "weights", "unit") else "the run's config.json"
            raise InputError(f"{path}: {SETTINGS[key]}: {min(other)}, where {says} says {value}; rename it, or test "
                             "that run again")
    return rows


def check_alike(results):
    """InputError unless {name: rows} were measured in the same way on the same cases; what is unknown fits."""
    for key, words in SETTINGS.items():
        seen = {}
        for name, rows in results.items():
            for value in {row.get(key) for row in rows} - {None, ""}:
                seen.setdefault(value, name)
        if len(seen) > 1:
            (one, first), (other, second) = list(seen.items())[:2]
            if key == "data":
                raise InputError(f"{first} and {second} were tested on different cases: test both on the same data")
            raise InputError(f"{first} and {second} were not measured alike: {words} {one} and {other}; test both the "
                             "same way")
    _check_references(results)
    classes = {name: sorted({row["class"] for row in rows if "class" in row}) for name, rows in results.items()}
    for name, own in classes.items():
        if own != classes[first := next(iter(classes))]:
            numbers = [", ".join(f"{label:g}" for label in some) for some in (classes[first], own)]
            raise InputError(f"{first} and {name} have different classes, {' and '.join(numbers)}, so that their means "
                             "are not of the same: compare runs of the same classes")


def _check_references(results):
    """InputError where the label of a case was another one for one of {name: rows}, as its volume says."""
    seen = {}
    for name, rows in results.items():
        for row in rows:
            ml = row.get("reference_ml", math.nan)
            first, there = seen.setdefault((row.get("case"), row.get("class")), (name, ml))
            if abs(ml - there) > AS_WRITTEN:
                raise InputError(f"{first} and {name} were tested with different labels of {row['case']}, {there:.4g} "
                                 f"and {ml:.4g} ml of class {row['class']:g}: test both on the labels as they are now")


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
