#!/usr/bin/env bash
# SciPy 1.17.1: the Euclidean distance transform of a mask without background counts from a corner of the array.
#
# One would believe: with no background there is no distance, so that the transform is infinite, not a number or 0, or says so;
# the distance to the edge at the worst.
# What happens: without a word, every voxel gets its distance to the voxel before the first one along the first axis, (-1, 0, 0).
# The voxels near that corner have the least, those at the other end the most; a mask turned upside down has another map.
# Whom it hurts: boundary losses and networks that learn signed distances (DTC, SASSNet and others) on random patches: a patch that
# lies inside a large organ is taught a slope across healthy tissue. `distance_transform_cdt` gives -1 there.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6 scipy==1.17.1
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
from scipy import ndimage

full = np.ones((20, 20, 20))
distance = ndimage.distance_transform_edt(full)
print(f"distance at the first voxel {distance[0, 0, 0]:g}, in the middle {distance[10, 10, 10]:.2f}, "
      f"at the last voxel {distance[-1, -1, -1]:.2f}")
to_corner = np.sqrt(sum((axis - place) ** 2 for axis, place in zip(np.indices(full.shape), (-1, 0, 0), strict=True)))
assert np.allclose(distance, to_corner)
one = full.copy()
one[0, 0, 0] = 0        # a single voxel of background, and it is right
assert np.isclose(ndimage.distance_transform_edt(one)[-1, -1, -1], 19 * 3 ** 0.5)
assert (ndimage.distance_transform_cdt(full) == -1).all()
PYTHON
