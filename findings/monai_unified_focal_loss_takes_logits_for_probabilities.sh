#!/usr/bin/env bash
# MONAI 1.6.1: AsymmetricUnifiedFocalLoss asks for logits and treats them as probabilities, so that most voxels learn nothing.
#
# One would believe: the input are the network's logits, as the class says of its input, to which it applies a sigmoid itself.
# What happens: there is no sigmoid. Logits are cut off to lie between 0 and 1, where the gradient of what is cut is 0. A voxel
# with a logit below 0 counts as sure background and above 1 as sure organ, right or wrong, and cannot change. Of random normal
# logits, 61 % have no gradient. An organ whose voxels all begin at -1 is never found, in any number of steps; with a sigmoid put
# before the loss, against what is written, 100 steps suffice. The values look as those of a loss should: small where the
# prediction is right.
# Whom it hurts: networks trained with the unified focal loss from MONAI, and comparisons of losses in which it does badly. No warning.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 monai==1.6.1
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import torch
from monai.losses import AsymmetricUnifiedFocalLoss

loss = AsymmetricUnifiedFocalLoss()
organ = torch.zeros(1, 1, 16, 16)
organ[..., 4:10, 4:10] = 1
torch.manual_seed(0)
logits = torch.randn(1, 1, 16, 16, requires_grad=True)
loss(logits, organ).backward()
still = (logits.grad == 0).float().mean().item()
print(f"the class says of its input: logits: {'logits' in loss.forward.__doc__}, sigmoid: {'sigmoid' in loss.forward.__doc__}")
print(f"normal logits: {100 * still:.0f} % of the voxels have no gradient")
dice, values = {}, {}
for name, activation in (("logits", lambda x: x), ("sigmoid of the logits", torch.sigmoid)):
    logits = torch.full_like(organ, -1.0, requires_grad=True)
    optimizer = torch.optim.Adam([logits], 0.1)
    for _ in range(100):
        optimizer.zero_grad()
        value = loss(activation(logits), organ)
        value.backward()
        optimizer.step()
    found = (logits > 0).float()
    dice[name] = (2 * (found * organ).sum() / (found + organ).sum()).item()
    right, wrong = (loss(activation(sign * (8 * organ - 4)), organ).item() for sign in (1, -1))
    print(f"given {name}: loss of a right prediction {right:.3f}, of the opposite {wrong:.3f}; Dice after 100 steps {dice[name]:.2f}")
assert "logits" in loss.forward.__doc__ and "sigmoid" in loss.forward.__doc__ and still > 0.6
assert dice["logits"] == 0 and dice["sigmoid of the logits"] == 1
PYTHON
