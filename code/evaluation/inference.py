"""Class probabilities of whole scans: the same functions choose checkpoints during training and fill the test row.

Shapes: B patches, C classes, *S spatial. A model is a `Method`, or any network or function that maps
(B, in_channels, *S) to logits (B, C, *S), to (logits, feature), or to two such pairs.
"""
import itertools
import math
from contextlib import contextmanager, nullcontext

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dataloaders.augment import resize_nearest, standardised
from dataloaders.volumes import halved
from evaluation.metrics import overlap_metrics
from networks.two_view import fuse
from runtime.device import AT_ONCE, room_for
from runtime.fast_layers import folded
from runtime.ranks import Ranks

FILLED = {"cuda"}       # devices whose batches are filled up


def class_probabilities(output, fusion="softmax"):
    """Output of a bare network or function -> {view: probabilities (B, C, *S)}, the headline first.

    Logits (B, C, *S) or (logits, feature): {"network": ...}. Two such pairs, as `networks.two_view` gives them:
    {"fused": ..., "subnet0": ..., "subnet1": ...}. A `Method` is never asked this way: it has `predict`.
    """
    if isinstance(output, Tensor):
        return {"network": output.softmax(1)}
    if isinstance(output[0], Tensor):
        return {"network": output[0].softmax(1)}
    (logits0, _), (logits1, _) = output
    return fuse(logits0, logits1, fusion)


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


def predict(model, x, fusion="softmax"):
    """{view: probabilities (B, C, *S)} of a Method (which knows its own fusion) or a bare network, on its device."""
    weight = _weight(model, x)
    x = x.to(weight.device, weight.dtype)
    return model.predict(x) if hasattr(model, "predict") else class_probabilities(model(x), fusion)


def _views(model, batch, size, fusion):
    """`predict` of up to `size` patches.

    On a GPU, where cuDNN tries its kernels anew for every shape, empty patches fill up a batch that is not full.
    """
    missing = size - len(batch) if _weight(model, batch).device.type in FILLED else 0
    full = torch.cat([batch, batch.new_zeros(missing, *batch.shape[1:])]) if missing else batch
    return {view: probs[:len(batch)] for view, probs in predict(model, full, fusion).items()}


def _weight(model, otherwise):
    """Any weight of the model, for its device and precision."""
    return next(model.parameters(), otherwise) if isinstance(model, nn.Module) else otherwise


def window_starts(extent, window, stride):
    """Where windows start along one axis: every `stride`, the last one clamped to the end [authors' release]."""
    count = math.ceil((extent - window) / stride) + 1
    return [min(stride * i, extent - window) for i in range(count)]


def sliding_window(model, volume, patch_size, stride, *, batch_size=None, fusion="softmax", views=False):
    """Mean class probabilities over overlapping windows: volume (*S) or (in_channels, *S) -> (C, *S).

    A volume smaller than the patch is padded with zeros on both sides, the odd voxel behind, and cut back. With
    `views`, {view: (C, *S)} of all views in one pass, the headline first. `stride`: voxels, one per axis or one
    for all. The result is where the model is, or on the CPU where a GPU has no room for it; the model's device also
    says how many windows go at once unless `batch_size` does.
    """
    volume = torch.as_tensor(volume)
    if volume.ndim == len(patch_size):
        volume = volume[None]
    strides = (stride,) * len(patch_size) if isinstance(stride, int) else tuple(stride)
    shape = volume.shape[1:]
    short = [max(patch - extent, 0) for patch, extent in zip(patch_size, shape, strict=True)]
    volume = F.pad(volume, [side for pad in reversed(short) for side in (pad // 2, pad - pad // 2)])
    boxes = [tuple(slice(start, start + patch) for start, patch in zip(corner, patch_size, strict=True))
             for corner in itertools.product(*map(window_starts, volume.shape[1:], patch_size, strides))]
    sums, counts = {}, torch.zeros(volume.shape[1:])
    batch_size = batch_size or AT_ONCE[_weight(model, volume).device.type][len(patch_size)]
    with inference(model):
        for first in range(0, len(boxes), batch_size):
            batch = boxes[first:first + batch_size]
            parts = _wanted(_views(model, torch.stack([volume[:, *box] for box in batch]), batch_size, fusion), views)
            sums = sums or _zeros(parts, volume.shape[1:])
            for view, probs in parts.items():
                for box, prob in zip(batch, probs.to(sums[view].device), strict=True):
                    sums[view][:, *box] += prob
            for box in batch:
                counts[box] += 1
        counts = counts.to(next(iter(sums.values())).device)
        inside = tuple(slice(pad // 2, pad // 2 + extent) for pad, extent in zip(short, shape, strict=True))
        means = {view: total.div_(counts)[:, *inside] for view, total in sums.items()}
    return means if views else next(iter(means.values()))


def _wanted(parts, views):
    """All views, or the headline alone."""
    return parts if views else dict(itertools.islice(parts.items(), 1))


def _zeros(parts, shape):
    """Sums of a whole volume (C, *shape) for each view of a batch, all on the device that has room for them."""
    first = next(iter(parts.values()))
    classes, size = first.shape[1], first.element_size()
    device = room_for(len(parts) * classes * size * math.prod(shape), first.device)
    return {view: torch.zeros(classes, *shape, dtype=first.dtype, device=device) for view in parts}


def slice_wise(model, volume, patch_size, *, batch_size=None, fusion="softmax", views=False):
    """Class probabilities slice by slice: volume (D, H, W) or (in_channels, D, H, W) -> (C, D, H, W).

    Each slice is resized to `patch_size` (nearest) and its probabilities back [authors' release]; `views` and where
    the result is as in `sliding_window`.
    """
    volume = torch.as_tensor(volume)
    if volume.ndim == 3:
        volume = volume[None]
    slices = resize_nearest(volume.transpose(0, 1), patch_size)
    batch_size = batch_size or AT_ONCE[_weight(model, slices).device.type][2]
    stacks = {}
    with inference(model):
        for first in range(0, len(slices), batch_size):
            batch = slices[first:first + batch_size]
            parts = _wanted(_views(model, batch, batch_size, fusion), views)
            stacks = stacks or _zeros({view: probs.float() for view, probs in parts.items()}, volume.shape[1:])
            for view, probs in parts.items():
                stacks[view][:, first:first + len(batch)] = resize_nearest(
                    probs.float(), volume.shape[2:]).transpose(0, 1).to(stacks[view].device)
    return stacks if views else next(iter(stacks.values()))


def segment(model, image, recipe, coarse=False):
    """{view: class probabilities (C, *S)} of a whole scan on its own grid; image (in_channels, *S), *S three axes.

    recipe: a train script's. Patches of three axes are windows, at half resolution where the recipe says so; of two
    axes, windows in slices along the first axis, or whole slices where the recipe has no stride. coarse: windows side
    by side, for validation during training.
    """
    if recipe.normalise == "zscore":
        image = torch.from_numpy(standardised(image.numpy(), len(recipe.patch_size))[0])
    if recipe.stride is None:
        return slice_wise(model, image, recipe.patch_size, views=True)
    stride = recipe.patch_size if coarse else recipe.stride
    if len(recipe.patch_size) == 2:
        stacks = [sliding_window(model, image[:, k], recipe.patch_size, stride, views=True)
                  for k in range(image.shape[1])]
        return {view: torch.stack([probs[view] for probs in stacks], 1) for view in stacks[0]}
    small = halved(image) if recipe.half_resolution else image
    views = sliding_window(model, small, recipe.patch_size, stride, views=True)
    if recipe.half_resolution:
        views = {view: F.interpolate(probs[None], image.shape[1:], mode="trilinear", align_corners=False)[0]
                 for view, probs in views.items()}
    return views


def likeliest(probs):
    """The likeliest class of each voxel, the first of equals: probabilities (C, *S) -> (*S) uint8, NumPy."""
    return _likeliest(probs).cpu().numpy()


def _likeliest(probs):
    return probs.max(0).indices.byte()      # many times faster than argmax over the first axis


def class_dice(pred, ref, num_classes):
    """Dice of each foreground class of two label maps (*S), tensors on one device, as `overlap_metrics` has it.

    A GPU counts its voxels itself; on a CPU NumPy counts several times faster than PyTorch.
    """
    if pred.device.type == "cpu":
        pred, ref = pred.numpy(), ref.numpy()
        return [overlap_metrics(pred == label, ref == label)["dice"] for label in range(1, num_classes)]
    return counted_dice(pred, ref, num_classes)


def counted_dice(pred, ref, num_classes):
    """`class_dice` on any device, with one transfer."""
    counts = []
    for label in range(1, num_classes):
        of_pred, of_ref = pred == label, ref == label
        counts.append(torch.stack([(of_pred & of_ref).sum(), of_pred.sum() + of_ref.sum()]))
    return [2 * both / total if total else 1.0 for both, total in torch.stack(counts).tolist()]


def mean_dice(model, scans, segment, num_classes):
    """Validation: {view: mean foreground Dice} over scans and classes, on each scan's own grid, nothing removed.

    segment(model, image) -> {view: probabilities (C, *S)}; scans have `image` and `label`. Of several processes
    each brings its shard of the scans and gets the mean over all.
    """
    scores = []
    for scan in scans:
        scores.append({view: class_dice(_likeliest(probs), scan.label.to(probs.device), num_classes)
                       for view, probs in segment(model, scan.image).items()})
    scores = Ranks().gather(scores)
    return {view: float(np.mean([score[view] for score in scores])) for view in scores[0]}
