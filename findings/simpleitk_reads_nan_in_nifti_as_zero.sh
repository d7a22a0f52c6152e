#!/usr/bin/env bash
# SimpleITK 2.5.7: voxels of a NIfTI file that are not a number, or infinite, are read as 0.
#
# One would believe: a float that is stored is the float that is read. Maps that exist inside a mask alone (perfusion, diffusion, T1,
# radiotherapy dose) are NaN outside of it, so that nobody takes the outside for a measurement; statistics leave NaN out, or become it.
# What happens: every NaN and every infinity becomes 0 while the file is read, without a word. nibabel has them from the same file, and
# SimpleITK itself has them from NRRD and MetaImage. It also writes them into NIfTI as they are: its own copy of a map is another map.
# Whom it hurts: means over a region, z-scores and percentiles count the outside as measured zeros (0 Hounsfield units are water), a
# check for NaN before training finds none, and `ignore where NaN` ignores nothing.
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

folder = sys.argv[1]
values = np.full((12, 12, 12), np.nan, np.float32)         # a map of T1 times, measured in an eighth of the volume
values[3:9, 3:9, 3:9] = np.random.default_rng(0).normal(1200, 50, (6, 6, 6))
values[0, 0, 0], values[0, 0, 1] = np.inf, -np.inf
image = sitk.GetImageFromArray(values)
found = {}
for kind in ("nii", "nii.gz", "nrrd", "mha"):
    path = f"{folder}/map.{kind}"
    sitk.WriteImage(image, path)
    found["SimpleITK", kind] = sitk.GetArrayFromImage(sitk.ReadImage(path))
    if kind.startswith("nii"):
        found["nibabel", kind] = np.asanyarray(nib.load(path).dataobj).T
for (reader, kind), array in found.items():
    finite = array[np.isfinite(array)]
    print(f"{reader}, {kind}: {np.isnan(array).sum()} NaN, {np.isinf(array).sum()} infinite, {(array == 0).sum()} zeros; "
          f"mean of the finite voxels {finite.mean():.0f}")
for (reader, kind), array in found.items():
    if reader == "SimpleITK" and kind.startswith("nii"):
        assert np.array_equal(array, np.where(np.isfinite(values), values, 0))
    else:
        assert np.array_equal(array, values, equal_nan=True)
PYTHON
