"""One DICOM series as a volume: its frames' voxels, rescaled, in the order of their places; pydicom reads the files.

Shapes: *N a scan's own grid: columns, rows, slices.
"""
import warnings
from collections import defaultdict
from collections.abc import Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from imaging.dicom_stacks import EVEN, ROUNDED, Frame, stacked
from imaging.grids import check_stored
from runtime.errors import InputError, one_line

ENDS = (".dcm", ".dicom", ".ima")
BARE = tuple(bytes(tag) for tag in ((2, 0, 0, 0), (8, 0, 0, 0), (8, 0, 5, 0), (8, 0, 8, 0), (8, 0, 22, 0)))


@dataclass(frozen=True)
class Series:
    """One scan; stands where other formats have the path of a file."""

    name: str                   # of the case
    parent: Path                # folder of its first file
    frames: tuple[Frame, ...]
    patient: str = ""           # whose scan it is, by a name that no patient has

    def __str__(self) -> str:
        return f"{self.parent} ({self.name})"

    @property
    def files(self) -> list[Path]:
        return files_of(self.frames)

    @property
    def stem(self) -> str:
        return self.name


def files_of(frames: Iterable[Frame]) -> list[Path]:
    return list(dict.fromkeys(frame.path for frame in frames))


@contextmanager
def pydicom():
    """The module, silent: its warnings quote what a header says, a patient's name, too."""
    try:
        import pydicom
    except ImportError as error:
        raise InputError("DICOM files are read by the package pydicom, which is not installed: pip install -r "
                         "requirements-clinical.txt") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
        yield pydicom


def is_dicom(path: Path, bare: bool = True) -> bool:
    """Whether a file is DICOM by its first bytes or by its ending; `bare`: also one without the preamble, whose first
    bytes may as well be small numbers.
    """
    if not path.is_file():      # a pipe would not end
        return False
    try:
        with path.open("rb") as file:
            start = file.read(132)
    except OSError:
        start = b""
    return start[128:] == b"DICM" or bare and start.startswith(BARE) or path.name.lower().endswith(ENDS)


def read(series: Series, geometry: str, channels: int):
    """Array (*N) float32, affine, notes and readings of one series."""
    frames, affine = stacked(series.frames)
    rows, columns = frames[0].shape
    check_stored(series, (columns, rows, len(frames)), 4, channels)
    array = np.empty((columns, rows, len(frames)), np.float32)
    notes, files = {}, defaultdict(list)
    for place, frame in enumerate(frames):
        files[frame.path].append((place, frame))
    with pydicom() as module:
        for path, content in files.items():
            voxels, inverted = _pixels(module, path, (rows, columns))
            for place, frame in content:
                plane = voxels[frame.index] if voxels.ndim == 3 else voxels
                array[..., place] = (plane.astype(float) * frame.slope + frame.intercept).T
            if inverted:
                notes["MONOCHROME1"] = "its stored values are turned, so that high ones are bright"
    step = float(np.linalg.norm(affine[:3, 2]))
    said = frames[0].said
    if said and abs(abs(said) - step) > max(EVEN * step, ROUNDED):
        notes["SpacingBetweenSlices"] = f"it says {abs(said):.4g} mm, the slices' positions {step:.4g} mm; these count"
    return array, affine, notes, {}


def _pixels(module, path, shape):
    """(stored values (rows, columns) or (frames, rows, columns), whether they were turned) of a file."""
    try:
        data = module.dcmread(path, force=True)
        if "TransferSyntaxUID" not in data.file_meta:
            data.file_meta.TransferSyntaxUID = module.uid.ImplicitVRLittleEndian if (
                data.original_encoding[0]) else module.uid.ExplicitVRLittleEndian
        voxels = data.pixel_array
    except Exception as error:      # bytes of anybody's making end in any error
        raise InputError(f"{path}: its voxels cannot be read ({one_line(error)[:200]}); expected a whole DICOM file in "
                         "a transfer syntax that pydicom decodes: copy it again, or export it uncompressed") from error
    if voxels.shape[-2:] != shape or voxels.ndim > 3:
        raise InputError(f"{path}: holds voxels of {voxels.shape}, expected {shape}; copy or export it again")
    if data.get("ModalityLUTSequence"):
        voxels = module.pixels.apply_modality_lut(voxels, data)
    if data.PhotometricInterpretation != "MONOCHROME1":
        return voxels, False
    if voxels.dtype.kind == "f":
        return -voxels, True
    return (-1 if data.PixelRepresentation else 2 ** data.BitsStored - 1) - voxels.astype(np.int64), True
