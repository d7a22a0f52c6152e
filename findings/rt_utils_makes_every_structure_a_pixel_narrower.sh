#!/usr/bin/env bash
# rt-utils 1.2.7: an RTSTRUCT runs through the centres of a mask's outer pixels, so each structure is a pixel too narrow.
#
# One would believe: a mask of 5 by 5 pixels of 1 mm becomes a contour around them of 25 mm2, as pixels are areas to every program
# that counts a volume; rounding may make it a little more or less.
# What happens: OpenCV's contour joins the centres of the outermost pixels: 4 by 4 mm, 16 mm2, always less and never more. A hole is
# larger for the same reason. A ring of 231 mm2 has 191; a vessel of 2 by 2 pixels has 1 of 4 mm2; a wall of one pixel has no area
# at all. Read back by rt-utils the masks are whole, since OpenCV fills a contour with its edge: a test by writing and reading sees
# nothing.
# Whom it hurts: volumes and dose-volume histograms of predicted structures in planning systems, the more the smaller an organ is
# (optic nerves, lenses, vessels), and Dice against contours that people drew. No warning.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6 pydicom==3.0.2 \
    opencv-python-headless==5.0.0.93 rt_utils==1.2.7
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import os
import sys

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from rt_utils import RTStructBuilder

folder = os.path.join(sys.argv[1], "series")
os.mkdir(folder)
study, series, place = generate_uid(), generate_uid(), generate_uid()
for k in range(3):
    data = Dataset()
    for key, value in {
            "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2", "SOPInstanceUID": generate_uid(), "Modality": "CT",
            "PatientName": "", "PatientID": "1", "PatientBirthDate": "", "PatientSex": "", "StudyDate": "", "StudyTime": "",
            "StudyID": "1", "AccessionNumber": "", "ReferringPhysicianName": "", "StudyInstanceUID": study,
            "SeriesInstanceUID": series, "FrameOfReferenceUID": place, "SeriesNumber": 1, "InstanceNumber": k + 1,
            "ImagePositionPatient": [0, 0, 2 * k], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
            "PixelSpacing": [1, 1], "SliceThickness": 2,
            "Rows": 32, "Columns": 32, "BitsAllocated": 16, "BitsStored": 16, "HighBit": 15, "PixelRepresentation": 0,
            "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2",
            "PixelData": np.zeros((32, 32), np.uint16).tobytes()}.items():
        setattr(data, key, value)
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID, data.file_meta.MediaStorageSOPInstanceUID = (data.SOPClassUID,
                                                                                         data.SOPInstanceUID)
    data["PixelData"].VR = "OW"
    data.save_as(os.path.join(folder, f"{k}.dcm"), enforce_file_format=True)

masks = {name: np.zeros((32, 32, 3), bool) for name in ("square", "vessel", "wall", "ring")}
masks["square"][10:15, 20:25, 1] = True
masks["vessel"][5:7, 5:7, 1] = True
masks["wall"][25, 3:20, 1] = True
masks["ring"][4:20, 4:20, 1] = True
masks["ring"][9:14, 9:14, 1] = False
structures = RTStructBuilder.create_new(dicom_series_path=folder)
for name, mask in masks.items():
    structures.add_roi(mask=mask, name=name)


def area(contour):
    """Of a closed polygon, in mm2."""
    x, y = np.array(contour.ContourData, float).reshape(-1, 3).T[:2]
    return abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2


found = {}
for (name, mask), roi in zip(masks.items(), structures.ds.ROIContourSequence):
    areas = sorted((area(contour) for contour in roi.ContourSequence), reverse=True)
    found[name] = areas[0] - sum(areas[1:])     # what is left of the largest without its holes
    again = structures.get_roi_mask_by_name(name)
    print(f"{name}: {mask.sum()} pixels of 1 mm2; {found[name]:g} mm2 in the RTSTRUCT; read by rt-utils again {again.sum()} pixels")
    assert (again == mask).all()
assert found == {"square": 16, "vessel": 1, "wall": 0, "ring": 191}
PYTHON
