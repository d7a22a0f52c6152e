"""Intensities as the network sees them, and what no network should see."""
import numpy as np

from runtime.errors import InputError


def normalised(volume, kind):
    """The whole scan to mean 0 and deviation 1 (zscore), or to 0 to 1 (minmax)."""
    with np.errstate(all="ignore"):     # what is not finite is found by `check_image`
        if kind == "minmax":
            low, high = float(volume.min()), float(volume.max())
            return (volume - low) / (high - low)
        return (volume - float(volume.mean(dtype=float))) / float(volume.std(dtype=float))


def windowed(volume, window):
    """Cut at the window's lowest and highest value, less its mean, over its deviation."""
    low, high, mean, deviation = map(np.float32, window)
    return (volume.clip(low, high) - mean) / deviation


def zscore_brain(volume, brain, preprocessing):
    """Cut above the percentile of the whole crop, z-score over the brain; around it, see `Preprocessing.background`."""
    if preprocessing.clip is not None:
        volume = np.minimum(volume, np.float32(np.percentile(volume, preprocessing.clip)))
    inside = volume[brain] if brain.any() else np.array(np.nan)
    with np.errstate(all="ignore"):
        scaled = (volume - float(inside.mean(dtype=float))) / float(inside.std(dtype=float))
    return scaled if preprocessing.background == "own" else np.where(brain, scaled, np.float32(0))


def check_image(scan, volume, preprocessing):
    """InputError where a prepared image is one value or has others than numbers."""
    low, high = volume.min(), volume.max()      # NaN, where there is one
    if not np.isfinite([low, high]).all() or low == high:
        found = "has voxels that are NaN or infinite" if low != high else f"is {low:g} everywhere"
        raise InputError(f"{scan.path}: prepared ({preprocessing.normalise}, crop {preprocessing.crop}), it {found}; "
                         f"its values go from {scan.array.min():g} to {scan.array.max():g}, expected an image: export "
                         "it again, or prepare the data in another way")
