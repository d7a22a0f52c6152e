"""DICOM files as scanners write them, by pydicom alone."""
from contextlib import suppress
from types import SimpleNamespace

import numpy as np
import pytest

with suppress(ImportError):     # an optional package
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

CLASSES = {"CT": "1.2.840.10008.5.1.4.1.1.2", "MR": "1.2.840.10008.5.1.4.1.1.4",
           "enhanced": "1.2.840.10008.5.1.4.1.1.4.1"}
NAME, IDENTITY = "Doe^Jane Margaret", "HOSP-4711"


def affine_of(directions=((1, 0, 0), (0, 1, 0), (0, 0, 1)), spacing=(0.7, 0.9, 2.5), origin=(-12.5, 40.25, -310)):
    """RAS+ affine of unit directions, columns of the matrix."""
    affine = np.eye(4)
    affine[:3, :3] = np.asarray(directions, float) * spacing
    affine[:3, 3] = origin
    return affine


def _base(kind, uid, fields):
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = UID(CLASSES[kind])
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid(entropy_srcs=[uid])
    values = {"PatientName": NAME, "PatientID": IDENTITY, "PatientBirthDate": "19500102", "PatientSex": "F",
              "StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.3.4", "FrameOfReferenceUID": "1.2.3.5",
              "Modality": "CT" if kind == "CT" else "MR", "SeriesNumber": 7, "StudyDate": "20260102",
              "StudyTime": "101112", "StudyID": "1", "AccessionNumber": "A1", "Manufacturer": "Maker",
              "ReferringPhysicianName": "", "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"], "SamplesPerPixel": 1,
              "PhotometricInterpretation": "MONOCHROME2", "SliceThickness": 2}
    if kind != "enhanced":
        values |= {"RescaleSlope": 1, "RescaleIntercept": 0}
    _set(data, values | fields)
    return data


def _set(data, fields):
    for key, value in fields.items():
        if value is None:
            if key in data:
                delattr(data, key)
        else:
            setattr(data, key, value)


def _voxels(data, planes):
    data.Rows, data.Columns = planes[0].shape
    data.BitsAllocated = data.BitsStored = planes[0].dtype.itemsize * 8
    data.HighBit, data.PixelRepresentation = data.BitsStored - 1, int(planes[0].dtype.kind == "i")
    data.PixelData = b"".join(np.ascontiguousarray(plane).tobytes() for plane in planes)
    data["PixelData"].VR = "OW"


def write_series(folder, array, affine, kind="CT", each=lambda k: {}, names="IM{:04d}.dcm", order=None, **fields):
    """One file a slice along the last axis of an array of stored values (columns, rows, slices).

    each: k -> fields of slice k alone; order: the instance number that each slice gets.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lps, paths = np.diag([-1, -1, 1, 1]) @ affine, []
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    for k in range(array.shape[2]):
        number = k if order is None else order[k]
        data = _base(kind, f"{folder}{k}{fields}", {
            "ImagePositionPatient": [f"{value:.10g}" for value in lps[:3, 3] + k * lps[:3, 2]],
            "ImageOrientationPatient": [f"{value:.10g}" for value in (lps[:3, :2] / spacing[:2]).T.ravel()],
            "PixelSpacing": [f"{spacing[1]:.10g}", f"{spacing[0]:.10g}"], "InstanceNumber": number + 1})
        _voxels(data, [array[..., k].T])
        _set(data, fields | each(k))
        paths.append(folder / names.format(number))
        data.save_as(paths[-1], enforce_file_format=True)
    return paths


def write_enhanced(path, array, affine, order, slopes=None, intercepts=None, **fields):
    """One enhanced MR file whose frames are the slices in this order, with a rescale of each frame's own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lps = np.diag([-1, -1, 1, 1]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    data = _base("enhanced", str(path), {"NumberOfFrames": len(order), "SliceThickness": None})
    shared, frames = Dataset(), []
    shared.PlaneOrientationSequence = [Dataset()]
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = [
        f"{value:.10g}" for value in (lps[:3, :2] / spacing[:2]).T.ravel()]
    shared.PixelMeasuresSequence = [Dataset()]
    shared.PixelMeasuresSequence[0].PixelSpacing = [f"{spacing[1]:.10g}", f"{spacing[0]:.10g}"]
    shared.PixelMeasuresSequence[0].SliceThickness = 2
    for place, k in enumerate(order):
        frame, content, position, rescale = Dataset(), Dataset(), Dataset(), Dataset()
        content.InStackPositionNumber, content.StackID, content.DimensionIndexValues = int(k) + 1, "1", [1, int(k) + 1]
        position.ImagePositionPatient = [f"{value:.10g}" for value in lps[:3, 3] + k * lps[:3, 2]]
        rescale.RescaleSlope = 1 if slopes is None else slopes[place]
        rescale.RescaleIntercept = 0 if intercepts is None else intercepts[place]
        rescale.RescaleType = "US"
        frame.FrameContentSequence, frame.PlanePositionSequence = [content], [position]
        frame.PixelValueTransformationSequence = [rescale]
        frames.append(frame)
    data.SharedFunctionalGroupsSequence, data.PerFrameFunctionalGroupsSequence = [shared], frames
    _voxels(data, [array[..., k].T for k in order])
    _set(data, fields)
    data.save_as(path, enforce_file_format=True)
    return path


@pytest.fixture
def dicom():
    return SimpleNamespace(series=write_series, enhanced=write_enhanced, affine=affine_of, name=NAME,
                           identity=IDENTITY)
