#!/usr/bin/env bash
# MONAI 1.6.1: DynUNet(dropout=0.5) sets half of its logits to 0 while it trains, and doubles the others.
#
# One would believe: dropout is for features, and the last layer's output is the prediction, as in the UNet, BasicUNet, AttentionUnet
# and SegResNet of the package, which take the same number.
# What happens: the output block, a convolution, gets the dropout as well, behind it. While training, each logit of each voxel and
# class is 0 with the given probability. Of voxels with the logits 40 and 0, say, half are then left with 1/2 for each class: the
# cross entropy of perfect logits is half of log 2, 0.35, and does not sink. The heads of deep supervision are made of the same block.
# Whom it hurts: training and Monte Carlo dropout with MONAI's counterpart of nnU-Net: the loss has a floor that grows with dropout,
# a voxel's samples are 0 or doubled, so that their variance is largest where the network is surest. No warning.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 monai==1.6.1
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import torch
from monai.networks.nets import AttentionUnet, BasicUNet, DynUNet, SegResNet, UNet

torch.manual_seed(0)
options = {"kernel_size": [3, 3, 3], "strides": [1, 2, 2], "upsample_kernel_size": [2, 2], "filters": [8, 16, 32]}
networks = {"UNet": UNet(2, 1, 2, (8, 16, 32), (2, 2), dropout=0.5), "BasicUNet": BasicUNet(2, 1, 2, (8, 8, 16, 16, 32, 8), dropout=0.5),
            "AttentionUnet": AttentionUnet(2, 1, 2, (8, 16, 32), (2, 2), dropout=0.5),
            "SegResNet": SegResNet(2, 8, 1, 2, dropout_prob=0.5), "DynUNet": DynUNet(2, 1, 2, dropout=0.5, **options)}
image, zeros = torch.randn(2, 1, 64, 64), {}
for name, network in networks.items():
    network.train()
    logits, again = network(image), network(image)
    zeros[name] = (logits == 0).float().mean().item()
    print(f"{name}: dropout acts: {not torch.equal(logits, again)}; {100 * zeros[name]:.0f} % of the logits are 0")
labels = (torch.rand(1, 256, 256) > 0.5).long()
perfect = 40.0 * torch.nn.functional.one_hot(labels, 2).permute(0, 3, 1, 2)
behind = networks["DynUNet"].output_block.conv.adn             # what the output block does behind its convolution
found = {mode: torch.nn.functional.cross_entropy(behind.train(mode)(perfect), labels).item() for mode in (False, True)}
print(f"cross entropy of perfect logits in DynUNet's output block: {found[False]:.2f}, while training {found[True]:.2f}")
assert abs(zeros.pop("DynUNet") - 0.5) < 0.02 and max(zeros.values()) == 0
assert found[False] < 0.01 and abs(found[True] - 0.35) < 0.02
PYTHON
