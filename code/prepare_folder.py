"""Prepare anybody's 3D scans (NIfTI or NRRD), some of them labelled, for train_own.py.

    python code/prepare_folder.py --images scans --labels masks --output data/mine
    python code/prepare_folder.py --images Task02_Heart --output data/heart     (holds a dataset.json)

A scan and its label have the same file name, and that is the case name, or the label's ends in _seg, _gt, _label or
_mask after it; then both may lie in one folder. Of several channels, the files are <case>_0000, <case>_0001, ... and
the label is <case>. A Medical Segmentation Decathlon or nnU-Net folder is taken as its dataset.json describes it: the
cases that it lists (or imagesTr and labelsTr), its channels, classes and their names. Writes, below --output,
<case>/mri_norm2.h5 with `image` (x, y, z) or (C, x, y, z) turned to right, anterior, superior, and `label` where
there is one, and train.list with the labelled cases first. A list that was edited by hand is kept.
"""
import itertools
import json
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from runtime.script import reported

import numpy as np

from imaging.case_files import is_other, told
from imaging.cases import Options, command_line, prepare_cases, shown
from imaging.descriptions import Description
from imaging.folders import Found, find, label_classes
from imaging.plan import PLAN, Plan, shrunk, write_plan
from imaging.preprocess import PLAIN, Preprocessing
from imaging.scan_files import check_segments
from runtime.errors import InputError, counted
from runtime.files import ROOT, write_text
from runtime.locks import locked
from runtime.records import read_json

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
    class_names: tuple[str, ...] = ()   # of the foreground classes in order; by default those of dataset.json
    label_map: tuple[str, ...] = ()     # value in the files:class, such as 255:1; other values stay
    same_voxels: bool = False   # labels belong to their scans voxel by voxel: their headers need not agree
    # endings of the channels' file names, in the network's order: 0000 0001 is <case>_0000, <case>_0001; by default
    # all that dataset.json names, or that are there
    channels: tuple[str, ...] = ()
    test_images: bool = False   # take imagesTs, too, as unlabelled scans
    holdout: int = 0    # put this many labelled cases, the last ones, into test.list and out of train.list


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
    found = find(options.images, options.labels, options.dataset_json, options.channels, options.test_images)
    if found.aside:
        print(f"{counted(len(found.aside), 'file')} left aside, such as {min(path.name for path in found.aside)}: "
              + ("dataset.json does not list them" if found.description and found.description.training else
                 f"their names do not end in {' or '.join(found.channels)} (--channels)" if found.channels else
                 "label maps by their names"))
    print(f"{counted(len(found.cases) + len(found.bad), 'case')}, {len(found.labelled)} of them with a label"
          f"{f'; channels: {chr(32).join(found.channels)}' if found.channels else ''}")
    folders = {path.parent for case in found.cases for path in (*case.images, case.label) if path}
    if others := [path for folder in sorted(folders) for path in sorted(folder.iterdir()) if is_other(path)]:
        print(f"{counted(len(others), 'file')} left aside, which are no scans by their names: {told(others)}")
    tell_regions(found.description)
    with locked(options.output, "--output"):
        return prepare(found, options)


def tell_regions(description: Description | None) -> None:
    """Say what becomes of overlapping regions: the network learns classes, one a voxel."""
    if description and description.regions:
        regions = "; ".join(f"{name} is {' '.join(map(str, values))}" for name, values in description.regions.items())
        print(f"regions ({regions}) are trained as the classes that make them up: {', '.join(description.class_names)}")


def class_names(found: Found, classes: dict[int, int], options: FolderOptions) -> tuple[str, ...]:
    """Of the foreground: --class-names, those of dataset.json, or none where neither names these classes."""
    count = max(classes.values())
    if options.class_names and len(options.class_names) != count:
        raise InputError(f"--class-names {' '.join(options.class_names)}: {len(options.class_names)} names, expected "
                         f"{count}, one for each class but the background")
    described = found.description.class_names if found.description else ()
    return options.class_names or (described if len(described) == count else ())


def segment_values(found: Found, names: tuple[str, ...], classes: dict[int, int]) -> dict[str, int] | None:
    """{segment of a .seg.nrrd: its value} by the classes' names; without them, InputError where files differ."""
    if names:
        return {names[label - 1]: value for value, label in classes.items() if label}
    check_segments(case.label for case in found.labelled)
    return None


def prepare(found, options) -> int:
    """Scans, lists, and what to do next; the caller holds the output folder."""
    classes = label_classes(found, options.label_map, options.num_classes, options.workers)
    names, remedy = class_names(found, classes, options), "correct the file, or see --label-map and --allow-empty"
    if found.description and found.description.ignore not in (None, *classes):
        ignore = found.description.ignore
        remedy = (f"{ignore} is dataset.json's ignore label, and no loss here leaves voxels out: draw them, take the "
                  f"label away (the case is then unlabelled), or call them background with --label-map {ignore}:0")
    preprocessing = Preprocessing("folder", "RAS", options.normalise, spacing=options.spacing, labels=classes,
                                  modalities=found.channels or PLAIN, class_names=names)
    outcome = prepare_cases(found.cases, found.bad, preprocessing, options, "{case}/mri_norm2.h5",
                            same_affine=not options.same_voxels, segments=segment_values(found, names, classes),
                            remedy=remedy)
    labelled, unlabelled, test = write_lists(outcome.good, options)
    if options.spacing is None:
        tell_spacings(outcome.good)
    tested = f"; test.list: {counted(test, 'labelled case')}" if test else ""
    print(f"train.list: {counted(labelled, 'labelled case')}, then {unlabelled} unlabelled{tested}")
    if not labelled:
        raise InputError(f"{options.output / 'train.list'}: its first case has no label; move labelled ones to its "
                         "top, since the first ones are trained on with their labels")
    write_plan(options.output / PLAN, {}, Plan(class_names=names, patch_size=patch_of(outcome.good)), {})
    preset = "" if has_gpu() else "short "
    print(f"next: python code/train_own.py {preset}--data-dir {shown(options.output)}"
          f"{'' if unlabelled else ' --method supervised'}")
    return 2 if outcome.bad else 0


if __name__ == "__main__":
    sys.exit(main())
