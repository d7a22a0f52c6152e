"""Scan files, NIfTI and NRRD: read whole and checked, written on the grid of the scan they belong to.

Shapes: *N a scan's own grid as stored in its file, C classes. Spacings are in mm; affines map voxel indices to mm,
RAS+.
"""
import gzip
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import nrrd
import numpy as np

from runtime.errors import InputError, one_line
from runtime.files import write_aside

SUFFIXES = (".nii.gz", ".nii", ".nrrd")


@dataclass
class Scan:
    """One 3D volume as its file stores it."""

    array: np.ndarray       # (*N) float32
    affine: np.ndarray      # (4, 4) voxel index -> RAS+ mm
    spacing: np.ndarray     # (3,) mm along the array's axes
    path: Path


def case_name(path: Path) -> str:
    """File name without its scan suffix: a/b.nii.gz -> b."""
    return next((path.name[: -len(end)] for end in SUFFIXES if path.name.endswith(end)), path.stem)


def find_scan(stem: Path) -> Path | None:
    """The file `stem` plus one of the scan suffixes, or None. Raises InputError where there are two."""
    found = [path for end in SUFFIXES if (path := stem.with_name(stem.name + end)).is_file()]
    if len(found) > 1:
        raise InputError(f"{found[0]} and {found[1]} are one case, {stem.name}: remove or rename one of them")
    return found[0] if found else None


def read_scan(path: Path) -> Scan:
    """Read one NIfTI or NRRD file. Raises InputError for all but a finite 3D volume with a usable affine."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: there is no such file; expected a scan ({', '.join(SUFFIXES)})")
    try:
        array, affine = (_read_nrrd if path.name.endswith(".nrrd") else _read_nifti)(path)
    except InputError:
        raise
    except Exception as error:      # bytes of anybody's making end in any error
        raise InputError(f"{path}: cannot be read ({one_line(error)}); expected a whole NIfTI or NRRD file: "
                         "copy or export it again") from error
    if array.ndim != 3:
        raise InputError(f"{path}: is {array.ndim}D {array.shape}, expected one 3D volume; "
                         "export it as one, a 4D series as one file a volume")
    if min(array.shape) == 0:
        raise InputError(f"{path}: has no voxels {array.shape}; export it again")
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise InputError(f"{path}: has no usable affine (a spacing of 0 or not a number); "
                         "export it again with its geometry")
    if bad := int((~np.isfinite(array)).sum()):
        raise InputError(f"{path}: has {bad} NaN or infinite voxels, expected none; "
                         "replace them (numpy.nan_to_num) or export it again")
    return Scan(array, affine, nib.affines.voxel_sizes(affine), path)


def _read_nifti(path):
    image = nib.load(path)
    if image.get_data_dtype().kind not in "iuf":
        raise InputError(f"{path}: holds {image.get_data_dtype()} voxels, expected one number a voxel; "
                         "export it as greyscale")
    if image.ndim != 3:     # refused by the caller: a long 4D series need not be read for that
        return np.broadcast_to(np.float32(0), image.shape), image.affine
    if path.name.endswith(".gz"):   # whole: nibabel stops before gzip's check sum
        image = type(image).from_bytes(gzip.decompress(path.read_bytes()))
    return image.get_fdata(dtype=np.float32, caching="unchanged"), np.array(image.affine, float)


def _read_nrrd(path):
    array, header = nrrd.read(str(path))
    affine = np.eye(4)
    if header["dimension"] == 3:
        default = np.diag(np.nan_to_num(header.get("spacings", np.ones(3)), nan=1.0))
        affine[:3, :3] = np.asarray(header.get("space directions", default), float).T
        affine[:3, 3] = header.get("space origin", np.zeros(3))
    # a file that names no space is in ITK's own, left-posterior-superior
    space = str(header.get("space", "left-posterior-superior")).lower()
    to_ras = {"right-anterior-superior": (1, 1, 1, 1), "ras": (1, 1, 1, 1),
              "left-anterior-superior": (-1, 1, 1, 1), "las": (-1, 1, 1, 1)}.get(space, (-1, -1, 1, 1))
    return np.asarray(array, np.float32), np.diag(to_ras) @ affine


def read_label(path: Path, scan: Scan, labels: dict[int, int], same_affine: bool = True,
               allow_empty: bool = False,
               remedy: str = "correct the file or leave the case out") -> np.ndarray:
    """Class map (*N) uint8 of `scan` from its label file; `labels` maps the values in the file to classes.

    With `same_affine=False` only the shapes must agree: challenge files belong together voxel by voxel,
    whatever their headers say. Raises InputError for another grid and, ending in `remedy`, for other values
    than in `labels` or no foreground.
    """
    values = read_scan(path)
    if same_affine:
        check_same_grid(values, scan)
    else:
        check_same_shape(values, scan)
    rounded = np.rint(values.array)
    if np.abs(values.array - rounded).max() > 1e-3:     # a scl_slope may leave the last digits off
        odd = float(values.array[np.abs(values.array - rounded) > 1e-3][0])
        raise InputError(f"{path}: has the label value {odd:g}, expected whole numbers; "
                         "is this an image, or a label resampled with interpolation?")
    classes = np.zeros(rounded.shape, np.uint8)
    known = np.zeros(rounded.shape, bool)
    for value, label in labels.items():
        here = rounded == value
        known |= here
        classes[here] = label
    if not known.all():
        odd = ", ".join(f"{value:g}" for value in np.unique(rounded[~known])[:5])
        raise InputError(f"{path}: has the label value {odd}, expected only {', '.join(map(str, labels))}; "
                         f"{remedy}")
    if not allow_empty and not classes.any():
        raise InputError(f"{path}: is empty, all voxels are background; expected some of "
                         f"{', '.join(str(value) for value in labels if labels[value])}; {remedy}")
    return classes


def check_same_shape(scan: Scan, other: Scan) -> None:
    if scan.array.shape != other.array.shape:
        raise InputError(f"{scan.path}: has shape {scan.array.shape}, expected {other.array.shape} as "
                         f"{other.path.name}; resample it to that scan")


def check_same_grid(scan: Scan, other: Scan) -> None:
    """Same shape, and no corner of the volume further than a tenth of a voxel apart."""
    check_same_shape(scan, other)
    corners = np.array([(*corner, 1) for corner in np.ndindex(2, 2, 2)]) * (*scan.array.shape, 1)
    apart = np.linalg.norm((scan.affine - other.affine) @ corners.T, axis=0).max()
    if apart > 0.1 * other.spacing.min():
        raise InputError(f"{scan.path}: its affine puts it up to {apart:.3g} mm away from {other.path.name}, "
                         "expected the same grid; resample it to that scan")


def save_on_grid(path: Path, array: np.ndarray, scan: Scan) -> None:
    """Write (*N) or (*N, C) as NIfTI on the scan's own grid; a NIfTI scan's affine, codes and units stay the same."""
    if array.shape[:3] != scan.array.shape:
        raise ValueError(f"{path}: shape {array.shape}, expected the scan's own grid {scan.array.shape}")
    header = None if scan.path.name.endswith(".nrrd") else nib.load(scan.path).header.copy()
    image = nib.Nifti1Image(array, scan.affine, header, dtype=array.dtype)
    image.header["cal_min"] = image.header["cal_max"] = 0   # the scan's display window
    if header is None:
        image.header.set_xyzt_units("mm")
    packed = path.name.endswith(".gz")
    write_aside(path, lambda file: file.write(gzip.compress(image.to_bytes(), 1, mtime=0) if packed
                                              else image.to_bytes()))
