#!/usr/bin/env bash
# nibabel 5.4.2 and SimpleITK 2.5.7: a NIfTI file without a qform and sform code comes back from SimpleITK front to back.
#
# One would believe: reading a scan with SimpleITK and writing it again leaves the patient as they lay, so that a scan and its
# copy reach a network alike.
# What happens: both codes 0 is allowed by the format and common in older files. nibabel then takes the axes as left, anterior,
# superior around the volume's centre, SimpleITK as left, posterior, superior from 0, and writes that into the copy with a
# code. The voxels of both files are the same; nibabel's as_closest_canonical mirrors the one and not the other. TorchIO, which
# reads through SimpleITK, agrees with the copy.
# Whom it hurts: data sets of which some files went through SimpleITK: some patients are mirrored front to back, and nothing says so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6 nibabel==5.4.2 SimpleITK==2.5.7
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import sys

import nibabel as nib
import numpy as np
import SimpleITK as sitk

scan, copy = f"{sys.argv[1]}/scan.nii.gz", f"{sys.argv[1]}/copy.nii.gz"
image = nib.Nifti1Image(np.arange(120, dtype=np.float32).reshape(4, 5, 6), None)
image.header["pixdim"][1:4] = 1, 2, 3
nib.save(image, scan)
sitk.WriteImage(sitk.ReadImage(scan), copy)
files = {name: nib.load(path) for name, path in (("scan", scan), ("copy", copy))}
for name, file in files.items():
    codes = int(file.header["qform_code"]), int(file.header["sform_code"])
    print(f"{name}: qform and sform codes {codes}, axes by nibabel {''.join(nib.aff2axcodes(file.affine))}")
ras = {name: nib.as_closest_canonical(file).get_fdata() for name, file in files.items()}
print("voxels as stored are equal:", np.array_equal(files["scan"].get_fdata(), files["copy"].get_fdata()))
print("turned to right, anterior, superior they are mirrored front to back:",
      np.array_equal(ras["scan"], ras["copy"][:, ::-1]))
assert np.array_equal(files["scan"].get_fdata(), files["copy"].get_fdata())
assert np.array_equal(ras["scan"], ras["copy"][:, ::-1]) and not np.array_equal(ras["scan"], ras["copy"])
PYTHON
