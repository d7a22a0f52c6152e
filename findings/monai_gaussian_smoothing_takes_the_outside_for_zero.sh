#!/usr/bin/env bash
# MONAI 1.6.1: GaussianSmooth makes the faces of a patch dark, and GaussianSharpen multiplies them, for what is outside counts as 0.
#
# One would believe: an image of one value stays what it is when it is blurred or sharpened, at its edge as well: SciPy and SimpleITK
# go on with what is at the edge, and so does MedianSmooth of the package.
# What happens: the convolution pads with zeros. Blurred by 2 voxels, a patch of 100 is 60 at its faces and 21 at its corners; a patch
# of air, -1000 Hounsfield units, is -600, which is lung. GaussianSharpen, with its defaults, makes more than 400 of 100 at the faces.
# RandGaussianSmooth does the same. There is no setting for it.
# Whom it hurts: networks trained on patches with these augmentations: around every patch a frame of wrong intensities, twice the
# blur wide, and none around whole scans without augmentation. In a patch of 64 voxels, a third of all lie within 4 voxels of a face.
# Images with a mean of 0 suffer least. No warning.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 scipy==1.17.1 SimpleITK==2.5.7 monai==1.6.1
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
import SimpleITK as sitk
import torch
from monai.transforms import GaussianSharpen, GaussianSmooth, MedianSmooth, RandGaussianSmooth
from scipy.ndimage import gaussian_filter

patch = np.full((32, 32, 32), 100, np.float32)
tensor = torch.from_numpy(patch)[None]
blurred = {
    "SciPy": gaussian_filter(patch, 2),
    "SimpleITK": sitk.GetArrayFromImage(sitk.DiscreteGaussian(sitk.GetImageFromArray(patch), 4.0)),
    "MONAI's MedianSmooth": MedianSmooth(2)(tensor)[0].numpy(),
    "MONAI's GaussianSmooth": GaussianSmooth(2)(tensor)[0].numpy(),
    "MONAI's RandGaussianSmooth": RandGaussianSmooth((2, 2), (2, 2), (2, 2), prob=1)(tensor)[0].numpy(),
    "MONAI's GaussianSharpen": GaussianSharpen()(tensor)[0].numpy(),
}
faces = {}
for name, result in blurred.items():
    faces[name] = result[0, 16, 16]
    off = (np.abs(result - 100) > 1).mean()
    print(f"{name}: {result[16, 16, 16]:.1f} inside, {faces[name]:.1f} at a face, {result[0, 0, 0]:.1f} at a corner; "
          f"{100 * off:.0f} % of the voxels off by more than 1 %")
air = GaussianSmooth(2)(-10 * tensor)[0, 0, 16, 16].item()
print(f"air of -1000 is {air:.0f} at a face after GaussianSmooth(2)")
assert max(abs(faces[name] - 100) for name in ("SciPy", "SimpleITK", "MONAI's MedianSmooth")) < 0.1
assert 58 < faces["MONAI's GaussianSmooth"] == faces["MONAI's RandGaussianSmooth"] < 62 and -620 < air < -580
assert faces["MONAI's GaussianSharpen"] > 400
PYTHON
