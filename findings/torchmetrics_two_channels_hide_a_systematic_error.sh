#!/usr/bin/env bash
# torchmetrics 1.9.0: a network whose probabilities are all 10 points too low has a calibration error of 10 % or of 0.6 %.
#
# One would believe: of two classes, the probability of one says all, so that BinaryCalibrationError of it and
# MulticlassCalibrationError of both channels are one number, as accuracy is, up to the cut of the bins.
# What happens: the one compares the probability of the organ with how often it is organ, the other the larger of the two probabilities
# with how often it is right. Where organ is under-rated, background is over-rated by as much, both lie in the same bin of confidence,
# and cancel. A network that is over-confident on both sides has the same error in both.
# Whom it hurts: segmentation networks with a softmax over two channels and with a sigmoid are compared by these numbers; a systematic
# under-segmentation, the commonest fault, cannot be seen in the first. MulticlassCalibrationError has no average per class.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 torchmetrics==1.9.0
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import torch
from torchmetrics.classification import BinaryAccuracy, BinaryCalibrationError, MulticlassAccuracy, MulticlassCalibrationError

torch.manual_seed(0)
said = torch.rand(400_000)
found = {}
for name, true in (("calibrated", said), ("over-confident", 0.5 + 0.6 * (said - 0.5)), ("10 points too low", (said + 0.1).clamp(max=1))):
    labels = (torch.rand_like(said) < true).long()
    channels = torch.stack([1 - said, said], 1)
    found[name] = [metric.item() for metric in (
        BinaryCalibrationError(n_bins=10)(said, labels), MulticlassCalibrationError(2, n_bins=10)(channels, labels))]
    accuracy = [metric.item() for metric in (
        BinaryAccuracy()(said, labels), MulticlassAccuracy(2, average="micro")(channels, labels))]
    assert abs(accuracy[0] - accuracy[1]) < 1e-5
    print("{}: calibration error {:.4f} by one channel, {:.4f} by two; accuracy {:.3f} and {:.3f}".format(name, *found[name], *accuracy))
assert max(found["calibrated"]) < 0.005 and abs(found["over-confident"][0] - found["over-confident"][1]) < 0.002
assert found["10 points too low"][0] > 0.09 and found["10 points too low"][1] < 0.01
PYTHON
