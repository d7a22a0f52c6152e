#!/usr/bin/env bash
# MONAI 1.6.1: the weighted cross entropy in DiceCELoss is 25 times smaller, if the same labels are given one-hot.
#
# One would believe: a label map with to_onehot_y=True and its one-hot form, which the loss says to take alike, have one loss: the voxels'
# cross entropies, weighted by their classes.
# What happens: PyTorch's cross entropy divides by the sum of the voxels' weights if it is given numbers of classes, and by the number of
# voxels if it is given one-hot maps, whose numbers it takes for probabilities. With weights of 0.02 for the background and
# 0.98 for an organ of 2 %, the mean weight is 0.04, and so is the ratio of the two. Where a patch has no organ it is 0.02, while the Dice
# term is the same: by the form of the labels one of the two terms rules. Without weights both forms agree.
# Whom it hurts: training with class weights: moving AsDiscrete(to_onehot) from the loss into the transforms, or a loss that is configured
# for label maps in a pipeline of one-hot maps, makes another training of it, with hardly any cross entropy. No warning.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 monai==1.6.1
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import torch
from monai.losses import DiceCELoss

logits = torch.randn(2, 2, 64, 64, generator=torch.Generator().manual_seed(0))
organ = torch.zeros(2, 1, 64, 64)
organ[..., 20:29, 20:29] = 1                                          # 2 % of the voxels
empty = torch.zeros_like(organ)
weights = torch.tensor([0.02, 0.98])
ratios = {}
for name, label, weight in (("organ, weights", organ, weights), ("no organ, weights", empty, weights), ("organ, no weights", organ, None)):
    one_hot = torch.cat([1 - label, label], 1)
    losses = {}
    for term, factors in (("cross entropy", (0, 1)), ("Dice", (1, 0))):
        settings = {"softmax": True, "weight": weight, "lambda_dice": factors[0], "lambda_ce": factors[1]}
        losses[term] = (DiceCELoss(to_onehot_y=True, **settings)(logits, label).item(), DiceCELoss(**settings)(logits, one_hot).item())
        print(f"{name}: {term} {losses[term][0]:.4f} of a label map, {losses[term][1]:.4f} of its one-hot form")
    assert abs(losses["Dice"][0] - losses["Dice"][1]) < 1e-6
    ratios[name] = losses["cross entropy"][1] / losses["cross entropy"][0]
mean_weight = (weights[1] * organ.mean() + weights[0] * (1 - organ.mean())).item()
assert abs(ratios["organ, weights"] - mean_weight) < 1e-4 and mean_weight < 0.04
assert abs(ratios["no organ, weights"] - 0.02) < 1e-4 and abs(ratios["organ, no weights"] - 1) < 1e-5
PYTHON
