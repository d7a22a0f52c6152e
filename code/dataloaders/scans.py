"""Scans as the field keeps them on disk: HDF5 files with `image` and `label`, named by split lists."""
import json
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import psutil
import torch
from torch import Tensor
from tqdm import tqdm

from errors import InputError
from files import ROOT

GIB = 2 ** 30


@dataclass
class Scan:
    """One case in memory."""

    name: str
    image: Tensor               # (in_channels, *S) float32
    label: Tensor | None        # (*S) uint8; None where it was not asked for


@dataclass
class Split:
    """Names of cases. `labelled` comes first in the train list; `val` and `test` are never trained on."""

    labelled: list[str]
    unlabelled: list[str]
    val: list[str]
    test: list[str]

    def __post_init__(self):
        seen = {}
        for role, names in vars(self).items():
            for name in names:
                if name in seen:
                    raise InputError(f"{name} is listed as {seen[name]} and as {role}: a case belongs to one list, "
                                     "once; remove it from the other")
                seen[name] = role


def read_lists(data_dir, dataset, files):
    """Case names of the split lists {role: file name}, "train" among them -> {role: names}.

    Each list is looked for in `data_dir`, then in the repository's own data/<dataset>/: one case a line, an `.h5`
    suffix tolerated. A val or test list that is nowhere is empty; the published ones are not taken where the train
    list names other people's scans. InputError if there is no train list, or it is empty.
    """
    own, published = Path(data_dir), ROOT / "data" / dataset
    train = own / files["train"]
    if not train.is_file():
        train = published / files["train"]
    if not train.is_file():
        raise InputError(f"{files['train']} is neither in {own} nor in {published}: point --data-dir to the {dataset} "
                         "folder, or put the list there")
    lists = {"train": _names(train)}
    if not lists["train"]:
        raise InputError(f"{train} is empty: it should name one case a line")
    ours = (published / files["train"]).is_file() and set(lists["train"]) <= set(_names(published / files["train"]))
    for role in files.keys() - {"train"}:
        places = [own, published] if ours else [own]
        path = next((place / files[role] for place in places if (place / files[role]).is_file()), None)
        lists[role] = _names(path) if path else []
    return lists


def _names(path):
    return [line.strip().removesuffix(".h5") for line in path.read_text().splitlines() if line.strip()]


def first_existing(candidates):
    """The first path that is a file; InputError naming all of them otherwise."""
    for path in candidates:
        if path.is_file():
            return path
    raise InputError(f"{candidates[0]} does not exist" + "".join(f", nor does {path}" for path in candidates[1:])
                     + ": check --data-dir, or prepare the data with the prepare_* script of this data set")


def read_scan(name, path, *, ndim, in_channels, num_classes, labelled):
    """Read one HDF5 case -> Scan; the file is closed again. Its `label` is opened only if `labelled`.

    ndim: spatial axes (2 slice, 3 volume). InputError names the file, what is wrong with it and the remedy.
    """
    try:
        with h5py.File(path, "r") as file:
            image = file["image"][:]
            label = file["label"][:] if labelled else None
    except (OSError, KeyError) as error:
        raise InputError(f"{path}: cannot be read ({error}); it should be HDF5 with `image`"
                         f"{' and `label`' if labelled else ''}: prepare this case again") from error
    if image.ndim == ndim:
        image = image[None]
    if image.ndim != ndim + 1 or image.shape[0] != in_channels:
        raise InputError(f"{path}: `image` has shape {image.shape}, expected {ndim} axes and {in_channels} "
                         "channel(s) in front: check --in-channels, or prepare this case again")
    if not np.isfinite(image).all():
        raise InputError(f"{path}: `image` has NaN or infinite voxels: prepare this case again")
    if label is not None:
        label = _checked_label(path, label, image.shape[1:], num_classes)
    return Scan(name, torch.from_numpy(np.ascontiguousarray(image, np.float32)), label)


def _checked_label(path, label, shape, num_classes):
    if label.shape != shape:
        raise InputError(f"{path}: `label` has shape {label.shape}, `image` {shape}: prepare this case again")
    if label.dtype.kind == "f" and not np.array_equal(label, np.round(label)):
        raise InputError(f"{path}: `label` has fractions: it should hold class numbers 0 to {num_classes - 1}")
    low, high = label.min(), label.max()
    if low < 0 or high >= num_classes:
        raise InputError(f"{path}: `label` has values from {low} to {high}, expected 0 to {num_classes - 1}: "
                         "set --num-classes, or map the labels when preparing")
    return torch.from_numpy(np.ascontiguousarray(label, np.uint8))


def read_spacing(path):
    """mm along the axes of a case made by a prepare script; InputError for published files, which do not hold it."""
    with h5py.File(path, "r") as file:
        if "geometry" not in file.attrs:
            raise InputError(f"{path}: holds no spacing, so distances in mm are unknown: prepare the data from the "
                             "challenge's files, or leave --spacing at voxel")
        return tuple(json.loads(file.attrs["geometry"])["spacing"])


def read_scans(names, path_of, read, what):
    """[read(name, path_of(name))] with a progress bar; InputError before work starts if they cannot fit in memory."""
    paths = [path_of(name) for name in names]
    _check_memory(paths, what)
    bar = tqdm(zip(names, paths, strict=True), f"reading {what}", len(names), leave=False, delay=2, unit="scan")
    return [read(name, path) for name, path in bar]


def _check_memory(paths, what):
    """Guess the decoded size from a few files: compression hides it from the file system."""
    probes = paths[::max(len(paths) // 8, 1)]
    needed = 0
    for path in probes:
        try:
            with h5py.File(path, "r") as file:
                needed += file["image"].size * 5 * len(paths) / len(probes)     # float32 image, uint8 label
        except (OSError, KeyError):
            continue                                                            # read_scan says it better
    available = psutil.virtual_memory().available
    if needed > available:
        raise InputError(f"the {len(paths)} {what} scans need about {needed / GIB:.1f} GiB of memory and "
                         f"{available / GIB:.1f} GiB are free: shorten the train list, or use the mini preset")
