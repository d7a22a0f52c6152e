"""New scans: which files are scans to segment, and what is said of label maps and other channels among them."""
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from imaging import dicom_series
from imaging.case_files import (
    CHANNELS,
    LABELS,
    MADE_HERE,
    NUMBER,
    TAKEN,
    case_of_each,
    contents,
    grouped,
    in_folder_of_labels,
    is_other,
    not_looked_into,
    role_of,
    scans_by_number,
    scans_of_prefixed,
    series_among,
    told,
    visible,
    without_predictions,
)
from imaging.cases import folder_of, one_case_each
from imaging.record import PLAIN
from imaging.scan_files import SUFFIXES, case_name, is_scan, suffix
from runtime.errors import InputError

MOST_CHANNELS = 8       # of one case, numbered from _0000; more files than that are scans
ASIDE = {"4d"}          # ACDC's whole series beside its frames

def scans_to_segment(path: Path, modalities: Sequence[str], trained: bool = True, names: Iterable[str] = ()
                     ) -> tuple[dict[str, tuple[Path, ...]], dict[str, str], list[Path]]:
    """A scan file, or a folder of scans, of one folder per case, or of DICOM series of any depth -> ({case: its files,
    one per modality, or the one that holds them all}, {case: what is wrong with it}, files left aside).

    Roles are those that the training set had, `modalities`, where any file has one. Else each scan is a case, but for
    label maps and for other channels by their names, unless the training set's `names` are such names, too; of x and
    x_seg, the second is always a label map. Raises InputError where there is no scan, and for channels where no network
    was `trained`.
    """
    option = "--input" if trained else "--images"
    if not path.exists():
        raise InputError(f"{option} {path} does not exist: give a scan ({', '.join(SUFFIXES)}) or a folder of scans")
    path = folder_of(path)
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
    labels = _labels_among(scans, names, path if path.is_dir() else path.parent)
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
        others = _other_channels_than(names, alone, modalities)
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
    aside += [dicom_series.Aside(file, MADE_HERE) for file in predicted]
    if cases or bad:
        aside += sorted(labels)
    else:
        bad = {case_name(file): f"{file}: is a label map by its name; rename it if it is a scan" for file in labels}
    if not cases and not bad:
        what = f"it holds {told(aside)}; taken are {TAKEN}" if aside else contents(path)
        raise InputError(f"{option} {path} has no scan; {what}")
    return dict(sorted(cases.items())), bad, aside


def _labels_among(scans, trained, root):
    """Those of the files that are label maps, or a series beside its frames, by their names or their folder's."""
    ends = {role[1] for name in trained if (role := role_of(name, LABELS | ASIDE))}
    there = {case_name(file) for file in scans}
    by_number = scans_by_number(there)

    def is_label(file):
        if in_folder_of_labels(file, root) or scans_of_prefixed(case_name(file), by_number):
            return True
        case, end = role_of(case_name(file), LABELS | ASIDE) or ("", "")
        taught = end in ends and case and case not in there
        return bool(end) and not taught
    return set(filter(is_label, scans))


def _other_channels_than(trained, files, modalities):
    """`other_channels` of {case: file} for a network whose training cases were called so: what those were called is
    none, and where all were called by channels, every other one is.
    """
    roles = [role_of(name, CHANNELS) for name in trained]
    if roles and all(roles):
        taught = {role for _, role in roles}
        return other_channels({name: file for name, file in files.items() if not role_of(name, taught)}, sorted(taught))
    learned = {name: Path(name) for name in trained}
    return {} if other_channels(learned, modalities) else other_channels(files, modalities)


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
