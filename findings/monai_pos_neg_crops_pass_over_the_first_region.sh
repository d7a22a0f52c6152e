#!/usr/bin/env bash
# MONAI 1.6.1: RandCropByPosNegLabel(pos=1, neg=0) never crops around the first of several regions.
#
# One would believe: of a label with one channel for each region, as networks with a sigmoid have it, foreground is what lies in any of
# them; with pos=1 and neg=0 every crop is centred on foreground, and every region gets its share.
# What happens: as soon as there are two channels, the first one is dropped, for it is taken for the background of a one-hot map,
# whether all voxels lie in some channel or not. Of an organ in channel 0 and another in channel 1, no crop has the first; it
# counts as background, from which the negative ones are drawn. The documentation does not say it. RandCropByPosNegLabeld and
# FgBgToIndicesd do so too. In BraTS's regions it does no harm, as the second one holds the first. A background
# channel in front, or one map of numbers, has crops of both.
# Whom it hurts: training with regions that are not nested (kidney left and right, several organs that may overlap): the first one
# is seen where crops meet it by chance, and is learnt late or not at all, which looks like a hard organ. No warning.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 monai==1.6.1
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import torch
from monai.transforms import FgBgToIndices, RandCropByPosNegLabel

first, second = torch.zeros(2, 1, 64, 64)
first[0, 8:14, 8:14] = 1
second[0, 48:54, 48:54] = 1
labels = {
    "two regions": torch.cat([first, second]),
    "two regions, exchanged": torch.cat([second, first]),
    "one-hot with background": torch.cat([1 - first - second, first, second]),
    "one map of numbers": first + 2 * second,
}
found = {}
for name, label in labels.items():
    crop = RandCropByPosNegLabel((8, 8), pos=1, neg=0, num_samples=200).set_random_state(0)
    patches = crop(torch.cat([first, second]), label=label)
    found[name] = [sum(bool(patch[region].any()) for patch in patches) for region in (0, 1)]
    print(f"{name}: of 200 crops, {found[name][0]} have the first organ and {found[name][1]} the second")
assert found["two regions"] == [0, 200] and found["two regions, exchanged"] == [200, 0]
assert all(min(found[name]) > 60 for name in ("one-hot with background", "one map of numbers"))
foreground, background = FgBgToIndices()(labels["two regions"])
print(f"FgBgToIndices of two regions: {len(foreground)} voxels of foreground, {len(background)} of background; right is 72")
assert len(foreground) == 36
negative = RandCropByPosNegLabel((8, 8), labels["two regions"], pos=0, neg=1, num_samples=4000).set_random_state(0)(labels["two regions"])
inside = sum(bool(patch[0, 4, 4]) for patch in negative)              # centred on the first organ
print(f"of 4000 crops around background, {inside} are centred on the first organ")
assert inside > 10
PYTHON
