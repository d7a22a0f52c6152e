"""Which files belong to a case, and which role each has: by the ends of their names, and what to say of the rest.

A role is the end of a name after _, - or . (<case>_flair.nii.gz, <case>-t2f.nii.gz), or all of it in a folder that is
the case's (<case>/lgemri.nrrd).
"""
import os
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path

from imaging import dicom, dicom_series
from imaging.cases import TWICE, UNFIT, existing_folder
from imaging.scan_files import COMPANIONS, SUFFIXES, case_name, is_prediction, is_scan, suffix
from imaging.segmentations import SEG_NRRD
from runtime.files import is_case_name

NUMBER = re.compile(r"_(\d{4})$")       # nnU-Net's mark of a channel
# what one channel is called in BraTS 2018 to 2024, BIDS, ISLES, HECKTOR and AutoPET, in capitals, too
SAME = ({"flair", "t2f"}, {"t1", "t1n", "t1w"}, {"t1ce", "t1c", "t1gd"}, {"t2", "t2w"}, {"pd", "pdw"}, {"pet", "pt"},
        {"ct", "ctres"})
CHANNELS = set().union(*SAME, {"dwi", "adc", "swi", "suv", "bold", "t2star", "t2starw"})
LABELS = {"seg", "segm", "segmentation", "gt", "groundtruth", "ground_truth", "truth", "laendo", "label", "labels",
          "mask", "masks", "msk", "annotation", "annotations", "dseg", "probseg", "aseg", "labelmap", "gtv"}
WORD_FIRST = re.compile(r"([^\W\d_]+)[-_.]?(\d.*)")      # segmentation-0, label0001
TAKEN = f"{', '.join(SUFFIXES)} and DICOM"
MAPS = f"{', '.join(SUFFIXES)} and {SEG_NRRD}, as which 3D Slicer saves DICOM SEG and RTSTRUCT, too"    # of labels
MADE_HERE = "made by predict.py"      # of scans, which they are not


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


def scans_by_number(names: Iterable[str]) -> dict[str, list[str]]:
    """{how a name goes on after its first word: names} of scans, volume-0 and img0001 say."""
    found = defaultdict(list)
    for name in names:
        if (match := WORD_FIRST.fullmatch(name)) and match[1].lower() not in LABELS:
            found[match[2]].append(name)
    return found


def scans_of_prefixed(name: str, by_number: dict[str, list[str]]) -> list[str]:
    """The scans of a label map that begins with that word, as segmentation-0 of LiTS and label0001 of BTCV."""
    match = WORD_FIRST.fullmatch(name)
    return by_number.get(match[2], []) if match and match[1].lower() in LABELS else []


def case_of_each(files: Iterable[Path], known: Collection[str] = frozenset()) -> Iterator[tuple[str, Path]]:
    """(case, file) of each: its name, less a label's ending where only that names a `known` case, or with the word of
    its scan in front; or its folder's name, where several folders have files of one name.
    """
    places, by_number = defaultdict(set), scans_by_number(known)
    for path in files:
        places[case_name(path)].add(path.parent)
    for path in files:
        name = case_name(path)
        if name not in known and plain_name(name) in known:
            name = plain_name(name)
        elif name not in known and len(scans := scans_of_prefixed(name, by_number)) == 1:
            [name] = scans
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
            bad[name] = UNFIT.format(path, name)
        elif other := case.get(match[1]):
            bad.setdefault(name, TWICE.format(other, path, name))
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


def in_folder_of_labels(path: Path, root: Path) -> bool:
    """Whether a file lies below `root` in a folder that is called so, as TotalSegmentator's one of each class do."""
    folder = path.parent
    return folder.name.lower() in LABELS | {"segmentations", "labelstr"} and folder.resolve() != root.resolve()


def files_below(folder: Path) -> Iterator[Path]:
    """All files below a folder but hidden ones, folder by folder in order, each folder once, whatever links say."""
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
