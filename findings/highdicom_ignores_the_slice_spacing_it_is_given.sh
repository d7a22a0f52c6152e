#!/usr/bin/env bash
# highdicom 0.28.2: Segmentation(pixel_measures=...) writes the source's SpacingBetweenSlices, not the one that it is given.
#
# One would believe: where a CT series says SpacingBetweenSlices 5 and its slices lie 2.5 mm apart, as reconstructions at half the
# distance do, the right number is handed over as pixel_measures, and stands in the DICOM SEG.
# What happens: if the pixel spacings agree, the whole of pixel_measures is replaced by the source's, the distance too. highdicom's
# own get_volume() then finds no regular volume in the file that highdicom wrote.
# Whom it hurts: segmentations of a network are stored with half or double the distance between their planes; readers that trust
# the field lose planes, misplace them or refuse the file. No warning.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6 pydicom==3.0.2 highdicom==0.28.2
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import sys

import highdicom as hd
import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

COUNT, APART = 6, 2.5
study, series, frame = generate_uid(), generate_uid(), generate_uid()


def ct(number, said):
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID, data.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", generate_uid()
    data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = study, series, frame
    for key in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID",
                "AccessionNumber", "ReferringPhysicianName", "Manufacturer"):
        setattr(data, key, "")
    data.Modality, data.SeriesNumber, data.InstanceNumber = "CT", 1, number + 1
    data.ImagePositionPatient, data.ImageOrientationPatient = [0, 0, APART * number], [1, 0, 0, 0, 1, 0]
    data.PixelSpacing, data.SliceThickness, data.SpacingBetweenSlices = [1, 1], 5, said
    data.Rows = data.Columns = 8
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation, data.SamplesPerPixel = 15, 1, 1
    data.PhotometricInterpretation, data.ImageType = "MONOCHROME2", ["ORIGINAL", "PRIMARY", "AXIAL"]
    data.PixelData = bytes(128)
    return data


def written(said):
    """The SpacingBetweenSlices of a DICOM SEG whose source says so, and whether highdicom finds a volume in it."""
    segment = hd.seg.SegmentDescription(1, "organ", codes.SCT.Tissue, codes.SCT.Tissue, "MANUAL")
    mask = np.zeros((COUNT, 8, 8), np.uint8)
    mask[:, 2:5, 2:5] = 1
    segmentation = hd.seg.Segmentation(
        [ct(number, said) for number in range(COUNT)], mask, "BINARY", [segment], generate_uid(), 2, generate_uid(), 1,
        "maker", "model", "1", "1", pixel_measures=hd.PixelMeasuresSequence([1, 1], 5, APART))
    path = f"{sys.argv[1]}/seg.dcm"
    segmentation.save_as(path)
    file = hd.seg.segread(path)
    try:
        shape = file.get_volume(combine_segments=True).shape
    except RuntimeError as error:
        shape = str(error)
    return float(file.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices), shape


results = {said: written(said) for said in (2.5, 5.0)}
for said, (spacing, shape) in results.items():
    print(f"slices 2.5 mm apart, pixel_measures says 2.5, the source {said}: the file says {spacing}; get_volume: {shape}")
assert results[2.5] == (2.5, (COUNT, 8, 8)) and results[5.0][0] == 5.0 and "regularly-spaced" in results[5.0][1]
PYTHON
