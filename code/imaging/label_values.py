"""What the values in somebody's label files are: named classes, voxels that nobody has labelled, segments."""
import itertools
import shlex
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from imaging.cases import IGNORED
from imaging.descriptions import IGNORE, Description
from imaging.folders import Found
from imaging.preparation import in_parallel
from imaging.record import read_as
from imaging.scan_files import segments_of, values_in
from imaging.segmentations import is_segmentation
from runtime.errors import InputError, is_visible, one_line


class LabelValues(NamedTuple):
    """Of a folder of label files."""

    classes: dict[int, int]             # value in the files -> class
    names: tuple[str, ...]              # of the foreground classes, or none
    ignore: int | None                  # value of voxels that nobody has labelled
    segments: dict[str, int] | None     # segment of a .seg.nrrd -> its value; None: the file's own


def label_values(found: Found, options) -> LabelValues:
    """As the options of prepare_folder.py and dataset.json say, or as the files' values suggest."""
    ignore = found.description.ignore if found.description else None
    ignore = ignore if options.ignore_label is None else options.ignore_label
    classes = label_classes(found, options.label_map, options.num_classes, options.workers, ignore,
                            options.class_names)
    if ignore in classes:
        if options.ignore_label is not None:
            raise InputError(f"--ignore-label {ignore}: is the value of class {classes[ignore]}; expected one that "
                             "stands for no class, see --label-map and --num-classes")
        ignore = None       # --label-map made dataset.json's a class
    names = class_names(found, classes, options)
    if not names:
        check_segments((case.label for case in found.labelled), max(classes.values()))
    return LabelValues(classes, names, ignore, segment_values(names, read_as(classes, ignore)) if names else None)


def segment_values(names: Sequence[str], labels: Mapping[int, int]) -> dict[str, int]:
    """{segment of a .seg.nrrd: its value} by the foreground classes' names; labels: value -> class or IGNORED.

    Of several values of a class, it is the smallest, as in `Preprocessing.values`.
    """
    values = {}
    for value, label in sorted(labels.items()):
        if label:
            values.setdefault(IGNORE if label == IGNORED else names[label - 1], value)
    return values


def label_classes(found: Found, label_map: Sequence[str], num_classes: int | None, workers: int,
                  ignore: int | None, names: Sequence[str]) -> dict[int, int]:
    """{value in the label files: class}. Where nothing else says so, classes end where the values have a gap.

    A class that `label_map` gives a value of the files keeps its own only where that is in the files, too. The value
    `ignore` is none, unless `label_map` says so. Segments of a .seg.nrrd count by their place among `names`, if any.
    """
    mapped = mapped_values(label_map)
    described = found.description.labels if found.description and num_classes is None else None
    met = set()
    if mapped or (described is None and num_classes is None):
        print("reading the labels for their values" + " (--num-classes K saves this)" * (not mapped))
        own = {label: value for value, label in mapped.items()}
        named = {name: own.get(label, label) for label, name in enumerate(names, 1)}
        met = _values_met(found.labelled, workers, named) - ({ignore} - mapped.keys())
    if described is None:
        count = num_classes or _up_to_gap(met, mapped)
        classes = {value: value for value in range(count)}
    else:
        classes, count = described, len(described)
    if any(not 0 <= label < count for label in mapped.values()):
        raise InputError(f"--label-map {' '.join(label_map)}: classes go from 0 to {count - 1}")
    given = {label for value, label in mapped.items() if value in met}
    return {value: label for value, label in classes.items() if not label or value in met or label not in given
            } | mapped


def mapped_values(label_map: Sequence[str]) -> dict[int, int]:
    """--label-map, such as ("255:1",) -> {value in the files: class}."""
    try:
        mapped = {int(value): int(label) for value, label in (pair.split(":") for pair in label_map)}
    except ValueError as error:
        raise InputError(f"--label-map {' '.join(label_map)}: expected value:class, such as 255:1") from error
    if len(mapped) < len(label_map):
        raise InputError(f"--label-map {' '.join(label_map)}: gives one value two classes; leave one of them out")
    return mapped


def _values_met(cases, workers, named):
    """The values in all label files, of segments those that `named` gives them by name; an unreadable file is reported
    when its case is prepared.
    """
    results = [values for _, values in in_parallel(partial(_label_values, named=named), cases, workers)]
    met = set().union(*(values for values in results if isinstance(values, set)))
    if cases and not met:
        raise InputError(f"no label can be read: {min(results)}")
    return met


def _up_to_gap(met, mapped):
    """How many classes the values are, 0, 1, 2, ... as far as they go."""
    classes = {mapped.get(value, value) for value in met}
    count = next(n for n in itertools.count() if n not in classes)
    if count < 2:
        raise InputError(f"the labels have the values {', '.join(map(str, sorted(met)))}, expected 0 for background, "
                         "then 1, 2, ...; map them with, say, --label-map 255:1")
    return count


def _label_values(case, named):
    if named and (segments := segments_of(case.label)):
        return {0, *(named[segment] for segment in segments if segment in named)}
    return values_in(case.label)


# ---- names -------------------------------------------------------------------------------------------------------


def class_names(found: Found, classes: dict[int, int], options) -> tuple[str, ...]:
    """Of the foreground: --class-names, those of dataset.json, or none where neither names these classes."""
    count = max(classes.values())
    check_class_names(options.class_names)
    if options.class_names and len(options.class_names) != count:
        named = len(options.class_names)
        more = f"; where one of them is not drawn yet, --num-classes {named + 1} says how many there are"
        raise InputError(f"--class-names {' '.join(options.class_names)}: {named} names, expected {count}, one for "
                         f"each class but the background{more * (named > count)}")
    described = found.description.class_names if found.description else ()
    return options.class_names or (described if len(described) == count else ())


def check_class_names(names: Sequence[str]) -> None:
    """InputError where --class-names has a name twice, or none, by which no segment could be told."""
    if not all(map(is_visible, names)):
        raise InputError(f"--class-names {' '.join(map(ascii, names))}: expected letters that can be seen; give each "
                         "class a name")
    if double := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"--class-names {' '.join(names)}: names {double} twice; give each class a name of its own")


def tell_regions(description: Description | None) -> None:
    """Say what becomes of overlapping regions: the network learns classes, one a voxel."""
    if description and description.regions:
        regions = "; ".join(f"{name} is {' '.join(map(str, values))}" for name, values in description.regions.items())
        print(f"regions ({regions}) are trained as the classes that make them up: {', '.join(description.class_names)}")


def tells_values(path: Path) -> bool:
    """Whether all segments of a .seg.nrrd are called by their values, such as Segment_1: drawn in whatever order."""
    return all(name.endswith(f"_{value}") for name, value in segments_of(path).items())


def check_segments(paths: Iterable[Path], classes: int | None = 1, kept: bool = True,
                   known: dict[str, int] | None = None) -> dict[str, int]:
    """{name: value} of the segments of all .seg.nrrd files, and of those `known` from before.

    InputError where a name has two values, or a value two names, or where label maps of other formats are there, too,
    whose values nobody has named, and there are several foreground `classes`, None for as many as segments' names.
    Where names are not `kept`, labels taken earlier or later are such label maps.
    """
    met = {name: (value, Path("labels taken before")) for name, value in (known or {}).items()}
    called, other_format = {value: name for name, (value, _) in met.items()}, None
    for path in sorted(paths):
        if not is_segmentation(path):
            other_format = path.name if kept else other_format
            continue
        try:
            found = segments_of(path)
        except InputError:      # is said when its case is prepared
            continue
        if not kept and not tells_values(path):
            other_format = "a label that was taken"
        for name, value in found.items():
            other, file = met.setdefault(name, (value, path))
            if other != value:
                raise InputError(f"{path}: the segment {one_line(name)} has the value {value}, and {other} in "
                                 f"{file.name}; name the classes (--class-names), or give it one value in all files")
            first = name if name.endswith(f"_{value}") else called.setdefault(value, name)
            if first.strip().casefold() != name.strip().casefold():
                raise InputError(f"{path}: the segment {one_line(name)} has the value {value}, as {one_line(first)} "
                                 f"has in {met[first][1].name}; where these are two structures, name the classes "
                                 "(--class-names), otherwise give both one name")
    if met and other_format and (classes or len({name.strip().casefold() for name in met})) > 1:
        file = next(iter(met.values()))[1]
        names = shlex.join(sorted(met, key=lambda name: met[name][0] if kept else name))
        way = (f"in the order of the values, as the segments are called: --class-names {names}, if that is theirs"
               if kept else f"by --class-names with {names}, in the order of the values that labels taken before have")
        raise InputError(f"{file}: has segments with names, and {other_format} has values alone, so that which is "
                         f"which is unknown: name the classes {way}")
    return {name: value for name, (value, _) in met.items()}
