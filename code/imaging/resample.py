"""Linear resampling of images and label maps; the outer faces of the volume stay where they are.

Shapes: *S any grid of any number of axes. Equal to scipy.ndimage.zoom(order=1, mode="nearest", grid_mode=True) and to
torch's interpolate(align_corners=False), without torch, and one axis at a time.
"""
import numpy as np

TIE = 1e-6      # shares of one voxel that differ by less are equal: rounding decides nothing


def resample(volume, shape):
    """Floats (*S) -> the same over `shape`, linear; the volume itself where it has that shape."""
    growth = [new / old for new, old in zip(shape, volume.shape, strict=True)]
    for axis in np.argsort(growth, kind="stable"):      # what shrinks comes first: less to do
        old, new = volume.shape[axis], shape[axis]
        if new == old:
            continue
        place = ((np.arange(new) + 0.5) * (old / new) - 0.5).clip(0, old - 1)
        low = place.astype(int)
        weight = (place - low).astype(volume.dtype).reshape([-1 if a == axis else 1 for a in range(volume.ndim)])
        upper = volume.take(np.minimum(low + 1, old - 1), axis)
        volume = volume.take(low, axis)
        volume *= 1 - weight
        upper *= weight
        volume += upper
    return volume


def resample_label(label, shape):
    """Class map (*S) of integers -> the same over `shape`: each voxel gets the class with the largest share of it.

    Shares are the classes' one-hot maps, resampled as an image is, so that the label stays on its image; one class
    is in memory at a time. Of equal shares the highest class wins: with two classes, foreground is where its share is
    1/2 or more.
    """
    shape = tuple(shape)
    if label.shape == shape:
        return label
    classes = np.flatnonzero(np.bincount(label.ravel()))
    decided = np.full(shape, classes[0], label.dtype)
    if len(classes) == 1:
        return decided
    largest = resample((label == classes[0]).astype(np.float32), shape)
    for number in classes[1:]:
        share = resample((label == number).astype(np.float32), shape)
        wins = share > largest - TIE
        decided[wins] = number
        np.maximum(largest, share, out=largest)
    return decided
