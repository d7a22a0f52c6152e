#!/usr/bin/env bash
# TorchIO 1.2.1: CropOrPad(padding_mode=-1000) pads the label map as well, whose bytes make organ of it: class 24.
#
# One would believe: a CT that is padded with air, -1000 Hounsfield units, has background around its label map, since a LabelMap is told
# from a ScalarImage: RandomAffine fills the two with values of their own, and interpolates them in ways of their own.
# What happens: Pad and CropOrPad give all images of a subject the same number. In a map of unsigned bytes, as files have them, -1000 is 24
# and -1 is 255, which is the usual label for "ignore"; -1024 is 0, by chance. In a signed map it is -1000.
# Whom it hurts: subjects brought to one size. Where the mask is `label > 0`, everything around the scan is organ; where 255 is ignored,
# the loss never sees the padding; volumes count it. With -1024 all is right, so that the same code works on one data set. No warning.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 torchio==1.2.1
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import torch
import torchio as tio

labels = torch.zeros(1, 20, 20, 20, dtype=torch.uint8)
labels[:, 5:15, 5:15, 5:15] = 1
found = {}
for value in (-1000, -1, -1024, 0):
    subject = tio.Subject(ct=tio.ScalarImage(tensor=torch.full((1, 20, 20, 20), 40.0)), label=tio.LabelMap(tensor=labels))
    padded = tio.CropOrPad((28, 28, 28), padding_mode=value)(subject)
    right = np.pad(labels[0].numpy(), 4)                               # the same map with background around it
    label = padded.label.data[0].numpy()
    found[value] = padded.ct.data.min().item(), label.max().item(), int((label > 0).sum())
    print(f"padding_mode={value}: around the image {found[value][0]:.0f}, classes {np.unique(label).tolist()}, "
          f"organ of {found[value][2]} voxels; right is {int((right > 0).sum())}")
everything = 28 ** 3 - 20 ** 3 + 10 ** 3
assert found == {-1000: (-1000, 24, everything), -1: (-1, 255, everything), -1024: (-1024, 1, 10 ** 3), 0: (0, 1, 10 ** 3)}
turned = tio.RandomAffine(degrees=(45, 45), default_pad_value=-1000)(
    tio.Subject(ct=tio.ScalarImage(tensor=torch.full((1, 20, 20, 20), 40.0)), label=tio.LabelMap(tensor=labels)))
print(f"RandomAffine(default_pad_value=-1000): around the image {turned.ct.data.min():.0f}, classes {turned.label.data.unique().tolist()}")
assert turned.ct.data.min() == -1000 and turned.label.data.unique().tolist() == [0, 1]
PYTHON
