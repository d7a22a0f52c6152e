#!/usr/bin/env bash
# PyTorch 2.13.0: torch.histc and torch.histogram of a float32 volume count to 16,777,216 in each thread and no further.
#
# One would believe: a histogram counts voxels, exactly; that the counts come as floats is a matter of form.
# What happens: on a CPU, counts are kept in the type of the values, and adding 1 to a float32 of 2 ** 24 changes nothing. In one
# thread, such as a worker of a DataLoader, the background of a CT of 79 million voxels is counted as 16,777,216, in two as twice that,
# while the organs are right: a volume has another histogram on another machine. torch.bincount and numpy.histogram are exact.
# Whom it hurts: class weights from counted labels (the background is here five times rarer than it is), thresholds and
# percentiles from a histogram, and metrics that count by histc, as those of semantic segmentation toolboxes do: where predictions
# and labels share more than 16 million voxels of background, its intersection and its union are both 2 ** 24, and its IoU is 1,
# whatever was missed. No warning.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import torch

labels = torch.zeros(300, 512, 512, dtype=torch.uint8)
labels[100:200, 100:300, 100:300] = 1                # an organ of 4 million voxels
prediction = torch.zeros_like(labels)
prediction[100:, :, 256:] = 1                        # and a bad network


def counts(values):
    return torch.histc(values.float(), bins=2, min=0, max=1).tolist()


exact, by_histc = torch.bincount(labels.flatten()).tolist(), {}
print(f"voxels of background and organ: {exact} by bincount")
for threads in (2, 1):
    torch.set_num_threads(threads)
    by_histc[threads] = counts(labels)
    by_histogram = torch.histogram(labels.float(), bins=2, range=(0.0, 1.0)).hist.tolist()
    print(f"  threads: {threads}: {by_histc[threads]} by histc, {by_histogram} by histogram")
both = [counts(values)[0] for values in (labels[labels == prediction], labels, prediction)]
iou = both[0] / (both[1] + both[2] - both[0])
true = float(((labels == 0) & (prediction == 0)).sum() / ((labels == 0) | (prediction == 0)).sum())
print(f"IoU of the background: {iou:.3f} by histc, {true:.3f} in truth")
assert exact == [74_643_200, 4_000_000] and by_histc[1] == by_histogram == [2.0 ** 24, 4_000_000]
assert by_histc[1][0] < by_histc[2][0] < exact[0]
assert iou == 1 and true < 0.7
PYTHON
