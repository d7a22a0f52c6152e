#!/usr/bin/env bash
# MONAI 1.6.1: RandSimulateLowResolution moves the image by half a voxel and more along every axis, and the label map stays.
#
# One would believe: the image is made coarse and brought back to its size, as by nnU-Net's augmentation of that name, after which it
# is modelled: blurred, and where it was.
# What happens: it is made coarse by PyTorch's "nearest", which takes the first of the voxels that a coarse one covers, not the middle one,
# and brought back as if it had been the middle one. At zoom factors from 0.5 to 1, the default, the image moves by 0.7 voxels on average
# towards the end of each axis, 1.2 voxels in all, and at 0.25 by 1.6 along each. nnU-Net's transform (batchgeneratorsv2) takes
# "nearest-exact", which moves it to and fro, by zoom factor, and on average not at all; downsample_mode="area" leaves it in place.
# Whom it hurts: a part of the training images (a tenth, by default) does not lie on its labels, always to the same side, so that
# it does not average out; the images with the least detail are the ones that move furthest. No warning.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 monai==1.6.1 batchgeneratorsv2==0.3.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import torch
from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform
from monai.transforms import RandSimulateLowResolution

places = torch.stack(torch.meshgrid(*[torch.arange(64.0)] * 3, indexing="ij"))
ball = (((places - 31.5) ** 2).sum(0) < 10 ** 2).float()[None]


def movement(image: torch.Tensor) -> float:
    """By how many voxels the ball's centre of mass has moved along an axis, which is the same for all three."""
    steps = [((image[0] * axis).sum() / image.sum() - 31.5).item() for axis in places]
    assert max(steps) - min(steps) < 1e-3
    return steps[0]


zooms = [0.25] + [0.5 + step / 40 for step in range(20)]                # those from 0.5 are the transform's default range
moved = {"MONAI": [], "MONAI, area": [], "batchgeneratorsv2": []}
for zoom in zooms:
    nnunet = SimulateLowResolutionTransform((zoom, zoom), True, True, None, p_per_channel=1)
    moved["MONAI"].append(movement(RandSimulateLowResolution(prob=1, zoom_range=(zoom, zoom))(ball)))
    area = RandSimulateLowResolution(prob=1, zoom_range=(zoom, zoom), downsample_mode="area")
    moved["MONAI, area"].append(movement(area(ball)))
    moved["batchgeneratorsv2"].append(movement(nnunet(image=ball.clone())["image"]))
for name, steps in moved.items():
    average, least, most = sum(steps[1:]) / len(steps[1:]), min(steps[1:]), max(steps[1:])
    print(f"{name}: moved by {average:+.2f} voxels along each axis on average, {least:+.2f} to {most:+.2f}; {steps[0]:+.2f} at zoom 0.25")
    if name == "MONAI":
        assert average > 0.5 and least > 0.4 and steps[0] > 1.4
    else:
        assert abs(average) < 0.1
PYTHON
