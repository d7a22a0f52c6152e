#!/usr/bin/env bash
# nibabel 5.4.2, alone and with SimpleITK 2.5.7: a label map of floats, saved with its scan's header, loses classes.
#
# One would believe: labels 0, 1, 2, 3, 4 that were computed as floats (`get_fdata` gives float64) and saved with the header of
# their int16 scan are stored as the integers that they are, since all of them fit.
# What happens: nibabel scales floats to fill the 65,536 values of int16, and stores a slope and an intercept. What is read back is
# near the labels, such as 0.99998, and whoever cuts the fractions off loses classes. `get_fdata().astype(int)` of labels 0 and 1 is
# background alone; SimpleITK, asked for unsigned bytes, has 0, 1, 2 and 4 of 0 to 4: class 3 is part of class 2.
# Whom it hurts: everybody who saves `nibabel.Nifti1Image(labels, scan.affine, scan.header)`. Which classes are lost depends on how
# many there are, and on the reader, in silence. Labels made unsigned bytes first, with `header.set_data_dtype("uint8")`, stay.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6 nibabel==5.4.2 SimpleITK==2.5.7
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import sys

import nibabel
import numpy as np
import SimpleITK as sitk

folder = sys.argv[1]
rng = np.random.default_rng(0)
nibabel.save(nibabel.Nifti1Image(rng.integers(0, 1000, (10, 8, 8)).astype(np.int16), np.eye(4)), f"{folder}/scan.nii.gz")
scan = nibabel.load(f"{folder}/scan.nii.gz")


def read_back(labels, header):
    path = f"{folder}/labels.nii.gz"
    nibabel.save(nibabel.Nifti1Image(labels, scan.affine, header), path)
    by_nibabel = np.unique(nibabel.load(path).get_fdata().astype(int)).tolist()
    return by_nibabel, np.unique(sitk.GetArrayFromImage(sitk.ReadImage(path, sitk.sitkUInt8))).tolist()


found = {}
for classes in range(1, 7):
    labels = np.repeat(np.arange(10) % (classes + 1), 64).reshape(10, 8, 8).astype(float)
    found[classes] = read_back(labels, scan.header)
    print(f"labels 0 to {classes}: nibabel's astype(int) has {found[classes][0]}, SimpleITK's bytes have {found[classes][1]}")
header = scan.header.copy()
header.set_data_dtype("uint8")
as_bytes = read_back(labels.astype(np.uint8), header)
print(f"as unsigned bytes: {as_bytes}")
assert found[1] == ([0], [0, 1]) and found[4][1] == [0, 1, 2, 4]
assert as_bytes == (list(range(7)), list(range(7)))
PYTHON
