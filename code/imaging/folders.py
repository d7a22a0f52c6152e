"""Scans, labels, channels and classes as somebody's folder, or its dataset.json, has them."""
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from imaging import dicom_series
from imaging.case_files import (
    LABELS,
    MADE_HERE,
    MAPS,
    NUMBER,
    case_of_each,
    contents,
    files_in,
    grouped,
    in_folder_of_labels,
    not_looked_into,
    plain_name,
    role_of,
    scans_by_number,
    scans_of_prefixed,
    series_among,
    told,
    visible,
    without_predictions,
)
from imaging.cases import Case, one_case_each
from imaging.descriptions import Description, Listed, read_description, resolved, scan_files_of
from imaging.dicom import is_dicom
from imaging.preparation import report_bad
from imaging.scan_files import case_name, is_label, is_scan, suffix
from runtime.errors import InputError, some_of


@dataclass
class Found:
    """What there is to prepare."""

    cases: list[Case]               # the labelled ones first
    bad: dict[str, str]             # case -> one line of what is wrong with it
    channels: tuple[str, ...] = ()  # endings of the channels' file names; none where scans have no such ending
    aside: dict[str, list[Path]] = field(default_factory=dict)      # why -> files that are left out, one at least
    images_aside: list[dicom_series.Aside] = field(default_factory=list)   # DICOM files that are no volume's
    description: Description | None = None

    @property
    def labelled(self) -> list[Case]:
        return [case for case in self.cases if case.label]


def find(images: Path | None, labels: Path | None, dataset_json: Path | None, channels: tuple[str, ...],
         test_images: bool) -> Found:
    """The cases of two folders, of one folder, or of a dataset.json. InputError where no scan has a label."""
    path = dataset_json or (images and images / "dataset.json")
    if path and (dataset_json or path.exists()):
        if labels and labels.resolve() != (path.parent / "labelsTr").resolve():
            print(f"--labels {labels} is left aside, since {path} says where labels are; --images with the folder of "
                  "the scans themselves takes it")
        found = _described(read_description(path), channels, test_images)
    elif images is None or labels is None:
        inside = images and (images / "imagesTr").is_dir() and images / "imagesTr"
        raise InputError("--images and --labels are needed, or a folder with a dataset.json: "
                         + (f"this one has none; give --images {inside} --labels {images / 'labelsTr'}" if inside else
                            "see --help"))
    elif test_images:
        raise InputError("--test-images: takes imagesTs, and there is no dataset.json that it belongs to; put these "
                         "scans into --images")
    else:
        scans, masks, aside = _told_apart(images, labels)
        content, _ = series_among([path for path in visible(images) if not _within(path, labels)], images, channels)
        scans += content.series
        _check_one_map_each(masks)
        found = _paired(scans, masks, _channels_of(scans, masks, 0, channels), content.bad)
        found.aside |= aside | _dicom_in(labels, images)
        found.images_aside = content.aside + [one for one in not_looked_into(images)
                                              if not labels.resolve().is_relative_to(one.path.resolve())]
    if not found.labelled:
        report_bad(found.bad)
        places = ({f"{path.name}'s folder, file_ending {found.description.ending}": contents(path.parent)}
                  if found.description else
                  {"the scans' folder": contents(images) + (f"; left aside of them are {told(found.images_aside)}"
                                                            if found.images_aside else ""),
                   "the labels'": contents(labels, MAPS)})
        ends = _ends_after_labels(found)
        names = [case.name for case in found.cases]
        raise InputError("no scan has a label, training needs one at least; a label has its scan's file name"
                         + f" ({some_of(names, 3)})" * bool(names)
                         + ", with or without _seg, _gt, _label or _mask"
                         + f", and scans' names go on with {', '.join(ends)}: if those are channels, say so with "
                         f"--channels {' '.join(ends)}" * bool(ends) + "; "
                         + "; ".join(f"of {what}, {holds}" for what, holds in places.items()))
    return found


def _within(path, folder):
    """Whether it lies below the folder, one of them named from the root, say, and the other one from here."""
    return Path(os.path.abspath(path)).is_relative_to(os.path.abspath(folder))


def _dicom_in(labels, images=None):
    """{why: DICOM files left aside} of a folder of label maps; those of the scans' are told with the scans."""
    if not labels.is_dir() or images and images.resolve() == labels.resolve():
        return {}
    scans = images and not _within(labels, images)
    return _filled({f"DICOM; labels are taken from {MAPS}": [
        path for path in visible(labels, is_label) if not suffix(path) and is_dicom(path, bare=False)
        and not (scans and _within(path, images))]})


def _told_apart(images, labels):
    """(scans, label maps, {why: files left aside}) of the two folders, which may be one: <case> and <case>_seg."""
    if images.resolve() == labels.resolve():
        files = files_in(images, is_label)
        by_number = scans_by_number(map(case_name, files))
        masks = {path for path in files if role_of(case_name(path), LABELS) or not is_scan(path)
                 or scans_of_prefixed(case_name(path), by_number)}
        if not masks:
            _check_one_map_each([path for path in files if in_folder_of_labels(path, images)])
            raise InputError(f"--images {images} is the folder of --labels, too, and no file name there ends in _seg, "
                             f"_gt, _label or _mask: scans and label maps cannot be told apart; {contents(images)}")
        scans, predicted = without_predictions(path for path in files if path not in masks)
        return scans, sorted(masks), _filled({MADE_HERE: predicted})
    scans, predicted = without_predictions(path for path in files_in(images) if not _within(path, labels))
    names = {case_name(path) for path in scans}
    aside = {path for path in scans if (role := role_of(case_name(path), LABELS)) and role[0] in names}
    return [path for path in scans if path not in aside], files_in(labels, is_label), _filled(
        {MADE_HERE: predicted, "label maps by their names": sorted(aside)})


def _check_one_map_each(masks):
    """InputError where the folders of cases hold a file for each class."""
    folders = defaultdict(dict)
    for path in masks:
        folders[path.parent][case_name(path)] = path
    if len(common := set.intersection(*map(set, folders.values())) if len(folders) > 1 else ()) > 1:
        one, other = sorted(common)[:2]
        first = folders[min(folders)]
        raise InputError(f"{first[one]} and {first[other].name}: are label maps of one class each, as TotalSegmentator "
                         "writes them; expected one for each case, with a value for each class: merge them "
                         "(TotalSegmentator --ml), and put them into a folder of their own")


def _filled(aside: dict[str, list[Path]]) -> dict[str, list[Path]]:
    """{why: files} without what no file is left aside for."""
    return {why: files for why, files in aside.items() if files}


def _channels_of(images: Sequence[Path], labels: Sequence[Path], described: int, asked: tuple[str, ...]
                 ) -> tuple[str, ...]:
    """Endings of the channels' file names; empty where a scan is one file without such an ending.

    described: how many dataset.json names; asked: --channels.
    """
    names = {case_name(path) for path in images}
    there = sorted({match[1] for name in names if (match := NUMBER.search(name))})
    called = {case_name(path) for path in labels}
    plain = names & (called | set(map(plain_name, called))) or not all(map(NUMBER.search, names))
    if asked:
        wanted = tuple(f"{int(end):04d}" if re.fullmatch(r"\d{1,4}", end) else end for end in asked)
        if absent := [end for end in wanted if not any(role_of(name, (end,)) for name in names)]:
            raise InputError(f"--channels {' '.join(asked)}: no file name ends in _{absent[0]}"
                             + (f"; there are {' '.join(there)}" if there else ""))
        return wanted
    if plain or not there:
        return _numbered(described) if described > 1 else ()     # all in one file, along its fourth axis
    return _numbered(described) or tuple(there)


def _numbered(count):
    return tuple(f"{number:04d}" for number in range(count))


def _paired(images, labels, channels, unfit=None):
    """Scans with the labels of their names; `unfit` are cases whose scan is, in one line why."""
    alone = channels and not any(role_of(case_name(path), channels) for path in images)
    if channels and not alone:
        files, bad, rest = grouped(images, channels, "leave {channel} out of --channels")
        aside = _filled({f"their names do not end in {' or '.join(channels)} (--channels)": rest})
    else:
        first, bad = one_case_each(case_of_each(images))
        files, aside = {name: (path,) for name, path in first.items()}, {}
    bad |= unfit or {}
    masks, bad_masks = one_case_each(case_of_each(labels, {*files, *bad}))
    bad |= bad_masks
    others = sorted(set(files) - set(masks))
    there = f"; scans without a label are {some_of(others, 3)}" if others else ""
    spelt = {_letters(name): name for name in others}
    for name, mask in masks.items():
        if name not in files and name not in bad:
            other = spelt.get(_letters(name))
            way = (f"{files[other][0].name} has other capitals, or accents that are stored in another way: give both "
                   "one name" if other else f"rename or remove the label{there}")
            bad[name] = f"{mask}: has no scan of that name; {way}"
    cases = [Case(name, files[name], masks.get(name)) for name in set(files) - set(bad)]
    return Found(sorted(cases, key=_labelled_first), bad, channels, aside)


def _letters(name):
    """A name by its letters alone: whatever their capitals, and as macOS and other systems store accents."""
    return unicodedata.normalize("NFC", name).casefold()


def _ends_after_labels(found):
    """What scans' names have after those of the labels that are without a scan, in words: t1 of case7_t1, case7_seg."""
    without = {plain_name(name) for name in found.bad}
    parts = [case.name.rpartition("_") for case in found.cases]
    return sorted({end for start, _, end in parts if start in without and not NUMBER.search(f"_{end}")})


def _labelled_first(case):
    return case.label is None, case.name


def _described(description, asked, test_images):
    """The cases of a dataset.json: those that it lists, or what lies in imagesTr and labelsTr."""
    folder, count = description.path.parent, len(description.channels)
    tests, others = [], []
    if test_images and description.test:
        tests = [file for path in description.test for file in scan_files_of(path)]
    elif test_images:
        tests, others = _of_ending(description, files_in(folder / "imagesTs"))
    if description.training is None:
        images, foreign = _of_ending(description, files_in(folder / "imagesTr"))
        labels, more = _of_ending(description, files_in(folder / "labelsTr", is_label))
        wanted = {name for path in images + tests for name in (case_name(path), NUMBER.sub("", case_name(path)))}
        wanted -= set(map(case_name, labels))
        labels += [path for path in more if case_name(path) in wanted]      # such as take_labels.py writes
        found = _paired(images + tests, labels, _channels_of(images + tests, labels, count, asked))
        others += foreign + [path for path in more if path not in labels]
    else:
        found = _listed(description, asked, tests)
    found.aside |= _filled({f"dataset.json says {description.ending} (file_ending)": others})
    found.aside |= _dicom_in(folder / "labelsTr")
    found.description = description
    return found


def _of_ending(description, files):
    """(the files that have dataset.json's file_ending or are no scans, the others)"""
    others = [path for path in files if description.ending is not None and is_scan(path)
              and not path.name.lower().endswith(description.ending.lower())]
    return [path for path in files if path not in others], others


def _listed(description, asked, tests):
    """The cases that dataset.json lists, and those of the files `tests`, by channel where the listed ones are."""
    count = max([len(description.channels), 1, *(len(case.images) for case in description.training)])
    channels, found = _numbered(count), Found([], {}, description=description)
    _take(found, description, channels, description.training)
    single = [case for case in found.cases if len(case.images) == 1]
    by_number = not single if count > 1 else bool(single) and all(
        case_name(case.images[0]) == f"{case.name}_{channels[0]}" for case in single)
    if by_number:
        files, bad, tests = grouped(tests, channels)
        found.bad |= bad
        _take(found, description, channels, [Listed(name, paths, None) for name, paths in files.items()])
    _take(found, description, channels, [Listed(case_name(path), (path,), None) for path in tests])
    if count > 1 or by_number:
        found.channels = channels
    if asked:
        _choose_channels(found, asked, channels)
    used = {path for case in found.cases for path in case.images}
    if (folder := description.path.parent / "imagesTr").is_dir():
        found.aside |= _filled({"dataset.json does not list them": [
            path for path in files_in(folder) if path not in used]})
    found.cases.sort(key=_labelled_first)
    return found


def _take(found, description, channels, cases):
    """Add listed cases to those that are found, or say what is wrong with them."""
    count, taken = len(channels), {case.name for case in found.cases} | set(found.bad)
    for case in cases:
        try:
            case = resolved(case, channels, description.path)
            if len(case.images) not in (1, count):
                raise InputError(f"{description.path}: {case.name} has {len(case.images)} images, expected {count}; "
                                 "list one for each channel")
            if case.name in taken:
                raise InputError(f"{description.path}: lists {case.name} twice; take one of them off")
            found.cases.append(Case(case.name, case.images, case.label))
        except InputError as error:
            found.bad[case.name] = str(error)
        taken.add(case.name)


def _choose_channels(found, asked, channels):
    """Of the found cases, the channels of --channels alone."""
    wanted, count = [int(end) if end.isdigit() else len(channels) for end in asked], len(channels)
    single = any(len(case.images) == 1 for case in found.cases)
    if (single and count > 1) or max(wanted) >= count:
        raise InputError(f"--channels {' '.join(asked)}: {found.description.path} lists "
                         f"{'one file for all' if single else count} channels; choose among 0 to {count - 1}, of cases "
                         "with one file for each")
    found.channels = tuple(channels[place] for place in wanted)
    found.cases = [Case(case.name, tuple(case.images[place] for place in wanted), case.label) for case in found.cases]
