#!/usr/bin/env bash
# SimpleITK 2.5.7: an enhanced DICOM file whose frames are not stored by place has spacing (1, 1, 1), its slices out of order.
#
# One would believe: frames of an enhanced file may be stored in any order, each with its position, as the standard has it, and
# a reader puts them where they lie, or says that it cannot.
# What happens: ReadImage gives the frames as they are stored, as if they lay one on the next, and a spacing of 1 mm along all
# axes, that in the plane too, though it stands in the file. With its frames in order, the same file is read right.
# Whom it hurts: volumes, resampling and surface distances are wrong by the voxel size, and anatomy is shuffled. No warning.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6 pydicom==3.0.2 SimpleITK==2.5.7
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import sys

import numpy as np
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid


def item(**fields):
    data = Dataset()
    for key, value in fields.items():
        setattr(data, key, value)
    return data


def enhanced(path, order):
    """Slice k has the value k and lies at 2.5 k mm; frames in this order."""
    data = item(SOPClassUID="1.2.840.10008.5.1.4.1.1.4.1", SOPInstanceUID=generate_uid(), Modality="MR",
                StudyInstanceUID=generate_uid(), SeriesInstanceUID=generate_uid(), FrameOfReferenceUID=generate_uid(),
                ImageType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"], NumberOfFrames=len(order), Rows=4, Columns=4,
                BitsAllocated=16, BitsStored=16, HighBit=15, PixelRepresentation=0, SamplesPerPixel=1,
                PhotometricInterpretation="MONOCHROME2", InstanceNumber=1)
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID, data.file_meta.MediaStorageSOPInstanceUID = (data.SOPClassUID,
                                                                                         data.SOPInstanceUID)
    data.SharedFunctionalGroupsSequence = [item(
        PlaneOrientationSequence=[item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
        PixelMeasuresSequence=[item(PixelSpacing=[0.9, 0.7], SliceThickness=2.5)],
        PixelValueTransformationSequence=[item(RescaleSlope=1, RescaleIntercept=0, RescaleType="US")])]
    data.PerFrameFunctionalGroupsSequence = [item(
        FrameContentSequence=[item(StackID="1", InStackPositionNumber=k + 1, DimensionIndexValues=[1, k + 1])],
        PlanePositionSequence=[item(ImagePositionPatient=[0, 0, 2.5 * k])]) for k in order]
    data.PixelData = b"".join(np.full((4, 4), k, np.uint16).tobytes() for k in order)
    data["PixelData"].VR = "OW"
    data.save_as(path, enforce_file_format=True)
    image = sitk.ReadImage(path)
    return image.GetSpacing(), sitk.GetArrayFromImage(image)[:, 0, 0].tolist()


sorted_, shuffled = (enhanced(f"{sys.argv[1]}/{name}.dcm", order)
                     for name, order in (("sorted", [0, 1, 2, 3]), ("shuffled", [2, 0, 3, 1])))
print("frames stored in order: spacing {}, slices {}".format(*sorted_))
print("frames stored 2 0 3 1:  spacing {}, slices {}".format(*shuffled))
assert np.allclose(sorted_[0], (0.7, 0.9, 2.5)) and sorted_[1] == [0, 1, 2, 3]
assert shuffled == ((1, 1, 1), [2, 0, 3, 1])
PYTHON
