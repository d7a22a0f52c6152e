#!/usr/bin/env bash
# SimpleITK 2.5.7: ImageSeriesReader cuts off the fractions of all slices whose rescale slope is one where the first slice's is 1.
#
# One would believe: a DICOM series whose slices have rescale slopes of their own (PET, MR of some makers) is read as slope times
# stored value plus intercept in every slice, as each slice is when it is read alone.
# What happens: the type of all voxels is that of the first file. With a slope of 1 there it is an integer, and 50.5 becomes 50.
# The same slices in a series whose first slope is 0.5 keep their fractions.
# Whom it hurts: quantitative values are off by up to one unit, and all of them where a series holds fractions of one. No warning.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6 pydicom==3.0.2 SimpleITK==2.5.7
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import sys
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid


def series(folder, slopes):
    """Slices of one value, 101, with these slopes."""
    folder.mkdir()
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    for number, slope in enumerate(slopes):
        data = Dataset()
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.128"     # PET
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = study, series, frame
        data.Modality, data.InstanceNumber, data.ImageType = "PT", number + 1, ["ORIGINAL", "PRIMARY"]
        data.ImagePositionPatient, data.ImageOrientationPatient = [0, 0, 2 * number], [1, 0, 0, 0, 1, 0]
        data.PixelSpacing, data.SliceThickness = [1, 1], 2
        data.Rows = data.Columns = 4
        data.BitsAllocated = data.BitsStored = 16
        data.HighBit, data.PixelRepresentation, data.SamplesPerPixel = 15, 1, 1
        data.PhotometricInterpretation = "MONOCHROME2"
        data.RescaleSlope, data.RescaleIntercept = slope, 0
        data.PixelData = np.full((4, 4), 101, np.int16).tobytes()
        data["PixelData"].VR = "OW"
        data.save_as(folder / f"{number}.dcm", enforce_file_format=True)
    image = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))
    alone = sitk.ReadImage(str(folder / "1.dcm"))
    return sitk.GetArrayFromImage(image)[:, 0, 0].tolist(), sitk.GetArrayFromImage(alone)[0, 0, 0]


there = Path(sys.argv[1])
first_is_one, alone = series(there / "one", [1, 0.5, 0.5])
first_is_half, _ = series(there / "half", [0.5, 0.5, 1])
print(f"stored 101 with the slopes 1, 0.5, 0.5: {first_is_one}; the second slice alone: {alone}")
print(f"stored 101 with the slopes 0.5, 0.5, 1: {first_is_half}")
assert alone == 50.5 and first_is_half == [50.5, 50.5, 101] and first_is_one == [101, 50, 50]
PYTHON
