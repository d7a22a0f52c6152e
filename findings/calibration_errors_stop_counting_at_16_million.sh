#!/usr/bin/env bash
# torchmetrics 1.9.0 and MONAI 1.6.1: the calibration error of more than 16 million voxels is wrong, of a calibrated network not 0.
#
# One would believe: the more voxels, the nearer the expected calibration error of a calibrated network comes to 0.
# What happens: voxels are counted by adding ones to a float32 for each bin, which stops at 16,777,216, and sums of confidences by
# adding them to another, which stops earlier, the smaller they are. The background of one CT is 60 million voxels in one bin.
# Where 1 % of the voxels with p = 0.01 are organ, the error is 0.000 at 5 million voxels, 0.001 at 20 and 0.03 at 80 million: three
# times the probability itself. The same voxels as float64 have 0 in torchmetrics; MONAI makes them float32 again.
# Whom it hurts: calibration reported for whole volumes, or by torchmetrics for a test set, whose voxels are all one sample: the
# error grows with the number of patients, and differs between networks by where their small probabilities lie. No warning.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 torchmetrics==1.9.0 monai==1.6.1
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import torch
from monai.metrics import CalibrationErrorMetric
from torchmetrics.functional.classification import binary_calibration_error

found = {}
for millions in (5, 20, 80):
    probabilities = torch.full((1, 1, millions, 1000, 1000), 0.01)
    labels = (torch.arange(millions * 1_000_000) % 100 == 0).to(torch.uint8).view_as(probabilities)      # one in a hundred
    metric = CalibrationErrorMetric(num_bins=15)
    metric(probabilities, labels)
    found[millions] = [binary_calibration_error(probabilities, labels, n_bins=15).item(), metric.aggregate().item()]
    print("{} million voxels with p = 0.01, 1 % of them organ: calibration error {:.4f} by torchmetrics, {:.4f} by MONAI".format(
        millions, *found[millions]))
exact = binary_calibration_error(probabilities.double(), labels, n_bins=15).item()
print(f"80 million as float64: {exact:.4f} by torchmetrics")
assert max(found[5]) < 0.0005 and min(found[80]) > 0.02 and exact < 1e-6
PYTHON
