"""Metrics of label maps: Dice, Jaccard, 95 % Hausdorff distance and average surface distance, as medpy defines them.

Shapes: *S spatial, C classes. Voxel counts and distances are in voxels unless a spacing is given.
"""
import math

import numpy as np
from scipy.spatial import cKDTree


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
    from the prediction's surface to the reference's. `spacing`: mm per axis; distances are in voxels without it.
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
