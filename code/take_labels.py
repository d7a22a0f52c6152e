"""Take corrected labels from a folder that label_next.py wrote into the folder of labels.

    python code/take_labels.py --input to_label --images scans --labels masks
    python code/take_labels.py --input to_label --images scans --labels masks --accept case7    as it was proposed

Of each case, the file beside the scan that differs from the proposal is its label: the corrected <case>_seg, or a
segmentation saved under any name (.nii.gz, .nrrd, .mha, .seg.nrrd: also cropped, in layers, with named segments). It is
written into --labels on the scan's own grid, with the values of your label files, and laid out as the labels that are
there: in one folder, in one per case, or beside the scans as <case>_seg. How many voxels changed is said for each
class. A proposal that nobody changed is no label and stays where it is, unless --accept names its case. A label that
exists is kept without --replace. No scan is changed, and nothing is written into --input.
"""
import shlex
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from runtime.script import reported

import numpy as np

from imaging.case_files import LABELS, MAPS, case_of_each, files_in, is_other, plain_name, role_of, told
from imaging.cases import IGNORED, existing_folder, shown
from imaging.label_values import check_class_names, check_segments, segment_values, tells_values
from imaging.labelling import ROUND, Places, add_tests, read_round, read_segments, write_segments
from imaging.preparation import attempt, report_bad
from imaging.scan_files import (
    WRITERS,
    case_name,
    checksum,
    format_of,
    is_label,
    is_scan,
    read_channels,
    read_label,
    save_on_grid,
    segments_of,
    suffix,
    values_in,
)
from runtime.command_line import parsed
from runtime.errors import DEBUG, InputError, counted
from runtime.files import make_folder
from runtime.locks import locked


@dataclass(kw_only=True)
class Options:
    """Take corrected labels."""

    input: Path                     # folder that label_next.py wrote
    images: Path | None = None      # folder with the scans; by default where label_next.py found them
    labels: Path                    # folder with label maps, to add to
    # of the foreground, as segments are called, in the order of their values; where the data have no names yet
    class_names: tuple[str, ...] = ()
    accept: tuple[str, ...] = ()    # cases whose proposal is right as it is
    same_voxels: bool = False       # labels belong to their scans voxel by voxel: their headers need not agree
    replace: bool = False           # overwrite labels that are there
    allow_empty: bool = False       # take labels without any foreground (healthy cases)


class Taken(NamedTuple):
    """What became of a case whose label was taken."""

    words: str


def check(options, record, cases):
    """InputError where labels would be written into an input, or --accept names no case."""
    here, sources = options.labels.resolve(), [source for case in cases.values() for source in case.sources]
    scans = [Path(source).parent.resolve() for source in sources]
    if options.images is not None:
        scans.append(options.images.resolve())
    if (here in scans and not record.beside_scans) or existing_folder(options.input).resolve() in (here, *here.parents):
        raise InputError(f"--labels {options.labels}: is a folder of scans, or lies in --input {options.input}, where "
                         "nothing is written; name the folder of your label maps, or a new one")
    if unknown := sorted(set(options.accept) - set(cases)):
        raise InputError(f"--accept {' '.join(unknown)}: not among the cases of {options.input}, which are "
                         f"{', '.join(cases)}")


@reported
def main(args=None):
    options = parsed(Options, args, description=f"{__doc__}\n{DEBUG} Exit code: 0, or 2 if a label could not be taken.")
    options = replace(options, images=options.images and existing_folder(options.images))
    record = read_round(options.input)
    cases = record.handed(options.input / ROUND)
    check(options, record, cases)
    record, segments = with_classes(record, cases, options)
    places = Places(options.images)
    taken, left, bad = [], [], {}
    with locked(options.labels, "--labels"):
        write_segments(options.labels, segments)        # before the labels: a kill leaves none whose names are unknown
        for name, case in cases.items():
            match attempt(partial(take, name, case, record, options, places), "use a machine with more memory"):
                case Taken(words):
                    taken.append(name)
                    print(f"{name}: {words}")
                case None:
                    left.append(name)
                    if others := other_files(name, options.input):
                        print(f"{name}: no label map was drawn; beside the scan lies {told(others)}; labels are taken "
                              f"from {MAPS}")
                case error:
                    bad[name] = error
    print(f"{counted(len(taken), 'label')} in {shown(options.labels)}, {len(left)} left as they are"
          + (f" (nothing was drawn: {', '.join(left)}; --accept takes a proposal as it is)" if left else "")
          + f", {len(bad)} bad")
    report_bad(bad)
    if taken:
        print(f"next: {next_command(record, options)}")
    return 2 if bad else 0


def with_classes(record, cases, options):
    """The record with --class-names, where it has none, and --same-voxels, and {segment's name: value} so far.

    InputError where segments tell no class, or another one than in labels that were taken before.
    """
    names, labels, segments = options.class_names, record.labels, read_segments(options.labels)
    count = len({label for label in labels.values() if label % IGNORED}) if labels else None
    check_class_names(names)
    record = replace(record, same_voxels=record.same_voxels or options.same_voxels)
    if not names:
        if not record.class_names:
            files = [path for name, case in cases.items() for path in labels_beside(name, case, options.input)]
            segments = check_segments(files, count, kept=False, known=segments)
        return record, segments
    if moved := [name for name in names if segments.get(name, names.index(name) + 1) != names.index(name) + 1]:
        raise InputError(f"--class-names {' '.join(names)}: would make {moved[0]} class {names.index(moved[0]) + 1}, "
                         f"and labels that are in {options.labels} have it as {segments[moved[0]]}; name them in that "
                         "order")
    if labels is None:
        labels, count = {value: value for value in range(len(names) + 1)}, len(names)
    if record.class_names or len(names) != count:
        known = f"their names, {' '.join(record.class_names)}" if record.class_names else f"{count} of them"
        raise InputError(f"--class-names {' '.join(names)}: the run that chose these cases knows its classes, {known}; "
                         "leave the option out, or name them all")
    return replace(record, labels=labels, class_names=names), segments


def next_command(record, options):
    """By which prepare_folder.py prepares the labels; as before where it has prepared others."""
    words = [str(shown(Path(word))) if Path(word).is_absolute() else word for word in record.command or ()]
    described = record.run and "--labels" not in words      # by a dataset.json, which says where labels are
    for option, folder in (("--images", options.images), ("--labels", options.labels)):
        if folder is not None and not described:
            place = words.index(option) if option in words else len(words)
            words[place:place + 2] = [option, str(shown(folder))]
    if options.class_names:
        words += ["--class-names", *options.class_names]
    return shlex.join(["python", "code/prepare_folder.py", *words])


def take(name, case, record, options, places):
    """Write a case's label -> Taken; None where there is nothing to take."""
    scan, *_ = read_channels(original(name, case, options, places), record.geometry,
                             record.channels if len(case.copies) == 1 else 1)
    proposal = options.input / case.proposal if case.proposal else None
    if proposal and not proposal.exists():
        raise InputError(f"{proposal}: is no longer there, and what was corrected of it cannot be told; restore it, or "
                         "run label_next.py again, which proposes anew and keeps what lies beside the scan")
    if proposal and case.proposed not in (None, checksum(proposal)):
        raise InputError(f"{proposal}: is not what label_next.py wrote there; corrections belong beside the scan: move "
                         f"the file to {options.input / name}, and run label_next.py again, which proposes anew")
    before = values_of(proposal, scan, record) if proposal else np.zeros(scan.array.shape, int)
    beside = {path: values_of(path, scan, record) for path in labels_beside(name, case, options.input)}
    changed = {path: values for path, values in beside.items() if (values != before).any()}
    first, *others = changed.values() or [before]
    if any((other != first).any() for other in others):
        raise InputError(f"{next(iter(changed)).parent}: the labels {' and '.join(path.name for path in changed)} of "
                         f"{name} differ, and a case has one; remove all but the right one")
    if not changed and name not in options.accept:
        return None
    if not first.any() and not options.allow_empty:
        raise InputError(f"{next(iter(changed), proposal) or options.input / name}: nothing is drawn there, all voxels "
                         "are background; draw the label or, where the scan is a healthy case, use --allow-empty")
    written = write(name, first, scan, record, options, [name] * case.test)
    return Taken(f"{written}; {differences(before, first, record) if changed else 'as proposed'}")


def original(name, case, options, places):
    """The scan that the label is of; of a DICOM series, its copy."""
    if not suffix(Path(case.sources[0])):
        return options.input / name / case.copies[0]
    return places.of(case.sources[0])


def labels_beside(name, case, folder):
    """Label files of a case: beside its scan's copy, or in the folder itself under the case's name."""
    for path in sorted((folder / name).iterdir() if (folder / name).is_dir() else ()):
        if is_label(path) and path.name not in case.copies and path.is_file():
            yield path
    for path in sorted(folder.iterdir()):
        if is_label(path) and path.is_file() and name in (case_name(path), plain_name(case_name(path))):
            yield path


def other_files(name, folder):
    """What lies beside a case's scan and is neither scan nor label map by its name, a scene of 3D Slicer say."""
    return [path for path in sorted((folder / name).iterdir() if (folder / name).is_dir() else ()) if is_other(path)]


def values_of(path, scan, record):
    """The values (*N) int that a label file has on the scan's grid."""
    values = np.array(sorted({0, *values_in(path)}) if record.labels is None else list(record.labels))
    if len(values) > 256:
        raise InputError(f"{path}: has {len(values)} different values, expected a label map, 256 at most; this looks "
                         "like an image: save the segmentation there")
    names, segments = segments_of(path), None
    remedy = ("those are the values of the label files that were prepared; correct the file or, of a new class, copy "
              "it to the label files and prepare them again with --force")
    if names and not record.class_names:
        remedy += ", or say with --class-names which class each segment is"
    elif names:
        known = segment_values(record.class_names, record.labels)
        if set(names) & set(known) or (len(record.class_names) > 1 and not tells_values(path)):
            segments = known
    indices = read_label(path, scan, {value: index for index, value in enumerate(values.tolist())},
                         not record.same_voxels, allow_empty=True, geometry=record.geometry, segments=segments,
                         remedy=remedy)
    return values[indices]


def write(name, values, scan, record, options, tests):
    """Write the label map, once its `tests` are noted -> its path, and what became of an earlier one."""
    files = files_in(options.labels, is_label)
    nested = bool(files) and files[0].parent != options.labels      # a folder per case, as those that are there
    there = [path for case, path in case_of_each(files, {name}) if case == name
             and not (record.beside_scans and is_scan(path) and not role_of(case_name(path), LABELS))]
    folder, mark = options.labels / name if nested else options.labels, "_seg" * (nested or record.beside_scans)
    target = folder / f"{name}{mark}{WRITERS[format_of(scan.path).out][0]}"
    make_folder(folder)
    same = len(there) == 1 and (values_of(there[0], scan, record) == values).all()
    if there and not same and not options.replace:
        raise InputError(f"{there[0]}: is there already, another label of this case; --replace takes its place")
    add_tests(options.labels, tests)        # before the label: a kill makes it no training case
    if same:
        return f"{shown(there[0])} is there already, the same"
    save_on_grid(target, values.astype(np.promote_types(*map(np.min_scalar_type, (values.min(), values.max())))), scan)
    for path in there:
        if path != target:
            path.unlink()
    return f"{shown(target)}{' replaced' if there else ''}"


def differences(before, after, record):
    """Voxels that changed, in all and of each class."""
    names = {value: record.class_names[label - 1] for value, label in (record.labels or {}).items()
             if 0 < label <= len(record.class_names)}
    words = []
    for value in sorted({*np.unique(before[before != after]), *np.unique(after[before != after])} - {0}):
        more = int(((after == value) & (before != value)).sum())
        less = int(((before == value) & (after != value)).sum())
        words.append(f"{names.get(value, f'value {value}')} +{more} -{less}")
    return f"{counted(int((before != after).sum()), 'voxel')} changed: {', '.join(words)}"


if __name__ == "__main__":
    sys.exit(main())
