#!/usr/bin/env bash
# rt-utils 1.2.7 and platipy 0.7.2: masks made from an RTSTRUCT are half a pixel wider than its contours on every side.
#
# One would believe: a contour becomes the pixels whose centres it encloses, as with scikit-image's polygon2mask, so that volumes are
# right on average, at any size.
# What happens: both round the points of the contour to whole pixels first, and then fill the polygon with its edge. A disc of 5 mm
# radius at 1 mm pixels has 25 % more area than its contour, one of 10 mm 11 % more, one of 2 mm 69 % more, wherever its centre is.
# scikit-image has the right area within 1 % from the same points.
# Whom it hurts: reference segmentations of radiotherapy data sets, which come as RTSTRUCT and are turned into label maps by these
# packages. Networks learn organs that are a pixel too wide, volumes of small ones (lenses, optic nerves, lesions) are off by a
# quarter and more, and maps that two packages make of one disc of 5 mm radius have a Dice of 0.9. No warning.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6 pydicom==2.4.4 \
    opencv-python-headless==5.0.0.93 rt_utils==1.2.7 scikit-image==0.26.0 SimpleITK==2.5.7
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps platipy==0.7.2    # without its plots and servers
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import os
import sys

import numpy as np
import SimpleITK as sitk
from platipy.dicom.io.rtstruct_to_nifti import transform_point_set_from_dicom_struct
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from rt_utils import RTStructBuilder
from skimage.draw import polygon2mask

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
            "Rows": 48, "Columns": 48, "BitsAllocated": 16, "BitsStored": 16, "HighBit": 15, "PixelRepresentation": 0,
            "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2",
            "PixelData": np.zeros((48, 48), np.uint16).tobytes()}.items():
        setattr(data, key, value)
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID, data.file_meta.MediaStorageSOPInstanceUID = (data.SOPClassUID,
                                                                                         data.SOPInstanceUID)
    data.is_little_endian, data.is_implicit_VR = True, False
    data["PixelData"].VR = "OW"
    data.save_as(os.path.join(folder, f"{k}.dcm"), write_like_original=False)
scan = sitk.ReadImage([os.path.join(folder, f"{k}.dcm") for k in range(3)])

some = np.zeros((48, 48, 3), bool)
some[20:25, 20:25, 1] = True
structures = RTStructBuilder.create_new(dicom_series_path=folder)
structures.add_roi(mask=some, name="disc")
[contour] = structures.ds.ROIContourSequence[0].ContourSequence     # its points are exchanged below
random = np.random.default_rng(0)
angles = np.linspace(0, 2 * np.pi, 120, endpoint=False)
larger = {}
for radius in (2, 5, 10, 20):
    pixels = []
    for centre in random.uniform(23, 24, (40, 2)):      # anywhere within a pixel
        points = (centre + radius * np.stack([np.cos(angles), np.sin(angles)], 1)).round(4)
        contour.ContourData = [float(c) for x, y in points for c in (x, y, 2)]
        contour.NumberOfContourPoints = len(points)
        [by_platipy], _ = transform_point_set_from_dicom_struct(scan, structures.ds)
        pixels.append((structures.get_roi_mask_by_name("disc").sum(), sitk.GetArrayFromImage(by_platipy).sum(),
                       polygon2mask((48, 48), points[:, ::-1]).sum()))
    area = len(angles) / 2 * radius ** 2 * np.sin(2 * np.pi / len(angles))
    larger[radius] = (np.mean(pixels, 0) / area - 1).tolist()
    print("disc of {} mm radius: area {:+.0%} by rt-utils, {:+.0%} by platipy, {:+.0%} by scikit-image".format(
        radius, *larger[radius]))
for radius, low in ((2, 0.6), (5, 0.2), (10, 0.1), (20, 0.04)):
    assert min(larger[radius][:2]) > low and abs(larger[radius][2]) < 0.03
PYTHON
