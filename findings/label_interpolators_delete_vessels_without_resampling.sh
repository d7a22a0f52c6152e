#!/usr/bin/env bash
# SimpleITK 2.5.7's sitkLabelGaussian and antspyx 0.6.3's multiLabel: a label map resampled onto its own grid loses vessels.
#
# One would believe: an interpolator gives a voxel's own label at its centre, so that nothing changes where nothing moves, as with
# nearest neighbours; those made for labels keep thin structures better than these do.
# What happens: both weigh the labels around a voxel by a Gaussian and take the heaviest, at the centre too. Of a vessel one voxel
# wide its surroundings weigh more than itself: it is gone by SimpleITK, and by ANTs one of two by two voxels as well, and corners
# are rounded: a cube of 10 voxels loses 10 % by ANTs. ANTs' genericLabel and SimpleITK's sitkLabelLinear change nothing.
# Whom it hurts: labels brought to another grid, as their documentation suggests for label maps: small lesions, vessels and walls are
# missing from the reference, or from the prediction brought back onto the scan. No warning.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check numpy==2.3.5 SimpleITK==2.5.7 antspyx==0.6.3
"$folder/venv/bin/python" -W ignore - "$folder" <<'PYTHON'
import sys

import ants
import numpy as np
import SimpleITK as sitk

labels = np.zeros((20, 40, 40), np.uint8)
labels[:, 5, 5], labels[:, 10:12, 10:12], labels[5:15, 20:30, 20:30] = 1, 2, 3
names = "vessel of 1 x 1", "vessel of 2 x 2", "cube of 10"
image = sitk.GetImageFromArray(labels)
volume = ants.from_numpy(labels.astype(np.float32))
identity = f"{sys.argv[1]}/identity.mat"
ants.write_transform(ants.create_ants_transform(transform_type="Euler3DTransform", dimension=3), identity)
found = {}
for interpolator in ("sitkNearestNeighbor", "sitkLabelLinear", "sitkLabelGaussian"):
    found[interpolator] = sitk.GetArrayFromImage(sitk.Resample(image, image, sitk.Transform(), getattr(sitk, interpolator)))
for interpolator in ("nearestNeighbor", "genericLabel", "multiLabel"):
    found[interpolator] = ants.apply_transforms(volume, volume, [identity], interpolator=interpolator).numpy()
kept = {}
for interpolator, array in found.items():
    kept[interpolator] = [int((array[labels == label] == label).sum()) for label in (1, 2, 3)]
    print(f"{interpolator}:", "; ".join(f"{name}: {count} of {(labels == label).sum()} voxels"
                                        for label, (name, count) in enumerate(zip(names, kept[interpolator]), 1)))
whole = kept.pop("sitkNearestNeighbor")
gaussian, multi = kept.pop("sitkLabelGaussian"), kept.pop("multiLabel")
assert all(counts == whole for counts in kept.values())
assert gaussian[0] == 0 and gaussian[2] < whole[2] and multi[:2] == [0, 0] and multi[2] < 0.95 * whole[2]
PYTHON
