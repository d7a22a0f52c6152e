#!/usr/bin/env bash
# MONAI 1.6.1: LoadImage puts the slices of a DICOM series in the order of their InstanceNumber, not of their positions.
#
# One would believe: the slices of a folder are stacked along ImagePositionPatient, as SimpleITK does with the same files (shown below).
# What happens: PydicomReader, which LoadImage takes where the package itk is not installed, sorts by InstanceNumber and makes the
# affine from the positions of the first and the last file. Interleaved MR counts its slices in the order of acquisition, 1, 3, 5,
# then 2, 4, 6: the volume has its slices shuffled, and an affine that says that they lie in order. Where the first and the last
# are neighbours, the distance between slices is wrong as well.
# Whom it hurts: networks train on and segment shuffled anatomy; masks lie on the wrong slices. No warning.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    torch==2.13.0 numpy==2.4.6 pydicom==3.0.2 monai==1.6.1 SimpleITK==2.5.7
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import sys
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from monai.transforms import LoadImage
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

PLACES = [0, 2, 4, 6, 8, 10]        # mm along the body; every voxel of a slice holds its place


def series(name, numbers):
    """A folder with one file for each place, numbered so."""
    folder = Path(sys.argv[1]) / name
    folder.mkdir()
    study, uid, frame = generate_uid(), generate_uid(), generate_uid()
    for number, place in zip(numbers, PLACES, strict=True):
        data = Dataset()
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.SOPClassUID, data.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.4", generate_uid()
        data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = study, uid, frame
        data.Modality, data.PatientID, data.PatientName, data.InstanceNumber = "MR", "", "", number
        data.ImagePositionPatient, data.ImageOrientationPatient = [0, 0, place], [1, 0, 0, 0, 1, 0]
        data.PixelSpacing, data.SliceThickness = [1, 1], 2
        data.Rows = data.Columns = 8
        data.BitsAllocated = data.BitsStored = 16
        data.HighBit, data.PixelRepresentation, data.SamplesPerPixel = 15, 1, 1
        data.PhotometricInterpretation = "MONOCHROME2"
        data.PixelData = np.full((8, 8), place, np.int16).tobytes()
        data.save_as(folder / f"{place:02d}.dcm", enforce_file_format=True)
    return folder


def by_monai(folder):
    """Values of the slices, and the places where the affine has them."""
    image = LoadImage(image_only=True)(str(folder))
    return image[0, 0].tolist(), [float((image.affine @ np.array([0, 0, k, 1.0]))[2]) for k in range(len(PLACES))]


def by_simpleitk(folder):
    image = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))
    return (sitk.GetArrayFromImage(image)[:, 0, 0].tolist(),
            [image.TransformIndexToPhysicalPoint((0, 0, k))[2] for k in range(len(PLACES))])


wrong = {}
for name, numbers in {"in_order": [1, 2, 3, 4, 5, 6], "interleaved": [1, 4, 2, 5, 3, 6], "outwards": [5, 3, 1, 2, 4, 6]}.items():
    folder = series(name, numbers)
    values, places = by_simpleitk(folder)
    assert values == places == PLACES
    values, places = by_monai(folder)
    print(f"InstanceNumber {name}: MONAI has the slices of {values} mm at {[round(place, 2) for place in places]} mm")
    wrong[name] = values != places
assert wrong == {"in_order": False, "interleaved": True, "outwards": True}
PYTHON
