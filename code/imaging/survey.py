"""What prepare_folder.py sees of somebody's scans before it plans: voxel sizes, intensities, classes, components.

Axes are the body's, x to the right, y to the front, z to the head, but where prepared volumes are looked at.
"""
import itertools
from pathlib import Path

import cc3d
import h5py
import numpy as np
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from scipy import ndimage

from imaging.cases import IGNORED
from imaging.scan_files import read_label, read_scans

FOREGROUND_SAMPLES = 10_000     # voxels of a scan's foreground whose intensities count
ALIKE = 0.5             # Dice of two classes, one laid over the other, from which their shapes are alike
SIZE_FACTOR = 3         # ... and volumes apart by no more than this factor


def look_at_scan(case, channels: int, labels: dict[int, int], geometry: str, **reading) -> dict:
    """One case's files -> its shape, voxel size in mm, and each channel's lowest value, share of voxels that are
    background (one value, which all corners have), and a sample of its foreground's intensities.

    reading: further options of `read_label`.
    """
    scans = read_scans(case.images, geometry, channels)
    turn = ornt_transform(io_orientation(scans[0].affine), axcodes2ornt("RAS"))
    order = np.argsort(turn[:, 0])
    mask = None
    if case.label is not None:
        mask = read_label(case.label, scans[0], labels, geometry=geometry, **reading) % IGNORED > 0
    seen = []
    for scan in scans:
        corners = scan.array[tuple(slice(None, None, max(n - 1, 1)) for n in scan.array.shape)]
        one = corners.min() == corners.max()
        values = scan.array[mask] if mask is not None else np.empty(0)
        values = values[np.linspace(0, len(values) - 1, min(len(values), FOREGROUND_SAMPLES)).astype(int)]
        seen.append({"lowest": float(scan.array.min()), "foreground": values.astype(float).tolist(),
                     "background": float(np.mean(scan.array == corners.flat[0])) if one else 0.0})
    return {"shape": [int(scans[0].array.shape[axis]) for axis in order],
            "spacing": [float(scans[0].spacing[axis]) for axis in order], "channels": seen}


def look_at_label(path: Path, slices: bool) -> dict:
    """The label of a prepared case -> {"classes": {class: voxels, components, the largest one's share, and of slices
    the smallest share that the largest one has of a slice}, "pairs": see `alike_pairs`}.
    """
    with h5py.File(path) as file:
        label = file["label"][()] % IGNORED
    classes = {}
    for value in np.unique(label[label > 0]).tolist():
        mask = label == value
        sizes = component_sizes(mask)
        share = sizes.max() / sizes.sum()
        if slices:
            share_2d = min(sizes.max() / sizes.sum() for sizes in (component_sizes(cut) for cut in mask if cut.any()))
        classes[value] = {"voxels": int(sizes.sum()), "components": len(sizes), "largest": float(share),
                          "in_slices": float(share_2d) if slices else float(share)}
    return {"classes": classes, "pairs": [[*pair, *axes] for pair, axes in alike_pairs(label).items()]}


def component_sizes(mask: np.ndarray) -> np.ndarray:
    """Voxels of each component of a mask (*S), full connectivity."""
    components = cc3d.connected_components(np.ascontiguousarray(mask), connectivity=26 if mask.ndim == 3 else 8)
    return np.bincount(components.ravel())[1:]


def alike_pairs(label: np.ndarray) -> dict[tuple[int, int], tuple[int, int, int]]:
    """Pairs of classes of a label map (*S) that are alike in size and shape -> along each axis: 1 where the second
    class comes after the first one, -1 where it comes before it, 0 where they lie beside each other.
    """
    boxes = {value: box for value, box in enumerate(ndimage.find_objects(label), 1) if box is not None}
    masks = {value: label[box] == value for value, box in boxes.items()}
    found = {}
    for one, other in itertools.combinations(boxes, 2):
        sizes = [np.count_nonzero(masks[value]) for value in (one, other)]
        if max(sizes) > SIZE_FACTOR * min(sizes):
            continue
        axes = tuple(_order(*(part[axis] for part in (boxes[one], boxes[other]))) for axis in range(label.ndim))
        if any(axes) and _likeness(masks[one], masks[other], np.flatnonzero(axes)) > ALIKE:
            found[one, other] = axes
    return found


def _order(one, other):
    """1 or -1 where the middles of two extents are further apart than half their mean length, else 0."""
    distance = (other.start + other.stop - one.start - one.stop) / 2
    length = (other.stop - other.start + one.stop - one.start) / 2
    return int(np.sign(distance)) if abs(distance) > length / 2 else 0


def _likeness(one, other, axes):
    """Largest Dice of two masks laid over each other, middle on middle, the first one as it is or mirrored."""
    shape = [max(pair) for pair in zip(one.shape, other.shape, strict=True)]
    fixed = _centred(other, shape)
    return max(2 * np.count_nonzero(_centred(mask, shape) & fixed) / (mask.sum() + fixed.sum())
               for mask in (one, *(np.flip(one, axis) for axis in axes)))


def _centred(mask, shape):
    short = [whole - extent for whole, extent in zip(shape, mask.shape, strict=True)]
    return np.pad(mask, [(n // 2, n - n // 2) for n in short])
