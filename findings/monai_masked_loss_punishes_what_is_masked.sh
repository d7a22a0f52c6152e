#!/usr/bin/env bash
# MONAI 1.6.1: MaskedLoss(DiceLoss, sigmoid=True) counts every voxel outside the mask as half a false positive.
#
# One would believe: the mask says where the loss is computed, as for partly annotated scans, so that a network that is perfect inside
# has the loss 0, and its gradient inside is that of the loss without the rest.
# What happens: the logits are multiplied by the mask before the activation. A logit of 0 is a probability of 0.5 (1/2 of each class
# with softmax), and the whole outside is half segmented where nothing should be. The perfect network has a Dice loss of 0.94, and
# the more is masked, the more; cross entropy has log 2 there, and divides by all voxels. MaskedDiceLoss, a class of its own, is right:
# it activates first. To give the same network a DiceCELoss or a Tversky loss, one takes MaskedLoss.
# Whom it hurts: training with partial annotations, ignored rims or a body mask: the loss cannot be compared between scans, and
# the Dice term, whose denominator is full of the outside, hardly pulls: its gradient is here 14 times too small. No warning.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 monai==1.6.1
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import torch
from monai.losses import DiceCELoss, DiceLoss, MaskedDiceLoss, MaskedLoss, TverskyLoss

organ = torch.zeros(1, 1, 64, 64)
organ[..., 8:16, 8:16] = 1
mask = torch.zeros(1, 1, 64, 64)
mask[..., 4:20, 4:20] = 1                            # 16 by 16 of 64 by 64 pixels are annotated
perfect = torch.where(organ > 0, 20.0, -20.0)
losses = {"MaskedDiceLoss": MaskedDiceLoss(sigmoid=True), "MaskedLoss(DiceLoss)": MaskedLoss(DiceLoss, sigmoid=True),
          "MaskedLoss(DiceCELoss)": MaskedLoss(DiceCELoss, sigmoid=True), "MaskedLoss(TverskyLoss)": MaskedLoss(TverskyLoss, sigmoid=True)}
found = {}
for name, loss in losses.items():
    logits = torch.zeros(1, 1, 64, 64, requires_grad=True)
    loss(logits, organ, mask).backward()
    found[name] = loss(perfect, organ, mask).item(), logits.grad.abs().sum().item()
    print(f"{name}: a perfect network's loss {found[name][0]:.3f}, the gradient at the start of training {found[name][1]:.4f}")
right, wrong = found["MaskedDiceLoss"], found["MaskedLoss(DiceLoss)"]
assert right[0] < 1e-6 and wrong[0] > 0.9 and right[1] > 10 * wrong[1]
assert min(loss for name, (loss, _) in found.items() if "MaskedLoss" in name) > 0.5
PYTHON
