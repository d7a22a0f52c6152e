#!/usr/bin/env bash
# SciPy 1.17.1 and nibabel 5.4.2: zoom and resample_from_to set slices at the edge of a scan to 0, by the last digit of a number.
#
# One would believe: a scan resampled onto its own grid stays what it is, at any angle, and a zoomed one ends with its last slice, since
# zoom puts the centres of the first and last voxels where they were.
# What happens: a place that rounding moves 1e-15 beyond the first or last centre is outside, and gets 0, at every order.
# nibabel multiplies two affines to get there: of an oblique label map of ten slices, resampled onto itself, a whole end slice or
# parts of it and of other faces are gone. scipy.ndimage.zoom does so at sizes that no one can guess: 16 slices of 5 mm brought to 80
# of 1 mm lose the last, 20 brought to 100 do not; a prediction of 256 pixels brought back to 216, as code for ACDC does, loses a
# row. mode="nearest" is right in both.
# Whom it hurts: masks and images brought to another grid or back: an organ that reaches the end of the scan ends a slice early in some
# patients and not in others, and a CT has a slice of water there. No warning.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6 scipy==1.17.1 nibabel==5.4.2
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import nibabel as nib
import numpy as np
from nibabel.processing import resample_from_to
from scipy.ndimage import zoom

found = {}
for old, new in ((16, 80), (20, 100), (256, 216), (256, 224)):
    label = np.ones(old, np.uint8)                                     # an organ that runs through all slices
    found[old, new] = np.flatnonzero(zoom(label, new / old, order=0) == 0).tolist()
    assert zoom(label, new / old, order=0, mode="nearest").all()
    assert [i for i, x in enumerate(zoom(label.astype(float), new / old, order=1)) if x < 0.5] == found[old, new]
    print(f"zoom of {old} slices of organ to {new}: empty {found[old, new]}")
assert found == {(16, 80): [79], (20, 100): [], (256, 216): [215], (256, 224): []}

lost = []
for turn in range(5, 60, 5):
    a, b = np.deg2rad([turn, 90 - 1.3 * turn])
    turned = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]]) @ [
        [1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]]
    affine = nib.affines.from_matvec(turned * [1.4, 1.4, 8], [-90, -120, -40])
    organ = nib.Nifti1Image(np.ones((64, 64, 10), np.uint8), affine)
    again = np.asarray(resample_from_to(organ, organ, order=0).dataobj)
    assert again[1:-1, 1:-1, 1:-1].all() and np.asarray(resample_from_to(organ, organ, order=0, mode="nearest").dataobj).all()
    lost.append(max(float((again[..., end] == 0).mean()) for end in (0, -1)))
    print(f"an oblique scan turned by {turn} degrees, onto itself: {int((again == 0).sum())} voxels of organ are gone, "
          f"{100 * lost[-1]:.0f} % of the worse end slice")
assert max(lost) > 0.5 and sum(part > 0.1 for part in lost) > len(lost) / 2
PYTHON
