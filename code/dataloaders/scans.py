"""Scans as the field keeps them on disk, HDF5 files with `image` and `label`, and how they are read."""
import json
import math
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import h5py
import numpy as np
from tqdm import tqdm

from dataloaders.augment import standardised
from imaging.cases import IGNORED
from imaging.preprocess import Geometry
from runtime.errors import InputError, held_by_another, one_line
from runtime.files import check_readable
from runtime.memory import check_fits
from runtime.ranks import Ranks

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Scan:
    """One case in memory."""

    name: str
    image: "Tensor"             # (in_channels, *S) float32
    label: "Tensor | None"      # (*S) uint8, own data's with IGNORED voxels; None where it was not asked for
    # Of what was read, whatever became of it: shape, CRC-32 of the image in float32, and of the label in uint8 or None
    content: tuple = ()


def first_existing(candidates):
    """The first path that is a file; InputError naming all of them otherwise."""
    for path in candidates:
        if path.is_file():
            return path
    raise InputError(f"{candidates[0]} does not exist" + "".join(f", nor does {path}" for path in candidates[1:])
                     + ": check --data-dir, or prepare the data with the prepare_* script of this data set; "
                       "data/README.md says where they come from")


def read_scan(name, path, *, ndim, in_channels, num_classes, labelled):
    """Read one HDF5 case -> Scan; the file is closed again. Its `label` is opened only if `labelled`.

    ndim: spatial axes (2 slice, 3 volume). InputError names the file, what is wrong with it and the remedy.
    """
    with _opened(path, "`image` and `label`" if labelled else "`image`") as file:
        stored = _array(path, file, "image", "iuf")
        shape = stored.shape if len(stored.shape) > ndim else (1, *stored.shape)
        if len(shape) != ndim + 1 or shape[0] != in_channels:
            raise InputError(f"{path}: `image` has shape {stored.shape}, expected {ndim} axes and {in_channels} "
                             "channel(s) in front: check --in-channels, or prepare this case again")
        label = None
        if labelled:
            label = _array(path, file, "label", "iufb")
            if label.shape != shape[1:]:
                raise InputError(f"{path}: `label` has shape {label.shape}, `image` {shape[1:]}: prepare this case "
                                 "again")
            ignoring = "ignore" in json.loads(file.attrs.get("preprocessing", "{}"))
            label = _checked_label(path, label[()], num_classes, ignoring)
        check_fits(f"{path}: its `image` of shape {stored.shape} needs", math.prod(stored.shape) * 4,
                   "prepare this case again if it is not that large, or crop or resample it")
        with np.errstate(over="ignore"):        # what float32 cannot hold is found below
            image = np.ascontiguousarray(stored[()].reshape(shape), np.float32)
    if not np.isfinite(image).all():
        raise InputError(f"{path}: `image` has NaN or infinite voxels: prepare this case again")
    content = shape, zlib.crc32(image), None if label is None else zlib.crc32(label.numpy())
    return Scan(name, _tensor(image), label, content)


def for_networks(image, recipe):
    """A tensor (in_channels, *S) as `recipe.normalise` has it: as stored, or with mean 0 and deviation 1, each slice or
    each volume.
    """
    if recipe.normalise == "stored":
        return image
    return _tensor(standardised(image.numpy(), len(recipe.patch_size))[0])


def check_labelled(names, path_of, role):
    """InputError for a case of a role, test or val, without a label: training would run to its end, and the test fail.

    Labels are not opened. Returns the cases whose files are not here: the test may take place elsewhere.
    """
    away = []
    for name in names:
        try:
            path = path_of(name)
        except InputError:
            away.append(name)
            continue
        if not has_label(path):
            raise InputError(f"{path}: is a {role} case without `label`, and cannot be measured: take it out of the "
                             f"{role} list or of --holdout-{role}, or prepare it again with its label")
    return away


def has_label(path):
    """Whether the HDF5 file holds a label, which is not opened."""
    with _opened(path, "`image`") as file:
        return "label" in file


@contextmanager
def _opened(path, expected):
    """The HDF5 file to read; whatever HDF5 says of a damaged one becomes an InputError."""
    check_readable(path)
    try:
        with h5py.File(path, "r") as file:
            yield file
    except InputError:
        raise
    except (OSError, KeyError, RuntimeError, ValueError, TypeError) as error:
        raise held_by_another(path, error) or InputError(
            f"{path}: cannot be read ({one_line(error)}); it should be HDF5 with {expected}: prepare this case again"
        ) from error


def _array(path, file, key, kinds):
    """The data set `key`, not read yet, with voxels of one of NumPy's `kinds`, which are in this very file."""
    if isinstance(file.get(key, getlink=True), h5py.SoftLink | h5py.ExternalLink):
        raise InputError(f"{path}: `{key}` is a link to somewhere else, which is not followed: prepare this case again")
    stored = file[key]
    if isinstance(stored, h5py.Dataset) and (stored.external or stored.is_virtual):
        raise InputError(f"{path}: `{key}` lies in other files, which are not opened: prepare this case again")
    if not isinstance(stored, h5py.Dataset) or not stored.shape or 0 in stored.shape or stored.dtype.kind not in kinds:
        found = (f"shape {stored.shape} of {stored.dtype}" if isinstance(stored, h5py.Dataset) else "a group")
        raise InputError(f"{path}: `{key}` is {found}, expected an array with one number per voxel: prepare this case "
                         "again")
    return stored


def _tensor(array):
    import torch  # here: options are read, and scans prepared, without PyTorch
    return torch.from_numpy(array)


def _checked_label(path, label, num_classes, ignoring):
    if label.dtype.kind == "f" and not np.array_equal(label, np.round(label)):
        raise InputError(f"{path}: `label` has fractions or NaN: it should hold class numbers 0 to {num_classes - 1}; "
                         "prepare this case again")
    classes = label[label != IGNORED] if ignoring else label
    low, high = (classes.min(), classes.max()) if classes.size else (0, 0)
    if low < 0 or high >= num_classes:
        raise InputError(f"{path}: `label` has values from {low} to {high}, expected 0 to {num_classes - 1}: "
                         "set --num-classes, or map the labels when preparing")
    return _tensor(np.ascontiguousarray(label, np.uint8))


def read_geometry(path):
    """How a case made by a prepare script lies on its scan's own grid, a Geometry; None of published files."""
    with _opened(path, "the attribute `geometry`") as file:
        return Geometry(**json.loads(file.attrs["geometry"])) if "geometry" in file.attrs else None


def check_prepared(path, record):
    """InputError for a case that was prepared in another way than the data's Preprocessing `record` says."""
    with _opened(path, "the attribute `preprocessing`") as file:
        own, record = json.loads(file.attrs.get("preprocessing", "null")), record and record.to_dict()
    if own and record and (differing := [key for key in {**record, **own} if own.get(key) != record.get(key)]):
        words = ", ".join(f"{key} was {own.get(key)}, there {record.get(key)}" for key in differing)
        raise InputError(f"{path}: was prepared in another way than preprocessing.json says ({words}), as a stopped "
                         "--force leaves it: prepare the folder again, with --force")


def read_check_sum(path):
    """Of the voxels of a case made by a prepare script; None of published files, and of those of earlier versions."""
    with _opened(path, "the attribute `voxels`") as file:
        return int(file.attrs["voxels"]) if "voxels" in file.attrs else None


def read_spacing(path):
    """mm along the axes of a case made by a prepare script; InputError for published files, which do not hold it."""
    with _opened(path, "the attribute `geometry`") as file:
        if "geometry" not in file.attrs:
            raise InputError(f"{path}: holds no spacing, so distances in mm are unknown: prepare the data from the "
                             "challenge's files, or leave --spacing at voxel")
        spacing = tuple(map(float, json.loads(file.attrs["geometry"])["spacing"]))
    if not spacing or not all(0 < side < math.inf for side in spacing):
        raise InputError(f"{path}: its spacing is {spacing}, expected mm above 0: prepare this case again")
    return spacing


def read_all(names, path_of, read, what):
    """[read(name, path_of(name))] with a progress bar; InputError before work starts if they cannot fit in memory."""
    paths = [path_of(name) for name in names]
    _check_memory(paths, what)
    bar = tqdm(zip(names, paths, strict=True), f"reading {what}", len(names), leave=False, delay=2, unit="scan",
               disable=not Ranks().main)
    return [read(name, path) for name, path in bar]


def _check_memory(paths, what):
    """Sum of the decoded sizes that the files declare: compression hides them from the file system."""
    sizes = []
    for path in paths:
        try:
            with _opened(path, "`image`") as file:
                sizes.append((math.prod(_array(path, file, "image", "iuf").shape), path))
        except InputError:
            continue                                                            # read_scan says it better
    if sizes:
        size, largest = max(sizes)
        check_fits(f"the {len(paths)} {what} scans, the largest of them {largest} with {size} voxels, need",
                   5 * sum(size for size, _ in sizes),      # float32 image, uint8 label
                   "shorten the train list, or use the mini preset")
