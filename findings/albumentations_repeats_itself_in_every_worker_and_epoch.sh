#!/usr/bin/env bash
# albumentations 2.0.8 with PyTorch 2.13.0: with workers, every epoch and every worker has the same augmentations.
#
# One would believe: each image gets a new random augmentation each time it is read, with workers as without, since a DataLoader
# seeds Python's, NumPy's and torch's generators anew in every worker and epoch.
# What happens: a Compose has a generator of its own, made with it, with a seed or without. The DataLoader copies its state into
# each worker at the start of each epoch, and nobody moves it on. The first slice that a worker reads gets the same augmentation as
# the first of every other worker, and as in every other epoch. worker_init_fn that seeds NumPy, the usual remedy, changes nothing;
# one that calls the Compose's set_random_seed helps. With persistent_workers=True the epochs differ, the workers still do not.
# Whom it hurts: training of 2D networks with num_workers > 0. Images are shuffled, so that batches look different; but a whole
# training draws no more augmentations than one worker reads images in one epoch. No warning, and without workers, where one tries
# things out, all is as it should be.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 albumentations==2.0.8
NO_ALBUMENTATIONS_UPDATE=1 "$folder/venv/bin/python" - <<'PYTHON'
import albumentations as A
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info


class Scans(Dataset):
    """24 grey slices; what is returned is by how much one of them became brighter, in 1/1000."""
    def __init__(self, seed):
        self.augment = A.Compose([A.RandomBrightnessContrast(brightness_limit=0.3, contrast_limit=0, p=1)], seed=seed)

    def __len__(self):
        return 24

    def __getitem__(self, index):
        return 1000 * (float(self.augment(image=np.full((16, 16), 0.5, np.float32))["image"].mean()) - 0.5)


def seed_numpy(worker):
    np.random.seed(torch.initial_seed() % 2 ** 32)


def seed_compose(worker):
    get_worker_info().dataset.augment.set_random_seed(torch.initial_seed() % 2 ** 32)


different = {}
for name, seed, options in (("no workers", None, {}), ("2 workers", None, {"num_workers": 2}),
                            ("2 workers, NumPy seeded", None, {"num_workers": 2, "worker_init_fn": seed_numpy}),
                            ("2 workers, kept", None, {"num_workers": 2, "persistent_workers": True}),
                            ("2 workers, Compose seeded", None, {"num_workers": 2, "worker_init_fn": seed_compose}),
                            ("2 workers, Compose(seed=7)", 7, {"num_workers": 2})):
    loader = DataLoader(Scans(seed), batch_size=1, **options)
    brighter = np.array([[float(batch) for batch in loader] for epoch in range(3)])
    different[name] = len(np.unique(brighter.round(3)))
    print(f"{name}: {brighter.size} slices in 3 epochs, {different[name]} different augmentations")
    if name == "2 workers":
        print("  the first 8 of each epoch:", *(" ".join(f"{b:.1f}" for b in row[:8]) for row in brighter), sep="\n    ")
assert different["no workers"] == different["2 workers, Compose seeded"] == 72
assert different["2 workers"] == different["2 workers, NumPy seeded"] == different["2 workers, Compose(seed=7)"] == 12
assert different["2 workers, kept"] == 36
PYTHON
