"""What benchmark.py times: the plain recipe, written once, and the fast path that replaces it.

The plain recipe: contiguous memory, one graph for both halves of a step, one window or slice at a time, medpy's
metrics, scikit-image class by class, HDF5 read for each sample. Scans are phantoms; networks are untrained, which
costs the same. `variant` is "plain" or "fast"; `quick` takes small shapes.
"""
import contextlib
import io
import itertools
from dataclasses import replace
from functools import partial
from operator import itemgetter

import h5py
import numpy as np
import torch
from scipy import ndimage
from scipy.spatial import cKDTree
from skimage.measure import label as connected

import dataloaders.components
from dataloaders.phantom import draw_ACDC, draw_BraTS, draw_LA, write_phantoms
from dataloaders.scans import Scan
from evaluation.inference import likeliest, segment, window_starts
from evaluation.metrics import class_metrics, surface_metrics
from method import Batch
from methods import registry
from runtime.device import Device
from training.datasets import DATASETS
from training.fit import Fit, backward
from training.run_folder import RunFolder

PATCHES = {"LA": (48, 48, 32), "ACDC": (64, 64), "BraTS": (48, 48, 48)}      # of --quick
SETS = {dataset.scripts: dataset for dataset in DATASETS.values()}
# a scan after preparation (LA: the smallest of the set), and one for --quick
SHAPES = {"LA": ((148, 132, 88), (64, 56, 40)), "ACDC": ((10, 216, 256), (3, 72, 80)),
          "BraTS": ((138, 170, 140), (56, 64, 56))}


# ---- the plain recipe ----------------------------------------------------------------------------------------


def plain_components(label_map):
    """Largest component of each class, one scikit-image call per class."""
    kept = np.zeros_like(label_map)
    for value in np.unique(label_map[label_map > 0]):
        parts = connected(label_map == value)
        kept[parts == np.bincount(parts.flat)[1:].argmax() + 1] = value
    return kept


def plain_metrics(pred, ref, num_classes):
    """medpy's four calls per class."""
    import medpy.metric.binary  # here: for tests alone, and a machine with a GPU may lack it
    calls = [getattr(medpy.metric.binary, name) for name in ("dc", "jc", "hd95", "asd")]
    return [[call(pred == label, ref == label) for call in calls] for label in range(1, num_classes)]


def plain_surfaces(pred, ref):
    """hd95 and asd of two masks, their surfaces found in one box around both."""
    box, = ndimage.find_objects((pred | ref).astype(np.uint8))
    surfaces = [np.argwhere(mask[box] & ~ndimage.binary_erosion(mask[box])) for mask in (pred, ref)]
    to_ref, to_pred = (cKDTree(other).query(own)[0] for own, other in (surfaces, surfaces[::-1]))
    return float(np.percentile(np.concatenate([to_ref, to_pred]), 95)), float(to_ref.mean())


def plain_read(path):
    """One case of an HDF5 file, nothing checked -> Scan."""
    with h5py.File(path) as file:
        image, label = (torch.from_numpy(file[key][()]) for key in ("image", "label"))
    return Scan(path.stem, image[None], label)


def plain_step(method, optimizer, batch):
    """Both halves in one graph; components by the scikit-image loop -> the loss."""
    fast = dataloaders.components.largest_components
    dataloaders.components.largest_components = lambda maps, _: torch.from_numpy(np.stack(
        [[plain_components(label_map) for label_map in view] for view in maps.numpy()]))
    try:
        optimizer.zero_grad()
        loss = sum(loss for loss, _ in method.losses(batch))
        loss.backward()
        optimizer.step()
        return loss.detach()
    finally:
        dataloaders.components.largest_components = fast


def fast_step(method, optimizer, batch):
    """Backward after each half -> the loss."""
    optimizer.zero_grad(set_to_none=False)
    total, _ = backward(method.losses(batch))
    optimizer.step()
    return total


def plain_windows(method, volume, patch_size, stride):
    """One window at a time, the sum in NumPy."""
    total, count = None, np.zeros(volume.shape, np.float32)
    with torch.inference_mode():
        for corner in itertools.product(*map(window_starts, volume.shape, patch_size, stride)):
            box = tuple(slice(start, start + size) for start, size in zip(corner, patch_size, strict=True))
            probs = method.predict(volume[box][None, None])["fused"][0].cpu().numpy()
            total = np.zeros((len(probs), *volume.shape), np.float32) if total is None else total
            total[:, *box] += probs
            count[box] += 1
    return (total / count).argmax(0)


def plain_slices(method, volume, patch_size):
    """One slice at a time, scipy's zoom there and back."""
    labels = np.zeros(volume.shape, np.uint8)
    with torch.inference_mode():
        for index, cut in enumerate(volume.cpu().numpy()):
            factors = [new / old for new, old in zip(patch_size, cut.shape, strict=True)]
            small = torch.from_numpy(ndimage.zoom(cut, factors, order=0))[None, None].to(volume.device)
            label = method.predict(small)["fused"].argmax(1)[0].cpu().numpy().astype(np.uint8)
            labels[index] = ndimage.zoom(label, [old / new for new, old in zip(patch_size, cut.shape, strict=True)],
                                         order=0)
    return labels


# ---- what is timed: row -> (variant, quick, ...) -> a call without arguments -----------------------------------


def settings(name, quick, device="cpu"):
    """(data set class, recipe, shape of a test volume) at the paper's size, or small ones."""
    data_class, recipe, small = SETS[name].data, SETS[name].presets["paper"], PATCHES[name]
    if quick:
        recipe = replace(recipe, patch_size=small, **({} if name == "ACDC" else {"stride": [e // 2 for e in small]}))
    return data_class, replace(recipe, device=device), SHAPES[name][quick]


def phantom(name, index, shape):
    """(image, label) tensors of the data set's phantom; of one slice where `shape` has two extents."""
    draw = {"LA": draw_LA, "BraTS": draw_BraTS, "ACDC": draw_ACDC}[name]
    image, label = draw(np.random.default_rng(index), shape if len(shape) == 3 else (1, *shape))
    if len(shape) == 2:
        image, label = image[0], label[0]
    return torch.from_numpy(np.ascontiguousarray(image)), torch.from_numpy(np.ascontiguousarray(label))


def a_method(recipe, variant):
    """The recipe's method, plain or placed, with the same weights in every process."""
    torch.manual_seed(0)
    method = registry.build(recipe)
    if variant == "plain":
        return method.to(recipe.device)
    return Device(recipe.device, len(recipe.patch_size)).place(method)


def batch_of(name, recipe):
    """(labelled images, their label maps, unlabelled images) of phantoms, tensors on the CPU."""
    scans = [phantom(name, index, recipe.patch_size) for index in range(recipe.labeled_batch + recipe.unlabeled_batch)]
    x = torch.stack([image for image, _ in scans])[:, None]
    y = torch.stack([label for _, label in scans[:recipe.labeled_batch]]).long()
    return x[:recipe.labeled_batch], y, x[recipe.labeled_batch:]


def step_of(recipe, name, variant):
    """One self-training step, on phantoms."""
    x_l, y, x_u = batch_of(name, recipe)
    method, fast = a_method(recipe, variant).train(), variant == "fast"
    optimizer = torch.optim.SGD(method.parameters(), recipe.lr, momentum=recipe.momentum)
    home = next(method.parameters()).device
    if fast:
        device = Device(recipe.device, len(recipe.patch_size))
        device.reserve_gradients(method.trained_parameters())

    def step():
        torch.manual_seed(1)
        x = [device.image(images) if fast else images.to(home) for images in (x_l, x_u)]
        batch = Batch(x[0], y.to(home), x[1], 0, 1, torch.Generator().manual_seed(0))
        return (fast_step if fast else plain_step)(method, optimizer, batch)
    return step


def step(variant, quick, name, device="cpu"):
    """Return a callable that runs one self-training step of the paper's recipe."""
    return step_of(settings(name, quick, device)[1], name, variant)


def training_step(method, quick, folder):
    """One step of a method's last stage in the real training loop: `mini` on the ACDC phantoms of `folder`."""
    recipe = replace(SETS["ACDC"].presets["mini"], method=method, labeled=2, data_dir=folder, out=folder / method,
                     device="cpu", workers=0, **({"patch_size": PATCHES["ACDC"]} if quick else {})).complete()
    with contextlib.redirect_stdout(io.StringIO()):
        loop = Fit(recipe, SETS["ACDC"].data(recipe), RunFolder(recipe.out, recipe))
    loop.stage = len(loop.stages) - 1
    loop.method.begin(loop.stages[-1])
    streams = loop.streams()

    def step():
        loop.take_step(streams, streams[loop.step])()
        loop.step += 1
    return step


def volume(variant, quick, name, device="cpu"):
    """One test volume to label map and metrics."""
    data_class, recipe, shape = settings(name, quick, device)
    image, ref = phantom(name, 0, shape)
    ref = ref.numpy()
    method = a_method(recipe, variant).eval()
    image = image.to(next(method.parameters()).device) if variant == "plain" else image
    moved = np.roll(ref, 2, 1)          # of an untrained network: the reference itself, moved, is measured

    def with_plain():
        if name == "LA":
            return plain_windows(method, image, recipe.patch_size, recipe.stride), plain_metrics(moved, ref, 2)
        return plain_slices(method, image, recipe.patch_size), plain_metrics(moved, ref, recipe.num_classes)

    def with_fast():
        labels = likeliest(segment(method, image[None], recipe)["fused"])
        return labels, class_metrics(moved, ref, recipe.num_classes)
    return with_plain if variant == "plain" else with_fast


def metrics(variant, quick, data_dir=None):
    """Four metrics of one LA case, or of three real ones: the mask against itself, moved by two voxels."""
    if data_dir:
        data = SETS["LA"].data(replace(SETS["LA"].presets["paper"], data_dir=data_dir))
        refs = [scan.label.numpy() for scan in data.cases(data.split().labelled[:3])]
    else:
        refs = [phantom("LA", 0, SHAPES["LA"][quick])[1].numpy()]
    pairs = [(ndimage.shift(ref, (2, -1, 1), order=0), ref) for ref in refs]
    measure = plain_metrics if variant == "plain" else class_metrics
    return lambda: [measure(*pair, 2) for pair in pairs]


def surfaces(variant, quick):
    """Surface distances of two compact objects at opposite ends of a large scan."""
    shape, edge = ((64, 64, 48), 12) if quick else ((512, 512, 300), 40)
    pred, ref = np.zeros((2, *shape), bool)
    pred[(slice(4, 4 + edge),) * 3] = ref[(slice(-4 - edge, -4),) * 3] = True
    if variant == "plain":
        return lambda: plain_surfaces(pred, ref)
    return lambda: itemgetter("hd95", "asd")(surface_metrics(pred, ref))


def sampling(variant, quick, folder):
    """One LA batch, 8 patches: from memory, and from files."""
    data_class, recipe, _ = settings("LA", quick)
    data = data_class(replace(recipe, data_dir=folder, labeled=4))
    split = data.split()
    names = (split.labelled + split.unlabelled)[:8]
    if variant == "plain":
        return lambda: [data.sample(plain_read(data.path_of(name)), np.random.default_rng(0)) for name in names]
    Device("cpu")                       # as in training, the process keeps freed memory
    scans = data.train_scans(names, True)
    return lambda: [data.sample(scan, np.random.default_rng(0)) for scan in scans]


def components(variant, quick):
    """Largest components of one ACDC batch: 12 slices, two views."""
    size = 64 if quick else 256
    maps = np.stack([phantom("ACDC", index, (size, size))[1].numpy() for index in range(24)])
    speckle = np.random.default_rng(0)
    maps = np.where(speckle.random(maps.shape) < 0.002, speckle.integers(0, 4, maps.shape), maps).astype(np.int64)
    stacked = torch.from_numpy(maps)[None].byte()
    return (lambda: [plain_components(label_map) for label_map in maps]) if variant == "plain" else (
        lambda: dataloaders.components.largest_components(stacked))


def maker_of(row, options, folder):
    """row -> function(variant, quick) that makes the call to be timed."""
    if "-" in row:
        name, what = row.split("-")
        return partial({"step": step, "volume": volume}[what], name=name, device=options.device)
    if row == "sampling":
        if not options.data_dir:
            write_phantoms(folder, "LA", train=8, test=0, size=SHAPES["LA"][options.quick])
        return partial(sampling, folder=options.data_dir or folder)
    return {"metrics": partial(metrics, data_dir=options.data_dir), "surfaces": surfaces, "components": components}[row]
