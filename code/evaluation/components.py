"""Post-processing of label maps: which classes keep their largest component alone."""
from dataloaders.components import largest_component
from runtime.errors import InputError


def keep_largest(label_map, which):
    """`largest_component` of some classes of a label map (*S), NumPy.

    which: True (every class), False (none), or the numbers of the classes that keep one component alone.
    """
    return largest_component(label_map, which) if which else label_map


def asked_for(words, usual, names):
    """What `--keep-largest none | each | CLASS ...` asks `keep_largest` for; `usual` without words.

    names: of the foreground classes, each of which may stand for its number.
    """
    if not words:
        return usual
    if list(words) in (["none"], ["each"]):
        return words[0] == "each"
    numbers = {str(number): number for number in range(1, len(names) + 1)}
    numbers |= {name: number for number, name in enumerate(names, 1)}
    if not set(words) <= numbers.keys():
        raise InputError(f"--keep-largest {' '.join(words)}: expected none, each, or classes from 1 to {len(names)}, "
                         f"or their names, {', '.join(names)}")
    return tuple(numbers[word] for word in words)


def kept_classes(which):
    """`which` in the words of a result: 'none', 'each', or the classes' numbers."""
    return {True: "each", False: "none"}.get(which) or " ".join(map(str, which)) or "none"
