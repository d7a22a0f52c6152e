"""Metrics of label maps: Dice, Jaccard, 95 % Hausdorff distance and average surface distance, as medpy defines them.

Shapes: *S spatial, C classes. Voxel counts and distances are in voxels unless a spacing is given.
"""
import math

import numpy as np
from scipy.spatial import cKDTree

from imaging.cases import IGNORED

ROUNDING = 1e-9     # of distances that equal the tolerance


def overlap_metrics(pred, ref):
    """Dice and Jaccard of two boolean masks; two empty masks agree: 1."""
    pred, ref = np.asarray(pred, bool), np.asarray(ref, bool)
    return _overlap(int(np.count_nonzero(pred & ref)), int(np.count_nonzero(pred) + np.count_nonzero(ref)))


def _overlap(both, total):
    """Of the voxels that both masks have, and the sum of each one's."""
    if not total:
        return {"dice": 1.0, "jaccard": 1.0}
    return {"dice": 2 * both / total, "jaccard": both / (total - both)}


def where_labelled(pred, ref):
    """Two label maps (*S), arrays or tensors, with background in both where ref is IGNORED."""
    there = ref != IGNORED
    return pred * there, ref * there


def overlap_of_classes(pred, ref, num_classes):
    """Dice of each foreground class of two label maps (*S); NaN of a class that neither has."""
    pred, ref = where_labelled(pred, ref)
    masks = [(pred == label, ref == label) for label in range(1, num_classes)]
    return [overlap_metrics(*pair)["dice"] if any(mask.any() for mask in pair) else math.nan for pair in masks]


def of_classes_there(dice):
    """Dice (cases, ..., classes), NaN where neither map has a class -> without the classes that are nowhere.

    Where other cases have a class, two maps without it agree: 1. Where no case has any, all stay NaN. The same in every
    table, validation and agreement.
    """
    dice = np.array(dice, float)
    there = ~np.isnan(dice).all(tuple(range(dice.ndim - 1)))
    return np.where(np.isnan(dice), 1.0, dice)[..., there] if there.any() else dice


def _surface(mask, box, spacing):
    """Coordinates (N, ndim) of the voxels of a mask that lies in `box` with a neighbour (6 in 3D, 4 in 2D) outside it.

    Outside the array is outside the mask.
    """
    mask = mask[box]
    inner = np.pad(mask, 1)
    border = np.zeros_like(mask)
    core = (slice(1, -1),) * mask.ndim
    for axis in range(mask.ndim):
        for shift in (slice(0, -2), slice(2, None)):
            border |= ~inner[(*core[:axis], shift, *core[axis + 1:])]
    return (np.argwhere(border & mask) + [span.start for span in box]) * spacing


def surface_metrics(pred, ref, spacing=None, tolerance=None):
    """Dice, Jaccard, hd95 and asd of two masks (*S) of one class, as medpy computes them.

    hd95 pools the surface distances of both directions and takes their 95th percentile (other packages: the larger of
    the two directions' percentiles); asd is the mean distance from the prediction's surface to the reference's, one
    way. Outside the array is background: the end slices of what reaches its edge are surface, of a single slice all
    voxels (see `class_metrics`). `spacing`: mm per axis; distances are in voxels without it.
    Where either mask is empty both distances are NaN. Raises ValueError when the shapes differ.
    With a `tolerance`, in the unit of the distances, also surface_dice: the share of both surfaces' voxels that lie no
    further than that from the other surface (Nikolov et al. 2021; each surface voxel counts once, as in MONAI); of one
    empty mask 0, of two NaN.
    """
    pred, ref = (mask if mask.dtype == bool else mask > 0 for mask in map(np.asarray, (pred, ref)))
    if pred.shape != ref.shape:
        raise ValueError(f"prediction {pred.shape} and reference {ref.shape} differ in shape")
    boxes = _bounding_box(pred), _bounding_box(ref)
    if None in boxes:
        both_empty = boxes == (None, None)
        return overlap_metrics(pred, ref) | {"hd95": math.nan, "asd": math.nan} | (
            {} if tolerance is None else {"surface_dice": math.nan if both_empty else 0.0})
    sizes = sum(int(np.count_nonzero(mask[box])) for mask, box in zip((pred, ref), boxes, strict=True))
    common = tuple(slice(max(one.start, other.start), max(one.start, other.start, min(one.stop, other.stop)))
                   for one, other in zip(*boxes, strict=True))
    spacing = np.ones(pred.ndim) if spacing is None else np.broadcast_to(np.asarray(spacing, float), pred.ndim)
    pred_surface, ref_surface = (_surface(mask, box, spacing) for mask, box in zip((pred, ref), boxes, strict=True))
    to_ref = cKDTree(ref_surface).query(pred_surface)[0]
    to_pred = cKDTree(pred_surface).query(ref_surface)[0]
    distances = np.concatenate([to_ref, to_pred])
    return _overlap(int(np.count_nonzero(pred[common] & ref[common])), sizes) | {
        "hd95": float(np.percentile(distances, 95)), "asd": float(to_ref.mean())} | (
        {} if tolerance is None else {"surface_dice": float((distances <= tolerance * (1 + ROUNDING)).mean())})


def _bounding_box(mask):
    """Slices around the True voxels of a mask, or None; each axis is searched in the span of those before it."""
    box = [slice(None)] * mask.ndim
    for axis in range(mask.ndim):
        hits = np.flatnonzero(mask[tuple(box)].any(tuple(other for other in range(mask.ndim) if other != axis)))
        if not len(hits):
            return None
        box[axis] = slice(int(hits[0]), int(hits[-1]) + 1)
    return tuple(box)


def class_metrics(pred, ref, num_classes, spacing=None, tolerance=None):
    """`surface_metrics` of each foreground class of two label maps (*S) -> rows, empty_pred and empty_ref added.

    A volume of one slice is measured as the image that it is: in a volume, all its voxels would be surface.
    """
    rows, (pred, ref) = [], where_labelled(pred, ref)
    if thin := tuple(axis for axis, extent in enumerate(pred.shape) if extent == 1)[:max(pred.ndim - 2, 0)]:
        pred, ref = (labels.squeeze(thin) for labels in (pred, ref))
        spacing = None if spacing is None else np.delete(np.broadcast_to(spacing, pred.ndim + len(thin)), thin)
    for label in range(1, num_classes):
        masks = pred == label, ref == label
        empty = {"empty_pred": int(not masks[0].any()), "empty_ref": int(not masks[1].any())}
        rows.append({"class": label, **surface_metrics(*masks, spacing, tolerance), **empty})
    return rows


def volume_metrics(pred, ref, num_classes, voxel_ml):
    """ml of each foreground class in two label maps (*S), and how much the prediction's is more -> rows; NaN where the
    ml of a voxel are NaN.
    """
    rows, (pred, ref) = [], where_labelled(pred, ref)
    for label in range(1, num_classes):
        ml, ref_ml = (voxel_ml * int(np.count_nonzero(labels == label)) for labels in (pred, ref))
        rows.append({"ml": ml, "reference_ml": ref_ml, "error_ml": ml - ref_ml})
    return rows
