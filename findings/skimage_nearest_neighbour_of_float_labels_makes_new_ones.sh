#!/usr/bin/env bash
# scikit-image 0.26.0: resize(order=0) gives labels between the labels, if they are stored as floats.
#
# One would believe: order=0 is the nearest neighbour, so that a label map keeps its values whatever the numbers' type; for
# integers it does.
# What happens: when a float array shrinks, `anti_aliasing` is on by default at every order. The map is blurred by a Gaussian
# first, and its voxels are picked from the blurred one, with many values between 0 and 2. Rounded, the border of class 2 against
# the background becomes a rim of class 1.
# Whom it hurts: labels read by `nibabel`'s `get_fdata` are float64. anti_aliasing=False, or a type of integers, gives labels.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6 scikit-image==0.26.0
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
from skimage.transform import resize

rows, columns = np.indices((128, 128)) - 63.5
labels = np.where(rows ** 2 + columns ** 2 < 40 ** 2, 2, 0).astype(np.uint8)      # a disc of class 2; class 1 is nowhere
found = {}
for name, array, more in (("uint8", labels, {}), ("float64", labels.astype(float), {}),
                          ("float64, anti_aliasing=False", labels.astype(float), {"anti_aliasing": False})):
    small = resize(array, (48, 48), order=0, preserve_range=True, **more)
    found[name] = len(np.unique(small)), int((np.rint(small) == 1).sum())
    print(f"{name}: {found[name][0]} different values, {found[name][1]} pixels of class 1 once rounded")
assert found["uint8"] == found["float64, anti_aliasing=False"] == (2, 0)
assert found["float64"][0] > 20 and found["float64"][1] > 20
PYTHON
