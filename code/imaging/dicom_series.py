"""DICOM files to series: each series below a folder, or each phase of one, is a scan with a name.

Names are made of folders and series numbers, never of a patient's name or ID. pydicom reads the headers.
"""
import itertools
import re
import zlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from imaging.cases import INDEX
from imaging.dicom import Series, pydicom
from imaging.dicom_stacks import PHASES, Frame, phases_of, stacked
from runtime.errors import InputError, counted, one_line

PLACED = re.compile("(CT|MR|Positron Emission Tomography|PET) Image Storage$")      # their images have a place
GEOMETRY = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices",
            "RescaleSlope", "RescaleIntercept")
HEADER = ("SOPClassUID", "SOPInstanceUID", "PatientName", "PatientID", "PatientIdentityRemoved", "StudyInstanceUID",
          "SeriesInstanceUID", "SeriesNumber", "StudyDate", "StudyTime", "SeriesTime", "Modality", "Rows", "Columns",
          "NumberOfFrames", "BitsAllocated", "SamplesPerPixel", "PhotometricInterpretation", "ModalityLUTSequence",
          "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "DirectoryRecordSequence")
GROUPS = ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence", "FrameContentSequence",
          "PixelValueTransformationSequence", "MREchoSequence", "MRDiffusionSequence", "MRImageFrameTypeSequence",
          "CTImageFrameTypeSequence", "PETFrameTypeSequence", "CardiacSynchronizationSequence")


class Header(NamedTuple):
    """What a file says of all its frames."""

    patient: tuple[str, str]    # name, ID, in one spelling
    anonymous: bool
    study: str
    series: str
    number: str
    modality: str
    when: tuple[str, ...]
    kind: str                   # "original", "derived" or "localiser"

    @property
    def study_of_modality(self) -> tuple:
        return self.patient, self.study, self.modality


class Aside(NamedTuple):
    """A file that is left aside, and what it is."""

    path: Path
    kind: str

    @property
    def name(self) -> str:
        return self.path.name


@dataclass
class FoundSeries:
    """What DICOM files hold."""

    series: list[Series] = field(default_factory=list)
    bad: dict[str, str] = field(default_factory=dict)   # case -> one line of what is wrong with it
    aside: list[Aside] = field(default_factory=list)


def find(files: Iterable[Path], root: Path, channels: Iterable[str] = ()) -> FoundSeries:
    """The series that DICOM files below `root` hold, named by patient folder and series number.

    channels: s3, s5 or the like, of series that are asked for by their numbers, and taken if they are derived, too.
    """
    asked = set(map(str.lower, channels))
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
        key = header.series, header.patient         # some anonymisers give every patient the same UIDs
        headers.setdefault(key, header)
        series[key].append((header, frames))
        for folder in itertools.takewhile(lambda folder: folder != root, path.parents):
            folders[folder].add(header.patient)
        folders[root].add(header.patient)
    originals = {header.study_of_modality for content in series.values() for header, _ in content
                 if header.kind == "original"}
    named, patients = defaultdict(list), {}
    for uid, content in series.items():
        taken = []
        for header, frames in content:
            if header.kind == "localiser" or header.kind == "derived" and (
                    header.study_of_modality in originals and _number(header) not in asked):
                found.aside.append(Aside(frames[0].path, f"DICOM {header.kind} images"))
            else:
                taken += frames
        if taken:
            place, header = min(frame.path for frame in taken), headers[uid]
            folder = _patient_folder(place, root, folders)
            name = _name(header, folder)
            key = header.patient if any(header.patient) and len(folders[root]) > 1 else folder
            patients.setdefault(key, name if name not in patients.values() else f"{name}_{len(patients)}")
            named[name].append((header.when, uid, place.parent, taken, patients[key]))
    for name, several in named.items():
        for count, (_, _, parent, frames, patient) in enumerate(sorted(several, key=lambda one: one[:2]), 1):
            case = name if count == 1 else f"{name}_{count}"
            broken = {frame.path.parent for frame in frames} & set(damaged)
            if broken:
                found.bad[case] = damaged[min(broken)]
                continue
            try:
                phases = phases_of(frames)
            except InputError as error:
                found.bad[case] = f"{parent}: {error}"
                continue
            for number, phase in enumerate(phases, 1):
                this = case if len(phases) == 1 else f"{case}_phase{number}"
                try:
                    found.series.append(Series(this, parent, tuple(stacked(phase)[0]), patient))
                except InputError as error:
                    found.bad[this] = f"{parent}: {error}"
    used = {frame.path.parent for one in found.series for frame in one.frames}
    for folder, line in damaged.items():
        if folder not in used and line not in found.bad.values():
            place = folder.relative_to(root) if folder.is_relative_to(root) and folder != root else folder.name
            found.bad[_plain(str(place))] = line
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
    if path.name.upper() == INDEX or "DirectoryRecordSequence" in data:
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
    if "MOSAIC" in kinds:
        raise InputError(f"{path}: is a mosaic, all slices of a volume in one image, whose places are in fields of its "
                         "maker's own; convert it with dcm2niix")
    kind = "localiser" if "LOCALIZER" in kinds else "derived" if kinds[:1] == ["DERIVED"] else "original"
    text = {key: str(data.get(key) or "") for key in HEADER if "Sequence" not in key}
    patient = _person(text["PatientName"]), text["PatientID"].strip().casefold()
    return Header(patient, text["PatientIdentityRemoved"] == "YES", text["StudyInstanceUID"],
                  text["SeriesInstanceUID"] or str(path.parent), text["SeriesNumber"], text["Modality"],
                  (text["StudyDate"], text["StudyTime"], text["SeriesTime"]), kind), frames


def _person(name):
    """A patient's name as scanners and archives write it alike: DOE^JANE, Doe^Jane^^ and Doe, Jane=... are one."""
    groups = (re.sub(r"[\W_]+", " ", group).strip() for group in name.casefold().split("="))
    return next(filter(None, groups), "")


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
                 abs(said or thickness or 1.0), said, slope, intercept,
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


def _patient_folder(path, root, folders):
    """The highest folder below the root in which all are one patient's; the lowest there is where none is."""
    below = [folder for folder in reversed(path.parents) if folder != root and folder.is_relative_to(root)]
    return next((folder for folder in below if len(folders[folder]) == 1), below[-1] if below else root.resolve())


def _name(header, folder):
    """<patient folder>_s<series number>; of a study's number where the folder is named by the patient."""
    if not header.anonymous and _tells(folder.name, *header.patient):
        return f"study{zlib.crc32(header.study.encode()):08x}_{_number(header)}"
    return f"{_plain(folder.name)}_{_number(header)}"


def _number(header):
    return f"s{_plain(header.number) if header.number else 0}"


def _tells(folder, name, identity):
    """Whether a folder's name holds the patient's name or ID."""
    words = {word for word in re.split(r"[\W_]+", folder.casefold()) if word}
    joined = "".join(re.split(r"[\W_]+", folder.casefold()))
    identity = "".join(re.split(r"[\W_]+", identity.casefold()))
    names = [word for word in re.split(r"[\W_]+", name.casefold()) if len(word) > 2]
    return bool(identity and (identity in words or identity == joined or len(identity) > 3 and identity in joined)) or (
        any(word in words or len(word) > 3 and word in joined for word in names))
