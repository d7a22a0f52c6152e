"""Prepare anybody's 3D scans (NIfTI or NRRD), some of them labelled, for train_own.py.

    python code/prepare_folder.py --images scans --labels masks --output data/mine
    python code/prepare_folder.py --images Task02_Heart --output data/heart     (holds a dataset.json)

A scan and its label have the same file name, and that is the case name; of several channels, the files are
<case>_0000, <case>_0001, ... and the label is <case>. A Medical Segmentation Decathlon or nnU-Net folder is taken
as it is: imagesTr, labelsTr, and the classes and channels of its dataset.json. Writes, below --output,
<case>/mri_norm2.h5 with `image` (x, y, z) or (C, x, y, z) turned to right, anterior, superior, and `label` where
there is one, and train.list with the labelled cases first. A list that was edited by hand is kept.
"""
import itertools
import json
import re
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from runtime.script import reported

import numpy as np

from imaging.case_files import contents, grouped
from imaging.cases import (
    Case,
    Options,
    command_line,
    existing_folder,
    in_parallel,
    one_case_each,
    prepare_cases,
    shown,
)
from imaging.plan import PLAN, Plan, shrunk, write_plan
from imaging.preprocess import Preprocessing
from imaging.scan_files import case_name, check_segments, is_label, is_scan, values_in
from runtime.errors import InputError, one_line
from runtime.files import ROOT, write_text
from runtime.locks import locked
from runtime.records import read_json

NUMBER = re.compile(r"_(\d{4})$")       # nnU-Net's mark of a channel
MIXED = 1.1     # spacings further apart than this factor are told
WRITTEN = "lists.json"      # {list: check sum of what was written}: tells lists that were edited since


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
    same_voxels: bool = False   # labels belong to their scans voxel by voxel: their headers need not agree
    # endings of the channels' file names, in the network's order: 0000 0001 is <case>_0000, <case>_0001; by default
    # all that dataset.json names, or that are there
    channels: tuple[str, ...] = ()
    test_images: bool = False   # take imagesTs, too, as unlabelled scans
    holdout: int = 0    # put this many labelled cases, the last ones, into test.list and out of train.list


def described(path: Path) -> tuple[int, int]:
    """Numbers of classes and channels in a dataset.json; 0 channels where it names none.

    "labels": {"0": "background", ...} or {"background": 0, ...}; "channel_names" or "modality": {"0": "T1", ...}.
    """
    remedy = "correct it, or give --images and --labels"
    values = read_json(path, remedy)
    try:
        classes = 1 + max(int(number) for pair in values["labels"].items() for number in pair
                          if "ignore" not in pair and str(number).isdigit())
        channels = len(values.get("channel_names", values.get("modality", {})))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: cannot be used ({one_line(error)}), expected the classes under \"labels\": "
                         f"{remedy}") from error
    if not 2 <= classes <= 255:
        raise InputError(f"{path}: cannot be used, names {classes} classes, expected 2 to 255 with background: "
                         f"{remedy}")
    return classes, channels


def scans_in(folder: Path) -> list[Path]:
    return [path for path in existing_folder(folder).iterdir() if is_scan(path)]


def labels_in(folder: Path) -> list[Path]:
    return [path for path in existing_folder(folder).iterdir() if is_label(path)]


def channels_of(images: list[Path], labels: list[Path], described: int, asked: tuple[str, ...]) -> tuple[str, ...]:
    """Endings of the channels' file names; empty where a scan is one file without such an ending.

    described: how many dataset.json names; asked: --channels.
    """
    names = {case_name(path) for path in images}
    there = sorted({match[1] for name in names if (match := NUMBER.search(name))})
    plain = names & {case_name(path) for path in labels} or not all(map(NUMBER.search, names))
    if asked:
        wanted = tuple(f"{int(end):04d}" if re.fullmatch(r"\d{1,4}", end) else end for end in asked)
        if absent := [end for end in wanted if not any(name.endswith(f"_{end}") for name in names)]:
            raise InputError(f"--channels {' '.join(asked)}: no file name ends in _{absent[0]}"
                             + (f"; there are {' '.join(there)}" if there else ""))
        return wanted
    if plain or not there:
        if described > 1:
            raise InputError(f"dataset.json names {described} channels, and the scans are not <case>_0000, "
                             "<case>_0001, ...: export each channel as a file of its own, named so")
        return ()
    return tuple(f"{number:04d}" for number in range(described)) if described else tuple(there)


def find_cases(images: list[Path], labels: list[Path], channels: tuple[str, ...]
               ) -> tuple[list[Case], dict[str, str]]:
    """Scans with their labels, the labelled ones first, and one line for each that cannot be prepared."""
    masks, bad_masks = one_case_each((case_name(path), path) for path in labels)
    if channels:
        files, bad, _ = grouped(images, channels, "leave {channel} out of --channels")
    else:
        first, bad = one_case_each((case_name(path), path) for path in images)
        files = {name: (path,) for name, path in first.items()}
    bad |= bad_masks
    for name, mask in masks.items():
        if name not in files and name not in bad:
            bad.setdefault(name, f"{mask}: has no scan of that name; rename or remove the label")
    return [Case(name, files[name], masks.get(name))
            for name in sorted(set(files) - set(bad), key=lambda name: (name not in masks, name))], bad


def label_values(case: Case) -> set[int]:
    return values_in(case.label)


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


def find_files(options: FolderOptions) -> tuple[list[Path], list[Path], int | None, int]:
    """Scan files, label files, and the numbers of classes and channels as far as they are known."""
    description = options.dataset_json or (options.images and options.images / "dataset.json")
    if description and (options.dataset_json or description.exists()):
        folder, (classes, channels) = description.parent, described(description)
        more = scans_in(folder / "imagesTs") if options.test_images else []
        return (scans_in(folder / "imagesTr") + more, labels_in(folder / "labelsTr"), options.num_classes or classes,
                channels)
    if options.images is None or options.labels is None:
        raise InputError("--images and --labels are needed, or a folder with a dataset.json: see --help")
    return scans_in(options.images), labels_in(options.labels), options.num_classes, 0


def listed(path: Path) -> list[str]:
    """Names in a split list; none where there is no list."""
    lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines() if path.exists() else []
    return [line.strip().removesuffix(".h5") for line in lines if line.strip()]


def write_lists(good: dict[str, dict], options: FolderOptions) -> tuple[int, int, int]:
    """train.list, labelled cases first, and test.list if asked for; returns how many labelled cases train.list begins
    with, how many follow, and how many are in test.list.

    A list that is there and was not written here, or was edited since, is kept without --force; the cases of a kept
    test.list are not trained on.
    """
    record = options.output / WRITTEN
    sums = read_json(record, "remove it") if record.exists() else {}
    train, test = options.output / "train.list", options.output / "test.list"
    kept = [path for path in (train, test) if path.exists() and not options.force
            and zlib.crc32(path.read_bytes()) != sums.get(path.name)]
    reserved = listed(test) if test in kept else []
    labelled = [name for name, case in good.items() if case["classes"] is not None and name not in reserved]
    unlabelled = [name for name, case in good.items() if case["classes"] is None and name not in reserved]
    if not labelled:
        raise InputError("no case with a label is left to train on, one is needed at least; no list was written")
    if options.holdout and options.holdout >= len(labelled):
        raise InputError(f"--holdout {options.holdout}: there are {len(labelled)} labelled cases, and one "
                         "must be left to train on")
    cut = len(labelled) - options.holdout
    for path, names in {train: labelled[:cut] + unlabelled, test: labelled[cut:]}.items():
        if path in kept:
            if names and names != listed(path):
                print(f"{path.name}: the one in {shown(options.output)} was written by hand, and is kept; --force "
                      "replaces it")
        elif names:
            text = "".join(f"{name}\n" for name in names)
            write_text(path, text)
            sums[path.name] = zlib.crc32(text.encode())
        else:
            path.unlink(missing_ok=True)        # of an earlier --holdout
            sums.pop(path.name, None)
    write_text(record, json.dumps(sums) + "\n")
    names = listed(train)
    first = len(list(itertools.takewhile(lambda name: name in labelled, names)))
    return first, len(names) - first, len(listed(test))


def tell_spacings(good: dict[str, dict]) -> None:
    """Say where voxels differ in size from scan to scan: the network sees voxels, not mm."""
    spacings = np.array([case["spacing"] for case in good.values()])
    low, high, middle = spacings.min(0), spacings.max(0), np.median(spacings, 0)
    if (high > MIXED * low).any():
        sides = ", ".join(f"{axis} {lo:.2f} to {hi:.2f}" for axis, lo, hi in zip("xyz", low, high, strict=True))
        print(f"voxels differ in size from scan to scan (mm: {sides}), and the network sees voxels: "
              f"--spacing {' '.join(f'{side:.2f}' for side in middle)} with another --output resamples them")


def patch_of(good):
    shape = np.median([case["shape"][-3:] for case in good.values()], 0)
    return shrunk(tuple(int(16 * np.ceil(n / 16)) for n in shape), 112 * 112 * 80)


def has_gpu() -> bool:
    """Whether an NVIDIA driver lists a GPU; PyTorch, which takes seconds to load, is not asked."""
    return any(Path("/proc/driver/nvidia/gpus").glob("*")) or Path("/dev/nvidia0").exists() or Path("/dev/dxg").exists()


@reported
def main(args=None) -> int:
    options = command_line(FolderOptions, __doc__, args)
    if options.num_classes is not None and not 2 <= options.num_classes <= 255:
        raise InputError(f"--num-classes {options.num_classes}: background counts, so 2 to 255")
    if options.holdout < 0:
        raise InputError(f"--holdout {options.holdout}: must be 0 or more")
    images, labels, num_classes, channels = find_files(options)
    channels = channels_of(images, labels, channels, options.channels)
    cases, bad = find_cases(images, labels, channels)
    labelled = [case for case in cases if case.label]
    ends = tuple(f"_{channel}" for channel in channels)
    if aside := [path.name for path in images if channels and not case_name(path).endswith(ends)]:
        print(f"{len(aside)} files left aside, such as {min(aside)}: their names do not end in {' or '.join(ends)} "
              "(--channels)")
    print(f"{len(cases) + len(bad)} cases, {len(labelled)} of them with a label"
          f"{f'; channels: {chr(32).join(channels)}' if channels else ''}")
    if not labelled:
        raise InputError("no scan has a label, training needs one at least; a label has its scan's file name; of the "
                         f"scans' folder, {contents(options.images or options.dataset_json.parent)}"
                         + (f"; of the labels', {contents(options.labels)}" if options.labels else ""))
    check_segments(case.label for case in labelled)
    with locked(options.output, "--output"):
        return prepare(cases, bad, channels, label_classes(labelled, options, num_classes), options)


def prepare(cases, bad, channels, classes, options) -> int:
    """Scans, lists, and what to do next; the caller holds the output folder."""
    preprocessing = Preprocessing("folder", "RAS", options.normalise, spacing=options.spacing, labels=classes,
                                  modalities=channels or ("image",))
    outcome = prepare_cases(cases, bad, preprocessing, options, "{case}/mri_norm2.h5",
                            same_affine=not options.same_voxels,
                            remedy="correct the file, or see --label-map and --allow-empty")
    labelled, unlabelled, test = write_lists(outcome.good, options)
    if options.spacing is None:
        tell_spacings(outcome.good)
    print(f"train.list: {labelled} labelled cases, then {unlabelled} unlabelled"
          f"{f'; test.list: {test} labelled cases' if test else ''}")
    if not labelled:
        raise InputError(f"{options.output / 'train.list'}: its first case has no label; move labelled ones to its "
                         "top, since the first ones are trained on with their labels")
    write_plan(options.output / PLAN, {}, Plan(patch_size=patch_of(outcome.good)), {})
    preset = "" if has_gpu() else "short "
    print(f"next: python code/train_own.py {preset}--data-dir {shown(options.output)}"
          f"{'' if unlabelled else ' --method supervised'}")
    return 2 if outcome.bad else 0


if __name__ == "__main__":
    sys.exit(main())
