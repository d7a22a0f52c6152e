"""Signed distance maps of masks, and the way back: what SASSNet and DTC let a second head predict.

Shapes: B samples, C classes, K = C - 1 foreground classes, *S two or three spatial axes. Distances are in voxels.
"""
import numpy as np
import torch
from scipy import ndimage

from methods.losses import not_ignored, widened

STEEPNESS = 1500        # of the level set function         [C]


def signed_distance(masks):
    """bool (B, *S), tensor on the CPU or array -> array (B, *S) float64 of each sample's signed distances.

    Outside the distance to the mask over its largest, inside minus the distance to the background over its largest:
    from -1 to 1, and 0 on the mask's voxels with a face neighbour outside it. The sample's edge is no boundary. An
    empty mask is 0 everywhere [C]; so is a full one, which the release divides by 0 [O].
    """
    return np.stack([_signed_distance(mask) for mask in np.asarray(masks, dtype=bool)])


def _signed_distance(mask):
    if not mask.any() or mask.all():
        return np.zeros(mask.shape)
    signed = ndimage.distance_transform_edt(~mask)
    signed /= signed.max()
    box = _box(mask)
    inside, within = mask[box], ndimage.distance_transform_edt(mask[box])
    signed[box] = np.where(inside, np.where(within == 1, 0, -within / within.max()), signed[box])
    return signed


def _box(mask):
    """The mask's bounding box and one voxel more, where there is one: each of its voxels' nearest background is here.

    Distances inside the mask cost what the mask is large, not the patch.
    """
    slices, = ndimage.find_objects(mask.astype(np.uint8))
    return tuple(slice(max(one.start - 1, 0), one.stop + 1) for one in slices)


def distance_maps(label, num_classes):
    """A label map (*S) uint8 -> (K, *S) float32, one map for each foreground class; a class that is absent has 0s."""
    return signed_distance([label == name for name in range(1, num_classes)]).astype(np.float32)


def distance_loss(maps, target, label):
    """Mean squared difference of signed distances (B, K, *S) over the patches whose labels (B, *S) are drawn in full.

    How far the surface is can be said of no voxel of a patch that has IGNORED ones. -> scalar, 0 without such patches.
    """
    drawn = not_ignored(label).all(-1, keepdim=True)
    errors = (widened(maps) - target).square().flatten(2)
    return (errors * drawn).sum() / (drawn.sum() * errors[0].numel()).clamp(min=1)


def level_set(z):
    """Signed distances of any shape -> sigmoid(-1500 z): 1 inside, 0 outside, differentiable [C]."""
    return (-STEEPNESS * widened(z)).sigmoid()


def level_set_probabilities(maps):
    """Signed distance maps (B, K, *S) -> (B, C, *S): with one foreground class 1 - l and l, l its level set.

    With more, the softmax of 0 and -1500 z [O].
    """
    scores = -STEEPNESS * widened(maps)
    return torch.cat([torch.zeros_like(scores[:, :1]), scores], 1).softmax(1)


def views_of(logits, maps):
    """Both heads' class probabilities (B, C, *S), by the name of the view: the segmentation's, the level sets'."""
    return {"network": widened(logits).softmax(1), "level_set": level_set_probabilities(maps)}
