#!/usr/bin/env bash
# PyTorch 2.13.0: cross_entropy with class weights and label_smoothing=0.1 is least where sure background is called organ.
#
# One would believe: class weights say how much a voxel of a class counts, and label smoothing asks for 0.95 instead of 1 of two classes;
# together, background voxels count less and still want 0.95 background.
# What happens: the weights are not given to voxels but to the terms of the smoothed target. At weights 0.02 and 0.98, those of
# an organ of 2 % by its frequency, the background's 0.95 counts 0.95 * 0.02 = 0.019, and its 0.05 of organ 0.05 * 0.98 = 0.049. The loss of
# a background voxel is least at p(organ) = 0.049 / 0.068 = 0.72. Alone, weights and smoothing each want what one believes. The tie is
# at weights 1 to 19 (two classes, 0.1). Weighting each voxel's smoothed loss by its class gives 0.05.
# Whom it hurts: networks with inverse frequency weights for small organs that get label smoothing on top: a network that knows which
# voxel is which calls all of them organ. MONAI's DiceCELoss hands both numbers on. No warning.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import torch
from torch.nn.functional import cross_entropy

labels = torch.zeros(1, 50, 50, dtype=torch.long)
labels[:, 20:30, 20:25] = 1                                            # an organ of 2 % of the image
weights = torch.tensor([0.02, 0.98])


def per_voxel(logits, labels):
    """The smoothed cross entropy of each voxel, weighted by the voxel's class."""
    losses = cross_entropy(logits, labels, label_smoothing=0.1, reduction="none")
    return (weights[labels] * losses).sum() / weights[labels].sum()


def fitted(loss):
    """p(organ) of a background and of an organ voxel, and the Dice, for the logits of each voxel that make the loss least."""
    logits = torch.zeros(1, 2, 50, 50, requires_grad=True)
    optimizer = torch.optim.Adam([logits], 0.05)
    for _ in range(1000):
        optimizer.zero_grad()
        loss(logits, labels).backward()
        optimizer.step()
    organ, mask = logits.softmax(1)[:, 1], logits.argmax(1)
    dice = 2 * (mask * labels).sum() / (mask + labels).sum()
    return organ[0, 0, 0].item(), organ[0, 25, 22].item(), dice.item()


found = {}
for name, loss in (("weights", lambda x, y: cross_entropy(x, y, weights)),
                   ("label_smoothing=0.1", lambda x, y: cross_entropy(x, y, label_smoothing=0.1)),
                   ("both", lambda x, y: cross_entropy(x, y, weights, label_smoothing=0.1)),
                   ("both, weighted by voxel", per_voxel)):
    found[name] = fitted(loss)
    print("{}: p(organ) {:.2f} in the background and {:.2f} in the organ, Dice {:.2f}".format(name, *found[name]))
background, organ, dice = found.pop("both")
assert abs(background - 0.05 * 0.98 / (0.05 * 0.98 + 0.95 * 0.02)) < 0.01 and organ > 0.99 and dice < 0.05
assert all(p < 0.06 and score == 1 for p, _, score in found.values())
PYTHON
