"""Seconds and memory of two variants of one thing, each in a process of its own, in turns."""
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context

import torch

from runtime import memory
from runtime.workers import end_with_parent


class Timed:
    """A call that lives in a fresh process; `time` runs it there -> seconds, and `peak` is that process's GiB."""

    def __init__(self, make, variant, quick):
        self.pool = ProcessPoolExecutor(1, get_context("spawn"), end_with_parent)
        self.pool.submit(_prepare, make, variant, quick).result()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.pool.shutdown()

    def time(self):
        return self.pool.submit(_time).result()

    def peak(self):
        return self.pool.submit(_peak).result()


_call = None        # of a Timed's process


def _prepare(make, variant, quick):
    global _call
    _call = make(variant, quick)


def _time():
    return seconds_of(_call)


def _peak():
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 2 ** 30
    return memory.peak()


def seconds_of(call):
    """Seconds of one call, the GPU's work included where there is one."""
    begun = time.perf_counter()
    call()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter() - begun


def compare(make, quick, repeat):
    """{variant: (median seconds, peak GiB)}, one repetition of each in turn, after a round that does not count."""
    with ExitStack() as stack:
        variants = {name: stack.enter_context(Timed(make, name, quick)) for name in ("plain", "fast")}
        seconds = {name: [] for name in variants}
        for turn in range(repeat + 1):
            for name, variant in variants.items():
                spent = variant.time()
                if turn:
                    seconds[name].append(spent)
        return {name: (statistics.median(seconds[name]), variant.peak()) for name, variant in variants.items()}
