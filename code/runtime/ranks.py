"""Several processes of one run, as torchrun starts them, each on a device of its own; alone, all of this does nothing.

    torchrun --standalone --nproc-per-node 2 -- code/train_LA.py --labeled 8

A rank is the number of a process, from 0; rank 0 writes and prints. Every rank must come to every call below that talks
to the others.
"""
import os
from contextlib import nullcontext
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn

from runtime.errors import InputError

# A wait lasts as long as the slowest rank's test cases; where a rank died, torchrun ends the others at once
TIMEOUT = timedelta(hours=12)


class Ranks:
    """This process among the `world` processes of the run, as torchrun's environment tells it."""

    def __init__(self):
        self.rank, self.local = (int(os.environ.get(name, 0)) for name in ("RANK", "LOCAL_RANK"))
        self.world, self.local_world = (int(os.environ.get(name, 1)) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
        self.main = self.rank == 0

    @property
    def launcher(self):
        """The first words of the command line; torchrun would take a script's --run for its own but for the --."""
        if self.world == 1:
            return ["python"]
        nodes = ["--standalone"] if self.world == self.local_world else []
        return ["torchrun", *nodes, "--nproc-per-node", str(self.local_world), "--"]

    def say(self, text):
        if self.main:
            print(text)

    # ---- who does what -----------------------------------------------------------------------------------------

    def shard(self, items):
        """This rank's share of a list that all ranks hold."""
        return items[self.rank::self.world]

    def slots(self, size):
        """This rank's slots of a batch of `size`: whole pairs (i, i + size / 2), in order."""
        return [slot for slot in range(size) if slot % max(size // 2, 1) % self.world == self.rank]

    def check_batches(self, sizes):
        """InputError unless every rank gets as many whole pairs of each batch, {option: scans in all}."""
        def fits(world):
            return all(size % (2 * world) == 0 for size in sizes.values())
        if self.world > 1 and not fits(self.world):
            fitting = [str(world) for world in range(1, max(sizes.values()) // 2 + 1) if world == 1 or fits(world)]
            batches = " ".join(f"{option} {size}" for option, size in sizes.items())
            raise InputError(f"{batches}: {self.world} processes cannot share these scans in whole pairs; start "
                             f"{' or '.join(fitting)}, or make the batches multiples of {2 * self.world}")

    # ---- together ----------------------------------------------------------------------------------------------

    def start(self, device):
        """Join the other ranks, with NCCL between GPUs and gloo between CPUs; `device` is this rank's own.

        Once in a process's life: a group that was destroyed does not come up again reliably.
        """
        if self.world == 1 or dist.is_initialized():
            return
        if device.type == "cuda":
            torch.cuda.set_device(device)
            dist.init_process_group("nccl", timeout=TIMEOUT, device_id=device)
        else:
            dist.init_process_group("gloo", timeout=TIMEOUT)

    def wait(self):
        """Until every rank is here."""
        if self.world > 1:
            dist.barrier()

    def gather(self, items):
        """What every rank made of its `shard` of a list -> that of the whole list, in the list's order."""
        if self.world == 1:
            return items
        parts = [None] * self.world
        dist.all_gather_object(parts, items)
        whole = [None] * sum(map(len, parts))
        for rank, part in enumerate(parts):
            whole[rank::self.world] = part
        return whole

    def stack(self, values):
        """Tensor (n,) of each rank -> (world, n)."""
        if self.world == 1:
            return values[None]
        rows = [torch.empty_like(values) for _ in range(self.world)]
        dist.all_gather(rows, values)
        return torch.stack(rows)

    def share_buffers(self, module):
        """Rank 0's running statistics for all: the ones that validation uses and checkpoints hold."""
        if self.world > 1:
            for buffer in module.buffers():
                dist.broadcast(buffer, 0)

    # ---- gradients ---------------------------------------------------------------------------------------------

    def distribute(self, method):
        """Average the gradients of `method.networks` over the ranks; on GPUs, batch norm sees the whole batch too."""
        if self.world == 1:
            return
        device = next(method.parameters()).device
        if device.type == "cuda":
            nn.SyncBatchNorm.convert_sync_batchnorm(method)         # it refuses CPU tensors
        # A plain attribute, which is found before the module registered under this name: the method runs the wrapper,
        # parameters(), state_dict() and train() see the networks themselves, as in one process
        method.__dict__["networks"] = nn.parallel.DistributedDataParallel(
            method.networks, device_ids=[device] if device.type == "cuda" else None, forward_sync_buffers=False)

    def accumulating(self, method, last):
        """Context of a forward and backward pass: the ranks exchange gradients in the step's `last` one alone."""
        return nullcontext() if self.world == 1 or last else method.networks.no_sync()
