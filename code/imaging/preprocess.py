"""Scans in, network input out, and back: the one place where preprocessing is defined.

The prepare scripts push challenge files and anybody's scans, as scan_files.py reads them, through `apply` into HDF5
(preparation.py takes care of many); predict.py pushes a new scan through the same `apply`, and its probabilities back
through `restore_labels`. What was done to a dataset is a `Preprocessing` (record.py), kept beside the data as
preprocessing.json; what was done to one scan is a `Geometry`, kept as an attribute of its HDF5 file.

Shapes: *N a scan's own grid as stored in its file, *S the prepared grid, C modalities (in) or classes (out).
Spacings are in mm; affines map voxel indices to mm, RAS+.
"""
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform

from imaging.crops import crop_box
from imaging.intensities import check_image, normalised, windowed, zscore_brain
from imaging.record import Preprocessing
from imaging.resample import resample, resample_label
from imaging.scan_files import ScanFile, check_same_grid
from runtime.errors import InputError
from runtime.memory import check_fits

FEWEST = 2                  # voxels along an axis that resampling must leave                  [O]


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

    @property
    def prepared_affine(self) -> np.ndarray:
        """Voxel indices of the prepared scan -> mm, RAS+, as in the scan's own file: (4, 4)."""
        turn = np.asarray(self.turn)
        upright = np.asarray(self.affine) @ inv_ornt_aff(turn, self.shape)
        sides = np.asarray(self.shape)[np.argsort(turn[:, 0])] / self.grid      # in the scan's own voxels
        cut = np.diag([*sides, 1.0])
        cut[:3, 3] = (np.asarray(self.box)[:, 0] + 0.5) * sides - 0.5
        return upright @ cut


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
