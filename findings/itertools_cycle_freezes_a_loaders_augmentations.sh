#!/usr/bin/env bash
# Python's itertools.cycle around a DataLoader of PyTorch 2.13.0: from the second round on, every batch is one of the first round.
#
# One would believe: zip(unlabelled_loader, cycle(labelled_loader)), a common line of semi-supervised training, starts the labelled
# loader anew when it ends: shuffled anew, augmented anew.
# What happens: cycle keeps what it was given and gives it again. The few labelled scans have one augmentation and one crop each for
# the rest of the epoch, in the same batches and in the same order. Shown with 4 labelled scans of 256 voxels beside 400 unlabelled
# ones: 4 crops are all that the supervised loss sees in an epoch, where starting anew gives one for each of the 400 steps.
# Whom it hurts: networks with few labels, whose augmentation is their regularization; the longer the unlabelled epoch, the more.
# Memory grows by the whole labelled set. The curve of the supervised loss just looks good.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
from itertools import cycle

import torch
from torch.utils.data import DataLoader, Dataset


class Scans(Dataset):
    """Random crops of scans, told apart by scan and place."""
    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return torch.tensor([index, *torch.randint(0, 256 - 96, (3,)).tolist()])


def again(loader):
    """A loader without end that is started anew."""
    while True:
        yield from loader


torch.manual_seed(0)
crops = {}
for name, endless in (("cycle", cycle), ("started anew", again)):
    labelled, unlabelled = DataLoader(Scans(4), shuffle=True), DataLoader(Scans(400), shuffle=True)
    seen = [tuple(batch[0].tolist()) for _, batch in zip(unlabelled, endless(labelled))]
    crops[name] = len(set(seen))
    orders = {tuple(crop[0] for crop in seen[k:k + 4]) for k in range(0, 400, 4)}
    print(f"{name}: {len(seen)} steps, {crops[name]} different labelled crops, {len(orders)} orders of the 4 scans")
    assert (len(orders) == 1) == (name == "cycle")
assert crops["cycle"] == 4 and crops["started anew"] > 390
PYTHON
