#!/usr/bin/env bash
# MONAI 1.6.1: LoadImage and SaveImage make a NIfTI scan in metres a thousand times smaller.
# 
# One would believe: what was loaded and saved lies where it lay, since the affine is carried along.
# What happens: nibabel's affine is in the file's own unit, which MONAI neither reads nor writes. A scan of 1 x 1 x 3 mm whose
# header says metres comes back with 0.001 x 0.001 x 0.003 and no unit. ITK, SimpleITK, 3D Slicer honour the unit of the first
# file (1 x 1 x 3 mm) and find none in the second (0.001 x 0.001 x 0.003 mm): scan and label map are no longer in one place.
# Whom it hurts: label maps written for scans of small-animal scanners and of programs that write SI units.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 monai==1.6.1 nibabel==5.4.2 SimpleITK==2.5.7
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import sys

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from monai.transforms import LoadImage, SaveImage

folder = sys.argv[1]
scan = nib.Nifti1Image(np.arange(480, dtype=np.float32).reshape(8, 10, 6), np.diag([0.001, 0.001, 0.003, 1]))
scan.header.set_xyzt_units("meter")
nib.save(scan, f"{folder}/scan.nii.gz")
loaded = LoadImage(image_only=True, ensure_channel_first=True)(f"{folder}/scan.nii.gz")
SaveImage(folder, output_postfix="saved", separate_folder=False, print_log=False)(loaded)
spacings = {name: np.round(sitk.ReadImage(f"{folder}/{name}.nii.gz").GetSpacing(), 6) for name in ("scan", "scan_saved")}
units = nib.load(f"{folder}/scan_saved.nii.gz").header.get_xyzt_units()
print(f"mm by SimpleITK: before {spacings['scan']}, after {spacings['scan_saved']}; unit after: {units[0]}")
assert np.allclose(spacings["scan"], (1, 1, 3)) and np.allclose(spacings["scan_saved"], (0.001, 0.001, 0.003))
PYTHON
