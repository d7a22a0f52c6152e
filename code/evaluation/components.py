"""Post-processing of label maps: which classes keep their largest component alone."""
import numpy as np

from dataloaders.components import largest_component

__all__ = ["keep_largest", "kept_classes", "largest_component"]


def keep_largest(label_map, which):
    """`largest_component` of some classes of a label map (*S), NumPy.

    which: True (every class), False (none), or the numbers of the classes that keep one component alone.
    """
    if which is True:
        return largest_component(label_map)
    if not which:
        return label_map
    chosen = np.isin(label_map, which)
    return np.where(chosen, largest_component(np.where(chosen, label_map, 0)), label_map)


def kept_classes(which):
    """`which` in the words of a result: 'none', 'each', or the classes' numbers."""
    return {True: "each", False: "none"}.get(which) or " ".join(map(str, which)) or "none"
