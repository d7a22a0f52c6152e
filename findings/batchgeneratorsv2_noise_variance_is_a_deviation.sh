#!/usr/bin/env bash
# batchgeneratorsv2 0.3.6, nnU-Net's augmentation: GaussianNoiseTransform(noise_variance=...) takes a standard deviation.
#
# One would believe: noise_variance=(0.1, 0.1) adds noise of variance 0.1, a standard deviation of 0.32 on z-scored images.
# What happens: the number is the standard deviation. The variance is its square, 0.01, a tenth of what the name says.
# Whom it hurts: papers and other frameworks that take over "Gaussian noise of variance 0 to 0.1" from nnU-Net's settings train
# with noise ten times stronger than nnU-Net's at its upper end, in variance, and compare with another augmentation than they think.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 batchgeneratorsv2==0.3.6
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import torch
from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform

torch.manual_seed(0)
for value in (0.01, 0.1, 0.5):
    noisy = GaussianNoiseTransform(noise_variance=(value, value), p_per_channel=1, synchronize_channels=True)
    noise = noisy(image=torch.zeros(1, 400, 400))["image"]
    print(f"noise_variance={value}: the noise has variance {noise.var():.4f} and standard deviation {noise.std():.4f}")
    assert abs(noise.std() / value - 1) < 0.02
PYTHON
