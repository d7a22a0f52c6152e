"""Speed and memory: each fast path beside the plain recipe that it replaces, both timed in one run.

    python code/benchmark.py metrics            one row
    python code/benchmark.py all                every row; about an hour on two cores without a GPU
    python code/benchmark.py all --quick        small shapes: shows that it runs, judges nothing

The plain recipe: contiguous memory, one graph for both halves of a step, one window or slice at a time, medpy's
metrics, scikit-image class by class, HDF5 read for each sample. A row is the ratio of the medians of alternating
repetitions; a step's memory is the peak of a fresh process for each variant. Scans are phantoms. Prints Markdown.
"""
import itertools
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import medpy.metric.binary
import numpy as np
import torch
import tyro
from scipy import ndimage
from skimage.measure import label as connected
from tqdm import tqdm

import cml
import methods
import train_ACDC
import train_BraTS
import train_LA
from dataloaders.acdc import ACDC
from dataloaders.brats import BraTS
from dataloaders.la import LA
from dataloaders.phantom import draw_ACDC, draw_BraTS, draw_LA, write_phantoms
from device import Device
from errors import reported
from evaluate import (
    class_metrics,
    class_probabilities,
    inference,
    largest_components,
    window_starts,
)
from method import Batch

SETS = {"LA": (LA, train_LA.PRESETS["paper"], (48, 48, 32)), "ACDC": (ACDC, train_ACDC.PRESETS["paper"], (64, 64)),
        "BraTS": (BraTS, train_BraTS.PRESETS["paper"], (48, 48, 48))}
ROWS = ("LA-step", "ACDC-step", "BraTS-step", "LA-volume", "ACDC-volume", "metrics", "sampling", "components")


@dataclass(kw_only=True)
class Options:
    """Fast paths beside the plain recipe."""

    row: tyro.conf.Positional[Literal[("all", *ROWS)]]      # what to measure
    quick: bool = False             # small shapes, one repetition
    repeat: int = 3                 # repetitions of each variant
    data_dir: Path | None = None    # LA scans whose masks `metrics` measures; a phantom's without it
    peak: tyro.conf.Suppress[str] = ""      # run one step of this variant in this process, print its peak memory


# ---- the plain recipe ----------------------------------------------------------------------------------------


def plain_components(label_map):
    """Largest component of each class, one scikit-image call a class."""
    kept = np.zeros_like(label_map)
    for value in np.unique(label_map[label_map > 0]):
        parts = connected(label_map == value)
        kept[parts == np.bincount(parts.flat)[1:].argmax() + 1] = value
    return kept


def plain_metrics(pred, ref, num_classes):
    """medpy's four calls a class."""
    calls = [getattr(medpy.metric.binary, name) for name in ("dc", "jc", "hd95", "asd")]
    return [[call(pred == label, ref == label) for call in calls] for label in range(1, num_classes)]


def plain_step(method, optimizer, batch):
    """Both halves in one graph."""
    optimizer.zero_grad()
    sum(loss for loss, _ in method.losses(batch)).backward()
    optimizer.step()


def plain_windows(method, volume, patch_size, stride):
    """One window at a time, the sum in NumPy."""
    total, count = None, np.zeros(volume.shape, np.float32)
    with inference(method):
        for corner in itertools.product(*map(window_starts, volume.shape, patch_size, stride)):
            box = tuple(slice(start, start + size) for start, size in zip(corner, patch_size, strict=True))
            probs = class_probabilities(method.networks(volume[box][None, None]))["fused"][0].numpy()
            total = np.zeros((len(probs), *volume.shape), np.float32) if total is None else total
            total[:, *box] += probs
            count[box] += 1
    return (total / count).argmax(0)


def plain_slices(method, volume, patch_size):
    """One slice at a time, scipy's zoom there and back."""
    labels = np.zeros(volume.shape, np.uint8)
    with inference(method):
        for index, cut in enumerate(volume.numpy()):
            factors = [new / old for new, old in zip(patch_size, cut.shape, strict=True)]
            small = torch.from_numpy(ndimage.zoom(cut, factors, order=0))[None, None]
            label = class_probabilities(method.networks(small))["fused"].argmax(1)[0].numpy().astype(np.uint8)
            labels[index] = ndimage.zoom(label, [old / new for new, old in zip(patch_size, cut.shape, strict=True)],
                                         order=0)
    return labels


# ---- rows ----------------------------------------------------------------------------------------------------


def recipe_of(name, quick):
    data, recipe, small = SETS[name]
    return data, replace(recipe, patch_size=small, device="cpu") if quick else replace(recipe, device="cpu")


def step_variants(name, quick):
    """{variant: function that runs one self-training step}; both start from the same weights."""
    _, recipe = recipe_of(name, quick)
    draw = {"LA": draw_LA, "BraTS": draw_BraTS}.get(name)
    images, labels = [], []
    for index in range(recipe.labeled_batch + recipe.unlabeled_batch):
        rng = np.random.default_rng(index)
        image, label = draw(rng, recipe.patch_size) if draw else (
            part[0] for part in draw_ACDC(rng, (1, *recipe.patch_size)))
        images.append(torch.from_numpy(np.ascontiguousarray(image))[None])
        labels.append(torch.from_numpy(np.ascontiguousarray(label)).long())
    x, y = torch.stack(images), torch.stack(labels[:recipe.labeled_batch])
    device = Device("cpu", len(recipe.patch_size))

    def variant(fast):
        torch.manual_seed(0)
        method = methods.build(recipe).train()
        if fast:
            device.place(method)
        optimizer = torch.optim.SGD(method.parameters(), recipe.lr, momentum=recipe.momentum)

        def step():
            torch.manual_seed(1)
            parts = [x[:recipe.labeled_batch], x[recipe.labeled_batch:]]
            x_l, x_u = map(device.image, parts) if fast else parts
            batch = Batch(x_l, y, x_u, 0, 1, torch.Generator().manual_seed(0))
            if not fast:
                with_plain_components(lambda: plain_step(method, optimizer, batch))
                return
            optimizer.zero_grad()
            for loss, _ in method.losses(batch):
                loss.backward()
            optimizer.step()
        return step
    return {"plain": variant(False), "fast": variant(True)}


def with_plain_components(call):
    """Run call() with the scikit-image loop in the pseudo-labels' place."""
    fast = cml.largest_components
    cml.largest_components = lambda maps: torch.from_numpy(np.stack(
        [[plain_components(label_map) for label_map in view] for view in maps.numpy()]))
    try:
        call()
    finally:
        cml.largest_components = fast


def volume_variants(name, quick):
    """One test volume to label map and metrics."""
    data_class, recipe = recipe_of(name, quick)
    rng = np.random.default_rng(0)
    if name == "LA":
        stride = (24, 24, 16) if quick else recipe.stride
        recipe = replace(recipe, stride=stride)
        image, ref = draw_LA(rng, (64, 56, 40) if quick else (176, 144, 88))
    else:
        image, ref = draw_ACDC(rng, (3, 72, 80) if quick else (10, 216, 256))
    torch.manual_seed(0)
    plain, fast = methods.build(recipe), Device("cpu", len(recipe.patch_size)).place(methods.build(recipe))
    fast.load_state_dict(plain.state_dict())
    data, volume = data_class(recipe), torch.from_numpy(image)

    def with_plain():
        labels = plain_windows(plain, volume, recipe.patch_size, recipe.stride) if name == "LA" else plain_slices(
            plain, volume, recipe.patch_size)
        # of an untrained network: measure a shifted reference in its place
        return labels, plain_metrics(np.roll(ref, 2, 1), ref, recipe.num_classes)

    def with_fast():
        labels = data.segment(fast, volume[None])["fused"].argmax(0)
        return labels, class_metrics(np.roll(ref, 2, 1), ref, recipe.num_classes)
    return {"plain": with_plain, "fast": with_fast}


def metrics_variants(quick, data_dir=None):
    """Four metrics of one LA case, or of three real ones: the mask against itself, moved by two voxels."""
    if data_dir:
        data = LA(replace(SETS["LA"][1], data_dir=data_dir))
        refs = [scan.label.numpy() for scan in data.cases(data.split().labelled[:3])]
    else:
        refs = [draw_LA(np.random.default_rng(0), (64, 64, 40) if quick else (176, 144, 88))[1]]
    pairs = [(ndimage.shift(ref, (2, -1, 1), order=0), ref) for ref in refs]
    return {"plain": lambda: [plain_metrics(*pair, 2) for pair in pairs],
            "fast": lambda: [class_metrics(*pair, 2) for pair in pairs]}


def sampling_variants(quick, folder):
    """One LA batch, 8 patches: from memory, and from files."""
    data_class, recipe = recipe_of("LA", quick)
    recipe = replace(recipe, data_dir=folder, labeled=4)
    write_phantoms(folder, "LA", train=8, test=0, size=(64, 56, 40) if quick else (176, 144, 88))
    data = data_class(recipe)
    split = data.split()
    names = split.labelled + split.unlabelled
    scans = data.train_scans(names, True)

    def from_memory():
        return [data.sample(scan, np.random.default_rng(0)) for scan in scans]

    def from_files():
        return [data.sample(data.train_scans([name], True)[0], np.random.default_rng(0)) for name in names]
    return {"plain": from_files, "fast": from_memory}


def components_variants(quick):
    """Largest components of one ACDC batch: 12 slices, two views."""
    size = 64 if quick else 256
    maps = np.stack([draw_ACDC(np.random.default_rng(index), (1, size, size))[1][0] for index in range(24)])
    speckle = np.random.default_rng(0)
    maps = np.where(speckle.random(maps.shape) < 0.002, speckle.integers(0, 4, maps.shape), maps).astype(np.int64)
    stacked = torch.from_numpy(maps)[None]
    return {"plain": lambda: [plain_components(label_map) for label_map in maps],
            "fast": lambda: largest_components(stacked)}


def variants_of(row, quick, folder, data_dir):
    if row.endswith("-step"):
        return step_variants(row.removesuffix("-step"), quick)
    if row.endswith("-volume"):
        return volume_variants(row.removesuffix("-volume"), quick)
    if row == "sampling":
        return sampling_variants(quick, folder)
    return components_variants(quick) if row == "components" else metrics_variants(quick, data_dir)


def alternate(variants, repeat):
    """{variant: seconds of each repetition}, one of each in turn, after a first round that does not count."""
    seconds = {variant: [] for variant in variants}
    for turn in range(repeat + 1):
        for variant, call in variants.items():
            begun = time.perf_counter()
            call()
            if turn:
                seconds[variant].append(time.perf_counter() - begun)
    return seconds


def peaks(row, quick):
    """{variant: GiB at the peak of a fresh process that runs two steps of it}."""
    command = [sys.executable, __file__, row, *(["--quick"] if quick else [])]
    return {variant: float(subprocess.run([*command, "--peak", variant], capture_output=True, text=True,
                                          check=True).stdout.split()[-1]) for variant in ("plain", "fast")}


@reported
def main(args=None):
    options = tyro.cli(Options, args=args, description=__doc__)
    if options.peak:
        step = step_variants(options.row.removesuffix("-step"), options.quick)[options.peak]
        step()
        step()
        print(Device("cpu").peak_memory())
        return None
    repeat = 1 if options.quick else options.repeat
    lines = [f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch "
             f"{torch.__version__}; medians of {repeat}{'; QUICK: small shapes, no verdict' * options.quick}\n",
             "| | plain (s) | fast (s) | times faster | plain (GiB) | fast (GiB) | memory |", "|---" * 7 + "|"]
    for row in tqdm(ROWS if options.row == "all" else [options.row], disable=None):
        with TemporaryDirectory() as folder:
            seconds = alternate(variants_of(row, options.quick, Path(folder), options.data_dir), repeat)
        plain, fast = (statistics.median(seconds[variant]) for variant in ("plain", "fast"))
        memory = ["", "", ""]
        if row.endswith("-step"):
            peak = peaks(row, options.quick)
            memory = [f"{peak['plain']:.2f}", f"{peak['fast']:.2f}", f"{peak['fast'] / peak['plain']:.2f}"]
        lines.append(f"| {row} | {plain:.4g} | {fast:.4g} | {plain / fast:.2f} | {' | '.join(memory)} |")
    print("\n".join(lines))
    return lines


if __name__ == "__main__":
    main()
