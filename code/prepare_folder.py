"""Prepare anybody's 3D scans (NIfTI or NRRD), some of them labelled, for train_LA.py.

    python code/prepare_folder.py --images scans --labels masks --output data/mine
    python code/prepare_folder.py --images Task02_Heart --output data/heart     (holds a dataset.json)

A scan and its label have the same file name, and that is the case name. A Medical Segmentation Decathlon or
nnU-Net folder is taken as it is: imagesTr, labelsTr and the classes of its dataset.json. Writes, below
--output, <case>/mri_norm2.h5 with `image` (x, y, z) turned to right, anterior, superior, and `label` where
there is one, and train.list with the labelled cases first.
"""
import itertools
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from imaging.cases import Case, Options, command_line, existing_folder, in_parallel, one_case_each, prepare_cases, shown
from imaging.preprocess import Preprocessing
from imaging.scan_files import SUFFIXES, case_name, read_scan
from runtime.errors import InputError, reported
from runtime.files import ROOT, write_text


@dataclass(kw_only=True)
class FolderOptions(Options):
    images: Path | None = None  # folder with the scans, or one with dataset.json, imagesTr and labelsTr
    labels: Path | None = None  # folder with the label maps; scans without one are unlabelled
    dataset_json: Path | None = None    # dataset.json with imagesTr and labelsTr beside it; replaces --images
    output: Path = ROOT / "data" / "mine"   # dataset folder to write
    normalise: Literal["zscore", "minmax"] = "zscore"   # intensities, over the whole scan
    spacing: tuple[float, float, float] | None = None   # resample to these mm along x, y, z
    num_classes: int | None = None  # with background; by default from dataset.json, or the values up to a gap
    label_map: tuple[str, ...] = ()     # value in the files:class, such as 255:1; other values stay
    allow_empty: bool = False   # accept labels without any foreground (healthy cases)
    channel: int = 0    # which of an nnU-Net case's files <case>_0000, <case>_0001, ... to take
    test_images: bool = False   # take imagesTs, too, as unlabelled scans
    holdout: int = 0    # put this many labelled cases, the last ones, into test.list and out of train.list


def dataset_classes(path: Path) -> int:
    """Number of classes that a dataset.json names: {"0": "background", ...} or {"background": 0, ...}."""
    try:
        labels = json.loads(path.read_text())["labels"]
        return 1 + max(int(number) for pair in labels.items() for number in pair
                       if "ignore" not in pair and str(number).isdigit())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: cannot be used, expected JSON that names the classes under \"labels\"; "
                         "correct it, or give --images and --labels") from error


def scans_in(folder: Path) -> list[Path]:
    return [path for path in existing_folder(folder).iterdir()
            if path.name.endswith(SUFFIXES) and not path.name.startswith(".")]


def find_cases(images: list[Path], labels: list[Path], channel: int) -> tuple[list[Case], dict[str, str]]:
    """Scans with their labels, the labelled ones first, and one line for each that cannot be prepared."""
    names = {path: case_name(path) for path in images}
    masks, bad_masks = one_case_each((case_name(path), path) for path in labels)
    numbered = all(re.search(r"_\d{4}$", name) for name in names.values())
    if numbered and masks and not set(masks) & set(names.values()):
        # nnU-Net: <case>_0000.nii.gz, one file a channel, goes with the label <case>.nii.gz
        names = {path: name[:-5] for path, name in names.items() if int(name[-4:]) == channel}
        if not names:
            raise InputError(f"--channel {channel}: no file name ends in _{channel:04d}")
    scans, bad = one_case_each((name, path) for path, name in names.items())
    bad |= bad_masks
    for name, mask in masks.items():
        if name not in scans:
            bad.setdefault(name, f"{mask}: has no scan of that name; rename or remove the label")
    return [Case(name, (scans[name],), masks.get(name))
            for name in sorted(set(scans) - set(bad), key=lambda name: (name not in masks, name))], bad


def label_values(case: Case) -> set[int]:
    return set(np.unique(np.rint(read_scan(case.label).array).astype(int)).tolist())


def label_classes(cases: list[Case], options: FolderOptions, num_classes: int | None) -> dict[int, int]:
    """{value in the label files: class}. Without `num_classes`, classes end where the values have a gap."""
    try:
        mapped = {int(value): int(label) for value, label in (pair.split(":") for pair in options.label_map)}
    except ValueError as error:
        raise InputError(f"--label-map {' '.join(options.label_map)}: expected value:class, such as "
                         "255:1") from error
    if num_classes is None:
        print("reading the labels for their values (--num-classes K saves this)")
        results = [values for _, values in in_parallel(label_values, cases, options.workers)]
        # an unreadable label is reported when its case is prepared
        met = set().union(*(values for values in results if isinstance(values, set)))
        classes = {mapped.get(value, value) for value in met}
        num_classes = next(n for n in itertools.count() if n not in classes)
        if num_classes < 2:
            raise InputError(f"the labels have the values {', '.join(map(str, sorted(met)))}, expected 0 for "
                             "background, then 1, 2, ...; map them with, say, --label-map 255:1")
    if any(not 0 <= label < num_classes for label in mapped.values()):
        raise InputError(f"--label-map {' '.join(options.label_map)}: classes go from 0 to {num_classes - 1}")
    return {value: value for value in range(num_classes)} | mapped


def find_files(options: FolderOptions) -> tuple[list[Path], list[Path], int | None]:
    """Scan files, label files, and the number of classes as far as it is known."""
    description = options.dataset_json or (options.images and options.images / "dataset.json")
    if description and (options.dataset_json or description.exists()):
        folder, classes = description.parent, options.num_classes or dataset_classes(description)
        more = scans_in(folder / "imagesTs") if options.test_images else []
        return scans_in(folder / "imagesTr") + more, scans_in(folder / "labelsTr"), classes
    if options.images is None or options.labels is None:
        raise InputError("--images and --labels are needed, or a folder with a dataset.json: see --help")
    return scans_in(options.images), scans_in(options.labels), options.num_classes


def write_lists(good: dict[str, dict], options: FolderOptions) -> tuple[int, int, int]:
    """train.list, labelled cases first, and test.list if asked for; returns how many of each kind."""
    labelled = [name for name, case in good.items() if case["classes"] is not None]
    unlabelled = [name for name, case in good.items() if case["classes"] is None]
    if options.holdout and options.holdout >= len(labelled):
        raise InputError(f"--holdout {options.holdout}: there are {len(labelled)} labelled cases, and one "
                         "must be left to train on")
    cut = len(labelled) - options.holdout
    for filename, names in (("train.list", labelled[:cut] + unlabelled), ("test.list", labelled[cut:])):
        if names:
            write_text(options.output / filename, "".join(f"{name}\n" for name in names))
    return cut, len(unlabelled), options.holdout


@reported
def main(args=None) -> int:
    options = command_line(FolderOptions, __doc__, args)
    if options.num_classes is not None and not 2 <= options.num_classes <= 255:
        raise InputError(f"--num-classes {options.num_classes}: background counts, so 2 to 255")
    if options.holdout < 0:
        raise InputError(f"--holdout {options.holdout}: must be 0 or more")
    images, labels, num_classes = find_files(options)
    cases, bad = find_cases(images, labels, options.channel)
    labelled = [case for case in cases if case.label]
    print(f"{len(cases) + len(bad)} cases, {len(labelled)} of them with a label")
    if not labelled:
        raise InputError("no scan has a label, training needs one at least; a label has its scan's file name")
    classes = label_classes(labelled, options, num_classes)
    preprocessing = Preprocessing("folder", "RAS", options.normalise, spacing=options.spacing, labels=classes)
    outcome = prepare_cases(cases, bad, preprocessing, options, "{case}/mri_norm2.h5",
                            allow_empty=options.allow_empty,
                            remedy="correct the file, or see --label-map and --allow-empty")
    labelled, unlabelled, test = write_lists(outcome.good, options)
    print(f"train.list: {labelled} labelled cases, then {unlabelled} unlabelled"
          f"{f'; test.list: {test} labelled cases' if test else ''}\n"
          f"next: python code/train_LA.py --data-dir {shown(options.output)} --labeled {labelled} "
          f"--num-classes {preprocessing.num_classes}")
    if not unlabelled:
        print("every case has a label: a --labeled below that number hides the labels of the rest")
    return 2 if outcome.bad else 0


if __name__ == "__main__":
    sys.exit(main())
