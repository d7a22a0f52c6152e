#!/usr/bin/env bash
# segmentation-models-pytorch 0.6.0: a perfect prediction of four classes has the IoU 0.25 with reduction="weighted-imagewise".
#
# One would believe: a weighted mean of four scores of 1 is 1, whatever the weights and whether it is taken over images or over the
# whole set, as it is with reduction="weighted".
# What happens: the weights are divided by their sum, as in a weighted mean, and then the mean over classes is taken of the products, which
# divides by the number of classes once more. "weighted-imagewise" is always the right value divided by the number of classes, for IoU,
# F1, recall and all the others; "macro" and "macro-imagewise" are so if they are given class_weights, equal ones too.
# Whom it hurts: scores beside those of other reductions or packages, 0.22 where 0.88 is right; comparisons between data sets, or between
# schemes with and without the background, that have different numbers of classes. Within one table the order is right. No warning.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps segmentation-models-pytorch==0.6.0
"$folder/venv/bin/python" - "$folder"/venv/lib/python3*/site-packages/segmentation_models_pytorch <<'PYTHON'
import sys

import torch

sys.path.insert(0, sys.argv[1])                                       # the metrics alone; the encoders would need torchvision and timm
from metrics import f1_score, get_stats, iou_score

for classes in (2, 4, 10):
    label = torch.randint(0, classes, (3, 64, 64), generator=torch.Generator().manual_seed(0))
    counts = get_stats(label, label, mode="multiclass", num_classes=classes)
    scores = {reduction: iou_score(*counts, reduction=reduction, class_weights=[1.0] * classes).item()
              for reduction in ("weighted", "weighted-imagewise", "macro", "macro-imagewise")}
    scores["macro without weights"] = iou_score(*counts, reduction="macro").item()
    print(f"{classes} classes, all right: " + ", ".join(f"{reduction} {score:.3f}" for reduction, score in scores.items()))
    assert abs(scores["weighted"] - 1) < 1e-6 and abs(scores["macro without weights"] - 1) < 1e-6
    assert all(abs(scores[name] - 1 / classes) < 1e-6 for name in ("weighted-imagewise", "macro", "macro-imagewise"))
noise = torch.rand(label.shape, generator=torch.Generator().manual_seed(1)) < 0.1
counts = get_stats(torch.where(noise, 0, label), label, mode="multiclass", num_classes=10)
weights = torch.arange(1.0, 11.0)
right = (f1_score(*counts).mean(0) * weights).sum() / weights.sum()   # the weighted mean of the images' mean per class
scored = f1_score(*counts, reduction="weighted-imagewise", class_weights=weights.tolist())
print(f"10 classes, a tenth of the voxels wrong: weighted-imagewise F1 {scored:.4f}, the weighted mean is {right:.4f}")
assert abs(scored - right / 10) < 1e-5
PYTHON
