"""What gpu_day.py times: a step of self-training, by the plain recipe and with one thing after the other added to it.

Networks, batches and patches are the paper's, scans are phantoms, and steps are those of the real training loop.
"""
import contextlib
import math
import statistics
import time
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks import gpu_runs, workloads
from benchmarks.stopwatch import seconds_of
from dataloaders import components
from dataloaders.scans import Scan
from evaluation.inference import mean_dice, segment
from methods import registry
from runtime.device import Device
from runtime.memory import peak

STEP_COUNTS = {True: (1, 1, 1), False: (10, 30, 3)}       # quick -> steps to warm up, timed, profiled
SLOW = "vol2col", "im2col", "slow_conv", "nchwtonhwc", "nhwctonchw"     # in kernels' names: not what was meant
KERNELS = 10            # longest ones that are shown
STEP_HEADINGS = ("step", "median (ms)", "p90 (ms)", "GPU busy (%)", "components (ms)", "loader wait (ms)",
            "allocated (GiB)", "reserved (GiB)", "patches per second", "hours of the paper's schedule")


class Variant(NamedTuple):
    """A way to take the step."""

    name: str
    amp: bool = False
    compile: bool = False
    last: bool = True       # channels-last memory


PLAIN_VARIANT = Variant("plain recipe")     # contiguous, one graph for both halves, scikit-image: workloads.plain_step
VARIANTS = (PLAIN_VARIANT, Variant("TF32, contiguous", last=False), Variant("TF32"), Variant("+ bf16", True),
            Variant("+ compile", True, True))


def variants(device):
    """Those that make sense on the device: `compile` is for a GPU."""
    return [variant for variant in VARIANTS if not (device == "cpu" and variant.compile)]


def measure(variant, name, device, quick, folder):
    """Time a variant -> (a row under STEP_HEADINGS, Profile, the loop or None)."""
    recipe = gpu_runs.recipe_of(name, quick, device=device)
    cuda = Device(device, len(recipe.patch_size)).cuda
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        if variant is PLAIN_VARIANT:            # PyTorch's own settings
            torch.backends.cudnn.benchmark = torch.backends.cuda.matmul.allow_tf32 = False
    if variant is PLAIN_VARIANT:
        step, loop = _plain_stepper(name, recipe), None
    else:
        step, loop = _stepper(variant, name, device, quick, folder)
    warm, timed, profiled = STEP_COUNTS[quick]
    for _ in range(warm):
        step()
    spent, waits, clock = [], [], Clock(cuda)
    with timing_components(spent):
        clock.tick()
        for _ in range(timed):
            waits.append(step())
            clock.tick()
    spans = clock.spans()
    memory = ([torch.cuda.max_memory_allocated() / 2 ** 30, torch.cuda.max_memory_reserved() / 2 ** 30] if cuda
              else [peak(), math.nan])
    found = profile_of(step, profiled, cuda)
    median = statistics.median(spans)
    numbers = [median, np.percentile(spans, 90), found.busy, sum(spent) / timed, statistics.median(waits), *memory,
               1000 * (recipe.labeled_batch + recipe.unlabeled_batch) / median, hours(name, median)]
    return [f"{name}, {variant.name}", *("–" if math.isnan(n) else f"{n:.3g}" for n in numbers)], found, loop


def _plain_stepper(name, recipe):
    step = workloads.step_of(recipe, name, "plain")

    def taken():
        step()
        return math.nan     # its batch is always the same
    return taken


def _stepper(variant, name, device, quick, folder):
    """(function that takes a step of the training loop -> ms that it waited for the loader, the loop)."""
    amp = variant.amp and (device != "cpu" or name == "ACDC")       # a CPU has no sound bfloat16 in 3D
    loop = gpu_runs.loop_of(name, quick, folder, device=device, amp=amp)
    if not variant.last:
        loop.device.format = torch.contiguous_format
        loop.method.to(memory_format=torch.contiguous_format)
        loop.device.reserve_gradients(loop.parameters)
    if variant.compile:
        loop.method.networks.compile()
    streams, unread = loop.streams(), []
    batches = iter(streams.batches(0, 10 ** 6, loop.device.workers(0 if quick else None), loop.device.cuda))

    def step():
        begun = time.perf_counter()
        arrays = next(batches)
        waited = 1000 * (time.perf_counter() - begun)
        unread.append(loop.take_step(streams, arrays))
        if len(unread) > loop.device.ahead:
            unread.pop(0)()
        loop.step += 1
        return waited
    return step, loop


class Clock:
    """Milliseconds between ticks: by the GPU's own events, or the host's clock."""

    def __init__(self, cuda):
        self.cuda, self.ticks = cuda, []

    def tick(self):
        if self.cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self.ticks.append(event)
        else:
            self.ticks.append(time.perf_counter())

    def spans(self):
        pairs = zip(self.ticks, self.ticks[1:], strict=False)
        if self.cuda:
            torch.cuda.synchronize()
            return [one.elapsed_time(other) for one, other in pairs]
        return [1000 * (other - one) for one, other in pairs]


@contextlib.contextmanager
def timing_components(spent):
    """`spent` grows by the milliseconds of each reduction of pseudo-labels on the host."""
    reduce = components.largest_components

    def timed(*maps):
        begun = time.perf_counter()
        kept = reduce(*maps)
        spent.append(1000 * (time.perf_counter() - begun))
        return kept
    components.largest_components = timed
    try:
        yield
    finally:
        components.largest_components = reduce


def hours(name, milliseconds):
    """Of the paper's schedule, where a step of self-training takes so long and one of pre-training its share."""
    recipe = gpu_runs.recipe_of(name, False)
    with torch.device("meta"):
        stages = registry.build(recipe).stages(recipe.pre_steps, recipe.self_steps)
    return milliseconds / 3.6e6 * sum(stage.steps * stage.cost for stage in stages) / stages[-1].cost


class Profile(NamedTuple):
    busy: float                 # % of the time in which the GPU computes; NaN on a CPU
    kernels: list               # (name, ms per step), longest first

    def slow(self):
        """Names of a GPU's kernels that convert layouts or fall back to products of unfolded images."""
        kernels = [] if math.isnan(self.busy) else self.kernels
        return [name for name, _ in kernels if any(word in name.lower() for word in SLOW)]


def profile_of(step, steps, cuda):
    """Profile of a few steps."""
    with profile(activities=[ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * cuda]) as profiled:
        begun = time.perf_counter()
        for _ in range(steps):
            step()
        if cuda:
            torch.cuda.synchronize()
        wall = 1000 * (time.perf_counter() - begun)
    if cuda:
        spent = {event.key: event.self_device_time_total for event in profiled.key_averages()
                 if event.device_type == DeviceType.CUDA}
    else:
        spent = {event.key: event.self_cpu_time_total for event in profiled.key_averages()}
    kernels = sorted(((key, time / 1000 / steps) for key, time in spent.items()), key=lambda kernel: -kernel[1])
    return Profile(100 * sum(spent.values()) / 1000 / wall if cuda else math.nan, kernels)


def others(name, loop, quick):
    """[(what, seconds)]: a validation's volume, a test volume, a checkpoint."""
    shape = gpu_runs.SMALL[name][0] if quick else workloads.SHAPES[name][0]
    image, label = workloads.phantom(name, 0, shape)
    scans, rows = [Scan("phantom", image[None], label)], []
    for what, coarse in (("a volume of a validation", True), ("a test volume", False)):
        validate = partial(mean_dice, loop.method, scans, partial(segment, recipe=loop.recipe, coarse=coarse),
                           loop.recipe.num_classes)
        validate()
        rows.append((f"{name}, {what}", seconds_of(validate)))
    loop.folder.open(loop.device)
    rows.append((f"{name}, a checkpoint",
                 seconds_of(lambda: loop.checkpoints.save(stage=1, step=0, best=0.0, last_dice=None))))
    return rows
