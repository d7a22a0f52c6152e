#!/usr/bin/env bash
# batchgenerators 0.25.5 with batchgeneratorsv2 0.3.6, nnU-Net's loader and augmentation: all workers draw the same torch numbers.
#
# One would believe: each background worker augments in its own way, since every one seeds its generator, from the system's entropy
# where no seed is given, which is how nnU-Net starts them.
# What happens: NumPy is seeded, PyTorch is not. Workers are forks of one process, so that all of them go on from one state of
# torch's generator, and batchgeneratorsv2 draws with torch: whether a transform is applied, which axes are mirrored, and
# each voxel's noise. The first sample of every worker gets the same of these, so do the second ones, and so on. Angles, scales and
# strengths, which NumPy draws, differ. MultiThreadedAugmenter does so even with a seed for each worker; NonDetMultiThreadedAugmenter,
# given seeds, does not (nnU-Net 2.8.1 gives none).
# Whom it hurts: training by nnU-Net on Linux: with 12 workers, 12 samples that are drawn at about the same time share their mirroring,
# their noise and the choice of transforms, instead of being 12 draws. No warning; a test without workers sees nothing.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 batchgenerators==0.25.5 batchgeneratorsv2==0.3.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import multiprocessing
from collections import defaultdict

import torch
from batchgenerators.dataloading.multi_threaded_augmenter import MultiThreadedAugmenter
from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms

multiprocessing.set_start_method("fork")      # Linux' own up to Python 3.13
WORKERS, ROUNDS = 4, 8


class Scans:
    """An endless loader; what it yields is one scan with nnU-Net's noise and mirroring, and by which worker it was made."""
    def __init__(self):
        self.worker = 0
        self.augment = ComposeTransforms([GaussianNoiseTransform((0.1, 0.1)), MirrorTransform((0, 1, 2))])

    def set_thread_id(self, worker):
        self.worker = worker

    def __iter__(self):
        return self

    def __next__(self):
        scan = 100 * torch.arange(64.0).reshape(1, 4, 4, 4)
        return {"scan": tuple(self.augment(image=scan)["image"].flatten().tolist()), "worker": self.worker}


def different(augmenter, seeds):
    """How many of the first ROUNDS scans of WORKERS workers are augmented differently."""
    loader, scans = augmenter(Scans(), None, WORKERS, 2, seeds=seeds), defaultdict(list)
    while len(scans) < WORKERS or min(map(len, scans.values())) < ROUNDS:
        batch = next(loader)
        scans[batch["worker"]].append(batch["scan"])
    loader._finish()
    return len({scan for worker in scans.values() for scan in worker[:ROUNDS]})


found = {}
for augmenter in (NonDetMultiThreadedAugmenter, MultiThreadedAugmenter):
    for seeds in (None, [1, 2, 3, 4]):
        found[augmenter.__name__, bool(seeds)] = count = different(augmenter, seeds)
        print(f"{augmenter.__name__}, seeds={seeds}: {WORKERS} workers, {WORKERS * ROUNDS} scans, {count} different")
assert found.pop(("NonDetMultiThreadedAugmenter", True)) == WORKERS * ROUNDS
assert set(found.values()) == {ROUNDS}
PYTHON
