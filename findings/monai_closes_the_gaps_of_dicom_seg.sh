#!/usr/bin/env bash
# MONAI 1.6.1 with pydicom-seg 0.4.1: of a DICOM segmentation with two lesions, the slices between them are left out.
#
# One would believe: each frame of a SEG object says where it lies, so the label map has it there; a slice without a frame, which
# the standard allows and pydicom-seg and highdicom do by default, is an empty slice.
# What happens: PydicomReader stacks the frames that are there, one on the next, and divides the way from the first to the last
# among them. Lesions of three and of nine slices, 2 mm thick, lie at 10 to 14 and at 60 to 76 mm: in MONAI's volume they touch,
# at slices of 6 mm, and the second one begins 32 mm too low. Of a file with two segments each one takes its share of the frames,
# and both shares are put into the same slices, though they are 50 mm apart.
# Whom it hurts: label maps of lesions, of a pair of organs, of all that has gaps: volumes are wrong, and resampled onto the scan by
# their affine, the labels lie beside the lesions. No word of it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==1.26.4 monai==1.6.1 pydicom==2.4.4 \
    pydicom-seg==0.4.1 SimpleITK==2.5.7 setuptools==80.9.0
"$folder/venv/bin/python" -W ignore - "$folder" <<'PYTHON'
import sys

import numpy as np
import pydicom_seg
import SimpleITK as sitk
from monai.data import PydicomReader
from monai.transforms import LoadImage
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

study, series, place = generate_uid(), generate_uid(), generate_uid()
scan = []
for k in range(40):         # slices 2 mm apart, from 0 to 78 mm
    data = Dataset()
    for key, value in {
            "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2", "SOPInstanceUID": generate_uid(), "Modality": "CT",
            "PatientName": "", "PatientID": "1", "PatientBirthDate": "", "PatientSex": "", "StudyDate": "", "StudyTime": "",
            "StudyID": "1", "AccessionNumber": "", "ReferringPhysicianName": "", "StudyInstanceUID": study,
            "SeriesInstanceUID": series, "FrameOfReferenceUID": place, "SeriesNumber": 1, "InstanceNumber": k + 1,
            "ImagePositionPatient": [0, 0, 2 * k], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
            "PixelSpacing": [1, 1], "SliceThickness": 2, "Rows": 32, "Columns": 32, "BitsAllocated": 16, "BitsStored": 16,
            "HighBit": 15, "PixelRepresentation": 0, "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2",
            "PixelData": np.zeros((32, 32), np.uint16).tobytes()}.items():
        setattr(data, key, value)
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID, data.file_meta.MediaStorageSOPInstanceUID = (data.SOPClassUID,
                                                                                         data.SOPInstanceUID)
    data["PixelData"].VR = "OW"
    scan.append(data)
category = {"CodeValue": "49755003", "CodingSchemeDesignator": "SCT", "CodeMeaning": "Morphologically abnormal structure"}
lesion = {"CodeValue": "52988006", "CodingSchemeDesignator": "SCT", "CodeMeaning": "Lesion"}


def heights(labels, name):
    """Where the slices of each label are, in mm: as written, and by MONAI."""
    path = f"{sys.argv[1]}/segmentation.dcm"
    count = labels.max()
    template = pydicom_seg.template.from_dcmqi_metainfo({
        "ContentCreatorName": "", "SeriesDescription": "lesions", "SeriesNumber": "2", "InstanceNumber": "1",
        "ContentLabel": "LESIONS", "ContentDescription": "", "BodyPartExamined": "",
        "segmentAttributes": [[{
            "labelID": n, "SegmentLabel": f"lesion {n}", "SegmentDescription": f"lesion {n}", "SegmentAlgorithmType": "MANUAL",
            "SegmentedPropertyCategoryCodeSequence": category, "SegmentedPropertyTypeCodeSequence": lesion}
            for n in range(1, int(count) + 1)]]})
    image = sitk.GetImageFromArray(labels)
    image.SetSpacing((1, 1, 2))
    pydicom_seg.MultiClassWriter(template).write(image, scan).save_as(path)
    read = LoadImage(reader=PydicomReader(), image_only=True, ensure_channel_first=True)(path)
    written = [(2 * np.flatnonzero((labels == n).any((1, 2)))).tolist() for n in range(1, count + 1)]
    affine = read.affine.numpy()
    found = [(affine[2, 2] * np.flatnonzero(channel.any((0, 1))) + affine[2, 3]).round(1).tolist()
             for channel in np.asarray(read) > 0]
    print(f"{name}, {read.shape[-1]} slices by MONAI")
    print("  written at (mm)", *written, "\n  read at (mm)   ", *found)
    return written, found


lesions = np.zeros((40, 32, 32), np.uint8)
lesions[5:8, 4:10, 4:10] = 1
lesions[30:39, 20:26, 20:26] = 1
_, one = heights(lesions, "one segment, two lesions")
lesions[30:39] *= 2
lesions[33:39] = 0
written, two = heights(lesions, "two segments, a lesion each")
assert one == [[10, 16, 22, 28, 34, 40, 46, 52, 58, 64, 70, 76]]
assert written == [[10, 12, 14], [60, 62, 64]] and two[0] == two[1]
PYTHON
