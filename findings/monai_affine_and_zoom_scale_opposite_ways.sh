#!/usr/bin/env bash
# MONAI 1.6.1: a scale of 1.25 makes an organ larger with Zoom, and smaller with Affine.
#
# One would believe: a scale above 1 enlarges, as Zoom and RandZoom of the package do, and TorchIO's, kornia's and albumentations'
# affine transforms.
# What happens: Affine, RandAffine and their kin scale the grid at which the image is read, so that 1.25 makes an organ 0.8 as
# large. batchgeneratorsv2, nnU-Net's augmentation, does the same, without a word about it in either.
# Whom it hurts: ranges that are not symmetrical, such as a scale_range of (-0.3, 0) to make organs of adults as small as
# those of children: they become up to 1.43 times as large. Ranges of a paper, taken over from one framework to the other, are
# turned over. Image and label map agree, so nothing looks wrong.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 scipy==1.17.1 monai==1.6.1 torchio==1.2.1 batchgeneratorsv2==0.3.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
import torch
import torchio
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from monai.transforms import Affine, RandAffine, RandZoom, Zoom

ball = torch.from_numpy(((np.indices((40, 40, 40)) - 19.5) ** 2).sum(0) < 9 ** 2).float()[None]
nnunet = SpatialTransform((40, 40, 40), 0, False, p_elastic_deform=0, p_rotation=0, p_scaling=1, scaling=(1.25, 1.25))
scaled = {"MONAI Zoom": Zoom(1.25)(ball), "MONAI RandZoom": RandZoom(prob=1, min_zoom=1.25, max_zoom=1.25001)(ball),
          "TorchIO Affine": torchio.Affine(scales=1.25, degrees=0, translation=0)(ball),
          "MONAI Affine": Affine(scale_params=(1.25, 1.25, 1.25), image_only=True)(ball),
          "MONAI RandAffine": RandAffine(prob=1, scale_range=((0.25, 0.25001),) * 3)(ball),
          "batchgeneratorsv2 SpatialTransform": nnunet(image=ball)["image"]}
size = {}
for name, image in scaled.items():
    size[name] = float(((image > 0.5).sum() / ball.sum()) ** (1 / 3))
    print(f"{name}, scale 1.25: the ball is {size[name]:.2f} times as large")
assert all(value > 1.15 for value in list(size.values())[:3]) and all(value < 0.85 for value in list(size.values())[3:])
PYTHON
