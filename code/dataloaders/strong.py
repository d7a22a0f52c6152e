"""nnU-Net's augmentation on NumPy arrays: `--augment strong`, in every method.

Constants as in `get_training_transforms` of nnU-Net 2.8's trainer, transforms as in batchgeneratorsv2 0.3.6, on which
it builds: written anew here, since that library draws from global generators and brings fourteen packages along.
"""
import numpy as np
from scipy import ndimage

from dataloaders.augment import each, window_at

GEOMETRY, INTENSITIES = ("strong", "geometry"), ("strong", "intensity")    # values of --augment with the one, the other

TURNED, SCALED, MIRRORED = 0.2, 0.2, 0.5    # how often: by random angles, by one random factor, along each axis
SCALES = 0.7, 1.4                           # voxels of the scan per voxel of the patch
DEGREES = {2: 180, 3: 30}                   # largest angle, either way, in the plane or about each of three axes ...
NARROW_PLANE = 1.5, 15                      # ... and in a plane whose one extent is so many times the other
NOISE = 0.1, (0.0, 0.1)                     # how often; standard deviation
BLUR = 0.2, 0.5, (0.5, 1.0)                 # how often, and then how many of the channels; deviation in voxels
BRIGHTNESS = CONTRAST = 0.15, (0.75, 1.25)  # how often; factor
LOW_RESOLUTION = 0.25, 0.5, (0.5, 1.0)      # how often, and then how many of the channels; share of the extents
GAMMAS = (0.1, True), (0.3, False)          # how often, and whether of the inverted image
EXPONENTS = 0.7, 1.5                        # of a gamma


def distort(arrays, starts, size, rng, mirrors=None, turns=True):
    """The window of `size` voxels at `starts`, at times turned and scaled about its middle; then mirrored.

    Images linear, zeros from outside; a label takes the class with the largest share. mirrors: axes along which the
    window may be flipped, by default all; turns: whether slices may be turned by any angle, or by small ones alone.
    """
    matrix = _matrix(size, rng, turns)
    flips = [axis for axis in (range(len(size)) if mirrors is None else mirrors) if rng.random() < MIRRORED]
    if matrix is None:
        return each(arrays, lambda a: np.flip(window_at(a, starts, size), flips))
    middle = (np.array(size) - 1) / 2
    offset = middle + starts - matrix @ middle

    def resampled(array):
        return ndimage.affine_transform(array, matrix, offset, output_shape=tuple(size), output=np.float32, order=1,
                                        mode="grid-constant")

    def moved(array):
        if array.dtype != np.uint8:
            return resampled(array)
        classes = np.unique(array[array > 0])
        shares = [resampled((array == c).astype(np.float32)) for c in classes]
        background = 1 - sum(shares, np.zeros(size, np.float32))        # what is outside included
        return np.array([0, *classes], np.uint8)[np.stack([background, *shares]).argmax(0)]
    return each(arrays, lambda a: np.flip(moved(a), flips))


def _matrix(size, rng, turns=True):
    """Rotation times scale, patch to scan, of as many axes as `size`; None where neither is drawn."""
    turned, scaled = rng.random() < TURNED, rng.random() < SCALED
    if not (turned or scaled):
        return None
    ratio, narrow = NARROW_PLANE
    small = not turns or max(size) > ratio * min(size)
    degrees = narrow if len(size) == 2 and small else DEGREES[len(size)]
    matrix = np.eye(len(size)) * (rng.uniform(*SCALES) if scaled else 1)
    planes = [(0, 1)] if len(size) == 2 else [(1, 2), (2, 0), (0, 1)]
    for plane in planes if turned else []:
        angle = np.deg2rad(rng.uniform(-degrees, degrees))
        turn = np.eye(len(size))
        turn[np.ix_(plane, plane)] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        matrix = turn @ matrix
    return matrix


def intensities(image, rng):
    """Noise, blur, brightness, contrast, low resolution and gamma, each at times: (channels, *P) float32 -> the same.

    For images whose intensities have a mean of 0 and a deviation of 1, about which brightness and noise are.
    """
    often, deviations = NOISE
    if rng.random() < often:
        image = image + np.float32(rng.uniform(*deviations)) * rng.standard_normal(image.shape, np.float32)
    often, share, deviations = BLUR
    if rng.random() < often:
        image = np.stack([_blurred(x, rng.uniform(*deviations, x.ndim)) if rng.random() < share else x for x in image])
    often, factors = BRIGHTNESS
    if rng.random() < often:
        image = np.stack([x * _factor(*factors, rng) for x in image])
    often, factors = CONTRAST
    if rng.random() < often:
        image = np.stack([_contrast(x, _factor(*factors, rng)) for x in image])
    often, share, scales = LOW_RESOLUTION
    if rng.random() < often:
        image = np.stack([_low_resolution(x, rng.uniform(*scales)) if rng.random() < share else x for x in image])
    for often, inverted in GAMMAS:
        if rng.random() < often:
            sign = np.float32(-1 if inverted else 1)
            image = np.stack([sign * _gamma(sign * x, _factor(*EXPONENTS, rng)) for x in image])
    return image


def _factor(low, high, rng):
    """Below 1 as often as above, uniform on either side."""
    return np.float32(rng.uniform(low, 1) if rng.random() < 0.5 else rng.uniform(1, high))


def _blurred(x, deviations):
    """Gaussian of as many taps as nnU-Net's: the odd number nearest to six deviations and a half."""
    radii = [round((6 * deviation + 0.5 - 1) / 2) for deviation in deviations]
    return ndimage.gaussian_filter(x, deviations, radius=radii, mode="mirror")


def _contrast(x, factor):
    """About the mean, within the range that there was."""
    mean = x.mean()
    return ((x - mean) * factor + mean).clip(x.min(), x.max())


def _low_resolution(x, scale):
    """Shrunk, nearest, and back, linear."""
    import torch  # here: options are read without PyTorch
    import torch.nn.functional as F
    small = F.interpolate(torch.from_numpy(x)[None, None], [round(extent * scale) for extent in x.shape],
                          mode="nearest-exact")
    return F.interpolate(small, x.shape, mode="bilinear" if x.ndim == 2 else "trilinear")[0, 0].numpy()


def _gamma(x, exponent):
    """A power of the intensities within their range; mean and deviation stay."""
    low, spread = x.min(), max(np.ptp(x), np.float32(1e-7))
    y = ((x - low) / spread) ** exponent * spread + low
    return (y - y.mean()) * (x.std() / max(y.std(), np.float32(1e-7))) + x.mean()
