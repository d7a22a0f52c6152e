"""Post-processing of label maps: which classes keep their largest component alone."""
from dataloaders.components import largest_component

__all__ = ["keep_largest", "kept_classes", "largest_component"]


def keep_largest(label_map, which):
    """`largest_component` of some classes of a label map (*S), NumPy.

    which: True (every class), False (none), or the numbers of the classes that keep one component alone.
    """
    return largest_component(label_map, which) if which else label_map


def kept_classes(which):
    """`which` in the words of a result: 'none', 'each', or the classes' numbers."""
    return {True: "each", False: "none"}.get(which) or " ".join(map(str, which)) or "none"
