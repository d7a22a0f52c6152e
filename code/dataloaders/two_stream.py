"""Labelled and unlabelled patches side by side, each a pure function of (seed, stage, step, slot).

No generator state exists: a resumed run, another number of workers or another process draws the very same step.
"""
import mmap
import shutil
import signal
import sys
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from runtime.ranks import Ranks

LABELLED, UNLABELLED, MASKS, TORCH = range(4)       # what a random number is for
SHARED = Path("/dev/shm")   # through which loader processes hand over their patches, on Linux; containers have 64 MiB
AHEAD = 2                   # steps that each of them is ahead
LOST_AFTER = 600            # seconds until a step's patches count as lost


def random(*key):
    """NumPy generator of a tuple of whole numbers."""
    return np.random.default_rng(key)


def torch_seed(*key):
    """64-bit seed for a torch.Generator of a tuple of whole numbers."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])


@lru_cache(maxsize=8)
def _shuffled(count, *key):
    return random(*key).permutation(count)


class Patches(NamedTuple):
    """What is drawn for a step, tensors on the CPU; the fields are those of `method.Batch`."""

    x_l: Tensor
    y_l: Tensor                     # uint8
    x_u: Tensor | None
    z_l: Tensor | None = None
    clean_u: Tensor | None = None


class TwoStream(Dataset):
    """Item `step` is that step's Patches.

    labelled, unlabelled: lists of Scan; sample(scan, rng) -> augmented image (in_channels, *P) and label (*P) or
    None, as arrays; sizes: scans per batch, labelled and unlabelled. Each stream goes through shuffled epochs
    without end; one shorter than its batch repeats cases with fresh crops. x (B, in_channels, *P) float32,
    y_l (B, *P) uint8; x_u is None where there is no unlabelled stream. The labels of unlabelled scans are not
    here to be yielded. Of several processes (`ranks`) each draws its own slots of the batch. of_label: a function of a
    label map, whose results are z_l. changed(image, rng): the image with other intensities; x_l and x_u are then
    changed ones, and clean_u the unlabelled ones before.
    """

    def __init__(self, labelled, unlabelled, sample, sizes, seed, stage, ranks=None, of_label=None, changed=None):
        self.labelled, self.unlabelled, self.sample, self.changed = labelled, unlabelled, sample, changed
        self.sizes, self.key, self.ranks, self.of_label = sizes, (seed, stage), ranks or Ranks(), of_label

    def __getitem__(self, step):
        x_l, y_l, _ = self._batch(self.labelled, self.sizes[0], step, LABELLED)
        x_u, _, clean_u = self._batch(self.unlabelled, self.sizes[1], step, UNLABELLED)
        z_l = map(self.of_label, y_l) if self.of_label else ()
        return Patches(_stack(x_l), _stack(y_l), _stack(x_u), _stack(z_l), _stack(clean_u) if self.changed else None)

    def _batch(self, scans, size, step, stream):
        """Images, labels, and the images before their intensities changed, a list each."""
        chosen = self._scans(scans, size, step, stream)
        drawn = []
        for slot in self.ranks.slots(len(chosen)):
            rng = random(*self.key, stream, step, slot)
            image, label = self.sample(chosen[slot], rng)
            drawn.append((self.changed(image, rng) if self.changed else image, label, image))
        return zip(*drawn, strict=True) if drawn else ((), (), ())

    def _scans(self, scans, size, step, stream):
        if not scans:
            return []
        places = [divmod(step * size + slot, len(scans)) for slot in range(size)]
        return [scans[_shuffled(len(scans), *self.key, stream, epoch)[place]] for epoch, place in places]

    def names(self, step):
        """Names of step's labelled and unlabelled cases, those of all processes, for messages."""
        return tuple([scan.name for scan in self._scans(scans, size, step, stream)]
                     for scans, size, stream in ((self.labelled, self.sizes[0], LABELLED),
                                                 (self.unlabelled, self.sizes[1], UNLABELLED)))

    def batches(self, first, last, workers=0, pin_memory=False):
        """Iterate over the steps first, ..., last - 1, loaded in advance by `workers` processes, or fewer."""
        workers = self._fitting(workers, first)
        # Python 3.14 starts processes by forkserver, which takes a file descriptor for each scan in shared memory
        start = "fork" if workers and sys.platform == "linux" else None
        return DataLoader(self, batch_size=None, sampler=range(first, last), num_workers=workers,
                          pin_memory=pin_memory, worker_init_fn=_leave_signals, multiprocessing_context=start,
                          prefetch_factor=AHEAD if workers else None, timeout=LOST_AFTER if workers else 0)

    def _fitting(self, workers, step):
        """As many of the `workers` as there is shared memory for: for what each is ahead, and two steps in use.

        A process that finds no room for its patches loses them, and the run waits for them.
        """
        if not workers or not SHARED.is_dir():
            return workers
        size = sum(tensor.nbytes + mmap.PAGESIZE for tensor in self[step] if tensor is not None)
        free = shutil.disk_usage(SHARED).free // self.ranks.local_world
        fitting = min(workers, max(0, (free // size - 2) // AHEAD))
        if fitting < workers:
            self.ranks.say(f"{SHARED} has room for {free / 2 ** 20:.3g} MiB, a step's patches take "
                           f"{size / 2 ** 20:.3g}: {fitting} in place of {workers} loader processes; in a container, "
                           "--shm-size or --ipc=host gives more room")
        return fitting


def _leave_signals(_):
    """A signal to the whole process group stops the run, which asks its workers for the step it still finishes."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _stack(arrays):
    """One tensor of equal arrays; None of none."""
    arrays = list(arrays)
    return torch.from_numpy(np.stack(arrays)) if arrays else None
