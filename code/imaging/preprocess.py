"""Scans in, network input out, and back: the one place where preprocessing is defined.

The prepare scripts push challenge files and anybody's scans, as scan_files.py reads them, through `apply` into HDF5
(preparation.py takes care of many); predict.py pushes a new scan through the same `apply`, and its probabilities back
through `restore_labels`. What was done to a dataset is a `Preprocessing`, kept beside the data as preprocessing.json;
what was done to one scan is a `Geometry`, kept as an attribute of its HDF5 file.

Shapes: *N a scan's own grid as stored in its file, *S the prepared grid, C modalities (in) or classes (out).
Spacings are in mm; affines map voxel indices to mm, RAS+.
"""
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform

from imaging.cases import IGNORED, SEED
from imaging.crops import crop_box
from imaging.intensities import check_image, normalised, windowed, zscore_brain
from imaging.resample import resample, resample_label
from imaging.scan_files import ScanFile, check_same_grid
from runtime.errors import InputError
from runtime.files import is_case_name, write_text
from runtime.memory import check_fits
from runtime.records import from_record, read_json

RECORD = "preprocessing.json"

FINEST, COARSEST = 0.001, 100   # mm: sides of a voxel that can be asked for                   [O]
FEWEST = 2                  # voxels along an axis that resampling must leave                  [O]
PLAIN = ("image",)          # modalities of a training set whose files have plain names and one channel


# ---- what is done to a dataset -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Preprocessing:
    """What turns a scan of this dataset into network input, in the order of `apply`."""

    dataset: str
    orientation: str            # of the array's axes, such as "LPS"; "slices": as stored, coarsest axis first
    normalise: Literal["zscore", "zscore_brain", "minmax", "ct"]
    crop: Literal["none", "label", "foreground", "brain"] = "none"
    clip: float | None = None   # percentile of the crop above which intensities are cut (zscore_brain only)
    spacing: tuple[float, ...] | None = None    # mm along the oriented axes; None keeps the scan's own
    modalities: tuple[str, ...] = PLAIN
    labels: dict[int, int] = field(default_factory=lambda: {0: 0, 1: 1})    # value in the label file -> class
    seed: int = SEED            # of the label crop's margins
    geometry: Literal["itk", "sform"] = "itk"   # which fields of a NIfTI header count where they disagree
    # around the brain (zscore_brain): 0, which is the brain's mean, or what its own value becomes
    background: Literal["mean", "own"] = "mean"
    class_names: tuple[str, ...] = field(default=(), compare=False)     # of the foreground, where they have names
    windows: tuple[tuple[float, ...], ...] = ()     # of a modality (ct): lowest, highest, mean, deviation
    ignore: int | None = None   # value in the label file that becomes IGNORED

    def __post_init__(self):
        """InputError for values that no scan could be prepared with."""
        wrong = {
            "orientation": self.orientation != "slices" and sorted(
                next((axis for axis in ("LR", "PA", "IS") if side in axis), side)
                for side in self.orientation) != ["IS", "LR", "PA"],
            "clip": self.clip is not None and not 0 < self.clip <= 100,
            "spacing": self.spacing is not None and (
                len(self.spacing) != 3 or not all(FINEST <= side <= COARSEST for side in self.spacing)),
            "modalities": not self.modalities or len(set(self.modalities)) < len(self.modalities)
            or not all(map(is_case_name, self.modalities)),
            "windows": len(self.windows) != (len(self.modalities) if self.normalise == "ct" else 0)
            or not all(len(window) == 4 and window[0] < window[1] and window[3] > 0 for window in self.windows),
            "ignore": self.ignore in self.labels,
            "labels": not self.labels or not all(0 <= label < IGNORED for label in self.labels.values())}
        for name, is_wrong in wrong.items():
            if is_wrong:
                raise InputError(f"{name} {getattr(self, name)}: expected {EXPECTED[name]}; correct it")

    @property
    def num_classes(self) -> int:
        return max(self.labels.values()) + 1

    @property
    def made(self) -> tuple:
        """How scans were prepared, as far as a plan says it."""
        return self.orientation, self.spacing, self.normalise, self.windows

    @property
    def values(self) -> np.ndarray:
        """Of each class, the smallest value in label files that is read as it; of the background 0, where it can be.

        A class that the files have no value for has one that is none of theirs.
        """
        free = max(*self.labels, self.ignore or 0) + 1
        files = {label: free + label for label in range(self.num_classes)}
        files |= {label: value for value, label in sorted(self.labels.items(), reverse=True)}
        if self.labels.get(0) == 0:
            files[0] = 0
        values = [files[label] for label in range(self.num_classes)]
        return np.array(values, np.promote_types(np.min_scalar_type(min(values)), np.min_scalar_type(max(values))))

    def to_dict(self) -> dict:
        """What was done, JSON-ready, to compare; `from_dict` is its inverse but for the names of the classes.

        Fields in LATER are left out at their defaults.
        """
        values = json.loads(json.dumps(asdict(self)))
        return {name: value for name, value in values.items() if name != "class_names"
                and (name not in LATER or getattr(self, name) != getattr(type(self), name))}

    @classmethod
    def from_dict(cls, values: dict, where: Path | str = RECORD) -> "Preprocessing":
        """InputError names `where` and what is wrong with the values."""
        return from_record(cls, values, where, "prepare the data again")


def read_as(labels: dict[int, int], ignore: int | None) -> dict[int, int]:
    """What becomes of each value in the label files: its class, or IGNORED."""
    return labels if ignore is None else labels | {ignore: IGNORED}


LATER = "geometry", "background", "windows", "ignore"   # fields that records of earlier versions do not have
EXPECTED = {"orientation": "'slices' or three letters such as RAS", "clip": "a percentile, above 0 to 100",
            "spacing": f"three sides in mm, above 0 ({FINEST:g} to {COARSEST:g})",
            "modalities": "different endings of file names", "labels": "classes from 0 to 254",
            "windows": "of ct, for each channel: lowest, highest, mean, deviation",
            "ignore": "a value that is no class"}

# How the published HDF5 files were made: what predict.py assumes for training data without a record.
PUBLISHED = {
    # UA-MT's la_heart_processing.py, axes as the challenge stores them: to the left, the back, the head   [C]
    "LA": Preprocessing("LA", "LPS", "zscore", crop="label", modalities=("lgemri",), labels={0: 0, 255: 1}),
    # SSL4MIS' acdc_data_processing.py: (slices, H, W); ACDC's headers say nothing of the body's axes      [C]
    "ACDC": Preprocessing("ACDC", "slices", "minmax", modalities=("cine",), labels={0: 0, 1: 1, 2: 2, 3: 3}),
    # SSL4MIS' brats_proprecessing.py, but (x, y, z); labels 0, 1, 2, 4 in 2019, 3 too in other years      [C]
    "BraTS2019": Preprocessing("BraTS2019", "LPS", "zscore_brain", crop="brain", clip=99.9, background="own",
                               modalities=("flair",), labels={0: 0, 1: 1, 2: 1, 3: 1, 4: 1}),
}


def read_preprocessing(folder: Path) -> Preprocessing | None:
    """The record beside prepared data or in a run folder; None where there is none (published HDF5 files)."""
    path = folder / RECORD
    if not path.exists():
        return None
    try:
        return Preprocessing.from_dict(read_json(path, "prepare the data again"), path)
    except InputError as error:
        raise InputError(f"{path}: is no preprocessing record ({error})") from error


def written_values(record: Preprocessing | None, num_classes: int) -> np.ndarray:
    """Of each class, its value in the label maps that are written: that of the label files, where the record knows it.
    """
    if record is not None and record.num_classes == num_classes:
        return record.values
    return np.arange(num_classes, dtype=np.uint8)


def write_preprocessing(folder: Path, preprocessing: Preprocessing) -> None:
    write_text(folder / RECORD, json.dumps(asdict(preprocessing), indent=2) + "\n")


# ---- one scan there and back -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Geometry:
    """How one prepared volume lies on its scan's own grid: all that `restore` needs. asdict makes it JSON."""

    shape: Sequence[int]                # of the scan's own grid, *N
    affine: Sequence[Sequence[float]]   # of the scan's own grid
    turn: Sequence[Sequence[int]]       # of each own axis: its place among the prepared; 1, or -1 flipped
    grid: Sequence[int]                 # shape once turned and resampled, before the crop
    box: Sequence[Sequence[int]]        # the crop on that grid: first, last + 1 a prepared axis
    spacing: Sequence[float]            # mm along the prepared axes
    label_outside: int = 0              # label voxels outside the crop, or outside the brain

    @property
    def voxel_size(self) -> np.ndarray:
        """mm of the scan's own voxels, along the prepared axes."""
        return voxel_sizes(np.asarray(self.affine))[_back(self)[:, 0]]


def apply(scans: ScanFile | Sequence[ScanFile], preprocessing: Preprocessing, label: np.ndarray | None = None,
          rng: np.random.Generator | None = None) -> tuple[np.ndarray, np.ndarray | None, Geometry]:
    """One scan, or one scan per modality -> image (*S) or (C, *S) float32, class map (*S) uint8 or None, geometry.

    `label` (*N) is the class map on the scan's own grid. Intensities never depend on it; the crops "label"
    (margins drawn from `rng`) and "brain" do. Without a label, "label" keeps the whole scan. Raises
    InputError where modalities are missing, lie on different grids, or hold one value only, and where what leaves would
    be too large for the memory, too small, one value, not finite, or have lost its label.
    """
    scans = [scans] if isinstance(scans, ScanFile) else list(scans)
    first, names = scans[0], preprocessing.modalities
    if len(scans) != len(names):
        raise InputError(f"{first.path}: {len(scans)} modalities given, expected {', '.join(names)}; "
                         "give one file for each")
    for scan in scans:
        check_same_grid(scan, first, label=False)
        if scan.array.min() == scan.array.max():
            raise InputError(f"{scan.path}: all voxels are {scan.array.min():g}, expected an image; "
                             "export it again")

    turn = _turn(first, preprocessing.orientation)
    volumes = [apply_orientation(scan.array, turn) for scan in scans]
    label = None if label is None else apply_orientation(label, turn)
    brains = []
    if preprocessing.crop == "brain" or preprocessing.normalise == "zscore_brain":
        # the background of a skull-stripped scan is one value, 0 or not, and the corner has it
        brains = [volume != volume.flat[0] for volume in volumes]
    spacing = first.spacing[np.argsort(turn[:, 0])]
    grid = volumes[0].shape
    foreground = label is not None and label.any()
    if preprocessing.spacing is not None:
        grid = _resampled_grid(first.path, grid, spacing, preprocessing.spacing, len(scans))
        spacing = spacing * volumes[0].shape / grid
        volumes = [resample(volume, grid) for volume in volumes]
        brains = [resample_label(brain, grid) for brain in brains]
        label = None if label is None else resample_label(label, grid)

    brain = np.logical_or.reduce(brains) if brains else None
    box = crop_box(volumes[0], brain, label, preprocessing, rng)
    crop = tuple(slice(lo, hi) for lo, hi in box)
    if preprocessing.normalise == "zscore_brain":
        volumes = [zscore_brain(volume[crop], own[crop], preprocessing)
                   for volume, own in zip(volumes, brains, strict=True)]
    elif preprocessing.normalise == "ct":
        volumes = [windowed(volume[crop], window)
                   for volume, window in zip(volumes, preprocessing.windows, strict=True)]
    else:
        volumes = [normalised(volume, preprocessing.normalise)[crop] for volume in volumes]
    for scan, volume in zip(scans, volumes, strict=True):
        check_image(scan, volume, preprocessing)
    outside = 0
    if label is not None:
        inside = label[crop] if brain is None else label[brain]
        outside = int(np.count_nonzero(label) - np.count_nonzero(inside))
        label = np.ascontiguousarray(label[crop])
        if foreground and not label.any():
            raise InputError(f"{first.path}: nothing of its label is left once it is cropped and resampled; check that "
                             "the label belongs to this scan, or choose another crop or spacing")
    image = volumes[0] if len(volumes) == 1 else np.stack(volumes)
    geometry = Geometry(first.array.shape, first.affine.tolist(), turn.astype(int).tolist(), grid, box,
                        spacing.tolist(), outside)
    return np.ascontiguousarray(image), label, geometry


def restore(array: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Prepared grid -> scan's own grid, the inverse of `apply`.

    Maps (*S) of floats -> (*N), linear; class probabilities (C, *S) -> (C, *N), linear; label maps (*S) of integers ->
    (*N), as `apply` resamples labels, bit for bit where nothing was resampled. Outside the crop there is background: 0,
    or probability 1 for class 0. A label map that has its probabilities is made by `restore_labels`.
    """
    if array.ndim == 4:
        return np.stack([_turned_back(_upright(channel, geometry, outside=int(number == 0)), geometry)
                         for number, channel in enumerate(array)])
    return _turned_back(_upright(array, geometry, outside=0), geometry)


def restore_labels(probabilities: Iterable[np.ndarray], geometry: Geometry,
                   finish: Callable[[np.ndarray], np.ndarray] = lambda labels: labels) -> np.ndarray:
    """Label map (*N) uint8 on the scan's own grid of class probabilities, (C, *S) or one (*S) after the other.

    Probabilities are put back first and decided then, as the argmax of `restore(probabilities)` is, with two classes in
    memory at a time. `finish`, post-processing, gets the label map along the prepared axes, so that ties do not depend
    on how the scan is stored.
    """
    labels = largest = None
    for number, channel in enumerate(probabilities):
        share = _upright(channel, geometry, outside=int(number == 0))
        if number == 0:
            labels, largest = np.zeros(share.shape, np.uint8), share
        else:
            labels[share > largest] = number
            np.maximum(largest, share, out=largest)
    return _turned_back(finish(labels), geometry)


def _upright(volume, geometry, outside):
    """Prepared grid (*S) -> the scan's own voxels along the prepared axes; `outside` beyond the crop."""
    if volume.shape != (size := tuple(hi - lo for lo, hi in geometry.box)):
        raise ValueError(f"shape {volume.shape} does not fit the prepared scan, expected {size}, or one in front")
    whole = np.full(geometry.grid, outside, volume.dtype)
    whole[tuple(slice(lo, hi) for lo, hi in geometry.box)] = volume
    shape = tuple(geometry.shape[axis] for axis in _back(geometry)[:, 0])
    return (resample if np.issubdtype(volume.dtype, np.floating) else resample_label)(whole, shape)


def _turned_back(volume, geometry):
    return np.ascontiguousarray(apply_orientation(volume, _back(geometry)))


def _back(geometry):
    """nibabel orientation transform of the prepared axes: each one's place in the file, same flip."""
    turn = np.asarray(geometry.turn)
    back = np.empty_like(turn)
    back[turn[:, 0]] = np.stack([np.arange(3), turn[:, 1]], 1)
    return back


def _resampled_grid(path, grid, spacing, wanted, channels):
    """Voxels along the axes at the `wanted` spacing; InputError for a grid of no use or one that does not fit."""
    # to thousandths first: that a file has metres, or float32, must not decide where a half is rounded to
    new = tuple(max(1, round(round(n * old / side, 3))) for n, old, side in zip(grid, spacing, wanted, strict=True))
    sides = " x ".join(f"{side:g}" for side in wanted)
    check_fits(f"{path}: resampled to {sides} mm, its {' x '.join(map(str, new))} voxels need",
               math.prod(new) * 4 * (channels + 3), "choose a coarser spacing")
    if any(after < min(FEWEST, before) for before, after in zip(grid, new, strict=True)):
        raise InputError(f"{path}: resampled to {sides} mm, {' x '.join(map(str, new))} voxels would be left of "
                         f"{' x '.join(map(str, grid))}, expected {FEWEST} an axis; choose a finer spacing (the scan's "
                         f"is {' x '.join(f'{side:g}' for side in spacing.round(4))} mm)")
    return new


def _turn(scan, orientation):
    """nibabel orientation transform (3, 2) from the stored axes to the prepared ones."""
    if orientation != "slices":
        return ornt_transform(io_orientation(scan.affine), axcodes2ornt(orientation))
    through = 2 - int(np.argmax(scan.spacing[::-1].round(3)))   # the last axis where all are alike
    order = [through, *(axis for axis in (2, 1, 0) if axis != through)]
    return np.array([(order.index(axis), 1) for axis in range(3)], float)
