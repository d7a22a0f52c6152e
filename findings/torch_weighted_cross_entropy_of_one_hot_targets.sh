#!/usr/bin/env bash
# PyTorch 2.13.0: with class weights, the cross entropy of a one-hot target is a fraction of that of the same target as indices.
#
# One would believe: a label map and its one-hot form are one target, so cross_entropy gives one number for both, as it does
# without weights.
# What happens: for indices the sum is divided by the weights of the voxels, for probabilities by their number. With weights of 0.1
# for background and 1 for an organ that 2 % of the voxels have, the second is 0.118 of the first, gradients too, and another
# fraction in every batch: the less of the organ it has, the smaller.
# Whom it hurts: semi-supervised training with labels as indices and pseudo-labels as probabilities: the unsupervised term is an
# eighth of what its factor says, and no factor makes up for it in all batches. Label smoothing by hand, mixed or soft labels alike.
# MONAI's DiceCELoss takes both forms, too, and hands them on.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import torch
import torch.nn.functional as F

torch.manual_seed(0)
ratios = {}
for share in (0.5, 0.02, 0.0):
    scores = torch.randn(2, 2, 32, 32, 32, requires_grad=True)
    labels = (torch.rand(2, 32, 32, 32) < share).long()
    one_hot = F.one_hot(labels, 2).movedim(-1, 1).float()
    for weight in (None, torch.tensor([0.1, 1.0])):
        losses = [F.cross_entropy(scores, target, weight=weight) for target in (labels, one_hot)]
        gradients = [torch.autograd.grad(loss, scores)[0].norm() for loss in losses]
        name = "no weights" if weight is None else "weights 0.1 and 1"
        ratios[name, share] = (losses[1] / losses[0]).item(), (gradients[1] / gradients[0]).item()
        print(f"{name}, organ in {share:.0%} of the voxels: {losses[0]:.4f} as indices, {losses[1]:.4f} as one-hot; "
              f"the gradients of the second are {ratios[name, share][1]:.3f} of the first's")
for (name, share), pair in ratios.items():
    expected = 1 if name == "no weights" else 0.1 + 0.9 * share
    assert all(abs(ratio - expected) < 0.02 for ratio in pair), (name, share, pair)
PYTHON
