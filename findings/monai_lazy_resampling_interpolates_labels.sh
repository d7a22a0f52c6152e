#!/usr/bin/env bash
# MONAI 1.6.1: Compose(lazy=True) interpolates label maps, pads CT with water, and puts back what was cropped away.
#
# One would believe: lazy=True makes one resampling of several, with the settings of the transforms, so that a label map whose transforms
# all say mode="nearest" holds labels, a padding has its value, and a crop ends what is outside of it.
# What happens: of the pending transforms only the matrices and shapes are joined. mode and padding value are dropped, even of a single
# transform: bilinear and 0 instead. A map of labels 2 and 3 has values such as 0.43; rounded, a rim of class 1 lies around the organ.
# A CT padded with -1000 has 0 Hounsfield units, water, around it. A crop and a padding, joined, are a shift: the padding of a
# cropped image is filled with what was cropped. Only overrides={key: {"mode": "nearest"}}, given to Compose, is obeyed.
# Whom it hurts: pipelines made faster by one word: labels that are cut off or rounded later have classes that no one drew, images
# have other air, regions that were to be left out come back. No warning; shapes are right.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 monai==1.6.1
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import torch
from monai.transforms import CenterSpatialCropd, Compose, Rotated, SpatialPadd, Spacingd

labels = torch.zeros(1, 32, 32, 32)
labels[:, 8:24, 8:24, 8:24], labels[:, 12:20, 12:20, 12:20] = 2, 3
tissue = torch.full((1, 20, 20, 20), 40.0)
nearest = [Spacingd("label", (1.3, 1.3, 1.3), mode="nearest"), Rotated("label", 0.3, mode="nearest")]
padded = [SpatialPadd("ct", (28, 28, 28), value=-1000)]
cropped = [CenterSpatialCropd("ct", (10, 10, 10)), SpatialPadd("ct", (20, 20, 20))]
found = {}
for lazy in (False, True):
    label = Compose(nearest, lazy=lazy)({"label": labels.clone()})["label"]
    outside = Compose(padded, lazy=lazy)({"ct": tissue.clone()})["ct"][0, 0, 14, 14].item()
    kept = (Compose(cropped, lazy=lazy)({"ct": tissue.clone()})["ct"] == 40).sum().item()
    found[lazy] = len(label.unique()), int((label.round() == 1).sum()), outside, kept
    print(f"lazy={lazy}: {found[lazy][0]} different labels, {found[lazy][1]} voxels of class 1 when rounded; "
          f"padded with {outside:.0f}; {kept} voxels of tissue after a crop to {10 ** 3}")
told = Compose(nearest, lazy=True, overrides={"label": {"mode": "nearest"}})({"label": labels.clone()})["label"]
print(f"lazy=True with overrides: {len(told.unique())} different labels")
assert found[False] == (3, 0, -1000, 10 ** 3) and len(told.unique()) == 3
assert found[True][0] > 100 and found[True][1] > 100 and found[True][2:] == (0, 20 ** 3)
PYTHON
