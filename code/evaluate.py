"""Inference and metrics: the same functions choose checkpoints during training and fill the test row.

Shapes: B patches, C classes, *S spatial. A model is a `Method`, or any network or function that maps
(B, in_channels, *S) to logits (B, C, *S), to (logits, feature), or to two such pairs. Voxel counts and distances
are in voxels unless a spacing is given.
"""
import itertools
import math
from contextlib import contextmanager, nullcontext

import cc3d
import numpy as np
import torch
import torch.nn.functional as F
from scipy.spatial import cKDTree
from torch import Tensor, nn

from runtime.device import AT_ONCE
from runtime.fast_layers import folded
from runtime.ranks import Ranks

# ---- class probabilities -------------------------------------------------------------------------------------


def class_probabilities(output, fusion="softmax"):
    """A network's output -> {view: probabilities (B, C, *S)}, the headline first.

    One network: {"network": ...}. Two views: {"fused": ..., "subnet0": ..., "subnet1": ...}, fused as
    (P_0 + P_1) / 2 (Section 3.3), or with fusion="logits" as softmax of the mean logits [authors' release].
    """
    if isinstance(output, Tensor):
        return {"network": output.softmax(1)}
    if isinstance(output[0], Tensor):
        return {"network": output[0].softmax(1)}
    if fusion not in ("softmax", "logits"):
        raise ValueError(f"fusion {fusion!r} is unknown: choose 'softmax' or 'logits'")
    (logits0, _), (logits1, _) = output
    views = {"subnet0": logits0.softmax(1), "subnet1": logits1.softmax(1)}
    if fusion == "logits":
        fused = ((logits0 + logits1) / 2).softmax(1)
    else:
        fused = (views["subnet0"] + views["subnet1"]) / 2
    return {"fused": fused, **views}


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
    `views`, {view: (C, *S)} of all views in one pass, the headline first. `stride`: voxels, one an axis or one
    for all. Sums are kept on the model's device, which also says how many windows go at once unless `batch_size` does.
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
            for view, probs in predict(model, torch.stack([volume[:, *box] for box in batch]), fusion).items():
                total = sums.setdefault(view, probs.new_zeros(probs.shape[1], *volume.shape[1:]))
                for box, prob in zip(batch, probs, strict=True):
                    total[:, *box] += prob
            for box in batch:
                counts[box] += 1
    inside = tuple(slice(pad // 2, pad // 2 + extent) for pad, extent in zip(short, shape, strict=True))
    means = {view: (total.cpu() / counts)[:, *inside] for view, total in sums.items()}
    return means if views else next(iter(means.values()))


def nearest_indices(extent, size):
    """Which of `extent` samples each of `size` takes: scipy.ndimage.zoom with order 0, ends on ends.

    (Where rounding pushes zoom's last coordinate past the end it fills in 0; here the last sample stays.)
    """
    step = (extent - 1) / max(size - 1, 1)
    return np.minimum(np.floor(np.arange(size) * step + 0.5).astype(np.int64), extent - 1)


def resize_nearest(maps, size):
    """Array or tensor (..., H, W) -> (..., *size), as the release resizes slices and predictions back."""
    rows, columns = nearest_indices(maps.shape[-2], size[0]), nearest_indices(maps.shape[-1], size[1])
    return maps[..., rows[:, None], columns]


def slice_wise(model, volume, patch_size, *, batch_size=None, fusion="softmax", views=False):
    """Class probabilities slice by slice: volume (D, H, W) or (in_channels, D, H, W) -> (C, D, H, W).

    Each slice is resized to `patch_size` (nearest) and its probabilities back [authors' release]; `views` as in
    `sliding_window`.
    """
    volume = torch.as_tensor(volume)
    if volume.ndim == 3:
        volume = volume[None]
    slices = resize_nearest(volume.transpose(0, 1), patch_size)
    parts = {}
    with inference(model):
        for batch in slices.split(batch_size or AT_ONCE[_weight(model, slices).device.type][2]):
            for view, probs in predict(model, batch, fusion).items():
                parts.setdefault(view, []).append(resize_nearest(probs.float().cpu(), volume.shape[2:]))
    stacks = {view: torch.cat(probs).transpose(0, 1) for view, probs in parts.items()}
    return stacks if views else next(iter(stacks.values()))


# ---- label maps ----------------------------------------------------------------------------------------------


def likeliest(probs):
    """The likeliest class of each voxel, the first of equals: probabilities (C, *S) -> (*S) uint8, NumPy."""
    return probs.max(0).indices.byte().numpy()      # many times faster than argmax, whose classes are far apart


def largest_component(label_map):
    """Keep each class's largest component, full connectivity (26 in 3D, 8 in 2D); (*S) ints -> the same, NumPy.

    A tie goes to the component with the first voxel in C order; an empty class stays empty. The paper calls it
    NMS; connectivity as the authors' release.
    """
    label_map = np.ascontiguousarray(label_map)
    # numbered in the order of their first voxels, so that a stable sort settles ties
    components = cc3d.connected_components(label_map, connectivity=26 if label_map.ndim == 3 else 8)
    places = np.flatnonzero(label_map != 0)
    numbers, labels = components.ravel()[places], label_map.ravel()[places]
    sizes = np.bincount(numbers, minlength=1)
    classes = np.zeros(len(sizes), label_map.dtype)
    classes[numbers] = labels
    by_size = np.argsort(-sizes, kind="stable")
    keep = np.zeros(len(sizes), bool)
    keep[by_size[np.unique(classes[by_size], return_index=True)[1]]] = True
    kept, chosen = np.zeros_like(label_map), keep[numbers]
    kept.ravel()[places[chosen]] = labels[chosen]
    return kept


def largest_components(label_maps):
    """`largest_component` of each map of a tensor (views, B, *S) of up to 256 classes; same dtype and device.

    One transfer to the host and one back, a byte a voxel, whatever the number of maps.
    """
    host = label_maps.to(torch.uint8).cpu().numpy()
    kept = np.empty_like(host)
    for index in np.ndindex(host.shape[:2]):
        kept[index] = largest_component(host[index])
    return torch.from_numpy(kept).to(label_maps.device).to(label_maps.dtype)


# ---- metrics -------------------------------------------------------------------------------------------------


def overlap_metrics(pred, ref):
    """Dice and Jaccard of two boolean masks; two empty masks agree: 1."""
    pred, ref = np.asarray(pred, bool), np.asarray(ref, bool)
    both, total = int(np.count_nonzero(pred & ref)), int(np.count_nonzero(pred) + np.count_nonzero(ref))
    if not total:
        return {"dice": 1.0, "jaccard": 1.0}
    return {"dice": 2 * both / total, "jaccard": both / (total - both)}


def _surface(mask, spacing):
    """Coordinates (N, ndim) of mask voxels with a neighbour (6 in 3D, 4 in 2D) outside the mask or the array."""
    inner = np.pad(mask, 1)
    border = np.zeros_like(mask)
    core = (slice(1, -1),) * mask.ndim
    for axis in range(mask.ndim):
        for shift in (slice(0, -2), slice(2, None)):
            border |= ~inner[(*core[:axis], shift, *core[axis + 1:])]
    return np.argwhere(border & mask) * spacing


def surface_metrics(pred, ref, spacing=None):
    """Dice, Jaccard, hd95 and asd of two masks (*S) of one class, as medpy computes them (DESIGN: voxels).

    hd95 pools the surface distances of both directions and takes their 95th percentile; asd is the mean distance
    from the prediction's surface to the reference's. `spacing`: mm an axis; distances are in voxels without it.
    Where either mask is empty both distances are NaN. Raises ValueError when the shapes differ.
    """
    pred, ref = np.asarray(pred) > 0, np.asarray(ref) > 0
    if pred.shape != ref.shape:
        raise ValueError(f"prediction {pred.shape} and reference {ref.shape} differ in shape")
    metrics = overlap_metrics(pred, ref) | {"hd95": math.nan, "asd": math.nan}
    if not (pred.any() and ref.any()):
        return metrics
    box = _bounding_box(pred | ref)
    spacing = np.ones(pred.ndim) if spacing is None else np.broadcast_to(np.asarray(spacing, float), pred.ndim)
    pred_surface, ref_surface = _surface(pred[box], spacing), _surface(ref[box], spacing)
    to_ref = cKDTree(ref_surface).query(pred_surface)[0]
    to_pred = cKDTree(pred_surface).query(ref_surface)[0]
    return metrics | {"hd95": float(np.percentile(np.concatenate([to_ref, to_pred]), 95)),
                      "asd": float(to_ref.mean())}


def _bounding_box(mask):
    """Slices around the True voxels of a mask that has some."""
    spans = []
    for axis in range(mask.ndim):
        hits = np.flatnonzero(mask.any(tuple(a for a in range(mask.ndim) if a != axis)))
        spans.append(slice(hits[0], hits[-1] + 1))
    return tuple(spans)


def class_metrics(pred, ref, num_classes, spacing=None):
    """`surface_metrics` of each foreground class of two label maps (*S) -> rows, empty_pred and empty_ref added."""
    rows = []
    for label in range(1, num_classes):
        masks = pred == label, ref == label
        empty = {"empty_pred": int(not masks[0].any()), "empty_ref": int(not masks[1].any())}
        rows.append({"class": label, **surface_metrics(*masks, spacing), **empty})
    return rows


def mean_dice(model, scans, segment, num_classes):
    """Validation: {view: mean foreground Dice} over scans and classes, on each scan's own grid, nothing removed.

    segment(model, image) -> {view: probabilities (C, *S)}; scans have `image` and `label`. Of several processes
    each brings its shard of the scans and gets the mean over all.
    """
    scores = []
    for scan in scans:
        ref, score = scan.label.numpy(), {}
        for view, probs in segment(model, scan.image).items():
            pred = likeliest(probs)
            score[view] = [overlap_metrics(pred == label, ref == label)["dice"] for label in range(1, num_classes)]
        scores.append(score)
    scores = Ranks().gather(scores)
    return {view: float(np.mean([score[view] for score in scores])) for view in scores[0]}
