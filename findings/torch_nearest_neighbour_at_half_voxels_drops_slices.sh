#!/usr/bin/env bash
# PyTorch 2.13.0, and MONAI 1.6.1 above it: a label map moved by half a voxel has every second slice twice, and the others not at all.
#
# One would believe: nearest neighbours halfway between two slices are all the earlier ones or all the later ones: the map moves by a
# voxel more or less and stays what it is. SciPy and SimpleITK do so.
# What happens: grid_sample(mode="nearest") rounds halves to even numbers: 0.5, 1.5, 2.5 and 3.5 are slices 0, 2, 2 and 4. Odd slices
# are lost, even ones double. MONAI does so by Affine(translate_params=0.5), and by RandAffine with a spatial_size that is odd where the
# image is even, or the other way round, since it crops around the centre; also where its prob lets it do nothing else. At sizes
# that are no powers of two, rounding decides some of the halves, and a quarter to a half of the slices are lost.
# Whom it hurts: vessels, walls and lesions one voxel thick are gone or two thick, by whether their slice is even; staircases at each
# surface. The image, interpolated, is right, so that the network is taught labels that do not lie on it. No warning.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 scipy==1.17.1 SimpleITK==2.5.7 monai==1.6.1
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
import SimpleITK as sitk
import torch
from monai.transforms import Affine, RandAffine
from scipy.ndimage import affine_transform

rows = np.arange(64, dtype=np.float32)[:, None].repeat(64, 1)        # each row holds its own number
tensor = torch.from_numpy(rows)[None]
places = torch.stack(torch.meshgrid(torch.arange(63) + 0.5, torch.arange(63) + 0.5, indexing="xy"), -1)
grid = (2 * places + 1) / 64 - 1
moved = {
    "SciPy": affine_transform(rows, np.eye(2), 0.5, (63, 63), order=0),
    "SimpleITK": sitk.GetArrayFromImage(sitk.Resample(
        sitk.GetImageFromArray(rows), (63, 63), sitk.TranslationTransform(2, (0.5, 0.5)), sitk.sitkNearestNeighbor)),
    "grid_sample": torch.nn.functional.grid_sample(tensor[None], grid[None], "nearest", align_corners=False)[0, 0].numpy(),
    "MONAI's Affine by 0.5": Affine(translate_params=(0.5, 0.5), mode="nearest", padding_mode="border", image_only=True)(tensor)[0].numpy(),
    "MONAI's RandAffine to 63, prob=0": RandAffine(prob=0, spatial_size=(63, 63), mode="nearest")(tensor)[0].numpy(),
}
lost = {}
for name, result in moved.items():
    column = result[:62, 30].astype(int)
    lost[name] = set(range(2, 60)) - set(column)
    print(f"{name}: rows {column[:8].tolist()}; {len(lost[name])} of 58 are lost")
odd = set(range(3, 60, 2))
assert not lost["SciPy"] and not lost["SimpleITK"]
assert all(lost[name] == odd for name in moved if name not in ("SciPy", "SimpleITK"))
for image, size in ((63, 64), (160, 129), (240, 223)):
    numbers = torch.arange(float(image))[None, :, None].expand(1, image, image)
    column = RandAffine(prob=0, spatial_size=(size, size), mode="nearest")(numbers)[0, :, size // 2].int().tolist()
    there = max(column) - min(column) + 1
    print(f"MONAI's RandAffine from {image} to {size}: {there - len(set(column))} of {there} rows are lost")
    assert len(set(column)) < 0.8 * there
vessel = torch.zeros(2, 64, 64)
vessel[0, 30], vessel[1, 31] = 1, 1                                   # one row each, in an even and in an odd place
left = RandAffine(prob=0, spatial_size=(63, 63), mode="nearest")(vessel).sum((1, 2)) / 63
print(f"a wall of one row in row 30 is {left[0]:.0f} rows wide, in row 31 {left[1]:.0f}")
assert left.tolist() == [2, 0]
PYTHON
