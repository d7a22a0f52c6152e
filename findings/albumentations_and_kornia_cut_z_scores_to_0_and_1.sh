#!/usr/bin/env bash
# albumentations 2.0.8 and kornia 0.9.0: noise, blur or brightness set two thirds of a z-scored slice to 0 or 1.
#
# One would believe: on a float image, noise adds, blur averages and brightness shifts, whatever its range is, as MONAI's, TorchIO's
# and nnU-Net's do; a slice of mean 0 and deviation 1 stays near it.
# What happens: both take floats to lie between 0 and 1, as of photos, do not look, and cut what they return. All below the mean
# becomes 0, all beyond one deviation 1. Of albumentations, all intensity transforms tried do so (RandomGamma gives NaN for
# negative values), also GaussianBlur and MedianBlur; of kornia brightness, contrast and gamma, but not noise and blur.
# Movements (Affine, ElasticTransform) leave the values alone, so that pipelines of these alone are right.
# Whom it hurts: 2D networks on z-scored MR or on Hounsfield units: each image that gets such a transform loses its lower half, the
# others and those of the test do not. Networks learn in spite of it, worse. No warning.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 albumentations==2.0.8 kornia==0.9.0
NO_ALBUMENTATIONS_UPDATE=1 "$folder/venv/bin/python" -W ignore - <<'PYTHON'
import albumentations as A
import kornia.augmentation as K
import numpy as np
import torch

slice_ = np.random.default_rng(0).normal(0, 1, (128, 128)).astype(np.float32)
tensor = torch.from_numpy(slice_)[None, None]
torch.manual_seed(0)
results = {}
for transform in (A.Affine(rotate=10, p=1), A.GaussNoise((0.05, 0.05), p=1), A.GaussianBlur(sigma_limit=(0.3, 0.3), p=1), A.MedianBlur(p=1),
                  A.RandomBrightnessContrast(0.01, 0.01, p=1), A.MultiplicativeNoise((0.99, 1.01), p=1)):
    results[f"albumentations {type(transform).__name__}"] = A.Compose([transform], seed=0)(image=slice_)["image"]
for transform in (K.RandomGaussianNoise(std=0.05, p=1.0), K.RandomBrightness((0.99, 1.01), p=1.0), K.RandomContrast((0.99, 1.01), p=1.0)):
    results[f"kornia {type(transform).__name__}"] = transform(tensor).numpy()
inside = {}
for name, image in results.items():
    inside[name] = float(((image >= 0) & (image <= 1)).mean())
    print(f"{name}: values from {image.min():.2f} to {image.max():.2f}, {100 * (image == 0).mean():.0f} % are 0, "
          f"{100 * (image == 1).mean():.0f} % are 1")
left_alone = "albumentations Affine", "kornia RandomGaussianNoise"
for name, share in inside.items():
    assert share < 0.6 if name in left_alone else share == 1
PYTHON
