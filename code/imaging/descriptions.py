"""dataset.json of the Medical Segmentation Decathlon and of nnU-Net, read whole: classes, channels and cases."""
import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imaging.cases import UNFIT
from imaging.scan_files import SUFFIXES, case_name, find_scan, suffix
from runtime.errors import InputError, one_line
from runtime.files import is_case_name
from runtime.records import read_json

CORRECT_IT = "correct it, or give --images and --labels"
HIGHEST = 65535         # value in label files
IGNORE = "ignore"       # nnU-Net's name for voxels that nobody has labelled


@dataclass(frozen=True)
class Listed:
    """One case as it is listed: its scan file, or its channels' files, and its label file or None."""

    name: str
    images: tuple[Path, ...]
    label: Path | None


@dataclass(frozen=True)
class Description:
    """What a dataset.json says."""

    path: Path
    labels: dict[int, int]              # value in the label files -> class, in the order of the values
    class_names: tuple[str, ...]        # of the foreground classes
    regions: dict[str, tuple[int, ...]]     # name -> the values that make it up, where these are several
    ignore: int | None                  # value of voxels that nobody has labelled
    channels: tuple[str, ...]           # what the channels show, in order; empty where it says nothing
    ending: str | None                  # of the scans' file names
    training: tuple[Listed, ...] | None     # None: whatever lies in imagesTr and labelsTr
    test: tuple[Path, ...] | None
    count: Any = None       # of the training cases, as it says


def read_description(path: Path) -> Description:
    """InputError, ending in a remedy, for what is no dataset.json."""
    values = read_json(path, CORRECT_IT)
    try:
        named = _values(values["labels"])
        channels = values.get("channel_names", values.get("modality", {}))
        listed = _of_nnunet(path, values["dataset"]) if values.get("dataset") else _of_decathlon(path, values)
        test = tuple(file for item in values.get("test") or () for file in _images(path, item)) or None
        channels = tuple(str(name) for _, name in sorted(channels.items(), key=lambda item: int(item[0])))
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        found = f"it has no {error}" if isinstance(error, KeyError) else one_line(error)
        raise InputError(f"{path}: cannot be used ({found}), expected the classes under \"labels\": "
                         f"{CORRECT_IT}") from error
    ignore = next((numbers[0] for name, numbers in named if name.lower() == IGNORE), None)
    named = [(name, numbers) for name, numbers in named if name.lower() != IGNORE]
    foreground = sorted({number for _, numbers in named for number in numbers} - {0, ignore})
    if not 1 <= len(foreground) <= 254 or foreground[-1] > HIGHEST:
        raise InputError(f"{path}: cannot be used, names {len(foreground) + 1} classes with values up to "
                         f"{max(foreground, default=0)}, expected 2 to 255 with background, up to {HIGHEST}: "
                         f"{CORRECT_IT}")
    ending = values.get("file_ending")
    if ending is not None and str(ending).lower() not in SUFFIXES:
        raise InputError(f"{path}: its \"file_ending\" is {ending}, expected one of {', '.join(SUFFIXES)}: convert the "
                         f"files, or {CORRECT_IT}")
    names = tuple(_class_name(number, named) for number in foreground)
    if double := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"{path}: cannot be used, calls two classes {one_line(double)}: {CORRECT_IT}")
    return Description(path, {0: 0} | {number: place for place, number in enumerate(foreground, 1)}, names,
                       {name: numbers for name, numbers in named if len(numbers) > 1}, ignore, channels, ending,
                       listed, test, values.get("numTraining"))


def _values(labels):
    """[(name, values)] of "labels": nnU-Net's {name: value or values}, or the Decathlon's {"value": name}."""
    if all(isinstance(value, str) for value in labels.values()) and all(key.strip().isdigit() for key in labels):
        pairs = [(name, [int(value)]) for value, name in labels.items()]
    else:       # a name may be a number, too
        pairs = [(name, [int(number) for number in (values if isinstance(values, list | tuple) else [values])])
                 for name, values in labels.items()]
    for name, numbers in pairs:
        if not numbers or min(numbers) < 0:
            raise ValueError(f"the values of {name!a} are {numbers}")
        if name.strip().lower() == "background" and 0 not in numbers:
            raise ValueError(f"the background has the value {numbers[0]}, and 0 is the background here")
        if not name.strip():
            raise ValueError(f"the values {numbers} have no name")
    return [(" ".join(name.split()), tuple(sorted(set(numbers)))) for name, numbers in pairs]


def _class_name(number, named):
    """A class's own name, or that of the smallest region it is part of with its value."""
    name, numbers = min(((name, numbers) for name, numbers in named if number in numbers), key=lambda one: len(one[1]))
    return name if len(numbers) == 1 else f"{name} {number}"


def _of_nnunet(path, cases):
    """nnU-Net's "dataset": {case: {"images": [a file per channel], "label": file}}, relative to dataset.json."""
    return tuple(Listed(name, tuple(path.parent / image for image in case["images"]),
                        path.parent / case["label"] if case.get("label") else None)
                 for name, case in cases.items())


def _of_decathlon(path, values):
    """The Decathlon's "training": [{"image": file, "label": file}, ...], or the scans' files alone; "image" may also be
    a list of a file per channel, as MONAI has it.
    """
    cases = []
    for item in values.get("training") or ():
        images = _images(path, item)
        label = path.parent / item["label"] if isinstance(item, dict) and item.get("label") else None
        name = case_name(label or images[0])
        if not label and len(images) > 1:
            name = name.removesuffix("_0000")
        cases.append(Listed(name, images, label))
    return tuple(cases) or None


def _images(path, item):
    """The scan files of an item of a list, relative to dataset.json."""
    images = item["image"] if isinstance(item, dict) else item
    return tuple(path.parent / image for image in (images if isinstance(images, list) else [images]))


def scan_files_of(path: Path) -> list[Path]:
    """A listed scan file, or where only <case>_0000, <case>_0001, ... of its name are there, these."""
    numbered = path.parent.glob(f"{glob.escape(case_name(path))}_{'[0-9]' * 4}.*")
    return [path] if path.exists() else [file for file in sorted(numbered) if suffix(file)] or [path]


def resolved(case: Listed, channels: Sequence[str], where: Path) -> Listed:
    """The case with files that are there: nnU-Net lists <case>.nii.gz for <case>_0000.nii.gz, <case>_0001.nii.gz ...,
    a case that is listed without a label has the one of its name in labelsTr, if there is one, and one whose label is
    not there that of its name with another ending.

    InputError names the first file that is missing, or the name that cannot be a case's.
    """
    if not is_case_name(case.name):
        raise InputError(UNFIT.format(where, case.name))
    images = case.images
    if len(images) == 1 and not images[0].exists():
        stems = [images[0].with_name(f"{case_name(images[0])}_{channel}") for channel in channels]
        found = [find_scan(stem) for stem in stems]
        if any(found):
            images = tuple(file or Path(f"{stem}{suffix(images[0])}") for file, stem in zip(found, stems, strict=True))
    label = case.label or find_scan(where.parent / "labelsTr" / case.name)
    if label and not label.is_file():       # replaced under another ending
        label = find_scan(label.parent / case.name) or label
    for file in (*images, *([label] if label else [])):
        if not file.is_file():
            raise InputError(f"{file}: is missing, {where.name} lists it; copy it there, or take it off that list")
    return Listed(case.name, images, label)
