#!/usr/bin/env bash
# MONAI 1.6.1: the mean 95 % Hausdorff distance leaves out every scan in which the prediction is empty.
# 
# One would believe: an empty prediction counts as infinitely far away, as it does without a percentile, so that a network
# that misses an organ cannot have a good mean distance.
# What happens: with percentile=95 (and with 100) the distance of such a scan is NaN instead of infinity, and
# HausdorffDistanceMetric.aggregate() averages what is not NaN. A network that finds the organ in one of two scans has a mean
# of 2 voxels, as good as if it had found both; without a percentile the same call gives infinity, as SurfaceDistanceMetric
# does.
# Whom it hurts: tables of mean 95HD in which the worst network looks best; get_not_nans=True tells how many were counted.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 monai==1.6.1 scipy==1.17.1
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import numpy as np
import torch
from monai.metrics import HausdorffDistanceMetric, SurfaceDistanceMetric

organ = torch.zeros(1, 1, 32, 32, 32)
organ[..., 8:24, 8:24, 8:24] = 1
found, missed = organ.roll(2, 2), torch.zeros_like(organ)
means = {}
for name, metric in {
    "95HD": HausdorffDistanceMetric(include_background=True, percentile=95),
    "HD with percentile=100": HausdorffDistanceMetric(include_background=True, percentile=100),
    "HD": HausdorffDistanceMetric(include_background=True),
    "average surface distance": SurfaceDistanceMetric(include_background=True),
}.items():
    metric(found, organ)
    metric(missed, organ)
    means[name] = metric.aggregate().item()
    print(f"mean {name} of one scan that was found, two voxels off, and one that was missed: {means[name]}")
assert means["95HD"] == means["HD with percentile=100"] == 2
assert np.isinf(means["HD"]) and np.isinf(means["average surface distance"])
PYTHON
