"""Class probabilities of whole scans: the same functions choose checkpoints during training and fill the test row.

Shapes: B patches, C classes, *S spatial. A model is a `Method`, a function (B, in_channels, *S) -> {view: probabilities
(B, C, *S)}, or one of networks/, whose outputs `class_probabilities` reads.
"""
import itertools
import math
from contextlib import contextmanager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dataloaders.augment import resize_nearest
from dataloaders.scans import for_networks
from dataloaders.volumes import halved
from evaluation.metrics import of_classes_there, overlap_of_classes, where_labelled
from evaluation.windows import WEIGHTS
from method import Method
from networks.two_view import fuse
from runtime.device import AT_ONCE, room_for
from runtime.fast_layers import folded
from runtime.ranks import Ranks

FILLED = {"cuda"}                   # devices whose batches are filled up
DEVIATION = 1 / 8                   # of the Gaussian, in edges of the window, as nnU-Net's [O]
AT_ONCE_DECIDED = 2 ** 22           # voxels


def class_probabilities(output):
    """Output of a network of networks/ -> {view: probabilities (B, C, *S)}, the headline first.

    Logits (B, C, *S) or (logits, feature): {"network": ...}. Two such pairs, as `networks.two_view` gives them:
    {"fused": ..., "subnet0": ..., "subnet1": ...}. A `Method` is never asked this way: it has `predict`.
    """
    if isinstance(output, Tensor):
        return {"network": output.softmax(1)}
    if isinstance(output[0], Tensor):
        return {"network": output[0].softmax(1)}
    (logits0, _), (logits1, _) = output
    return fuse(logits0, logits1)


@contextmanager
def inference(model):
    """Evaluation mode without gradients; weights and the modes of all submodules are as before afterwards."""
    modes = {module: module.training for module in model.modules()} if isinstance(model, nn.Module) else {}
    for module in modes:
        module.training = False
    try:
        with folded(model) if modes else nullcontext(), torch.inference_mode():
            yield
    finally:
        for module, training in modes.items():
            module.training = training


def predict(model, x, views=True):
    """{view: probabilities (B, C, *S)} of a model, computed on its device.

    views: True for all, or the names of those that are wanted beside the headline; a Method computes no more.
    """
    weight = _weight(model, x)
    x = x.to(weight.device, weight.dtype)
    if isinstance(model, Method):
        return model.predict(x) if views is True else model.predicted(x, views)
    output = model(x)
    return _wanted(output if isinstance(output, dict) else class_probabilities(output), views)


def _wanted(parts, views):
    """The first view, and of the others those in `views`; True: all."""
    return {view: probs for index, (view, probs) in enumerate(parts.items())
            if views is True or not index or view in views}


def _watched(views, watch):
    """The views to compute so that `watch` sees its own."""
    return views if views is True or watch is None else (*views, *watch.views)


def _predict_full(model, batch, size, views):
    """`predict` of up to `size` patches.

    On a GPU, where cuDNN tries its kernels anew for every shape, empty patches fill up a batch that is not full.
    """
    missing = size - len(batch) if _weight(model, batch).device.type in FILLED else 0
    full = torch.cat([batch, batch.new_zeros(missing, *batch.shape[1:])]) if missing else batch
    return {view: probs[:len(batch)] for view, probs in predict(model, full, views).items()}


def _weight(model, otherwise):
    """Any weight of the model, for its device and precision."""
    return next(model.parameters(), otherwise) if isinstance(model, nn.Module) else otherwise


def window_starts(extent, window, stride):
    """Where windows start along one axis: every `stride`, the last one clamped to the end [C]."""
    count = math.ceil((extent - window) / stride) + 1
    return [min(stride * i, extent - window) for i in range(count)]


def window_weights(edge, kind):
    """Weights of a window's voxels along one axis, (edge,) float64; a window's are the products over its axes.

    'uniform': 1. 'gaussian': symmetric about the window's middle, 1 there, its deviation an eighth of the edge.
    """
    if kind not in WEIGHTS:
        raise ValueError(f"weights {kind!r} are unknown: choose {' or '.join(WEIGHTS)}")
    if kind == "uniform":
        return torch.ones(edge, dtype=torch.float64)
    places = torch.arange(edge, dtype=torch.float64) - (edge - 1) / 2
    return torch.exp(-(places / (DEVIATION * edge)) ** 2 / 2)


def sliding_window(model, volume, patch_size, stride, *, batch_size=None, views=False, weights="uniform"):
    """Mean class probabilities over overlapping windows: volume (*S) or (in_channels, *S) -> (C, *S).

    A volume smaller than the patch is padded with zeros on both sides, the odd voxel behind, and cut back. `views`:
    False for the headline alone; True for {view: (C, *S)} of all in one pass, or the names of those that are wanted
    beside the headline. `stride`: voxels, one per axis or one for all; `weights`: of a window's voxels, as in
    `window_weights`. The result is where the model is, or on the CPU where a GPU has no room for it; the model's device
    also says how many windows go at once unless `batch_size` does.
    """
    parts = _window_views(model, volume, patch_size, stride, views or (), weights, batch_size)
    return parts if views else next(iter(parts.values()))


def _window_views(model, volume, patch_size, stride, views, weights, batch_size=None, watch=None):
    volume = torch.as_tensor(volume)
    if volume.ndim == len(patch_size):
        volume = volume[None]
    strides = (stride,) * len(patch_size) if isinstance(stride, int) else tuple(stride)
    shape = volume.shape[1:]
    short = [max(patch - extent, 0) for patch, extent in zip(patch_size, shape, strict=True)]
    if any(short):
        volume = F.pad(volume, [side for pad in reversed(short) for side in (pad // 2, pad - pad // 2)])
    starts = list(map(window_starts, volume.shape[1:], patch_size, strides))
    boxes = [tuple(slice(start, start + patch) for start, patch in zip(corner, patch_size, strict=True))
             for corner in itertools.product(*starts)]
    edges = [window_weights(edge, weights) for edge in patch_size]
    weight, sums = _weight(model, volume), {}
    factors = [edge.to(weight.device, weight.dtype) for edge in edges]
    batch_size = batch_size or AT_ONCE[weight.device.type][len(patch_size)]
    with inference(model):
        for first in range(0, len(boxes), batch_size):
            batch = boxes[first:first + batch_size]
            parts = _predict_full(model, torch.stack([volume[:, *box] for box in batch]), batch_size,
                                  _watched(views, watch))
            if weights != "uniform":
                parts = {view: _times(probs, factors) for view, probs in parts.items()}
            if watch is not None:
                watch.note(parts)
                parts = _wanted(parts, views)
            sums = sums or _zeros(parts, volume.shape[1:])
            for view, probs in parts.items():
                probs = probs.to(sums[view].device)
                for box, prob in zip(batch, probs, strict=True):
                    sums[view][:, *box] += prob
        inside = tuple(slice(pad // 2, pad // 2 + extent) for pad, extent in zip(short, shape, strict=True))
        totals = [_total(extent, firsts, edge) for extent, firsts, edge in
                  zip(volume.shape[1:], starts, edges, strict=True)]
        return {view: _times(total, [1 / along for along in totals])[:, *inside] for view, total in sums.items()}


def _times(x, factors):
    """x (..., *S) times one factor per voxel of each axis of S, in place."""
    for axis, factor in zip(range(-len(factors), 0), factors, strict=True):
        x *= factor.to(x.device, x.dtype).view(-1, *[1] * (-axis - 1))
    return x


def _total(extent, starts, weights):
    """Sum of the windows' weights along one axis; over the volume the sums are the products of those of its axes."""
    total = torch.zeros(extent, dtype=weights.dtype)
    for start in starts:
        total[start:start + len(weights)] += weights
    return total


def _zeros(parts, shape):
    """Sums of a whole volume (C, *shape) for each view of a batch, all on the device that has room for them."""
    first = next(iter(parts.values()))
    classes, size = first.shape[1], first.element_size()
    device = room_for(len(parts) * classes * size * math.prod(shape), first.device)
    return {view: torch.zeros(classes, *shape, dtype=first.dtype, device=device) for view in parts}


def slice_wise(model, volume, patch_size, views=(), batch_size=None, watch=None):
    """{view: class probabilities (C, D, H, W)} slice by slice: volume (D, H, W) or (in_channels, D, H, W).

    Each slice is resized to `patch_size` (nearest) and its probabilities back [C]. views, watch: as `segment` takes
    them; where the result is as in `sliding_window`.
    """
    volume = torch.as_tensor(volume)
    if volume.ndim == 3:
        volume = volume[None]
    batch_size = batch_size or AT_ONCE[_weight(model, volume).device.type][2]
    stacks = {}
    with inference(model):
        for first in range(0, volume.shape[1], batch_size):
            batch = resize_nearest(volume[:, first:first + batch_size].transpose(0, 1), patch_size)
            parts = _predict_full(model, batch, batch_size, _watched(views, watch))
            if watch is not None:
                watch.note(parts)
                parts = _wanted(parts, views)
            stacks = stacks or _zeros({view: probs.float() for view, probs in parts.items()}, volume.shape[1:])
            for view, probs in parts.items():
                stacks[view][:, first:first + len(batch)] = resize_nearest(
                    probs.float(), volume.shape[2:]).transpose(0, 1).to(stacks[view].device)
    return stacks


def segment(model, image, recipe, coarse=False, *, stride=None, weights=None, views=True, watch=None):
    """{view: class probabilities (C, *S)} of a whole scan on its own grid; image (in_channels, *S), *S three axes.

    recipe: a train script's. Patches of three axes are windows, at half resolution where the recipe says so; of two
    axes, windows in slices along the first axis, or whole slices where the recipe has no stride. coarse: windows side
    by side, for validation during training; else `stride` and `weights`, as `windows_of` gives them, by default the
    recipe's. views: True for all, or the names of those that are wanted beside the headline. watch: sees the views
    that it names, window by window or slice by slice, without their being held: watch.note({view: probabilities}).
    """
    image = for_networks(image, recipe)
    if recipe.stride is None:
        return slice_wise(model, image, recipe.patch_size, views, watch=watch)
    windows = {"patch_size": recipe.patch_size, "stride": recipe.patch_size if coarse else stride or recipe.stride,
               "weights": "uniform" if coarse else weights or recipe.window_weights, "views": views, "watch": watch}
    if len(recipe.patch_size) == 2:
        stacks = {}
        with inference(model):
            for k in range(image.shape[1]):
                parts = _window_views(model, image[:, k], **windows)
                stacks = stacks or _zeros({view: probs[None] for view, probs in parts.items()}, image.shape[1:])
                for view, probs in parts.items():
                    stacks[view][:, k] = probs
        return stacks
    small = halved(image) if recipe.half_resolution else image
    parts = _window_views(model, small, **windows)
    if recipe.half_resolution:
        parts = {view: F.interpolate(probs[None], image.shape[1:], mode="trilinear", align_corners=False)[0]
                 for view, probs in parts.items()}
    return parts


def likeliest(probs):
    """The likeliest class of each voxel, the first of equals: probabilities (C, *S) -> (*S) uint8, NumPy."""
    return _likeliest(probs).cpu().numpy()


def _likeliest(probs):
    """max is many times faster than argmax over the first axis; slab by slab, since it holds 12 bytes per voxel."""
    labels = torch.empty(probs.shape[1:], dtype=torch.uint8, device=probs.device)
    thick = max(1, AT_ONCE_DECIDED // max(1, probs[0, 0].numel()))
    for first in range(0, len(labels), thick):
        labels[first:first + thick] = probs[:, first:first + thick].max(0).indices
    return labels


def class_dice(pred, ref, num_classes):
    """Dice of each foreground class of two label maps (*S), tensors on one device; NaN of a class that neither has.

    A GPU counts its voxels itself; on a CPU NumPy counts several times faster than PyTorch.
    """
    if pred.device.type == "cpu":
        return overlap_of_classes(pred.numpy(), ref.numpy(), num_classes)
    return counted_dice(*where_labelled(pred, ref), num_classes)


def counted_dice(pred, ref, num_classes):
    """`class_dice` on any device, with one transfer."""
    counts = []
    for label in range(1, num_classes):
        of_pred, of_ref = pred == label, ref == label
        counts.append(torch.stack([(of_pred & of_ref).sum(), of_pred.sum() + of_ref.sum()]))
    return [2 * both / total if total else math.nan for both, total in torch.stack(counts).tolist()]


def mean_dice(model, scans, segment, num_classes):
    """Validation: {view: mean foreground Dice} over scans and classes, on each scan's own grid, nothing removed.

    Where neither the scan nor its prediction has a class they agree, 1; a class that no scan and no view has is left
    out, as in the test's tables.
    segment(model, image) -> {view: probabilities (C, *S)}; scans have `image` and `label`. Of several processes
    each brings its shard of the scans and gets the mean over all.
    """
    scores = []
    for scan in scans:
        scores.append({view: class_dice(_likeliest(probs), scan.label.to(probs.device), num_classes)
                       for view, probs in segment(model, scan.image).items()})
    scores = Ranks().gather(scores)
    means = of_classes_there([[score[view] for view in scores[0]] for score in scores]).mean((0, 2))
    return dict(zip(scores[0], map(float, means), strict=True))
