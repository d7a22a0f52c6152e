#!/usr/bin/env bash
# MONAI 1.6.1: FillHoles makes myocardium of the left ventricle that it encloses, and liver of a liver's tumours.
#
# One would believe: a hole is background that one class encloses, as the class says of itself; a voxel that has a class is no hole, so
# that a label map without a hole stays as it is.
# What happens: everything that is not the class itself counts as background. What a class encloses becomes that class: in a short-axis
# slice the ring of the myocardium takes the whole left ventricle, in a volume the liver takes each tumour inside of it. In one-hot maps
# the voxels get both classes, and argmax takes the one with the lower number. A mask of one class is filled as it should be, and
# so is the map if applied_labels names only classes that enclose nothing.
# Whom it hurts: post-processing of label maps with nested classes (hearts, tumours in organs, cores in tumours): the inner class
# is gone from the slices, or patients, in which it is closed off, and stays in those with a gap in the ring. No warning.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 scipy==1.17.1 monai==1.6.1
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import torch
from monai.transforms import FillHoles


def counts(label_map: torch.Tensor) -> list[int]:
    """Voxels of the classes 1, 2 and 3."""
    return [int((label_map == number).sum()) for number in (1, 2, 3)]


y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
radius = ((y - 32) ** 2 + (x - 32) ** 2).sqrt()
heart = torch.zeros(1, 64, 64)
heart[0, 20:44, 4:14] = 1                                             # right ventricle
heart[0][radius < 16] = 2                                             # myocardium, and in its ring
heart[0][radius < 10] = 3                                             # the left ventricle; there is no hole
gap = heart.clone()
gap[0, 32, 41:50] = 0                                                 # a ring that is open by one pixel
one_hot = torch.nn.functional.one_hot(heart[0].long(), 4).movedim(-1, 0)
found = {
    "heart": counts(heart),
    "heart, FillHoles()": counts(FillHoles()(heart.clone())),
    "heart, FillHoles(applied_labels=2)": counts(FillHoles(applied_labels=2)(heart.clone())),
    "heart, FillHoles(applied_labels=[1, 3])": counts(FillHoles(applied_labels=[1, 3])(heart.clone())),
    "heart, FillHoles() of one-hot, argmax": counts(FillHoles()(one_hot.clone()).argmax(0)),
    "ring with a gap, FillHoles()": counts(FillHoles()(gap.clone())),
}
liver = torch.zeros(1, 32, 32, 32)
liver[0, 4:28, 4:28, 4:28] = 1
liver[0, 10:16, 10:16, 10:16] = 2                                     # a tumour inside the liver
liver[0, 20:22, 20:22, 20:22] = 0                                     # a hole
found["liver with a hole"] = counts(liver)
found["liver, FillHoles()"] = counts(FillHoles()(liver.clone()))
for name, number in found.items():
    print(f"{name}: {number} voxels of the classes 1, 2 and 3")
right, ring, inner = found["heart"]
gone = [right, ring + inner, 0]
assert found["heart, FillHoles()"] == found["heart, FillHoles(applied_labels=2)"] == found["heart, FillHoles() of one-hot, argmax"] == gone
assert found["heart, FillHoles(applied_labels=[1, 3])"] == [right, ring, inner]
assert found["ring with a gap, FillHoles()"] == counts(gap)
assert found["liver with a hole"][1] == 216 and found["liver, FillHoles()"] == [24 ** 3, 0, 0]
PYTHON
