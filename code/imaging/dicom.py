"""DICOM: the series below a folder, each one scan, its slices in order of their places; pydicom reads the files.

Classic files, one a slice, and enhanced ones of many frames come down to frames, and what holds for frames is checked
once for both. Shapes: *N a scan's own grid: columns, rows, slices. Places are in mm; affines map voxel indices to mm,
RAS+.
"""
import itertools
import re
import warnings
import zlib
from collections import defaultdict
from collections.abc import Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from imaging.grids import NEAR, check_stored
from runtime.errors import InputError, counted, one_line

ENDS = (".dcm", ".dicom", ".ima")
BARE = tuple(bytes(tag) for tag in ((2, 0, 0, 0), (8, 0, 0, 0), (8, 0, 5, 0), (8, 0, 8, 0), (8, 0, 22, 0)))
INDEX = "DICOMDIR"
PLACED = re.compile("(CT|MR|Positron Emission Tomography|PET) Image Storage$")      # their images have a place
# tells the phases of a series apart, tried in this order
PHASES = ("TemporalPositionIdentifier", "TemporalPositionIndex", "TriggerTime", "NominalCardiacTriggerDelayTime",
          "EchoTime", "EffectiveEchoTime", "DiffusionBValue", "FrameType", "ImageType", "AcquisitionNumber",
          "FrameAcquisitionNumber", "StackID", "AcquisitionTime", "ContentTime")
GEOMETRY = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices",
            "RescaleSlope", "RescaleIntercept")
HEADER = ("SOPClassUID", "SOPInstanceUID", "PatientName", "PatientID", "PatientIdentityRemoved", "StudyInstanceUID",
          "SeriesInstanceUID", "SeriesNumber", "StudyDate", "StudyTime", "SeriesTime", "Modality", "Rows", "Columns",
          "NumberOfFrames", "BitsAllocated", "SamplesPerPixel", "PhotometricInterpretation", "ModalityLUTSequence",
          "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "DirectoryRecordSequence")
GROUPS = ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence", "FrameContentSequence",
          "PixelValueTransformationSequence", "MREchoSequence", "MRDiffusionSequence", "MRImageFrameTypeSequence",
          "CTImageFrameTypeSequence", "PETFrameTypeSequence", "CardiacSynchronizationSequence")
SAME_PLACE = 1e-3       # mm between slices that lie on one another
ROUNDED = 0.011         # mm that positions of two digits make two gaps differ
EVEN = 0.03             # share of a gap by which gaps may differ
STRAIGHT = 1e-3         # what directions may be off length 1, right angles, and one another


class Frame(NamedTuple):
    """One image with its place."""

    path: Path
    index: int | None               # in a file of several frames
    shape: tuple[int, int]          # rows, columns
    orientation: tuple[float, ...]  # directions of a row and of a column, LPS
    position: tuple[float, ...]     # of the first voxel, LPS
    spacing: tuple[float, float]    # between rows, between columns
    thickness: float                # of a slice that is alone
    said: float | None              # SpacingBetweenSlices
    slope: float
    intercept: float
    phase: tuple                    # values of PHASES
    uid: str

    @property
    def label(self) -> str:
        return self.path.name + ("" if self.index is None else f", frame {self.index + 1}")


class Header(NamedTuple):
    """What a file says of all its frames."""

    patient: tuple[str, str]    # name, ID
    anonymous: bool
    study: str
    series: str
    number: str
    modality: str
    when: tuple[str, ...]
    kind: str                   # "original", "derived" or "localiser"


class Aside(NamedTuple):
    """A file that is left aside, and what it is."""

    path: Path
    kind: str

    @property
    def name(self) -> str:
        return self.path.name


@dataclass(frozen=True)
class Series:
    """One scan; stands where other formats have the path of a file."""

    name: str                   # of the case
    parent: Path                # folder of its first file
    frames: tuple[Frame, ...]

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


@dataclass
class FoundSeries:
    """What DICOM files hold."""

    series: list[Series] = field(default_factory=list)
    bad: dict[str, str] = field(default_factory=dict)   # case -> one line of what is wrong with it
    aside: list[Aside] = field(default_factory=list)


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


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM by its first bytes or by its ending."""
    if not path.is_file():      # a pipe would not end
        return False
    try:
        with path.open("rb") as file:
            start = file.read(132)
    except OSError:
        start = b""
    return start[128:] == b"DICM" or start.startswith(BARE) or path.name.lower().endswith(ENDS)


# ---- from files to series --------------------------------------------------------------------------------------------


def find(files: Iterable[Path], root: Path) -> FoundSeries:
    """The series that DICOM files below `root` hold, named by patient folder and series number."""
    found, series, folders = FoundSeries(), defaultdict(list), defaultdict(set)
    damaged, headers = {}, {}
    for path in files:
        try:
            header, frames = _read_header(path)
        except InputError as error:
            damaged.setdefault(path.parent, one_line(error))
            continue
        if header is None:
            if frames != INDEX:
                found.aside.append(Aside(path, frames))
            continue
        headers.setdefault(header.series, header)
        series[header.series].append((header, frames))
        for folder in itertools.takewhile(lambda folder: folder != root, path.parents):
            folders[folder].add(header.patient)
    originals = {(header.study, header.modality) for content in series.values() for header, _ in content
                 if header.kind == "original"}
    named = defaultdict(list)
    for uid, content in series.items():
        taken = []
        for header, frames in content:
            if header.kind == "localiser" or header.kind == "derived" and (header.study, header.modality) in originals:
                found.aside.append(Aside(frames[0].path, f"DICOM {header.kind} images"))
            else:
                taken += frames
        if taken:
            place = min(frame.path for frame in taken)
            named[_name(headers[uid], place, root, folders)].append((headers[uid].when, uid, place.parent, taken))
    for name, several in named.items():
        for count, (_, _, parent, frames) in enumerate(sorted(several, key=lambda one: one[:2]), 1):
            case = name if count == 1 else f"{name}_{count}"
            broken = {frame.path.parent for frame in frames} & set(damaged)
            if broken:
                found.bad[case] = damaged[min(broken)]
                continue
            try:
                phases = _phases(frames)
            except InputError as error:
                found.bad[case] = f"{parent}: {error}"
                continue
            for number, phase in enumerate(phases, 1):
                this = case if len(phases) == 1 else f"{case}_phase{number}"
                try:
                    found.series.append(Series(this, parent, tuple(stacked(phase)[0])))
                except InputError as error:
                    found.bad[this] = f"{parent}: {error}"
    used = {frame.path.parent for one in found.series for frame in one.frames}
    for folder, line in damaged.items():
        if folder not in used and line not in found.bad.values():
            found.bad[f"{_plain(folder.name)}"] = line
    return found


def _read_header(path):
    """(Header, frames) of a file; (None, what it is) of one that is no image of a volume."""
    with pydicom() as module:
        try:
            data = module.dcmread(path, stop_before_pixels=True, force=True,
                                  specific_tags=[*HEADER, *PHASES, *GEOMETRY])
            return _described(path, data)
        except InputError:
            raise
        except Exception as error:      # bytes of anybody's making end in any error
            raise InputError(f"{path}: cannot be read ({one_line(error)}); expected a whole DICOM file: copy or export "
                             "it again, or take it out of the folder") from error


def _described(path, data):
    name = data.get("SOPClassUID")
    if path.name == INDEX or "DirectoryRecordSequence" in data:
        return None, INDEX
    if not name:
        raise InputError(f"{path}: has no SOP class, as every DICOM file has; copy or export it again, or take it out "
                         "of the folder")
    name = name.name if name.name != name else "object of a private kind"
    if "Image Storage" not in name:
        return None, f"DICOM {name.removesuffix(' Storage')}"
    if not data.get("Rows") or not data.get("Columns"):
        raise InputError(f"{path}: has no rows or columns, as a whole DICOM image has; copy or export it again, or "
                         "take it out of the folder")
    per_frame = data.get("PerFrameFunctionalGroupsSequence")
    count = int(data.get("NumberOfFrames") or 1)
    if per_frame is not None and len(per_frame) != count:
        raise InputError(f"{path}: has {count} frames and describes {len(per_frame)}; copy or export it again")
    shared = (data.get("SharedFunctionalGroupsSequence") or [{}])[0]
    frames = [_frame(path, data, (shared, per_frame[index]), index) for index in range(count)] if per_frame else [
        _frame(path, data, (), None)]
    if None in frames or (count > 1 and not per_frame):
        if PLACED.search(name) and not (count > 1 and not per_frame):
            raise InputError(f"{path}: has no place in the patient (ImagePositionPatient, ImageOrientationPatient, "
                             "PixelSpacing), which a slice of a volume needs; export it again with its geometry")
        return None, f"DICOM {name.removesuffix(' Storage')} without a place in the patient"
    if int(data.get("SamplesPerPixel") or 1) > 1 or "MONOCHROME" not in str(data.get("PhotometricInterpretation")):
        return None, "DICOM images in colour"
    kinds = [str(kind).upper() for kind in data.get("ImageType") or ()]
    kind = "localiser" if "LOCALIZER" in kinds else "derived" if kinds[:1] == ["DERIVED"] else "original"
    text = {key: str(data.get(key) or "") for key in HEADER if "Sequence" not in key}
    return Header((text["PatientName"], text["PatientID"]), text["PatientIdentityRemoved"] == "YES",
                  text["StudyInstanceUID"], text["SeriesInstanceUID"] or str(path.parent), text["SeriesNumber"],
                  text["Modality"], (text["StudyDate"], text["StudyTime"], text["SeriesTime"]), kind), frames


def _frame(path, data, groups, index) -> Frame | None:
    """One frame; None where it has no place."""
    values: dict[str, Any] = {key: data.get(key) for key in (*PHASES, *GEOMETRY)}
    for group in groups:
        for key in GROUPS:
            for item in (group.get(key) or ())[:1]:
                values |= {element.keyword: element.value for element in item}
    orientation, position, spacing = (
        _numbers(path, values, key, count) for key, count in (("ImageOrientationPatient", 6),
                                                              ("ImagePositionPatient", 3), ("PixelSpacing", 2)))
    if not (orientation and position and spacing):
        return None
    thickness, said, slope, intercept = (
        (_numbers(path, values, key, 1) or (default,))[0]
        for key, default in (("SliceThickness", None), ("SpacingBetweenSlices", None), ("RescaleSlope", 1.0),
                             ("RescaleIntercept", 0.0)))
    if slope == 0:
        raise InputError(f"{path}: has a rescale slope of 0, which makes all voxels one value; export it again")
    return Frame(path, index, (int(data.Rows), int(data.Columns)), orientation, position, spacing,
                 said or thickness or 1.0, said, slope, intercept,
                 tuple(str(values[key]) if values.get(key) not in (None, "") else "" for key in PHASES),
                 str(data.get("SOPInstanceUID", path)))


def _numbers(path, values, key, count):
    """A field's finite numbers; None where it is absent or empty."""
    value = values.get(key)
    if value is None or value == "" or (hasattr(value, "__len__") and not len(value)):
        return None
    numbers = tuple(float(one) for one in (value if hasattr(value, "__len__") and not isinstance(value, str)
                                           else [value]))
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise InputError(f"{path}: has the {key} {one_line(value)}, expected {counted(count, 'finite number')}; export "
                         "it again")
    return numbers


def _plain(name):
    """A folder's name as part of a case's."""
    return re.sub(r"[^\w-]+", "_", name).strip("_") or "patient"


def _name(header, path, root, folders):
    """<patient folder>_s<series number>; of a study's number where the folder is named by the patient."""
    below = [folder for folder in reversed(path.parents) if folder != root and folder.is_relative_to(root)]
    folder = next((folder for folder in below if len(folders[folder]) == 1), below[-1] if below else root.resolve())
    number = _plain(header.number) if header.number else "0"
    if not header.anonymous and _tells(folder.name, *header.patient):
        return f"study{zlib.crc32(header.study.encode()):08x}_s{number}"
    return f"{_plain(folder.name)}_s{number}"


def _tells(folder, name, identity):
    """Whether a folder's name holds the patient's name or ID."""
    words = {word for word in re.split(r"[\W_]+", folder.casefold()) if word}
    joined = "".join(re.split(r"[\W_]+", folder.casefold()))
    identity = "".join(re.split(r"[\W_]+", identity.casefold()))
    names = [word for word in re.split(r"[\W_]+", name.casefold()) if len(word) > 2]
    return bool(identity and (identity in words or identity == joined or len(identity) > 3 and identity in joined)) or (
        any(word in words or len(word) > 3 and word in joined for word in names))


# ---- from frames to volumes ------------------------------------------------------------------------------------------


def _phases(frames):
    """The frames of each phase of a series: one where they make one volume, else as one or two of PHASES tell them
    apart into volumes of one region.
    """
    try:
        stacked(frames)
        return [frames]
    except InputError as error:
        whole = error
    if len(frames) > len({(frame.uid, frame.index) for frame in frames}):
        raise whole
    varying = [key for key in range(len(PHASES)) if len({frame.phase[key] for frame in frames}) > 1]
    partly = None
    for keys in itertools.chain(*(itertools.combinations(varying, count) for count in (1, 2))):
        groups = defaultdict(list)
        for frame in frames:
            groups[tuple(frame.phase[key] for key in keys)].append(frame)
        phases = [groups[key] for key in sorted(groups, key=_in_order)]
        if min(map(len, phases)) < 2 or not _overlap(phases):
            continue
        good = sum(map(_is_stack, phases))
        if good == len(phases):
            return phases
        if good and min(map(len, phases)) * 2 >= max(map(len, phases)) and partly is None:
            partly = phases
    if partly:
        return partly
    raise whole


def _in_order(key):
    return [(0, float(value), "") if re.fullmatch(r"-?\d+\.?\d*", value) else (1, 0.0, value) for value in key]


def _is_stack(frames):
    try:
        return bool(stacked(frames))
    except InputError:
        return False


def _overlap(phases):
    """Whether groups of frames cover one region: the part that all have is half of each at least."""
    normal = np.cross(*np.reshape(phases[0][0].orientation, (2, 3)))
    ends = np.array([[min(heights), max(heights)] for phase in phases
                     if (heights := [float(np.dot(frame.position, normal)) for frame in phase])])
    common = ends[:, 1].min() - ends[:, 0].max()
    return bool((common >= (ends[:, 1] - ends[:, 0]) / 2).all())


def stacked(frames):
    """(frames in order along their normal, affine); InputError where they are not one volume, naming the place."""
    first = frames[0]
    if doubles := len(frames) - len({(frame.uid, frame.index) for frame in frames}):
        met = {}
        one, two = next((met[key], frame) for frame in frames if (key := (frame.uid, frame.index)) in met
                        or met.update({key: frame}))
        raise InputError(f"{counted(doubles, 'image')} are there twice, such as {one.label} and {two.label}; remove "
                         "the copies")
    for what, attribute, close in (("rows and columns", "shape", 0), ("directions", "orientation", STRAIGHT),
                                   ("pixel spacings", "spacing", STRAIGHT)):
        values = np.array([getattr(frame, attribute) for frame in frames], float)
        differing = np.abs(values - values[0]).max(1) > close * (values[0].max() if attribute == "spacing" else 1)
        if differing.any():
            other = frames[int(np.argmax(differing))]
            raise InputError(f"its images have several {what}, {_told(values[0])} in {first.label} and "
                             f"{_told(getattr(other, attribute))} in {other.label}, expected one volume; keep one kind "
                             "in the folder")
    rows, columns = np.reshape(first.orientation, (2, 3))
    if abs(rows @ columns) > STRAIGHT or abs(np.array([rows @ rows, columns @ columns]) - 1).max() > 2 * STRAIGHT:
        raise InputError(f"{first.label} has the directions {_told(first.orientation)}, expected two of length 1 at "
                         "right angles; export it again")
    if min(first.spacing) <= 0:
        raise InputError(f"{first.label} has the pixel spacing {_told(first.spacing)}, expected positive numbers; "
                         "export it again")
    normal = np.cross(rows, columns)
    positions = np.array([frame.position for frame in frames])
    heights = positions @ normal
    order = np.argsort(heights, kind="stable")
    frames, heights, positions = [frames[place] for place in order], heights[order], positions[order]
    step = first.thickness
    if len(frames) > 1:
        step = _even(frames, heights)
        drift = positions - positions[0] - np.outer(heights - heights[0], normal)
        _check_upright(frames, drift, step)
    affine = np.eye(4)
    affine[:3, :3] = np.stack([rows * first.spacing[1], columns * first.spacing[0], normal * step], 1)
    affine[:3, 3] = positions[0]
    return frames, np.diag([-1, -1, 1, 1]) @ affine


def _told(numbers):
    return " ".join(f"{number:.6g}" for number in numbers)


def _even(frames, heights):
    """The mm between slices; InputError where slices lie on one another or gaps differ."""
    gaps = np.diff(heights)
    if (gaps < SAME_PLACE).any():
        place = int(np.argmax(gaps < SAME_PLACE))
        raise InputError(f"{counted(int((gaps < SAME_PLACE).sum()) + 1, 'slice')} lie on others, such as "
                         f"{frames[place].label} and {frames[place + 1].label} at {heights[place]:.6g} mm along the "
                         "normal, and no field tells phases apart; remove duplicates, or export one phase")
    usual = float(np.median(gaps))
    off = np.abs(gaps - usual) > max(EVEN * usual, ROUNDED)
    if len(gaps) == 2 and off.any() or off.mean() >= 0.5:
        usual = float(gaps.min())
        off = gaps - usual > max(EVEN * usual, ROUNDED)
    if off.any():
        place = int(np.argmax(off))
        count = gaps[place] / usual - 1
        missing = f"about {counted(round(count), 'slice')} missing" if round(count) and abs(
            count - round(count)) < 0.1 else "unequal gaps"
        raise InputError(f"{missing} between {frames[place].label} at {heights[place]:.6g} mm and "
                         f"{frames[place + 1].label} at {heights[place + 1]:.6g} mm along the normal, expected slices "
                         f"{usual:.4g} mm apart; copy or export the series again")
    return float(heights[-1] - heights[0]) / len(gaps)


def _check_upright(frames, drift, step):
    """InputError where slices are moved against one another sideways."""
    apart = np.linalg.norm(drift, axis=1)
    if apart.max() <= NEAR * min(*frames[0].spacing, step):
        return
    even = np.outer(np.linspace(0, 1, len(frames)), drift[-1])
    if np.linalg.norm(drift - even, axis=1).max() <= NEAR * min(frames[0].spacing):
        tilt = np.degrees(np.arctan2(apart[-1] / (len(frames) - 1), step))
        raise InputError(f"its slices are sheared by {tilt:.3g} degrees (gantry tilt), and its voxels are no boxes; "
                         "resample it to an upright grid first, with dcm2niix or 3D Slicer")
    far = int(np.argmax(apart))
    raise InputError(f"{frames[far].label} lies {apart[far]:.3g} mm beside the line of the other slices; export the "
                     "series again, or take that image out")


# ---- voxels ----------------------------------------------------------------------------------------------------------


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
