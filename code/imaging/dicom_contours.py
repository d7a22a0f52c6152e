"""RTSTRUCT: a label map of a DICOM series as closed contours in the patient's millimetres; pydicom writes it.

Shapes: *N the series' own grid: columns, rows, slices.
"""
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
from scipy import ndimage
from scipy.spatial.distance import cdist

from imaging.dicom import Series, files_of, pydicom
from imaging.dicom_segmentations import ATTRIBUTES, LONGEST, MADE, SERIES, SHORT, UNICODE, in_dicom
from imaging.dicom_stacks import stacked
from runtime.errors import InputError
from runtime.files import write_aside

SUFFIX = "_rtstruct.dcm"
STRUCTURES, STUDY = "1.2.840.10008.5.1.4.1.1.481.3", "1.2.840.10008.3.1.2.3.1"      # SOP classes
REFERRED = "FrameOfReferenceUID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"
OF_STUDY = "StudyInstanceUID", *ATTRIBUTES
COLOURS = ((230, 60, 50), (60, 130, 230), (70, 180, 80), (240, 170, 40), (160, 90, 200), (60, 190, 200))


def outlines(mask: np.ndarray) -> Iterator[np.ndarray]:
    """Closed polygons (n, 2) around the True pixels of a mask (columns, rows), halfway to their neighbours.

    One of each part of pixels that share a side. Holes are joined to it by a channel without width, the standard's
    keyhole (PS3.3 C.8.8.6.3), so that a reader may fill polygons one by one, by parity or by winding.
    """
    from skimage.measure import find_contours  # here: it takes a second to load
    parts, _ = ndimage.label(mask)
    for number, box in enumerate(ndimage.find_objects(parts), 1):
        lines = [line[:-1] for line in find_contours(np.pad(parts[box] == number, 1).astype(float), 0.5)]
        polygon, *holes = sorted(lines, key=lambda line: line[:, 0].min())
        for hole in holes:
            # a channel along a row or a column would run through the middles of pixels, which are then in doubt
            lengths = cdist(polygon, hole) + (polygon[:, None] == hole).any(2)
            here, there = np.unravel_index(lengths.argmin(), lengths.shape)
            polygon = np.concatenate([polygon[:here + 1], hole[there:], hole[:there + 1], polygon[here:]])
        yield polygon - 1 + [side.start for side in box]


def save(path: Path, array: np.ndarray, series: Series, names: Sequence[str], values: Sequence[int],
         codes: Sequence[dict[str, list[str]]], algorithm: str, mark: str) -> None:
    """Write classes (*N) 0, 1, ... as an RT structure set with regions numbered 1, 2, ..., empty ones without contours.

    The arguments are those of `dicom_segmentations.save`.
    """
    frames, _ = stacked(series.frames)
    with pydicom() as module:
        sources = [module.dcmread(file, stop_before_pixels=True, force=True) for file in files_of(frames)]
        if missing := [key for key in REFERRED for source in sources if not source.get(key)]:
            raise InputError(f"{series}: has no {missing[0]}, which an RTSTRUCT refers to; write --format nrrd, or "
                             "export the series again")
        first, sources = sources[0], {str(source.SOPInstanceUID): source for source in sources}

        def item(**fields):
            data = module.Dataset()
            data.update(fields)
            return data

        def reference(frame):
            number = {} if frame.index is None else {"ReferencedFrameNumber": frame.index + 1}
            return item(ReferencedSOPClassUID=sources[frame.uid].SOPClassUID, ReferencedSOPInstanceUID=frame.uid,
                        **number)

        data = item(SpecificCharacterSet=UNICODE, **{key: first.get(key) for key in OF_STUDY})
        now = datetime.now()
        data.update({
            "SOPClassUID": STRUCTURES, "SOPInstanceUID": module.uid.generate_uid(), "Modality": "RTSTRUCT",
            "SeriesInstanceUID": module.uid.generate_uid(), "OperatorsName": None,
            "SeriesNumber": int(first.get("SeriesNumber") or 0) + SERIES, "Manufacturer": "CML",
            "StructureSetLabel": "CML", "StructureSetDescription": f"{MADE}{mark}",
            "StructureSetDate": now.strftime("%Y%m%d"), "StructureSetTime": now.strftime("%H%M%S"),
            "ReferencedFrameOfReferenceSequence": [item(
                FrameOfReferenceUID=first.FrameOfReferenceUID, RTReferencedStudySequence=[item(
                    ReferencedSOPClassUID=STUDY, ReferencedSOPInstanceUID=first.StudyInstanceUID,
                    RTReferencedSeriesSequence=[item(SeriesInstanceUID=first.SeriesInstanceUID, ContourImageSequence=[
                        item(ReferencedSOPClassUID=source.SOPClassUID, ReferencedSOPInstanceUID=uid)
                        for uid, source in sources.items()])])])],
            "StructureSetROISequence": [], "ROIContourSequence": [], "RTROIObservationsSequence": []})
        for number, (name, value, code) in enumerate(zip(in_dicom(names), values, codes, strict=True), 1):
            data.StructureSetROISequence.append(item(
                ROINumber=number, ReferencedFrameOfReferenceUID=first.FrameOfReferenceUID, ROIName=name,
                ROIDescription=f"value {value} in label files", ROIGenerationAlgorithm="AUTOMATIC",
                ROIGenerationDescription=algorithm[:LONGEST]))
            contours = [item(ContourImageSequence=[reference(frame)], ContourGeometricType="CLOSED_PLANAR",
                             NumberOfContourPoints=len(points), ContourData=[f"{side:.5f}" for side in points.ravel()])
                        for place, frame in enumerate(frames) for points in (
                            _in_patient(line, frame) for line in outlines(array[..., place] == number))]
            data.ROIContourSequence.append(item(
                ReferencedROINumber=number, ROIDisplayColor=list(COLOURS[(number - 1) % len(COLOURS)]),
                **({"ContourSequence": contours} if contours else {})))
            value, scheme, meaning = code["type"]
            data.RTROIObservationsSequence.append(item(
                ObservationNumber=number, ReferencedROINumber=number, RTROIInterpretedType=None, ROIInterpreter=None,
                RTROIIdentificationCodeSequence=[item(
                    **{"LongCodeValue" if len(value) > SHORT else "CodeValue": value}, CodingSchemeDesignator=scheme,
                    CodeMeaning=meaning)]))
        data.file_meta = module.dataset.FileMetaDataset()
        data.file_meta.TransferSyntaxUID = module.uid.ImplicitVRLittleEndian    # explicit ones end at 64 kB a contour
        write_aside(path, lambda file: data.save_as(file, enforce_file_format=True))


def _in_patient(points, frame):
    """Columns and rows (n, 2) of a frame -> mm (n, 3), LPS."""
    steps = np.reshape(frame.orientation, (2, 3)) * np.reshape(frame.spacing[::-1], (2, 1))
    return np.array(frame.position) + points @ steps
