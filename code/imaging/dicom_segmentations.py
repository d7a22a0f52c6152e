"""DICOM SEG: a label map of a DICOM series as the object that a PACS takes back; highdicom writes it.

Shapes: *N the series' own grid: columns, rows, slices.
"""
import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from imaging.dicom import Series, files_of, pydicom
from imaging.dicom_stacks import stacked
from runtime.errors import InputError, one_line
from runtime.files import read_text, write_aside

SUFFIX = ".dcm"
LONGEST = 64        # characters of a name or meaning (LO)
SHORT = 16          # characters of a code or its scheme (SH); a longer code is a LongCodeValue
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
TISSUE = {"category": ["85756007", "SCT", "Tissue"], "type": ["85756007", "SCT", "Tissue"]}    # 3D Slicer's default
MADE = "made from "
LEARNED = "123110", "DCM", "Artificial Intelligence"
UNICODE = "ISO_IR 192"      # UTF-8: a source's own characters need not have those of the classes' names
SERIES = 1000       # what the series number of a segmentation adds to its scan's
# attributes that every image has, if empty, and that anonymisers take out
ATTRIBUTES = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID",
            "AccessionNumber", "ReferringPhysicianName", "SeriesNumber", "Manufacturer")
# those among them that highdicom refuses where they do not keep to the standard, as an old scanner's may not
CHECKED = "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime"


def in_dicom(names: Sequence[str]) -> list[str]:
    """Names of classes as DICOM holds them (LO): at most 64 characters, no backslash, which parts values, no control
    characters. InputError where nothing is left of one, or two become one.
    """
    made = [" ".join(re.sub(CONTROL, " ", name.replace("\\", "/")).split())[:LONGEST].rstrip() for name in names]
    for place, (name, own) in enumerate(zip(names, made, strict=True)):
        if not own or own in made[:place]:
            other = f", as {one_line(names[made.index(own)])} is" if own else ""
            raise InputError(f"the class {one_line(name)} would be called {own!a} in DICOM{other}, which takes at most "
                             f"{LONGEST} characters and no backslash; write --format nrrd, or train with other names")
    return made


def read_codes(path: Path | None, names: Sequence[str]) -> list[dict[str, list[str]]]:
    """Category and type of each class, [value, scheme, meaning] each, from a codes.json; tissue for those without.

    {"left atrium": {"category": ["123037004", "SCT", "Anatomical Structure"], "type": ["82471001", "SCT", ...]}}
    """
    if path is None:
        return [TISSUE] * len(names)
    try:
        codes = json.loads(read_text(path))
        if not isinstance(codes, dict) or set(codes) - set(names):
            raise ValueError(f"it has {', '.join(map(str, codes))}")
        for code in codes.values():
            if set(code) - set(TISSUE) or not all(map(_is_code, code.values())):
                raise ValueError(f"{json.dumps(code)}")
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: {one_line(error)}; expected the classes {', '.join(names)}, each with \"category\" "
                         f"and \"type\" as [value, scheme, meaning], the scheme of at most {SHORT} characters, the "
                         f"others of {LONGEST}, without a backslash") from error
    return [TISSUE | codes.get(name, {}) for name in names]


def _is_code(parts):
    """Whether it is [value, scheme, meaning], as long as DICOM has them, without a backslash, which parts values."""
    longest = LONGEST, SHORT, LONGEST
    return len(parts) == 3 and all(isinstance(part, str) and part.strip() and len(part) <= most and "\\" not in part
                                   and not CONTROL.search(part) for part, most in zip(parts, longest, strict=True))


def writer():
    """The module highdicom; InputError where it is not installed."""
    try:
        import highdicom
    except ImportError as error:
        raise InputError("DICOM SEG is written by the package highdicom, which is not installed: pip install -r "
                         "requirements-clinical.txt") from error
    return highdicom


def save(path: Path, array: np.ndarray, series: Series, names: Sequence[str], values: Sequence[int],
         codes: Sequence[dict[str, list[str]]], algorithm: str, mark: str) -> None:
    """Write a DICOM SEG of classes (*N) 0, 1, ... as binary segments numbered 1, 2, ..., on the planes of their series.

    values: of each class but the background, in label files, told in a segment's description. mark: what `mark_of`
    reads back. Every plane of every segment is written, empty ones, too, and the distance between them is that of
    their positions: readers that expect either otherwise misplace planes.
    """
    highdicom = writer()
    concept = highdicom.sr.CodedConcept
    frames, affine = stacked(series.frames)
    segments = []
    for number, (name, value, code) in enumerate(zip(in_dicom(names), values, codes, strict=True), 1):
        segments.append(highdicom.seg.SegmentDescription(
            number, name, concept(*code["category"]), concept(*code["type"]),
            highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            highdicom.AlgorithmIdentificationSequence(algorithm[:LONGEST], concept(*LEARNED), mark),
            tracking_uid=highdicom.UID(), tracking_id=name))
        segments[-1].SegmentDescription = f"value {value} in label files"
    first, step = frames[0], float(np.linalg.norm(affine[:3, 2]))
    measures = highdicom.PixelMeasuresSequence(first.spacing, first.thickness, step)
    orientation = highdicom.PlaneOrientationSequence("PATIENT", first.orientation)
    with pydicom() as module:
        sources = [module.dcmread(file, stop_before_pixels=True, force=True) for file in files_of(frames)]
        own = [sources[0].pop(key) for key in CHECKED if key in sources[0]]
        for source in sources:
            for key in ATTRIBUTES:
                if key not in source or key in CHECKED:
                    setattr(source, key, None)
            # highdicom takes these from the sources, whatever it is given, and wants thickness and one orientation
            source.SpacingBetweenSlices, source.SliceThickness = step, source.get("SliceThickness") or step
            if first.index is None:
                source.ImageOrientationPatient = sources[0].ImageOrientationPatient
            else:
                shared = source.setdefault("SharedFunctionalGroupsSequence", [module.Dataset()]).value[0]
                shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = measures, orientation
        try:
            segmentation = highdicom.seg.Segmentation(
                sources, np.ascontiguousarray(array.T), highdicom.seg.SegmentationTypeValues.BINARY, segments,
                highdicom.UID(), int(sources[0].SeriesNumber or 0) + SERIES, highdicom.UID(), 1, "CML", "predict.py",
                mark, mark, content_description=f"{MADE}{mark}", pixel_measures=measures, omit_empty_frames=False,
                plane_orientation=orientation, specific_character_set=UNICODE,
                plane_positions=[highdicom.PlanePositionSequence("PATIENT", frame.position) for frame in frames])
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise InputError(f"{series}: highdicom makes no DICOM SEG of it ({one_line(error)}); write --format nrrd, "
                             "or export the series again") from error
        for element in own:     # as the series says it, so that both are of one patient and study
            segmentation[element.tag] = element
        if "ContentCreatorName" not in segmentation:    # which the standard asks for, if empty
            segmentation.ContentCreatorName = None
        write_aside(path, segmentation.save_as)


def mark_of(path: Path) -> str:
    """The `mark` of a file that `save` wrote, here or in dicom_contours."""
    with pydicom() as module:
        places = "ContentDescription", "StructureSetDescription"
        data = module.dcmread(path, stop_before_pixels=True, specific_tags=list(places))
        return next((str(data.get(place)) for place in places if data.get(place)), "").removeprefix(MADE)
