"""Scan files of every format: found by their names, read whole and checked, written on the grid of their scan.

A format is a row of FORMATS; what a row's `read` returns is checked here, once for all. Shapes: *N a scan's own grid as
stored in its file, C classes. Spacings are in mm; affines map voxel indices to mm, RAS+.
"""
import glob
import gzip
import re
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from nibabel.affines import voxel_sizes

from imaging import dicom, dicom_segmentations, metaimage, nifti, nrrd_files, segmentations
from imaging.cases import IGNORED, TWICE
from imaging.grids import ScanFile, check_same_grid, check_same_shape, turned_onto
from runtime.errors import InputError, counted, one_line, printable
from runtime.files import check_readable, write_aside

PREDICTED = re.compile("[0-9a-f]{16}")      # the mark of predict.py: check sums of weights and scan
FLAT = 1e-6     # volume that the directions of three axes span, below which they lie in a plane


@dataclass(frozen=True)
class Format:
    """One kind of scan files: what its names end in, who reads them, and what their label maps are written as."""

    name: str
    suffixes: tuple[str, ...]   # longer ones before those that they end in; in capitals, too
    read: Callable              # (path, geometry, channels) -> array (*N, ...) float32, affine, notes, readings
    voxels: Callable            # path -> the file that holds the voxels
    out: str = "nifti"          # key of WRITERS


FORMATS = (Format("NIfTI", (".nii.gz", ".nii"), nifti.read, nifti.voxel_file),
           Format("NRRD", (".nrrd", ".nhdr"), nrrd_files.read, nrrd_files.voxel_file, "nrrd"),
           Format("MetaImage", (".mha", ".mhd"), metaimage.read, metaimage.voxel_file, "nrrd"),
           Format("Analyze", (".hdr",), nifti.read, nifti.voxel_file),
           Format("DICOM", (), dicom.read, None, "nrrd"))       # a Series in place of a path: no ending tells it
SUFFIXES = tuple(suffix for kind in FORMATS for suffix in kind.suffixes)
WRITERS = {"nifti": (".nii.gz", nifti), "nrrd": (".nrrd", nrrd_files)}      # --format -> suffix, module that writes it
COMPANIONS = (".img", ".raw", ".zraw", ".raw.gz", ".raw.bz2")       # of files with the voxels of a header beside them


def format_of(path: Path | dicom.Series) -> Format:
    """The format that a file's name says; the first one for any other name."""
    if isinstance(path, dicom.Series):
        return FORMATS[-1]
    return next((kind for kind in FORMATS if path.name.lower().endswith(kind.suffixes)), FORMATS[0])


def suffix(path: Path) -> str:
    """The end of a scan's or a segmentation's file name, as it is written there; empty for other files."""
    return next((path.name[-len(end):] for end in (segmentations.SEG_NRRD, *SUFFIXES)
                 if path.name.lower().endswith(end)), "")


def is_label(path: Path) -> bool:
    """Whether its name is that of a scan or of a segmentation: a suffix, and not hidden."""
    return bool(suffix(path)) and not path.name.startswith(".")


def is_scan(path: Path) -> bool:
    """Whether its name is that of a scan, and no segmentation of 3D Slicer has it."""
    return is_label(path) and not segmentations.is_segmentation(path)


def case_name(path: Path) -> str:
    """File name without its suffix: a/b.nii.gz -> b."""
    return path.name[:-len(suffix(path))] if suffix(path) else path.stem


def find_scan(stem: Path) -> Path | None:
    """The file `stem` plus one of the scan suffixes, or None. Raises InputError where there are two."""
    found = [path for path in sorted(stem.parent.glob(f"{glob.escape(stem.name)}.*"), reverse=True)
             if suffix(path) and case_name(path) == stem.name]
    if len(found) > 1:
        raise InputError(TWICE.format(*found[:2], stem.name))
    return found[0] if found else None


def read_scan_file(path: Path, geometry: str = "itk") -> ScanFile:
    """Read one scan file. Raises InputError for all but a finite 3D volume with a usable affine.

    geometry: which field of a header counts where they disagree, "itk" or "sform".
    """
    return read_channels(path, geometry, 1)[0]


def read_channels(path: Path, geometry: str, channels: int) -> list[ScanFile]:
    """Read one file with this many channels along its fourth axis, as one scan per channel."""
    if not isinstance(path, dicom.Series):
        path = Path(path)
    if segmentations.is_segmentation(path):
        raise InputError(f"{path}: is a segmentation, expected a scan ({', '.join(SUFFIXES)})")
    array, affine, notes, readings = _whole(path, format_of(path).name, format_of(path).read, geometry, channels)
    spacing = voxel_sizes(affine)
    if not (np.isfinite(affine).all() and spacing.all()) or abs(np.linalg.det(affine[:3, :3] / spacing)) < FLAT:
        raise InputError(f"{path}: has no usable affine (a spacing of 0 or not a number); "
                         "export it again with its geometry")
    if bad := int((~np.isfinite(array)).sum()):
        raise InputError(f"{path}: has {bad} NaN or infinite voxels, expected none; "
                         "replace them (numpy.nan_to_num) or export it again")
    array = array.reshape(*array.shape[:3], channels)
    return [ScanFile(array[..., channel], affine, spacing, path, notes, readings) for channel in range(channels)]


def read_scans(paths: Sequence[Path], geometry: str, channels: int) -> list[ScanFile]:
    """One scan per channel of a case: from one file per channel, or from the one that holds them all.

    Channels that are stored along other axes than the first one are turned.
    """
    if len(paths) == 1:
        return read_channels(paths[0], geometry, channels)
    first, *others = [read_scan_file(path, geometry) for path in paths]
    return [first, *(turned_onto(scan, first) for scan in others)]


def parts(path: Path) -> list[Path]:
    """The regular files that make up a scan: its own and, for a header, the one with its voxels."""
    if isinstance(path, dicom.Series):
        return path.files
    if not Path(path).is_file():        # a pipe would not end
        return []
    try:
        voxels = format_of(path).voxels(path)
    except Exception:       # anybody's file
        voxels = path
    return [part for part in dict.fromkeys((Path(path), voxels)) if part.is_file()]


def checksums(path: Path) -> dict[str, int]:
    """{name: CRC-32} of the files that make up a scan; one of all for a DICOM series, whose names of files may tell."""
    if isinstance(path, dicom.Series):
        return {path.name: checksum(path)}
    return {part.name: zlib.crc32(part.read_bytes()) for part in parts(path)}


def checksum(path: Path, start: int = 0) -> int:
    """CRC-32 of the bytes of all files that make up a scan, one after the other."""
    for part in parts(path):
        check_readable(part)
        start = zlib.crc32(part.read_bytes(), start)
    return start


def _whole(path, name, read, *args):
    """read(path, *args) of a regular file; whatever a damaged one ends in becomes an InputError."""
    is_series = isinstance(path, dicom.Series)
    if not is_series and not path.exists():
        raise InputError(f"{path}: there is no such file; expected a scan ({', '.join(SUFFIXES)})")
    if not is_series and not path.is_file():
        raise InputError(f"{path}: is no regular file; expected a scan ({', '.join(SUFFIXES)})")
    try:
        return read(path, *args)
    except InputError:
        raise
    except Exception as error:      # bytes of anybody's making end in any error
        end = "" if is_series else _true_suffix(path)
        remedy = f"; by its first bytes it is a {end}: rename it so" if end else ": copy or export it again"
        raise InputError(f"{path}: cannot be read ({one_line(error)}); expected a whole {name} file{remedy}") from error


def _true_suffix(path):
    """The suffix that a file should have by its first bytes, where its own is another format's, or NIfTI's in mixed
    case, which nibabel does not find; empty otherwise.
    """
    try:
        with path.open("rb") as file:
            start = file.read(348)
    except OSError:
        return ""
    ends = {".nii.gz": start.startswith(b"\x1f\x8b") and suffix(path).lower().startswith(".nii"),
            ".nii": start.endswith(b"n+1\0") or start[4:8] == b"n+2\0", ".nrrd": start.startswith(b"NRRD"),
            ".mha": start.startswith(b"ObjectType"), ".dcm": start[128:132] == b"DICM"}
    end = next((end for end, fits in ends.items() if fits), "")
    if end.startswith(".nii"):
        return "" if suffix(path) in (end, end.upper()) else end
    return "" if format_of(path) is format_of(Path(end)) else end


def tell_notes(scans: Iterable[tuple[Path, dict[str, str]]]) -> None:
    """Print each kind of note once: how many of the files have it, and what it says of one of them."""
    kinds = {}
    for path, notes in scans:
        for kind in notes:
            kinds.setdefault(kind, {})[path] = notes[kind]
    for kind, files in kinds.items():
        path = min(files, key=str)
        print(printable(f"{kind} of {counted(len(files), 'file')}, such as {path.name}: {files[path]}"))


def values_in(path: Path) -> set[int]:
    """The values that a label file has."""
    if segmentations.is_segmentation(path):
        return {0, *segments_of(path).values()}
    return set(np.unique(np.rint(read_scan_file(path).array).astype(int)).tolist())


def segments_of(path: Path) -> dict[str, int]:
    """{name: value} of the segments of a segmentation; empty of any other file."""
    if not segmentations.is_segmentation(path):
        return {}
    return {name: value for name, (_, _, value) in _whole(path, "segmentation", segmentations.segments).items()}


def read_label(path: Path, scan: ScanFile, labels: dict[int, int], same_affine: bool = True,
               allow_empty: bool = False, geometry: str = "itk", segments: dict[str, int] | None = None,
               remedy: str = "correct the file, leave the case out, or see --allow-empty") -> np.ndarray:
    """Class map (*N) uint8 of `scan` from its label file; `labels` maps the values in the file to classes.

    A label whose axes are stored in another order or direction is turned. With `same_affine=False` only the shapes must
    agree: challenge files belong together voxel by voxel, whatever their headers say. `segments` gives the segments of
    a .seg.nrrd their values by name; the file's own count by default. Raises InputError for another grid and, ending in
    `remedy`, for other values than in `labels` or no foreground.
    """
    path = Path(path)
    if segmentations.is_segmentation(path):
        values = _whole(path, "segmentation", segmentations.read_values, scan, segments, same_affine)
    else:
        file = read_scan_file(path, geometry)
        file = turned_onto(file, scan) if same_affine else file
        (check_same_grid if same_affine else check_same_shape)(file, scan)
        values = file.array
    rounded = np.rint(values)
    if np.abs(values - rounded).max() > 1e-3:     # a scl_slope may leave the last digits off
        odd = float(values[np.abs(values - rounded) > 1e-3][0])
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
    if not allow_empty and not classes[classes != IGNORED].any():
        raise InputError(f"{path}: is empty, all voxels are background; expected some of "
                         f"{', '.join(str(value) for value in labels if labels[value])}; {remedy}")
    return classes


def save_on_grid(path: Path, array: np.ndarray, scan: ScanFile, mark: str = "", keep_header: bool = False) -> None:
    """Write (*N) or (*N, C) on the scan's own grid, as the path's suffix says.

    Where the scan has that format, the fields of its header that say where it lies stay as they are. Nothing else of it
    goes along, descriptions, names and extensions least of all, unless `keep_header`. `mark`, at most 16 characters, is
    what `mark_of` reads back.
    """
    if array.shape[:3] != scan.array.shape:
        raise ValueError(f"{path}: shape {array.shape}, expected the scan's own grid {scan.array.shape}")
    writer = WRITERS[format_of(path).out][1]
    source = scan.path if format_of(scan.path).read is writer.read else None
    content = writer.encoded(array, scan.affine, source, mark, keep_header)
    packed = path.name.endswith(".gz")
    write_aside(path, lambda file: file.write(gzip.compress(content, 1, mtime=0) if packed else content))


def mark_of(path: Path) -> str:
    """The `mark` of a file that `save_on_grid` or predict.py wrote; empty for any other, and for one whose voxels were
    changed since, whatever program kept the header.
    """
    if not Path(path).is_file():        # a pipe would not end
        return ""
    try:
        if path.name.endswith(dicom_segmentations.SUFFIX):
            return dicom_segmentations.mark_of(path)
        mark, unchanged = WRITERS[format_of(path).out][1].mark_of(path)
        return mark if unchanged else ""
    except Exception:       # anybody's file
        return ""


def is_prediction(path: Path) -> bool:
    """Whether a file is what predict.py, a test script or an exported network made of a scan, as it was written."""
    return bool(PREDICTED.fullmatch(mark_of(path)))
