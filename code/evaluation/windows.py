"""Which windows a test or a prediction looks through: how far apart, and how their voxels count."""
from typing import Any, NamedTuple

from runtime.errors import InputError

WEIGHTS = "uniform", "gaussian"     # of the voxels of a window
DISAGREEMENT = "disagreement"       # of runs and views, beside the mean of their probabilities


class Member(NamedTuple):
    """One of several runs that segment together."""

    method: Any
    recipe: Any
    windows: dict       # as `windows_of` gives them


def windows_of(recipe, stride=(), weights=None, fast=False):
    """{"stride", "weights"} for `segment`: those that are asked for, else the recipe's; {} of a network for slices.

    fast: else half a patch apart with Gaussian weights, which costs a fraction. InputError for what leaves gaps.
    """
    asked = f"--stride {' '.join(map(str, stride))}" * bool(stride) or f"--weights {weights}" * bool(weights)
    if recipe.stride is None:
        if asked:
            raise InputError(f"{asked}: this run's network takes whole slices and has no windows; leave it out")
        return {}
    if stride and (len(stride) != len(recipe.patch_size) or any(
            not 0 < step <= edge for step, edge in zip(stride, recipe.patch_size, strict=True))):
        raise InputError(f"{asked}: expected {len(recipe.patch_size)} numbers of voxels from 1 to the window's "
                         f"{' '.join(map(str, recipe.patch_size))}")
    usual = tuple(edge // 2 for edge in recipe.patch_size) if fast else tuple(recipe.stride)
    return {"stride": tuple(stride) or usual,
            "weights": weights or ("gaussian" if fast else recipe.window_weights)}
