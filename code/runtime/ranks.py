"""Several processes of one run, as torchrun starts them, each on a device of its own; alone, all of this does nothing.

    torchrun --standalone --nproc-per-node 2 -- code/train_LA.py --labeled 8

A rank is the number of a process, from 0; rank 0 writes and prints. Every rank must come to every call below that talks
to the others.
"""
import itertools
import os
import re
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from runtime.errors import InputError, one_line

# A wait lasts as long as the slowest rank's test cases; where a rank died, torchrun ends the others at once
TIMEOUT = timedelta(hours=12)


TORCHRUN = "start several processes with torchrun --nproc-per-node N -- SCRIPT, or unset WORLD_SIZE for one"


class Ranks:
    """This process among the `world` processes of the run, as torchrun's environment tells it."""

    def __init__(self):
        self.rank, self.local = (_number(name, 0) for name in ("RANK", "LOCAL_RANK"))
        self.world, self.local_world = (_number(name, 1) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
        if self.world > 1 and (missing := [name for name in ("RANK", "LOCAL_RANK") if name not in os.environ]):
            raise InputError(f"WORLD_SIZE={self.world} without {' and '.join(missing)}: {TORCHRUN}")
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
        try:
            if device.type == "cuda":
                dist.init_process_group("nccl", timeout=TIMEOUT, device_id=device)
            else:
                dist.init_process_group("gloo", timeout=TIMEOUT)
        except ValueError as error:     # no MASTER_ADDR, say
            raise InputError(f"WORLD_SIZE={self.world}: {one_line(error)}; {TORCHRUN}") from error

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
        """Start all ranks from rank 0's weights; on GPUs, batch norm sees the whole batch, as in one process.

        A module with the attribute `local_batch_norm` keeps the batch norms below it to its own rank.
        """
        if self.world == 1:
            return
        for tensor in itertools.chain(method.parameters(), method.buffers()):
            dist.broadcast(tensor.detach(), 0)
        if next(method.parameters()).device.type == "cuda":
            _synchronise_batch_norms(method)

    def average_gradients(self, parameters):
        """Each parameter's gradient becomes its mean over the ranks, in one exchange for each precision."""
        if self.world == 1:
            return
        by_type = {}
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            by_type.setdefault(parameter.dtype, []).append(parameter.grad)
        for gradients in by_type.values():
            flat = torch.cat([gradient.flatten() for gradient in gradients])
            dist.all_reduce(flat)
            flat /= self.world
            for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
                gradient.copy_(mean.view(gradient.shape))

    def mean(self, value):
        """A tensor's mean over the ranks: for decisions that all must take alike."""
        if self.world == 1:
            return value
        value = value.clone()
        dist.all_reduce(value)
        return value / self.world


def _number(name, default):
    """A whole number from the environment."""
    text = os.environ.get(name, str(default))
    if not re.fullmatch(r"\d{1,9}", text):
        raise InputError(f"{name}={text}: expected a whole number, as torchrun sets it; unset it, or use torchrun")
    return int(text)


def _synchronise_batch_norms(module):
    for name, child in module.named_children():
        if getattr(child, "local_batch_norm", False):
            continue
        if isinstance(child, _BatchNorm):
            setattr(module, name, nn.SyncBatchNorm.convert_sync_batchnorm(child))
        else:
            _synchronise_batch_norms(child)
