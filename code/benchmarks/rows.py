"""The rows and tables of benchmark.py, each line printed as soon as it is measured."""
import itertools
import platform
import statistics
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import psutil
import torch
from torch import nn

from benchmarks import predicting, start, workloads
from benchmarks.stopwatch import Timed, compare, seconds_of
from benchmarks.targets import REPORTS, TARGETS, WITH_ANOTHER, verdict
from dataloaders.la import LA
from dataloaders.phantom import write_phantoms
from dataloaders.scans import Scan
from evaluation import plots
from evaluation.inference import mean_dice, segment
from methods.registry import METHODS
from networks.initialisation import CONVOLUTIONS
from runtime.device import CHANNELS_LAST
from runtime.errors import InputError
from runtime.fast_layers import weight_gradient
from runtime.workers import end_with_parent

VALIDATED = {"LA": 4, "ACDC": 20, "BraTS": 25}      # volumes per validation; LA's are those of --holdout-val 4
VALIDATION_SHARE, CONVOLUTION_SHARE = 0.05, 0.6     # targets of `validation` and `limit`
LIMITED = "-step", "ACDC-volume"                    # rows that `limit` looks at


# ---- the main table -------------------------------------------------------------------------------------------


def row_of(row, options):
    """One line of the main table."""
    with TemporaryDirectory() as folder:
        result = compare(workloads.maker_of(row, options, Path(folder)), options.quick, options.repeat)
    (plain, plain_peak), (fast, fast_peak) = result["plain"], result["fast"]
    if row.endswith("-step"):
        _step_seconds[row.removesuffix("-step")] = fast
    times, memory = plain / fast, fast_peak / plain_peak
    least, most = TARGETS[row]
    met = times >= least and (most is None or memory <= most)
    target = f"≥ {least}" + (f", memory ≤ {most}" if most else "")
    return [row, f"{plain:.4g}", f"{fast:.4g}", f"{times:.2f}", f"{plain_peak:.2f}", f"{fast_peak:.2f}",
            f"{memory:.2f}", target, verdict(met, options.quick)]


# ---- validation, limit, growth -------------------------------------------------------------------------------

_step_seconds = {}      # data set -> median of its step's row, where `all` has it already


def step_seconds(name, options):
    if name not in _step_seconds:
        _step_seconds[name] = median_of(workloads.step("fast", options.quick, name), options)
    return _step_seconds[name]


def validation_line(name, options):
    """Time of one validation over the time of the steps between two."""
    _, recipe, shape = workloads.settings(name, options.quick)
    image, label = workloads.phantom(name, 0, shape)
    validate = partial(mean_dice, workloads.a_method(recipe, "fast"), [Scan("phantom", image[None], label)],
                       partial(segment, recipe=recipe, coarse=True), recipe.num_classes)
    seconds = step_seconds(name, options), median_of(validate, options)
    share = seconds[1] * VALIDATED[name] / (seconds[0] * recipe.eval_every)
    return [name, str(VALIDATED[name]), f"{seconds[1]:.3g}", str(recipe.eval_every), f"{seconds[0]:.3g}",
            f"{100 * share:.1f} %", f"≤ {100 * VALIDATION_SHARE:.0f} %",
            verdict(share <= VALIDATION_SHARE, options.quick)]


def median_of(call, options):
    call()
    return statistics.median(seconds_of(call) for _ in range(1 if options.quick else options.repeat))


def limit_line(name, what, options):
    """Convolutions alone, each of their three passes in its better memory format, or by fast_layers."""
    data_class, recipe, shape = workloads.settings(name, options.quick)
    method, passes = workloads.a_method(recipe, "fast").train(), Counter()
    if what == "step":
        for batch, backward in ((recipe.labeled_batch // 2, True), (recipe.unlabeled_batch, False),
                                (recipe.unlabeled_batch // 2, True)):
            with counting(passes, method, backward), torch.no_grad():
                method.networks(torch.zeros(batch, recipe.in_channels, *recipe.patch_size))
        seconds = step_seconds(name, options)
    else:
        with counting(passes, method, False):
            segment(method, workloads.phantom(name, 0, shape)[0][None], recipe)
        seconds = median_of(workloads.volume("fast", options.quick, name), options)
    best = sum(runs * _best_seconds(key, options) for key, runs in passes.items())
    share = best / seconds
    return [f"{name}-{what}", f"{best:.3g}", f"{seconds:.3g}", f"{100 * share:.0f} %",
            f"≥ {100 * CONVOLUTION_SHARE:.0f} %", verdict(share >= CONVOLUTION_SHARE, options.quick)]


@contextmanager
def counting(passes, method, backward):
    """Add up in `passes`: (geometry of a convolution and its input, whether backward passes follow) -> runs."""
    def count(module, inputs, output):
        geometry = (isinstance(module, nn.ConvTranspose2d | nn.ConvTranspose3d), tuple(module.weight.shape),
                    tuple(module.stride), tuple(module.padding), tuple(inputs[0].shape))
        passes[geometry, backward] += 1
    with ExitStack() as hooks:
        for module in method.modules():
            if isinstance(module, CONVOLUTIONS):
                hooks.enter_context(module.register_forward_hook(count))
        yield


def _best_seconds(key, options):
    """Forward, and if asked for backward to the input and to the weight: each by the fastest way there is here."""
    (transposed, kernel, stride, padding, shape), backward = key
    axes = len(stride)
    times = []
    for memory in (torch.contiguous_format, CHANNELS_LAST[axes]):
        x = torch.randn(shape).contiguous(memory_format=memory)
        weight = torch.randn(kernel).contiguous(memory_format=memory)
        rest = (stride, padding, [1] * axes, transposed, [0] * axes, 1)
        grad = torch.ops.aten.convolution(x, weight, None, *rest)
        calls = [partial(torch.ops.aten.convolution, x, weight, None, *rest)]
        if backward:
            first = shape[1] == 1                       # nobody asks for the gradient of the image
            calls += [partial(torch.ops.aten.convolution_backward, grad, x, weight, None, *rest, mask)
                      for mask in ([True, False, False], [False, True, False]) if not (first and mask[0])]
        times.append([median_of(call, options) for call in calls])
        if backward and not transposed and {*kernel[2:]} == {3} and {*stride, *padding} == {1}:
            times[-1][-1] = min(times[-1][-1], median_of(partial(weight_gradient, grad, x), options))
    return sum(map(min, *times))


def growth_lines(options):
    """Three fits: a line through (size, cost), its slope, and how well it fits; with --plot a picture."""
    quick = options.quick
    _, recipe, _ = workloads.settings("LA", quick)
    edges = (32, 48) if quick else (48, 64, 80, 96, 112)
    sizes = [replace(recipe, patch_size=(edge,) * 3) for edge in edges]
    steps = [(np.prod(size.patch_size) / 1e6, median_of(workloads.step_of(size, "LA", "fast"), options))
             for size in sizes]
    method, windows = workloads.a_method(recipe, "fast"), []
    for extra in (0, 1) if quick else (0, 2, 4, 6):
        shape = [extent + 16 * extra for extent in recipe.patch_size]
        half = replace(recipe, stride=[extent // 2 for extent in recipe.patch_size])
        image = workloads.phantom("LA", 0, shape)[0][None]
        windows.append((image.numel() / 1e6, median_of(partial(segment, method, image, half), options)))
    curves = {"seconds per step against the patch (10^6 voxels)": steps,
              "seconds per test volume against its size (10^6 voxels)": windows,
              "GiB in memory against scans": memory_of_scans(quick)}
    lines = []
    for title, points in curves.items():
        x, y = np.array(points).T
        slope, start = np.polyfit(x, y, 1)
        exponent = np.polyfit(np.log(x), np.log(np.maximum(y, 1e-9)), 1)[0]
        lines.append([title, f"{start:.3g} + {slope:.3g} x", f"{exponent:.2f}", f"{np.corrcoef(x, y)[0, 1] ** 2:.3f}"])
    if options.plot:
        plots.fits(options.plot, curves)
    return lines


def memory_of_scans(quick):
    """(scans, GiB by which this process grows when it reads them), LA phantoms from files."""
    counts = (2, 4) if quick else (4, 8, 16, 32)
    with TemporaryDirectory() as folder:
        write_phantoms(Path(folder), "LA", train=counts[-1], test=0, size=workloads.SHAPES["LA"][quick])
        with ProcessPoolExecutor(1, get_context("spawn"), end_with_parent, max_tasks_per_child=1) as fresh:
            return [(count, fresh.submit(_resident_growth, Path(folder), count).result()) for count in counts]


def _resident_growth(folder, count):
    data = LA(replace(workloads.SETS["LA"].presets["paper"], data_dir=folder, labeled=count))
    names = data.split().labelled
    data.train_scans(names[:1], True)                   # imports and the like
    before = psutil.Process().memory_info().rss
    scans = data.train_scans(names, True)
    grown = psutil.Process().memory_info().rss - before
    return grown / 2 ** 30 * bool(scans)


def methods_lines(options):
    """Seconds of a step and the process's peak memory, of every method; times those of the supervised baseline."""
    repeat = 1 if options.quick else options.repeat
    with TemporaryDirectory() as folder:
        write_phantoms(Path(folder), "ACDC", train=8, val=1, test=1, size=workloads.SHAPES["ACDC"][options.quick])
        make = partial(workloads.training_step, folder=Path(folder))
        with Timed(make, "supervised", options.quick) as baseline:
            for method in METHODS:
                with Timed(make, method, options.quick) as timed:
                    turns = [(timed.time(), baseline.time()) for _ in range(repeat + 1)][1:]
                    seconds, supervised = np.median(turns, 0)
                    yield [method, f"{seconds:.3g}", f"{seconds / supervised:.2f}", f"{timed.peak():.2f}"]


# ---- what is printed -----------------------------------------------------------------------------------------


def print_table(headings, lines):
    """Print a Markdown table, each line as soon as it is measured -> the lines."""
    printed = []
    for cells in itertools.chain([headings, ["---"] * len(headings)], lines):
        print(f"| {' | '.join(cells)} |", flush=True)
        printed.append(cells)
    print()
    return printed[2:]


def report(row, options):
    """One of REPORTS as a table."""
    against, target = options.against, ["share", "target", ""]
    headings, lines = {
        "start": (["CPU time (s)", against, "now", *target],
                  partial(start.lines, against, options.repeat, options.quick)),
        "demo": (["demo (s)", against, "now", *target], partial(start.demo_lines, against, options.quick)),
        "windows": (["windows of an LA volume", "windows", "CPU time (s)", "times faster", "target", ""],
                    partial(predicting.window_lines, options)),
        "memory": ([f"a scan of {predicting.CLASSES} classes", "bytes per voxel",
                    f"{' × '.join(map(str, predicting.LARGE))} voxels (GiB)", "target", ""],
                   partial(predicting.memory_lines, options)),
        "monai": (["CPU time", "MONAI (s)", "ours (s)", "times faster", "off by at most", "target", ""],
                  partial(predicting.monai_lines, options)),
        "growth": (["LA", "fit", "exponent", "R²"], partial(growth_lines, options)),
        "methods": (["method", "seconds per step", "times supervised", "peak memory (GiB)"],
                    partial(methods_lines, options)),
        "validation": (["validation", "volumes", "s per volume", "every ... steps", "s per step", "share of training",
                        "target", ""], lambda: (validation_line(name, options) for name in workloads.SETS)),
        "limit": (["limit", "convolutions at their best (s)", "all (s)", *target], lambda: (
            limit_line(*each.split("-"), options) for each in TARGETS if each.endswith(LIMITED)))}[row]
    return print_table(headings, lines())


def machine(options):
    """One line on what this was measured with."""
    model = next((line.split(":", 1)[1].strip() for line in _cpuinfo() if line.startswith("model name")),
                 platform.processor() or platform.machine())
    words = "; QUICK: small shapes, no verdict" if options.quick else ""
    return (f"{model}, {torch.get_num_threads()} threads, {psutil.virtual_memory().total / 2 ** 30:.0f} GiB, torch "
            f"{torch.__version__}; medians of {1 if options.quick else options.repeat}{words}")


def _cpuinfo():
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def measure(options):
    """Print what `options`, those of benchmark.py, ask for -> the tables' lines."""
    if options.quick:
        options.repeat = 1
    rows = (*TARGETS, *REPORTS) if options.row == "all" else [options.row]
    if not options.against:
        if options.row in WITH_ANOTHER:
            raise InputError(f"{options.row}: --against is missing: name the revision that is compared, 1484acb say")
        rows = [row for row in rows if row not in WITH_ANOTHER]
    if options.device != "cpu" and not all(row.endswith(("-step", "-volume")) for row in rows):
        raise InputError(f"{options.row} --device {options.device}: only a row about a step or a volume, such as "
                         "LA-step, is measured on a GPU; see code/gpu_day.py for the rest")
    print(machine(options), end="\n\n", flush=True)
    compared = [row for row in rows if row in TARGETS]
    headings = ["", "plain (s)", "fast (s)", "times faster", "plain (GiB)", "fast (GiB)", "memory", "target", ""]
    tables = [print_table(headings, (row_of(row, options) for row in compared))] if compared else []
    return tables + [report(row, options) for row in rows if row in REPORTS]
