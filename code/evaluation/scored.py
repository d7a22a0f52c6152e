"""Label maps that any program made against reference label maps: files of any format, matched by their names."""
import math
import sys
from functools import partial

import numpy as np
from tqdm import tqdm

from evaluation import measurements, pooled
from evaluation.metrics import class_metrics, volume_metrics
from evaluation.predictions import PREDICTIONS_CSV, SEEN, TRAINED_ON, Predictions
from imaging.case_files import LABELS, MAPS, case_of_each, contents, files_in, plain_name, role_of, told
from imaging.cases import one_case_each
from imaging.label_values import check_segments, mapped_values, segment_values
from imaging.preparation import attempt, report_bad
from imaging.record import read_as
from imaging.scan_files import case_name, is_label, is_scan, read_label, read_scan_file, tell_notes, values_in
from runtime.errors import InputError, counted, some_of
from runtime.files import check_writable


def score_maps(options):
    """Measure --predictions by --labels, write and print the table -> rows; exit code 2 where a case is bad."""
    if not (options.predictions and options.labels) or options.run:
        raise InputError("--predictions and --labels belong together, and take the place of --run: give the folder of "
                         "the label maps and that of the references")
    labels, predictions = maps_in(options.labels), maps_in(options.predictions)
    pairs = matched(labels, predictions)
    if not pairs:
        raise InputError(f"--predictions {options.predictions}: no label map there has the name of one in "
                         f"{options.labels}, such as {min(labels)}; name them alike")
    used = {path for _, path in pairs.values()}
    for what, missing in (("reference", set(labels) - set(pairs)),
                          ("prediction", {name for name, path in predictions.items() if path not in used})):
        if missing:
            other = "prediction" if what == "reference" else "reference"
            print(f"{counted(len(missing), what)} without a {other}, which stay out: "
                  f"{some_of(sorted(missing), 5)}")
    pairs = without_trained(pairs, options.predictions)
    output = options.output or options.predictions.with_name(f"{options.predictions.resolve().name}_scores.csv")
    if output.suffix != ".csv":
        raise InputError(f"--output {output}: expected a name that ends in .csv; .md and .tex are written beside it")
    check_writable(output)
    if not options.class_names:
        check_segments((path for pair in pairs.values() for path in pair), None)
    mapped, bad, found = mapped_values(options.label_map), {}, {}
    for name in tqdm(pairs, "reading", unit="case", disable=None):
        values = attempt(partial(_values, pairs[name], options.class_names), "use a machine with more memory")
        (bad if isinstance(values, str) else found)[name] = values
    references, maps = values_of_both(found.values(), mapped, options)
    values = sorted(references | maps)
    if len(values) > 254:
        raise InputError(f"{options.predictions}, {options.labels}: have {len(values)} values, expected at most 254 "
                         "classes; are these scans?")
    names = options.class_names or tuple(f"class {value}" for value in values)
    if len(names) != len(values):
        raise InputError(f"--class-names {' '.join(names)}: {counted(len(names), 'name')} for the values "
                         f"{' '.join(map(str, values))}")
    if not options.class_names:
        tell_alone(references, maps)
    rows, notes = [], []
    for name in tqdm(found, "measuring", unit="case", disable=None):
        own = attempt(partial(measured_pair, name, *pairs[name], values, names, mapped, options),
                      "use a machine with more memory")
        if isinstance(own, str):
            bad[name] = own
        else:
            rows += own[0]
            notes.append(own[1])
    tell_notes(notes)
    if rows:
        cases = [row["case"] for row in rows]
        rows = pooled.worst_first([row | {"data": measurements.check_sum(cases)} for row in rows])
        pooled.present_cases(rows, output,
                             f"{options.predictions}: {counted(len(set(cases)), 'case')} of {options.labels}")
    report_bad(bad)
    if bad:
        sys.exit(2)
    return rows


def maps_in(folder):
    """{case: file} of the label maps in a folder, or in the folders below it where it has none itself.

    Where a case has a file that is a label map by its name, <case>_seg say, the other one is its scan, and so are those
    of the cases without a label map.
    """
    files = list(case_of_each(files_in(folder, is_label)))
    if not files:
        raise InputError(f"{folder}: has no label maps; {contents(folder, MAPS)}")
    masks = {path for _, path in files if role_of(case_name(path), LABELS) or not is_scan(path)}
    drawn = {plain_name(name) for name, path in files if path in masks}
    scans = [(name, path) for name, path in files if path not in masks]
    if any(name in drawn for name, _ in scans):
        print(f"{counted(len(scans), 'scan')} beside label maps, which stay out: {told(path for _, path in scans)}")
        files = [file for file in files if file not in scans]
    found, bad = one_case_each(files)
    if bad:
        raise InputError(bad[min(bad)])
    return found


def matched(labels, predictions):
    """{case: (reference, prediction)} of two folders' {case: file}; a label's ending, <case>_seg say, may differ."""
    by_case = {plain_name(name): path for name, path in predictions.items()} | predictions
    pairs = {}
    for name, path in labels.items():
        if other := by_case.get(name) or by_case.get(plain_name(name)):
            pairs[name] = path, other
    return pairs


def without_trained(pairs, folder):
    """The pairs without results that predict.py made with runs that were trained on the labels of their scans; those
    of unlabelled scans of training are said.
    """
    made = Predictions(folder, force=True)
    known, seen = made.trained_on(TRAINED_ON), made.trained_on(SEEN)
    left = {name: pair for name, pair in pairs.items() if pair[1].name not in known}
    if trained := sorted(pairs.keys() - left.keys()):
        words = (f"{folder / PREDICTIONS_CSV}: {counted(len(trained), 'case')} of which the network had the labels in "
                 f"training, {trained[0]} the first")
        if not left:
            raise InputError(f"{words}, and no other: it is not tested on them; give the results of other scans")
        print(f"{words}, which stay out")
    if unlabelled := sorted(name for name, pair in left.items() if pair[1].name in seen):
        print(f"{counted(len(unlabelled), 'case')} of which the network had the scans in training without their "
              f"labels, {unlabelled[0]} the first")
    return left


def values_of_both(found, mapped, options):
    """The values of the classes in the references, and in the predictions as --label-map has them."""
    references, maps = (set().union(*sides) for sides in zip(*found, strict=True)) if found else (set(), set())
    if unknown := sorted(set(mapped) - maps):
        raise InputError(f"--label-map {' '.join(options.label_map)}: no prediction has the value {unknown[0]}; they "
                         f"have {', '.join(map(str, sorted(maps))) or 'named segments alone'}")
    background = {0, options.ignore_label}
    return references - background, {mapped.get(value, value) for value in maps} - background


def _values(pair, names):
    """The values of each of two maps, but of segments that `names` name, whose values those of the other maps are."""
    return [values_in(path) if not names or is_scan(path) else set() for path in pair]


def tell_alone(references, predictions):
    """Say which values the maps of one folder alone have: one class may have two values there."""
    alone = [f"no {who} has the value {', '.join(map(str, sorted(values)))}" for who, values in
             (("prediction", references - predictions), ("reference", predictions - references)) if values]
    if alone:
        print(f"{'; '.join(alone)}: each value is measured as a class of its own")


def measured_pair(case, reference, prediction, values, names, mapped, options):
    """Rows of one case, and (path, notes) of the file that says its grid; InputError where the maps have two grids.

    mapped: {value in the prediction: value of the references}, where they differ.
    """
    grid = next((path for path in (reference, prediction) if is_scan(path)), None)
    if grid is None:
        raise InputError(f"{prediction}: is a .seg.nrrd as its reference is, and neither says how large the scan is; "
                         "export one of the two as a label map (NIfTI, say)")
    geometry = options.geometry or "itk"
    grid, classes = read_scan_file(grid, geometry), {0: 0} | {value: index for index, value in enumerate(values, 1)}
    labels = read_as(classes, options.ignore_label)
    segments = segment_values(names, labels) if options.class_names else None
    own = classes | {value: classes[other] for value, other in mapped.items() if other in classes}
    pred, ref = (read_label(path, grid, known, not options.same_voxels, allow_empty=True, geometry=geometry,
                            segments=segments) for path, known in ((prediction, own), (reference, labels)))
    unit, spacing = ("voxel", None) if options.spacing == "voxel" else ("mm", grid.spacing)
    how = {"list": str(options.labels), "weights": str(options.predictions), "unit": unit, "windows": "",
           "largest_component": "", "tolerance": f"{options.tolerance:g} {unit}"}
    metrics = class_metrics(pred, ref, len(classes), spacing, options.tolerance)
    volumes = volume_metrics(pred, ref, len(classes), math.prod(map(float, np.abs(grid.spacing))) / 1000)
    rows = [{"case": case, "class": value, "name": name, **{key: item for key, item in row.items() if key != "class"},
             **volume, **how} for value, name, row, volume in zip(values, names, metrics, volumes, strict=True)]
    return rows, (grid.path, grid.notes)
