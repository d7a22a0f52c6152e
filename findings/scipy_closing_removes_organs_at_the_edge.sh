#!/usr/bin/env bash
# SciPy 1.17.1: binary_closing removes the organ from the first and the last slices, as many as it has iterations.
#
# One would believe: a closing fills gaps and never removes a voxel: what is in the mask is in its closing, by definition.
# What happens: a closing is a dilation and an erosion, and SciPy's erosion takes everything outside of the volume for
# background. A vessel that runs through all ten slices of a cardiac scan is in eight of them after one iteration, in four after
# three. border_value=1 would keep it, but dilates from the edge as well, so that empty slices get an organ. scikit-image's closing and
# SimpleITK's keep every voxel.
# Whom it hurts: post-processing of organs that reach the edge of the scan (aorta, spine, myocardium, everything in a patch) in
# stacks of few slices: volumes shrink, and Dice falls by a smoothing that cannot remove anything. No warning.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6 scipy==1.17.1 scikit-image==0.26.0 SimpleITK==2.5.7
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
import SimpleITK as sitk
from scipy import ndimage
from skimage.morphology import closing

mask = np.zeros((10, 40, 40), bool)
mask[:, 10:30, 10:30] = True
half_empty = mask.copy()
half_empty[5:] = False                    # nothing in the last five slices


def by_sitk(array):
    image = sitk.BinaryMorphologicalClosing(sitk.GetImageFromArray(array.astype(np.uint8)), [3] * 3, sitk.sitkBall)
    return sitk.GetArrayFromImage(image).astype(bool)


closings = {f"SciPy, {n} iterations": lambda array, n=n: ndimage.binary_closing(array, iterations=n) for n in (1, 3)}
closings["SciPy, 3 iterations, border_value=1"] = lambda array: ndimage.binary_closing(array, iterations=3, border_value=1)
closings["scikit-image, ball of 3"] = lambda array: closing(array, ndimage.iterate_structure(ndimage.generate_binary_structure(3, 1), 3))
closings["SimpleITK, ball of 3"] = by_sitk
slices = {}
for name, close in closings.items():
    slices[name] = [int(close(array).any((1, 2)).sum()) for array in (mask, half_empty)]
    print("{}: the organ is in {} slices of 10 where it was in 10, in {} where it was in 5".format(name, *slices[name]))
assert slices["SciPy, 1 iterations"][0] == 8 and slices["SciPy, 3 iterations"][0] == 4
assert slices["SciPy, 3 iterations, border_value=1"] == [10, 10]
assert slices["scikit-image, ball of 3"] == slices["SimpleITK, ball of 3"] == [10, 5]
PYTHON
