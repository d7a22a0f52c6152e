#!/usr/bin/env bash
# torchinfo 1.8.0 and thop 0.1.1: multiplications of a transformer are counted for one token, of a transposed convolution eight times.
#
# One would believe: mult-adds and MACs of a network are a matter of its layers and the size of its input, so that all counters agree on
# linear layers and convolutions, but for a factor of two between multiplications and operations.
# What happens: torchinfo counts the weights of a linear layer once for each scan, not for each token: of 216 tokens, a patch of 96 x 96 x 96
# cut into cubes of 16, one. torchinfo and thop count each weight of a transposed convolution at each voxel that comes out, instead of
# each that goes in: with stride 2 in 3D eight times too often. PyTorch's own FlopCounterMode has the right numbers, doubled, as it
# counts operations. Ordinary convolutions are right in all three.
# Whom it hurts: columns of GFLOPs in tables: by torchinfo a vision transformer costs next to nothing, and by both a decoder of transposed
# convolutions, as in V-Net, nnU-Net and UNETR, up to eight times what it does; by which networks are chosen for their price. No warning.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 torchinfo==1.8.0 thop==0.1.1.post2209072238
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import thop
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchinfo import summary

layers = {                                                            # a layer, its input, and its multiplications by definition
    "Linear(768, 3072) on 216 tokens": (nn.Linear(768, 3072, bias=False), (1, 216, 768), 216 * 768 * 3072),
    "ConvTranspose3d(64, 32, 2, stride=2)": (nn.ConvTranspose3d(64, 32, 2, 2, bias=False), (1, 64, 8, 8, 8), 8 ** 3 * 64 * 32 * 2 ** 3),
    "Conv3d(32, 32, 3)": (nn.Conv3d(32, 32, 3, padding=1, bias=False), (1, 32, 8, 8, 8), 8 ** 3 * 32 * 32 * 3 ** 3),
}
found = {}
for name, (layer, shape, right) in layers.items():
    network, image = nn.Sequential(layer), torch.zeros(shape)
    with FlopCounterMode(display=False) as counter:
        network(image)
    counts = {"PyTorch / 2": counter.get_total_flops() / 2, "torchinfo": summary(network, input_data=image, verbose=0).total_mult_adds,
              "thop": thop.profile(network, (image,), verbose=False)[0]}
    found[name] = {counter: count / right for counter, count in counts.items()}
    ratios = ", ".join(f"{counter} {ratio:.4f}" for counter, ratio in found[name].items())
    print(f"{name}, {right:,} multiplications: {ratios} of them")
linear, transposed, convolution = found.values()
assert linear["torchinfo"] == 1 / 216 and linear["thop"] == 1
assert transposed["torchinfo"] == transposed["thop"] == 8
assert all(layer["PyTorch / 2"] == 1 for layer in found.values())
assert set(convolution.values()) == {1}
PYTHON
