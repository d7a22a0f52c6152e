#!/usr/bin/env bash
# highdicom 0.28.2: a CT image whose annotation lies in the unused bits has 4,096 Hounsfield units more under it.
#
# One would believe: of an image with 16 bits allocated and 12 stored, a DICOM library returns the 12 bits; pydicom's pixel_array and
# SimpleITK do.
# What happens: older scanners and archives keep an overlay (group 6000) in the upper four bits of the pixel data. highdicom's
# `Image.get_frame` returns the whole words, rescaled: soft tissue of 40 units reads 4136 wherever the overlay is drawn.
# Whom it hurts: archives from before 2004, when the standard retired this; a line of text becomes denser than any metal,
# and shifts every normalisation by range or percentile.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6 pydicom==3.0.2 highdicom==0.28.2 SimpleITK==2.5.7
"$folder/venv/bin/python" -W ignore - "$folder" <<'PYTHON'
import sys

import highdicom
import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

path = f"{sys.argv[1]}/slice.dcm"
image = Dataset()
image.SOPClassUID, image.SOPInstanceUID = CTImageStorage, generate_uid()
image.StudyInstanceUID, image.SeriesInstanceUID = generate_uid(), generate_uid()
image.PatientID, image.Modality = "phantom", "CT"
image.ImagePositionPatient, image.ImageOrientationPatient = [0, 0, 0], [1, 0, 0, 0, 1, 0]
image.PixelSpacing, image.SliceThickness = [1, 1], 1
image.RescaleSlope, image.RescaleIntercept = 1, -1024
image.Rows = image.Columns = 16
image.SamplesPerPixel, image.PhotometricInterpretation, image.PixelRepresentation = 1, "MONOCHROME2", 0
image.BitsAllocated, image.BitsStored, image.HighBit = 16, 12, 11
tissue, overlay = np.full((16, 16), 40 + 1024, np.uint16), np.zeros((16, 16), np.uint16)
overlay[4:6, 4:12] = 1
for element, kind, value in ((0x10, "US", 16), (0x11, "US", 16), (0x40, "CS", "G"), (0x50, "SS", [1, 1]),
                             (0x100, "US", 16), (0x102, "US", 12)):        # the overlay is bit 12 of the pixel data
    image.add_new(0x60000000 + element, kind, value)
image.PixelData = (tissue | overlay << 12).tobytes()
image["PixelData"].VR = "OW"
image.file_meta = FileMetaDataset()
image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
image.save_as(path, enforce_file_format=True)

by_pydicom = pydicom.dcmread(path).pixel_array.astype(int) - 1024
by_sitk = sitk.GetArrayFromImage(sitk.ReadImage(path))[0]
by_highdicom = highdicom.imread(path).get_frame(1)
for name, array in (("pydicom", by_pydicom), ("SimpleITK", by_sitk), ("highdicom", by_highdicom)):
    print(f"{name}: {np.unique(array).tolist()} Hounsfield units")
assert (by_pydicom == 40).all() and (by_sitk == 40).all()
assert (by_highdicom == np.where(overlay, 4136, 40)).all()
PYTHON
