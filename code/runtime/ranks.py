"""Several processes of one run, as torchrun starts them, each on a device of its own; alone, all of this does nothing.

    torchrun --standalone --nproc-per-node 2 -- code/train_LA.py --labeled 8

A rank is the number of a process, from 0; rank 0 writes and prints. Communicating methods are collective: every rank
must call them, in the same order.
"""
import functools
import itertools
import os
import re
import sys
import threading
from datetime import timedelta

from runtime.errors import InputError, one_line

# A wait lasts as long as the slowest rank's test cases; where a rank died, torchrun ends the others at once
TIMEOUT = timedelta(hours=12)
MEETING = timedelta(minutes=10)     # for the others to start
PATIENCE = 10                       # seconds until a process says that it waits for them

TORCHRUN = ("start several processes with torchrun --nproc-per-node N -- SCRIPT, or for one unset RANK, LOCAL_RANK and "
            "WORLD_SIZE")
LOST = "Connection closed", "Connection reset", "Broken pipe", "NCCL", "imed out", "Read error"   # of a rank that ended


def collective(function):
    """Decorate a method that talks to the other ranks: where one of them has ended, InputError says so."""
    @functools.wraps(function)
    def together(self, *args):
        try:
            return function(self, *args)
        except RuntimeError as error:
            if not any(word in str(error) for word in LOST):
                raise
            raise InputError(f"process {self.rank} of {self.world} has lost another one of this run "
                             f"({one_line(error)[:150]}): see what that one said; the same command goes on from the "
                             "last checkpoint") from error
    return together


def _dist():
    """PyTorch's processes, loaded where there is something to tell them: options are read without PyTorch."""
    import torch.distributed
    return torch.distributed


class Ranks:
    """This process among the `world` processes of the run, as torchrun's environment tells it."""

    def __init__(self):
        self.rank, self.local = (_number(name, 0) for name in ("RANK", "LOCAL_RANK"))
        self.world, self.local_world = (_number(name, 1) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
        if self.world > 1 and (missing := [name for name in ("RANK", "LOCAL_RANK") if name not in os.environ]):
            raise InputError(f"WORLD_SIZE={self.world} without {' and '.join(missing)}: {TORCHRUN}")
        if self.world < 1 or self.rank >= self.world:
            raise InputError(f"RANK={self.rank} of WORLD_SIZE={self.world}: ranks count from 0, so there is no such "
                             f"process; {TORCHRUN}")
        if "LOCAL_WORLD_SIZE" in os.environ and self.local >= self.local_world:
            raise InputError(f"LOCAL_RANK={self.local} of LOCAL_WORLD_SIZE={self.local_world}: ranks count from 0, so "
                             f"there is no such process; {TORCHRUN}")
        self.main = self.rank == 0

    @property
    def launcher(self):
        """The first words of the command line; torchrun would take a script's --run for its own but for the --."""
        if self.world == 1:
            return ["python"]
        nodes = ["--standalone"] if self.world == self.local_world else []
        return ["torchrun", *nodes, "--nproc-per-node", str(self.local_world), "--"]

    def say(self, text, to=None):
        """Print a line, of all processes once; `to` is standard output by default."""
        if self.main:
            print(text, file=to, flush=True)        # into a pipe, too

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
        if self.world == 1 or _dist().is_initialized():
            return
        say = threading.Timer(PATIENCE, lambda: print(
            f"process {self.rank} of {self.world} waits for the others, {MEETING.seconds // 60} minutes at most; "
            f"otherwise: {TORCHRUN}", file=sys.stderr, flush=True))
        say.daemon = True
        say.start()
        try:
            store, rank, world = next(_dist().rendezvous("env://", timeout=MEETING))
            store.set_timeout(MEETING)
            backend = {"backend": "nccl", "device_id": device} if device.type == "cuda" else {"backend": "gloo"}
            _dist().init_process_group(store=store, rank=rank, world_size=world, timeout=TIMEOUT, **backend)
        except (ValueError, RuntimeError) as error:     # no MASTER_ADDR, say, or nobody came
            raise InputError(f"WORLD_SIZE={self.world}: {one_line(error)[:200]}; {TORCHRUN}") from error
        finally:
            say.cancel()

    @collective
    def check_alike(self, values):
        """InputError on every rank unless all have the same {what: value}: each of them would go its own way."""
        if self.world == 1:
            return
        everyone = [None] * self.world
        _dist().all_gather_object(everyone, values)
        first = everyone[0]
        for rank, other in enumerate(everyone):
            differing = [what for what in {**first, **other} if first.get(what) != other.get(what)]
            if differing:
                values = [(what, *(_shown(values.get(what)) for values in (first, other))) for what in differing[:3]]
                words = "; ".join(f"{what} is {one} in process 0, {two} in process {rank}" for what, one, two in values)
                more = f"; and {len(differing) - 3} more" if len(differing) > 3 else ""
                raise InputError(f"the processes of a run need the same options and the same data: {words}{more}")

    @collective
    def wait(self):
        """Until every rank is here."""
        if self.world > 1:
            _dist().barrier()

    @collective
    def gather(self, items):
        """What every rank made of its `shard` of a list -> that of the whole list, in the list's order."""
        if self.world == 1:
            return items
        parts = [None] * self.world
        _dist().all_gather_object(parts, items)
        whole = [None] * sum(map(len, parts))
        for rank, part in enumerate(parts):
            whole[rank::self.world] = part
        return whole

    @collective
    def stack(self, values):
        """Tensor (n,) of each rank -> (world, n)."""
        if self.world == 1:
            return values[None]
        rows = values.new_empty(self.world, *values.shape)
        _dist().all_gather(list(rows), values)
        return rows

    @collective
    def share_buffers(self, module):
        """Rank 0's running statistics for all: the ones that validation uses and checkpoints hold."""
        if self.world > 1:
            for buffer in module.buffers():
                _dist().broadcast(buffer, 0)

    # ---- gradients ---------------------------------------------------------------------------------------------

    @collective
    def distribute(self, method):
        """Start all ranks from rank 0's weights; on GPUs, batch norm sees the whole batch, as in one process.

        A module with the attribute `local_batch_norm` keeps the batch norms below it to its own rank.
        """
        if self.world == 1:
            return
        for tensor in itertools.chain(method.parameters(), method.buffers()):
            _dist().broadcast(tensor.detach(), 0)
        if next(method.parameters()).device.type == "cuda":
            _synchronise_batch_norms(method)

    @collective
    def average_gradients(self, parameters):
        """Each parameter's gradient becomes its mean over the ranks, in one exchange for each precision."""
        if self.world == 1:
            return
        import torch
        by_type = {}
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            by_type.setdefault(parameter.dtype, []).append(parameter.grad)
        for gradients in by_type.values():
            flat = torch.cat([gradient.flatten() for gradient in gradients])
            _dist().all_reduce(flat)
            flat /= self.world
            for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
                gradient.copy_(mean.view(gradient.shape))

    @collective
    def mean(self, value):
        """A tensor's mean over the ranks: for decisions that all must take alike."""
        if self.world == 1:
            return value
        value = value.clone()
        _dist().all_reduce(value)
        return value / self.world


def _shown(value):
    """A value in a message; what is long by its beginning."""
    text = str(value)
    return text if len(text) < 60 else f"{text[:56]} ..."


def _number(name, default):
    """A whole number from the environment."""
    text = os.environ.get(name, str(default))
    if not re.fullmatch(r"\d{1,9}", text):
        raise InputError(f"{name}={text}: expected a whole number, as torchrun sets it; unset it, or use torchrun")
    return int(text)


def _synchronise_batch_norms(module):
    from torch import nn
    from torch.nn.modules.batchnorm import _BatchNorm
    for name, child in module.named_children():
        if getattr(child, "local_batch_norm", False):
            continue
        if isinstance(child, _BatchNorm):
            setattr(module, name, nn.SyncBatchNorm.convert_sync_batchnorm(child))
        else:
            _synchronise_batch_norms(child)
