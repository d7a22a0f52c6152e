#!/usr/bin/env bash
# rt-utils 1.2.7: of a series whose pixels are no squares, an RTSTRUCT lies elsewhere: the two sides of a pixel are exchanged.
#
# One would believe: PixelSpacing is the distance between rows, then that between columns, and a contour's points are where the
# mask's pixels are.
# What happens: the distance between rows is taken along a row, and that between columns along a column. A structure is as wide
# as it should be high, and shifted by the more, the further it is from the first pixel. Read back by rt-utils, the mask is the
# one that went in, since the same error is made twice.
# Whom it hurts: structures of sagittal and coronal series, and of MR with rectangular pixels, in any other program. No warning.
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
for k in range(4):
    data = Dataset()
    for key, value in {
            "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2", "SOPInstanceUID": generate_uid(), "Modality": "CT",
            "PatientName": "", "PatientID": "1", "PatientBirthDate": "", "PatientSex": "", "StudyDate": "", "StudyTime": "",
            "StudyID": "1", "AccessionNumber": "", "ReferringPhysicianName": "", "StudyInstanceUID": study,
            "SeriesInstanceUID": series, "FrameOfReferenceUID": place, "SeriesNumber": 1, "InstanceNumber": k + 1,
            "ImagePositionPatient": [0, 0, 2 * k], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
            "PixelSpacing": [1, 3], "SliceThickness": 2,        # rows are 1 mm apart, columns 3 mm
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

mask = np.zeros((32, 32, 4), bool)
mask[10:15, 20:25] = True           # 5 rows from row 10, 5 columns from column 20
structures = RTStructBuilder.create_new(dicom_series_path=folder)
structures.add_roi(mask=mask, name="box")
points = np.array(structures.ds.ROIContourSequence[0].ContourSequence[0].ContourData, float).reshape(-1, 3)
low, high = points.min(0)[:2], points.max(0)[:2]
print("the box lies at x 60 to 72 mm, y 10 to 14 mm; its contour at x {:g} to {:g} mm, y {:g} to {:g} mm".format(
    low[0], high[0], low[1], high[1]))
assert (low[0], high[0]) == (20, 24) and (low[1], high[1]) == (30, 42)
PYTHON
