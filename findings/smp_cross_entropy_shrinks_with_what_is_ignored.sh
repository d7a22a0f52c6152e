#!/usr/bin/env bash
# segmentation-models-pytorch 0.6.0: SoftCrossEntropyLoss of an image of which 1 % is annotated is a hundredth of PyTorch's.
#
# One would believe: what says of itself that it is a drop-in replacement for torch.nn.CrossEntropyLoss has its values: the mean over the
# pixels that are not ignored; with label smoothing and nothing to ignore it has.
# What happens: ignored pixels count as pixels with a loss of 0. The loss, and its gradient, are PyTorch's times the part of the
# image that is annotated. DiceLoss of the package leaves ignored pixels out of its sums, so that in the usual sum of both the cross
# entropy is worth less, the less is annotated.
# Whom it hurts: training with scribbles, with single slices annotated in volumes, with ignored rims or padding: the learning rate, and the
# weight against a Dice or consistency loss, differ from image to image by how much is annotated; taken over from a recipe
# with PyTorch's loss, they are a hundred times too small. No warning.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps segmentation-models-pytorch==0.6.0
"$folder/venv/bin/python" - "$folder"/venv/lib/python3*/site-packages/segmentation_models_pytorch <<'PYTHON'
import sys

import torch

sys.path.insert(0, sys.argv[1])                                       # the losses alone; the encoders would need torchvision and timm
from losses import DiceLoss, SoftCrossEntropyLoss

generator = torch.Generator().manual_seed(0)
label = torch.randint(0, 3, (1, 100, 100), generator=generator)
logits = torch.randn(1, 3, 100, 100, generator=generator)
for rows in (100, 50, 10, 1):                                         # of 100; all other rows are ignored
    sparse = torch.full_like(label, 255)
    sparse[:, :rows] = label[:, :rows]
    pytorch = torch.nn.CrossEntropyLoss(label_smoothing=0.1, ignore_index=255)(logits, sparse).item()
    replaced = SoftCrossEntropyLoss(smooth_factor=0.1, ignore_index=255)(logits, sparse).item()
    dice = DiceLoss("multiclass", ignore_index=255)(logits, sparse).item()
    print(f"{rows} % annotated: PyTorch {pytorch:.4f}, SoftCrossEntropyLoss {replaced:.4f}, DiceLoss {dice:.4f}")
    assert abs(replaced / pytorch - rows / 100) < 1e-4
    assert 0.5 < dice < 0.8
PYTHON
