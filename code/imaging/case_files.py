"""Which files belong to a case, and which role each has: by the ends of their names, and what to say of the rest.

A role is the end of a name after _, - or . (<case>_flair.nii.gz, <case>-t2f.nii.gz), or all of it in a folder that is
the case's (<case>/lgemri.nrrd).
"""
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path

from imaging import dicom, dicom_series
from imaging.cases import existing_folder, one_case_each
from imaging.record import PLAIN
from imaging.scan_files import COMPANIONS, SUFFIXES, case_name, is_prediction, is_scan, suffix
from imaging.segmentations import SEG_NRRD
from runtime.errors import InputError
from runtime.files import is_case_name

NUMBER = re.compile(r"_(\d{4})$")       # nnU-Net's mark of a channel
# what one channel is called in BraTS 2018 to 2023, in capitals, too
SAME = ({"flair", "t2f"}, {"t1", "t1n"}, {"t1ce", "t1c", "t1gd"}, {"t2", "t2w"})
CHANNELS = set().union(*SAME)
LABELS = {"seg", "segm", "segmentation", "gt", "groundtruth", "ground_truth", "truth", "laendo", "label", "labels",
          "mask", "masks", "annotation", "annotations"}
MOST_CHANNELS = 8       # of one case, numbered from _0000; more files than that are scans
TAKEN = f"{', '.join(SUFFIXES)} and DICOM"
MAPS = f"{', '.join(SUFFIXES)} and {SEG_NRRD}, as which 3D Slicer saves DICOM SEG and RTSTRUCT, too"    # of labels
PREDICTIONS = "made by predict.py"      # of scans, which they are not
ASIDE = {"4d"}          # ACDC's whole series beside its frames


def role_of(name: str, roles: Iterable[str]) -> tuple[str, str] | None:
    """(what stands before the role, the one of `roles` that a case name ends in), or None."""
    folded = name.lower()
    for role in sorted(roles, key=len, reverse=True):
        for end in next((same for same in SAME if role.lower() in same), {role.lower()}):
            if folded == end:
                return "", role
            if folded.endswith(end) and folded[-len(end) - 1] in "_-.":
                return name[:-len(end) - 1], role
    return None


def plain_name(name: str) -> str:
    """A file's name without the ending of a label map: case7_seg -> case7."""
    role = role_of(name, LABELS)
    return role[0] if role and role[0] else name


def case_of_each(files: Iterable[Path], known: Collection[str] = frozenset()) -> Iterator[tuple[str, Path]]:
    """(case, file) of each: its name, less a label's ending where only that names a `known` case; or its folder's name,
    where several folders have files of one name."""
    places = defaultdict(set)
    for path in files:
        places[case_name(path)].add(path.parent)
    for path in files:
        name = case_name(path)
        if name not in known and plain_name(name) in known:
            name = plain_name(name)
        elif len(places[name]) > 1 or (name not in known and path.parent.name in known):
            name = path.parent.name
        yield name, path


def grouped(files: Iterable[Path | dicom.Series], channels: Sequence[str], remedy: str = "leave the case out"
            ) -> tuple[dict[str, tuple[Path, ...]], dict[str, str], list[Path]]:
    """({case: its files, one per channel, in order}, {case: one line of what is wrong}, files without such an end).

    In `remedy`, {channel} stands for a missing one.
    """
    found, bad, rest = {}, {}, []
    for path in sorted(files, key=str):
        if (match := role_of(case_name(path), channels)) is None:
            rest.append(path)
            continue
        name = match[0] or path.parent.name
        case = found.setdefault(name, {})
        if not is_case_name(name):
            bad[name] = f"{path}: {name!a} cannot be a case name; rename it with letters, digits, - and _"
        elif other := case.get(match[1]):
            bad.setdefault(name, f"{other} and {path} are one case, {name}: remove or rename one of them")
        case[match[1]] = path
    for name, case in found.items():
        if name not in bad and (missing := [channel for channel in channels if channel not in case]):
            there = next(iter(case.values()))
            stem = case_name(there)
            before = len(role_of(stem, channels)[0])
            missed = there.parent / (stem[:before + 1 if before else 0] + missing[0] + suffix(there))
            bad[name] = f"{missed}: is missing; copy it there, or {remedy.format(channel=missing[0])}"
    return {name: tuple(case[channel] for channel in channels) for name, case in found.items() if name not in bad
            }, bad, rest


def files_below(folder: Path) -> Iterator[Path]:
    """All files below a folder but hidden ones, folder by folder in order; each folder once, whatever links lead to it.
    """
    seen = {Path(folder).resolve()}
    for place, folders, names in os.walk(folder, followlinks=True):
        inside = {Path(place, name).resolve(): name for name in sorted(folders, reverse=True) if name[0] != "."}
        folders[:] = sorted(name for real, name in inside.items() if real not in seen)
        seen.update(inside)
        yield from (Path(place, name) for name in sorted(names) if not name.startswith("."))


def is_other(path: Path) -> bool:
    """Whether it is a visible file that is neither a scan nor a segmentation nor part of one by its name."""
    return not (path.name.startswith(".") or suffix(path) or path.is_dir()
                or path.name.lower().endswith(COMPANIONS))


def told(files: Iterable[Path]) -> str:
    """Files counted by what they are, or by the ends of their names, with examples: "1 .png such as b.png, ..."."""
    ends = {}
    for path in files:
        end = (suffix(path) or path.suffix or "without an ending").lower() if isinstance(path, Path) else path.kind
        ends.setdefault(end, []).append(path.name)
    return ", ".join(f"{len(names)} {end} such as {names[0]}"
                     for end, names in sorted(ends.items(), key=lambda item: -len(item[1])))


def contents(folder: Path, taken: str = TAKEN) -> str:
    """What lies below a folder, and what would be taken there."""
    return f"it holds {told(files_below(folder)) or 'no files'}; taken are {taken}"


def visible(folder: Path, wanted: Callable[[Path], bool] = is_scan) -> list[Path]:
    """The files in a folder or, where none of them is `wanted`, all below: one folder per case."""
    files = [path for path in sorted(existing_folder(folder).iterdir()) if not path.name.startswith(".")
             and (wanted(path) or not path.is_dir())]
    return files if any(map(wanted, files)) else list(files_below(folder))


def files_in(folder: Path, wanted: Callable[[Path], bool] = is_scan) -> list[Path]:
    """Those of the `visible` files that are wanted: scans, say."""
    return [path for path in visible(folder, wanted) if wanted(path)]


def without_predictions(files: Iterable[Path]) -> tuple[list[Path], list[Path]]:
    """(the files that may be scans, those that predict.py made)"""
    files = list(files)
    made = {file for file in files if is_prediction(file)}
    return [file for file in files if file not in made], sorted(made)


def not_looked_into(folder: Path) -> list[dicom_series.Aside]:
    """The folders in one whose own scans are taken: `visible` stays with these."""
    inside = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    return [dicom_series.Aside(path, "folders, not looked into since there are scans beside them,") for path in inside
            if path.is_dir() and not is_scan(path)] if any(map(is_scan, inside)) else []


def series_among(files: Sequence[Path], folder: Path, channels: Iterable[str] = ()
                 ) -> tuple[dicom_series.FoundSeries, list[Path]]:
    """What the DICOM files among `files` below a folder hold, and the files that are not DICOM."""
    mine = {path for path in files if not suffix(path)
            and dicom.is_dicom(path, bare=not path.name.lower().endswith(COMPANIONS))}
    return dicom_series.find(sorted(mine), folder, channels), [path for path in files if path not in mine]


# ---- new scans -------------------------------------------------------------------------------------------------------


def scans_to_segment(path: Path, modalities: Sequence[str], trained: bool = True
                     ) -> tuple[dict[str, tuple[Path, ...]], dict[str, str], list[Path]]:
    """A scan file, or a folder of scans, of one folder per case, or of DICOM series of any depth -> ({case: its files,
    one per modality, or the one that holds them all}, {case: what is wrong with it}, files left aside).

    Roles are those that the training set had, `modalities`, where any file has one. Else each scan is a case, but for
    label maps and for other channels by their names. Raises InputError where there is no scan, and for channels where
    no network was `trained`.
    """
    option = "--input" if trained else "--images"
    if not path.exists():
        raise InputError(f"{option} {path} does not exist: give a scan ({', '.join(SUFFIXES)}) or a folder of scans")
    if path.name == dicom_series.INDEX:
        path = path.parent
    files = [path]
    match = None if tuple(modalities) == PLAIN else role_of(case_name(path), modalities)
    if path.is_file() and match:        # its other channels are beside it
        files = [file for file in sorted(path.parent.iterdir()) if is_scan(file)
                 and (role_of(case_name(file), modalities) or [None])[0] == match[0]]
    elif path.is_dir():
        if folders := [name for name in ("imagesTs", "imagesTr") if (path / name).is_dir()]:
            raise InputError(f"{option} {path}: holds a whole data set, {' and '.join(folders)}, labels maybe; give "
                             f"the folder of the scans that are to be segmented, such as {path / folders[0]}")
        files = visible(path)
    series, files = series_among(files, path if path.is_dir() else path.parent, modalities)
    if path.is_file() and any(len(one.frames) == 1 for one in series.series):
        beside, _ = series_among(sorted(path.parent.iterdir()), path.parent)
        if whole := next((one for one in beside.series if len(one.files) > 1 and path in one.files), None):
            raise InputError(f"{option} {path}: is one of the {len(whole.files)} slices of a series; give its folder")
    scans, predicted = without_predictions(filter(is_scan, files))
    if path in predicted:
        raise InputError(f"{option} {path}: was made by predict.py and is no scan; give the scan that it is of")
    if path in files and not scans:
        raise InputError(f"{option} {path}: has no scan by its name, expected {TAKEN}")
    labels = {file for file in scans if role_of(case_name(file), LABELS | ASIDE)}
    rest = [file for file in scans if file not in labels]
    cases, bad = {}, {}
    if tuple(modalities) != PLAIN:
        channels = [one for one in series.series if role_of(one.name, modalities)]      # by their series numbers
        if channels:
            series.aside += [dicom_series.Aside(one.files[0], "DICOM series of another number") for one in series.series
                             if one not in channels]
            series.series = []
        cases, bad, rest = grouped(rest + channels, modalities)
    if not cases and not bad:
        alone, bad = one_case_each(case_of_each(rest))
        others = other_channels(alone, modalities)
        if others and not trained:
            ends = sorted({re.split("[_.-]", name)[-1] for name in others})
            raise InputError(f"{alone[min(others)]}: is one of {len(others)} files that are channels by their names: "
                             f"say so with --channels {' '.join(ends)}, or rename them if each is a scan of its own")
        bad |= others
        cases = {name: (file,) for name, file in alone.items() if name not in bad}
        rest = []
    cases = {one.name: (one,) for one in series.series} | cases
    bad |= series.bad
    aside = series.aside + [file for file in files if is_other(file) or suffix(file) and not is_scan(file)] + rest
    aside += not_looked_into(path) if path.is_dir() else []
    aside += [dicom_series.Aside(file, PREDICTIONS) for file in predicted]
    if cases or bad:
        aside += sorted(labels)
    else:
        bad = {case_name(file): f"{file}: is a label map by its name; rename it if it is a scan" for file in labels}
    if not cases and not bad:
        what = f"it holds {told(aside)}; taken are {TAKEN}" if aside else contents(path)
        raise InputError(f"{option} {path} has no scan; {what}")
    return dict(sorted(cases.items())), bad, aside


def other_channels(files: dict[str, Path], modalities: Sequence[str]) -> dict[str, str]:
    """{case: file} -> {case: one line} of those that are, by their names, channels that the network does not take.

    A network that was trained on plain names takes case_0005 for a scan, but for _0000 and _0001 of one case.
    """
    numbers = {}
    for name in files:
        if match := NUMBER.search(name):
            numbers.setdefault(name[:match.start()], []).append(name)
    if any(NUMBER.search(f"_{modality}") for modality in modalities):
        wrong = set(sum(numbers.values(), []))
    else:
        wrong = {name for several in numbers.values() if 1 < len(several) <= MOST_CHANNELS
                 and sorted(int(name[-4:]) for name in several) == list(range(len(several))) for name in several}
    roles = {name: match[0] for name in files if (match := role_of(name, CHANNELS))}
    known = any(modality.lower() in CHANNELS for modality in modalities)
    channels = Counter(roles.values())
    wrong |= {name for name, case in roles.items() if known or channels[case] > 1}
    return {name: f"{files[name]}: is another channel by its name, and the network was trained on "
                  f"{', '.join(map(ascii, modalities))} alone; leave it out, or rename it if it is that one"
            for name in wrong}
