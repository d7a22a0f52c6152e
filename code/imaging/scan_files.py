"""Scan files, NIfTI and NRRD: read whole and checked, written on the grid of the scan they belong to.

Shapes: *N a scan's own grid as stored in its file, C classes. Spacings are in mm; affines map voxel indices to mm,
RAS+.
"""
import glob
import gzip
import math
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import nrrd
import numpy as np

from runtime.errors import InputError, one_line
from runtime.files import write_aside
from runtime.memory import check_fits

SUFFIXES = (".nii.gz", ".nii", ".nrrd")     # in capitals, too
TO_RAS = {"left-posterior-superior": (-1, -1, 1, 1), "right-anterior-superior": (1, 1, 1, 1),
          "left-anterior-superior": (-1, 1, 1, 1)}      # NRRD's spaces of patients -> signs of the affine's rows
TO_RAS |= {"".join(word[0] for word in name.split("-")): signs for name, signs in TO_RAS.items()}   # lps, ras, las
GEOMETRY = ("sform_code", "qform_code", "xyzt_units", *(f"srow_{axis}" for axis in "xyz"),
            *(f"quatern_{axis}" for axis in "bcd"), *(f"qoffset_{axis}" for axis in "xyz"))     # of a NIfTI header


@dataclass
class ScanFile:
    """One 3D volume as its file stores it."""

    array: np.ndarray       # (*N) float32
    affine: np.ndarray      # (4, 4) voxel index -> RAS+ mm
    spacing: np.ndarray     # (3,) mm along the array's axes
    path: Path


def suffix(path: Path) -> str:
    """The end of a scan's file name, as it is written there; empty for other files."""
    return next((path.name[-len(end):] for end in SUFFIXES if path.name.lower().endswith(end)), "")


def is_scan(path: Path) -> bool:
    """Whether its name is that of a scan: a suffix, and not hidden."""
    return bool(suffix(path)) and not path.name.startswith(".")


def case_name(path: Path) -> str:
    """File name without its scan suffix: a/b.nii.gz -> b."""
    return path.name[:-len(suffix(path))] if suffix(path) else path.stem


def find_scan(stem: Path) -> Path | None:
    """The file `stem` plus one of the scan suffixes, or None. Raises InputError where there are two."""
    found = [path for path in sorted(stem.parent.glob(f"{glob.escape(stem.name)}.*"), reverse=True)
             if suffix(path) and case_name(path) == stem.name]
    if len(found) > 1:
        raise InputError(f"{found[0]} and {found[1]} are one case, {stem.name}: remove or rename one of them")
    return found[0] if found else None


def read_scan_file(path: Path) -> ScanFile:
    """Read one NIfTI or NRRD file. Raises InputError for all but a finite 3D volume with a usable affine."""
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: there is no such file; expected a scan ({', '.join(SUFFIXES)})")
    if not path.is_file():
        raise InputError(f"{path}: is no regular file; expected a scan ({', '.join(SUFFIXES)})")
    try:
        array, affine = (_read_nrrd if suffix(path).lower() == ".nrrd" else _read_nifti)(path)
    except InputError:
        raise
    except Exception as error:      # bytes of anybody's making end in any error
        raise InputError(f"{path}: cannot be read ({one_line(error)}); expected a whole NIfTI or NRRD file: "
                         "copy or export it again") from error
    if array.ndim != 3:
        raise InputError(f"{path}: is {array.ndim}D {array.shape}, expected one 3D volume; "
                         "export it as one, a 4D series as one file per volume")
    if min(array.shape) == 0:
        raise InputError(f"{path}: has no voxels {array.shape}; export it again")
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise InputError(f"{path}: has no usable affine (a spacing of 0 or not a number); "
                         "export it again with its geometry")
    if bad := int((~np.isfinite(array)).sum()):
        raise InputError(f"{path}: has {bad} NaN or infinite voxels, expected none; "
                         "replace them (numpy.nan_to_num) or export it again")
    return ScanFile(array, affine, nib.affines.voxel_sizes(affine), path)


def _check_size(path, shape, item):
    """A header may declare anything: believed only where voxels of `item` bytes, and as float32, fit into memory."""
    check_fits(f"{path}: has {' x '.join(map(str, shape))} voxels, which need", math.prod(shape) * (item + 4),
               "crop or resample the scan, or export it again if it is not that large")


def _read_nifti(path):
    image = nib.load(path)
    dtype = image.get_data_dtype()
    if dtype.kind not in "iuf":
        raise InputError(f"{path}: holds {dtype} voxels, expected one number per voxel; export it as greyscale")
    if image.ndim != 3:     # refused by the caller: a long 4D series need not be read for that
        return np.broadcast_to(np.float32(0), image.shape), image.affine
    _check_size(path, image.shape, dtype.itemsize)
    if path.name.lower().endswith(".gz"):   # whole: nibabel stops before gzip's check sum
        with gzip.open(path) as file:
            content = file.read(image.dataobj.offset + math.prod(image.shape) * dtype.itemsize)
            while file.read(2 ** 20):       # what follows the voxels is of no use, however long it is
                pass
        image = type(image).from_bytes(content)
    return image.get_fdata(dtype=np.float32, caching="unchanged"), np.array(image.affine, float)


def _read_nrrd(path):
    with path.open("rb") as file:
        header = nrrd.read_header(file)
        if elsewhere := header.get("data file", header.get("datafile")):
            raise InputError(f"{path}: its voxels are in another file, {one_line(elsewhere)}, which is not followed; "
                             "export the scan as one file")
        # a file that names no space is in ITK's own
        space = str(header.get("space", "left-posterior-superior")).lower()
        if space not in TO_RAS:
            raise InputError(f"{path}: its axes are in the space {space!r}, expected {', '.join(list(TO_RAS)[:3])}; "
                             "export it in one of these")
        _check_size(path, header["sizes"].tolist(), 8)
        array = nrrd.read_data(header, file, str(path))
    affine = np.eye(4)
    if header["dimension"] == 3:
        default = np.diag(np.nan_to_num(header.get("spacings", np.ones(3)), nan=1.0))
        affine[:3, :3] = np.asarray(header.get("space directions", default), float).T
        affine[:3, 3] = header.get("space origin", np.zeros(3))
    return np.asarray(array, np.float32), np.diag(TO_RAS[space]) @ affine


def read_label(path: Path, scan: ScanFile, labels: dict[int, int], same_affine: bool = True,
               allow_empty: bool = False,
               remedy: str = "correct the file or leave the case out") -> np.ndarray:
    """Class map (*N) uint8 of `scan` from its label file; `labels` maps the values in the file to classes.

    With `same_affine=False` only the shapes must agree: challenge files belong together voxel by voxel,
    whatever their headers say. Raises InputError for another grid and, ending in `remedy`, for other values
    than in `labels` or no foreground.
    """
    values = read_scan_file(path)
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


def check_same_shape(scan: ScanFile, other: ScanFile) -> None:
    if scan.array.shape != other.array.shape:
        raise InputError(f"{scan.path}: has shape {scan.array.shape}, expected {other.array.shape} as "
                         f"{other.path.name}; resample it to that scan")


def check_same_grid(scan: ScanFile, other: ScanFile) -> None:
    """Same shape, and no corner of the volume further than a tenth of a voxel apart."""
    check_same_shape(scan, other)
    corners = np.array([(*corner, 1) for corner in np.ndindex(2, 2, 2)]) * (*scan.array.shape, 1)
    apart = np.linalg.norm((scan.affine - other.affine) @ corners.T, axis=0).max()
    if apart > 0.1 * other.spacing.min():
        raise InputError(f"{scan.path}: its affine puts it up to {apart:.3g} mm away from {other.path.name}, "
                         "expected the same grid; resample it to that scan")


def save_on_grid(path: Path, array: np.ndarray, scan: ScanFile, mark: str = "", keep_header: bool = False) -> None:
    """Write (*N) or (*N, C) as NIfTI on the scan's own grid; a NIfTI scan's affine, codes and units stay the same.

    Nothing else of the scan's header goes along, descriptions, names and extensions least of all, unless
    `keep_header`. `mark`, at most 16 characters, is what `mark_of` reads back.
    """
    if array.shape[:3] != scan.array.shape:
        raise ValueError(f"{path}: shape {array.shape}, expected the scan's own grid {scan.array.shape}")
    header = None
    if suffix(scan.path).lower() != ".nrrd":
        own = nib.load(scan.path).header
        header = own.copy() if keep_header else nib.Nifti1Header()
        for key in GEOMETRY:
            header[key] = own[key]
        header["pixdim"][:4] = own["pixdim"][:4]
    image = nib.Nifti1Image(array, scan.affine, header, dtype=array.dtype)
    image.header["cal_min"] = image.header["cal_max"] = 0   # the scan's display window
    image.header["intent_name"] = mark
    if header is None:
        image.header.set_xyzt_units("mm")
    packed = path.name.endswith(".gz")
    write_aside(path, lambda file: file.write(gzip.compress(image.to_bytes(), 1, mtime=0) if packed
                                              else image.to_bytes()))


def mark_of(path: Path) -> str:
    """The `mark` of a file that `save_on_grid` wrote; empty for any other."""
    try:
        return nib.load(path).header["intent_name"].item().decode(errors="replace")
    except Exception:       # anybody's file
        return ""
