"""Where voxels lie: a scan's grid, and whether two files share one, and what is the matter where they do not.

Shapes: *N a scan's own grid as stored in its file. Spacings are in mm; affines map voxel indices to mm, RAS+.
"""
import math
import zlib
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation

from runtime.errors import InputError, one_line
from runtime.memory import check_fits

NEAR = 0.1      # voxels that two grids may be apart and still count as one


@dataclass
class ScanFile:
    """One 3D volume as its file stores it."""

    array: np.ndarray       # (*N) float32
    affine: np.ndarray      # (4, 4) voxel index -> RAS+ mm
    spacing: np.ndarray     # (3,) mm along the array's axes
    path: Path
    notes: dict[str, str] = field(default_factory=dict)     # what was decided about its header: kind -> sentence
    # what else the header says of the grid: name of the field -> affine (4, 4)
    readings: dict[str, np.ndarray] = field(default_factory=dict)


def apart(affine: np.ndarray, other: np.ndarray, shape: tuple[int, ...]) -> float:
    """The mm that the outermost voxels of a volume (*N) are moved at most from one affine to the other."""
    corners = np.array([(*corner, 1) for corner in np.ndindex(2, 2, 2)]) * (*(np.array(shape) - 1), 1)
    return float(np.linalg.norm((affine - other)[:3] @ corners.T, axis=0).max())


def is_near(affine: np.ndarray, other: np.ndarray, shape: tuple[int, ...]) -> bool:
    return apart(affine, other, shape) <= NEAR * voxel_sizes(other).min()


def turned(array: np.ndarray, affine: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """An array (*N, ...) and its affine, axes in the order and directions of another affine's; places stay."""
    turn = io_orientation(np.linalg.inv(reference) @ affine)
    return apply_orientation(array, turn), affine @ inv_ornt_aff(turn, array.shape[:3])


def turned_onto(file: ScanFile, scan: ScanFile) -> ScanFile:
    """A file that lies where the scan does, its axes stored as the scan's; any other as it is."""
    array, affine = turned(file.array, file.affine, scan.affine)
    if array.shape != scan.array.shape or not is_near(affine, scan.affine, array.shape):
        return file
    return replace(file, array=array, affine=affine, spacing=voxel_sizes(affine))


def sides(spacing: np.ndarray) -> str:
    """(1.32, 1.32, 10) as "1.32 x 1.32 x 10"."""
    return " x ".join(f"{side:.4g}" for side in spacing)


def check_stored(path: Path, shape: tuple[int, ...], item: int, channels: int = 1) -> None:
    """InputError unless a file declares one volume of `channels` channels, after its three axes, that fits into memory.

    A header may declare anything: believed only where voxels of `item` bytes, and as float32, can be held.
    """
    if len(shape) < 3 or math.prod(shape[3:]) != channels:
        expected = f"{channels} channels as a fourth axis, or one file per channel" if channels > 1 else "one 3D volume"
        raise InputError(f"{path}: is {len(shape)}D {tuple(map(int, shape))}, expected {expected}; export it as "
                         + ("that" if channels > 1 else "one, of a single slice where it is one image"
                            if len(shape) == 2 else "one, a 4D series as one file per volume"))
    if min(shape) == 0:
        raise InputError(f"{path}: has no voxels {tuple(map(int, shape))}; export it again")
    check_fits(f"{path}: has {' x '.join(map(str, shape))} voxels, which need", math.prod(map(int, shape)) * (item + 4),
               "crop or resample the scan, or export it again if it is not that large")


def voxel_sum(array: np.ndarray) -> str:
    """Check sum of an array's values, eight hexadecimal digits, whatever type of integer or float holds them."""
    kind, total = np.dtype("<i4" if array.dtype.kind in "iub" else "<f4"), 0
    for part in array:
        total = zlib.crc32(np.ascontiguousarray(part, kind), total)
    return f"{total:08x}"


def neighbour(path: Path, name: str) -> Path:
    """The file with a header's voxels, which must lie beside it and be named by its name alone."""
    name = name.removeprefix("./")
    file = path.with_name(name) if name not in ("", ".", "..") and "/" not in name and "\\" not in name else None
    if file is None or not file.is_file():
        raise InputError(f"{path}: its voxels are in another file, {one_line(name)}, which is followed only to a file "
                         "beside it; copy both into one folder, or export the scan as one file")
    return file


def check_same_shape(scan: ScanFile, other: ScanFile) -> None:
    if scan.array.shape != other.array.shape:
        turned = sorted(scan.array.shape) == sorted(other.array.shape)
        raise InputError(f"{scan.path}: has shape {scan.array.shape}, expected {other.array.shape} as "
                         f"{other.path.name}; {'its axes are in another order: ' if turned else ''}"
                         "resample it to that scan (nearest neighbour for labels)")


def check_same_grid(scan: ScanFile, other: ScanFile, label: bool = True) -> None:
    """Same shape, and no corner of the volume further than a tenth of a voxel apart; InputError names the cause, and of
    a `label` the option by which headers do not count.
    """
    check_same_shape(scan, other)
    if is_near(scan.affine, other.affine, other.array.shape):
        return
    far = apart(scan.affine, other.affine, other.array.shape)
    raise InputError(f"{scan.path}: its affine puts it up to {far:.3g} mm away from {other.path.name}, expected the "
                     f"same grid; {_cause(scan, other)}"
                     + ", or, where labels belong to their scans voxel by voxel, whatever the headers say, use "
                       "--same-voxels" * label)


def _cause(scan, other):
    """Why two grids of one shape lie apart, and what to do about it."""
    for one, affine in ({"affine": scan.affine} | scan.readings).items():
        for two, reference in ({"affine": other.affine} | other.readings).items():
            if is_near(affine, reference, other.array.shape):
                return (f"fields of the headers disagree, since its {one} and the scan's {two} are one grid: correct "
                        "the headers, choose with --geometry")
    for whose, file in (("its", scan), ("the scan's", other)):
        if "orientation" in file.notes:
            return f"{whose} header gives no orientation: save both with one affine"
    if np.allclose(scan.affine, np.eye(4)) or np.allclose(scan.affine, np.diag([-1, -1, 1, 1])):
        return ("it has an identity affine and was saved without its scan's geometry (resampling would misplace it): "
                "save it with the scan's affine")
    if np.allclose(scan.spacing, other.spacing, rtol=0.01):
        what = "the voxels have one size, and lie or point elsewhere"
    else:
        what = f"its voxels have {sides(scan.spacing)} mm and the scan's {sides(other.spacing)} mm"
    return f"{what}: correct the header that is wrong, resample it to that scan if both are right"
