"""Random crops, flips and rotations on NumPy arrays, image and label alike.

Each function takes a list of arrays of one shape (*S) (None passes through, for the absent label) and a
np.random.Generator, and draws the same numbers whatever the list holds. The constants are the authors' release's.
"""
import numpy as np
from scipy import ndimage


def rotate_flip(arrays, rng):
    """A multiple of 90 degrees in the plane of the first two axes, then one flip along one of them; views."""
    quarters, axis = rng.integers(4), rng.integers(2)
    return each(arrays, lambda a: np.flip(np.rot90(a, quarters), axis))


def rotate_small(arrays, rng):
    """A whole angle of -20 to 19 degrees in the plane, nearest neighbour, zeros from outside; (H, W) arrays."""
    angle = int(rng.integers(-20, 20))
    return each(arrays, lambda a: ndimage.rotate(a, angle, order=0, reshape=False))


def random_crop(arrays, size, rng):
    """A window of `size` voxels at a random offset, see `random_start`; zeros where it reaches beyond the array."""
    starts = random_start(arrays, size, rng)
    return each(arrays, lambda a: window_at(a, starts, size))


def random_start(arrays, size, rng):
    """Where a window of `size` voxels starts: a random offset in [0, extent - size), the last one left out.

    Once any axis is not longer than the window, every axis is padded first, by max((size - extent) // 2 + 3, 0) zeros
    on both sides: also one that is up to four voxels longer than the window. Offsets into those zeros are negative.
    """
    shape = next(a for a in arrays if a is not None).shape
    short = any(extent <= window for extent, window in zip(shape, size, strict=True))
    pads = [max((window - extent) // 2 + 3, 0) if short else 0 for extent, window in zip(shape, size, strict=True)]
    return [int(rng.integers(extent + 2 * pad - window)) - pad
            for extent, pad, window in zip(shape, pads, size, strict=True)]


def window_at(array, starts, size):
    """`size` voxels from `starts` on, zeros where they are beyond the array; a view where none are."""
    ends = [start + window for start, window in zip(starts, size, strict=True)]
    inside = array[tuple(slice(max(start, 0), end) for start, end in zip(starts, ends, strict=True))]
    pads = [(max(-start, 0), max(end - extent, 0))
            for start, end, extent in zip(starts, ends, array.shape, strict=True)]
    return np.pad(inside, pads) if any(map(any, pads)) else inside


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


def standardised(image, ndim):
    """Array (..., *S), S of `ndim` axes -> the same with mean 0 and deviation 1 over S; its mean, its deviation.

    Where all of S is one value, the deviation that is divided by is 1.
    """
    axes = tuple(range(-ndim, 0))
    mean, deviation = image.mean(axes, keepdims=True), image.std(axes, keepdims=True)
    deviation = np.where(deviation > 0, deviation, np.float32(1))
    return (image - mean) / deviation, mean, deviation


def each(arrays, change):
    """[change(array), ...], None where the array is None."""
    return [None if a is None else change(a) for a in arrays]
