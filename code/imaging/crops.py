"""Where a scan is cropped: around its label, its brain, or what is bright."""
import numpy as np
from skimage.filters import threshold_otsu

LABEL_MARGIN = (10, 20)     # voxels added to a side of the label box: 10 to 19, random       [C]
LABEL_SIDE = 112            # voxels: the label box is widened to this before the margin      [C]
FOREGROUND_SHARE = 0.01     # share of a plane above Otsu's threshold that makes it foreground [O]


def _span(mask, axis, share=0.0):
    """First and last + 1 of the planes along `axis` with over `share` of their voxels in the mask, or all."""
    planes = np.flatnonzero(mask.mean(axis=tuple(a for a in range(3) if a != axis)) > share)
    return [int(planes[0]), int(planes[-1]) + 1] if len(planes) else [0, mask.shape[axis]]


def crop_box(volume, brain, label, preprocessing, rng):
    """[[first, last + 1], ...] of three axes. "label" and "foreground" crop in plane and keep the depth."""
    whole = [[0, n] for n in volume.shape]
    if preprocessing.crop == "brain":
        # the label may reach beyond the brain and must not be cut
        union = brain if label is None else brain | (label > 0)
        return [_span(union, axis) for axis in range(3)]
    if preprocessing.crop == "foreground":
        bright = volume > threshold_otsu(volume.ravel())
        return [*(_span(bright, axis, FOREGROUND_SHARE) for axis in (0, 1)), whole[2]]
    if preprocessing.crop == "label" and label is not None:
        rng = np.random.default_rng(preprocessing.seed) if rng is None else rng
        for axis in (0, 1):
            first, last = _span(label > 0, axis)
            missing = max(LABEL_SIDE - (last - first), 0)
            first -= missing // 2 + int(rng.integers(*LABEL_MARGIN))
            last += missing - missing // 2 + int(rng.integers(*LABEL_MARGIN))
            whole[axis] = [max(first, 0), min(last, volume.shape[axis])]
    return whole
