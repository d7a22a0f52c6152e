"""The CSV of a tested run: a row per case and class, with numbers, and which rows may stand beside each other.

A row says how it was made, in the columns SETTINGS; what differs there does not stand in one table.
"""
import csv
import json
import math
import re
import zlib
from pathlib import Path

from runtime.csv_table import other_separators
from runtime.errors import InputError
from runtime.files import check_readable, is_case_name, read_text

METRICS = ("dice", "jaccard", "hd95", "asd")
COLUMNS = ("case", "class", *METRICS)       # that every result has
# column -> its words; `data` is the check sum of the cases' names
SETTINGS = {"list": "list of cases", "weights": "weights", "unit": "unit of distances", "windows": "windows",
            "largest_component": "classes reduced to their largest component", "data": "cases",
            "voxels": "scans resampled to", "tolerance": "tolerance of the surface Dice"}
OUT_OF_FOLD = "out-of-fold"     # the list of the cases of all folds, each tested by the run that never saw it
TEXT = "case", "patient", "name", "fold", "flags"       # columns that hold words, beside the SETTINGS
AS_WRITTEN = 2e-6       # by which numbers in a result differ from those that it was written from, at most


def views_of(rows):
    """Names of the views that rows of a tested run hold, the headline first."""
    return [key.removesuffix("_dice") for key in rows[0]
            if key.endswith("_dice") and not key.endswith("surface_dice")]


def check_sum(cases):
    """Eight hexadecimal digits of a set of case names."""
    return f"{zlib.crc32(chr(10).join(sorted(set(cases))).encode()):08x}"


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
