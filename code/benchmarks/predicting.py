"""What segmenting a scan costs: the windows of predict beside the paper's, memory, and MONAI's windows beside ours."""
import importlib.util
import math
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import torch

from benchmarks import workloads
from benchmarks.targets import verdict
from evaluation.inference import likeliest, segment, sliding_window, window_starts
from evaluation.windows import windows_of
from runtime.device import Device
from runtime.memory import GIB, peak
from runtime.workers import end_with_parent

# times the paper's windows; times MONAI; GiB of a scan of LARGE voxels and CLASSES
FEWER, FASTER, BYTES = 4, 1.8, 14
HELD_OUT = (206, 143, 88)           # voxels of the held-out LA scan of median size; the eight have 177 to 244 along x
LARGE, CLASSES = (512, 512, 600), 14
EDGES = {True: (64, 96), False: (64, 224)}      # quick -> of two cubes, whose memory gives that of a large scan


def in_turns(calls, repeat):
    """Median CPU seconds of each of several calls, in turns, after a round that does not count."""
    turns = [[cpu_seconds(call) for call in calls] for _ in range(repeat + 1)][1:]
    return [statistics.median(of_call) for of_call in zip(*turns, strict=True)]


def cpu_seconds(call):
    """Of all threads: what else a machine does matters little to them."""
    begun = time.process_time()
    call()
    return time.process_time() - begun


def window_lines(options):
    """One LA test volume by the paper's windows and by those of predict, the same network."""
    _, recipe, shape = workloads.settings("LA", options.quick)
    shape = shape if options.quick else HELD_OUT
    method, image = workloads.a_method(recipe, "fast").eval(), workloads.phantom("LA", 0, shape)[0][None]
    kinds = {"the paper's": windows_of(recipe), "predict's": windows_of(recipe, fast=True)}
    seconds = in_turns([partial(segment, method, image, recipe, views=(), **windows) for windows in kinds.values()],
                       options.repeat)
    for (name, windows), spent in zip(kinds.items(), seconds, strict=True):
        count = math.prod(len(window_starts(extent, window, stride)) for extent, window, stride in
                          zip(shape, recipe.patch_size, windows["stride"], strict=True))
        target = ("", "") if name == "the paper's" else (
            f"≥ {FEWER}", verdict(seconds[0] >= FEWER * spent, options.quick))
        yield [f"{name}, {' '.join(map(str, windows['stride']))} apart, {windows['weights']}", str(count),
               f"{spent:.3g}", f"{seconds[0] / spent:.2f}", *target]


def memory_lines(options):
    """Peak of a process that segments a scan of many classes, its views all kept or the first alone."""
    with ProcessPoolExecutor(1, get_context("spawn"), end_with_parent, max_tasks_per_child=1) as fresh:
        for name, views in (("every view kept", True), ("the label map alone", ())):
            edges = EDGES[options.quick]
            small, large = (fresh.submit(_peak, edge, views).result() for edge in edges)
            each = (large - small) / (edges[1] ** 3 - edges[0] ** 3)
            whole = (small + each * math.prod(LARGE)) / GIB
            target = ("", "") if views else (f"≤ {BYTES} GiB", verdict(whole <= BYTES, options.quick))
            yield [name, f"{each:.0f}", f"{whole:.1f}", *target]


def _peak(edge, views):
    """Bytes at most while a cube is segmented by something that costs nothing."""
    Device("cpu")
    _, recipe, _ = workloads.settings("LA", True)

    def model(x):
        scores = torch.stack([(x[:, 0] - k) ** 2 for k in range(CLASSES)], 1).neg_().softmax(1)
        return {view: scores for view in ("fused", "subnet0", "subnet1")}
    parts = segment(model, torch.zeros(1, edge, edge, edge), recipe, stride=recipe.patch_size, views=views)
    likeliest(parts["fused"])
    return peak() * GIB


def monai_lines(options):
    """The same network and windows, ours and MONAI's function in turns; nothing where MONAI is not installed."""
    if importlib.util.find_spec("monai") is None:
        print("monai: MONAI is not installed here, so nothing is compared with it")
        return
    from monai.inferers import sliding_window_inference
    _, recipe, _ = workloads.settings("LA", options.quick)
    edges = recipe.patch_size
    # two windows along the first axis and two along the last
    image = workloads.phantom("LA", 0, (edges[0] * 3 // 2, edges[1], edges[2] * 3 // 2))[0]
    fast, plain = (workloads.a_method(recipe, variant).eval() for variant in ("fast", "plain"))

    def headline(x):
        return next(iter(plain.predicted(x).values()))

    def ours():
        return sliding_window(fast, image, edges, tuple(edge // 2 for edge in edges))

    def theirs(at_once):
        with torch.inference_mode():
            return sliding_window_inference(image[None, None], edges, at_once, headline,
                                            overlap=0.5, mode="constant")[0]
    for at_once in (1, 2):
        distance = (ours() - theirs(at_once)).abs().max().item()
        own, other = in_turns([ours, partial(theirs, at_once)], options.repeat)
        judged = verdict(other >= FASTER * own and distance <= 1e-6, options.quick)
        yield [f"sw_batch_size={at_once}", f"{other:.3g}", f"{own:.3g}", f"{other / own:.2f}", f"{distance:.1e}",
               f"≥ {FASTER}, off ≤ 1e-6", judged]
