"""Records of the labelling loop: where a data folder's scans came from, and which scans are handed out to be labelled.

Scan files are copied, or linked, into a folder per case, so that a label saved beside them is that case's.
"""
import itertools
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from imaging import dicom, dicom_series
from imaging.case_files import files_below, role_of
from imaging.cases import listed
from imaging.scan_files import parts, read_scan_file, save_on_grid, suffix
from runtime.errors import InputError, counted
from runtime.files import ROOT, make_folder, write_aside, write_text
from runtime.records import from_record, read_json, read_record, write_record

SOURCES = "sources.json"        # in a data folder
ROUND = "label_next.json"       # in a folder of scans to label
TESTS = "to_test.list"          # in a data folder and in a folder of labels: cases that are for testing once labelled
SEGMENTS = "segments.json"      # in a folder of labels: {segment's name: value} where labels were taken by them alone
PROPOSALS = "proposals"         # folder of what the network said, as it said it


@dataclass(frozen=True)
class Sources:
    """What a data folder was prepared from."""

    command: tuple[str, ...]                # options of prepare_folder.py, paths absolute
    labels: str                             # folder with label maps
    channels: tuple[str, ...]               # endings of the channels' file names
    cases: dict[str, tuple[str, ...]]       # name -> its scan files

    def write(self, folder: Path) -> None:
        write_record(folder / SOURCES, self, indent=1)


def read_sources(folder: Path) -> Sources:
    path, remedy = folder / SOURCES, "prepare_folder.py with the same options as before writes it anew"
    if not path.exists():
        raise InputError(f"{path}: does not exist, and where the scans are is unknown; {remedy} (finished cases are "
                         "skipped)")
    return read_record(Sources, path, remedy)


@dataclass(frozen=True)
class Handed:
    """One case that is to be labelled."""

    sources: tuple[str, ...]        # its scan files, where they were
    copies: tuple[str, ...]         # their names in the case's folder
    proposal: str | None = None     # file below the round's folder with what the network said
    test: bool = False              # drawn at random, for testing
    proposed: int | None = None     # check sum of that file


@dataclass(frozen=True)
class Round:
    """What is handed out in a folder."""

    run: str | None = None          # that chose; None before any label existed
    command: tuple[str, ...] | None = None      # options by which prepare_folder.py goes on, paths absolute
    labels: dict[int, int] | None = None        # value in label files -> class or IGNORED; None: not known yet
    class_names: tuple[str, ...] = ()
    geometry: str = "itk"
    same_voxels: bool = False
    channels: int = 1               # of a scan that is one file
    cases: dict[str, dict] = field(default_factory=dict)

    def option(self, name: str) -> str | None:
        """The value of one of the command's options; None where it is not there."""
        words = self.command or ()
        return words[words.index(name) + 1] if name in words else None

    @property
    def beside_scans(self) -> bool:
        """Whether label maps lie among their scans, as <case>_seg."""
        return self.option("--labels") is not None and self.option("--labels") == self.option("--images")

    def handed(self, where: Path) -> dict[str, Handed]:
        return {name: from_record(Handed, case, f"{where}: {name}", ROUND_REMEDY) for name, case in self.cases.items()}

    def begin(self, folder: Path) -> None:
        """Write the record before anything else is there: the same command goes on after a kill."""
        make_folder(folder)
        if not (folder / ROUND).exists():
            self.write(folder)

    def write(self, folder: Path) -> None:
        write_record(folder / ROUND, self, indent=1)


ROUND_REMEDY = "restore the file from a copy, or run label_next.py with another --output"


def read_round(folder: Path) -> Round:
    path = folder / ROUND
    if not path.exists():
        raise InputError(f"--input {folder}: has no {ROUND}; give a folder that label_next.py wrote")
    return read_record(Round, path, ROUND_REMEDY)


def tests_handed(folder: Path) -> list[str]:
    """The cases for testing among those that are handed out in a folder; none before there are any."""
    if not (folder / ROUND).exists():
        return []
    return [name for name, case in read_round(folder).handed(folder / ROUND).items() if case.test]


def add_tests(folder: Path, names: Sequence[str]) -> None:
    """Add cases for testing to a folder's record, those that are not there yet."""
    known = listed(folder / TESTS)
    if new := [name for name in names if name not in known]:
        write_text(folder / TESTS, "".join(f"{name}\n" for name in [*known, *new]))


def with_output(command: tuple[str, ...], folder: Path) -> tuple[str, ...]:
    """Options of prepare_folder.py with another data folder, where they name one that it is not."""
    words = list(command)
    place = words.index("--output") if "--output" in words else len(words)
    if place == len(words) and folder == ROOT / "data" / "mine":
        return command
    words[place:place + 2] = ["--output", str(folder)]
    return tuple(words)


def read_segments(folder: Path) -> dict[str, int]:
    """{segment's name: its value in the label maps that are there}; empty where no names were met."""
    path, remedy = folder / SEGMENTS, "restore the file, or remove it"
    values = read_json(path, remedy) if path.exists() else {}
    if strange := [name for name, value in values.items() if type(value) is not int]:
        raise InputError(f"{path}: {strange[0]} is {values[strange[0]]!r}, expected a whole number: {remedy}")
    return values


def write_segments(folder: Path, values: dict[str, int]) -> None:
    if values and values != read_segments(folder):
        write_record(folder / SEGMENTS, values, ensure_ascii=False, indent=1)


def source_files(images: Sequence[Path | dicom.Series]) -> tuple[str, ...]:
    """A case's scan files as they are recorded: one per channel, or those of a DICOM series.

    A link by its own name: what a store, as of git-annex or DVC, calls the file is no name of a scan.
    """
    return tuple(os.path.abspath(path) for image in images
                 for path in (image.files if isinstance(image, dicom.Series) else [image]))


class Places:
    """Where recorded files are now: where they were or, with `images`, below that folder."""

    def __init__(self, images: Path | None):
        self.images, self.found = images, defaultdict(list)
        for file in [] if images is None else (images, *files_below(images)):
            self.found[file.name].append(file)

    def of(self, source: str) -> Path:
        """InputError where the file is not there, or not one."""
        path = Path(source)
        if self.images is None:
            if not path.exists():
                raise InputError(f"{path}: is no longer there; --images names the folder where the scans are now")
            return path
        alike = {file: shared_end(file, path) for file in self.found[path.name]}
        found = [file for file, count in alike.items() if count == max(alike.values())]
        if len(found) != 1:
            raise InputError(f"--images {self.images}: holds {len(found)} files called {path.name}, expected one; name "
                             "the folder where the scans are now")
        return found[0]


def shared_end(path: Path, other: Path) -> int:
    """How many of their last names two paths have in common."""
    pairs = zip(reversed(path.parts), reversed(other.parts), strict=False)
    return len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)))


def scan_of(name: str, sources: Sequence[str], channels: Sequence[str], places: Places
            ) -> list[Path | dicom.Series]:
    """The scan files of a case, where they are now; a DICOM series each, by channel where there are several."""
    paths = [places.of(source) for source in sources]
    if suffix(paths[0]):
        return paths
    found = dicom_series.find(paths, Path(os.path.commonpath(paths)), channels)
    series = found.series
    if channels:
        by_channel = {role[1]: one for one in series if (role := role_of(one.name, channels))}
        series = [by_channel[channel] for channel in channels if channel in by_channel]
    if not len(series) == len(found.series) == max(len(channels), 1):
        raise InputError(f"{paths[0].parent}: the {counted(len(paths), 'file')} that {name} was prepared from hold "
                         f"{counted(len(found.series), 'volume')} now, expected {max(len(channels), 1)}; convert them "
                         "to NIfTI or NRRD" + "".join(f" ({line})" for line in found.bad.values()))
    return series


def placed_beside(name: str, scans: Sequence[Path | dicom.Series], channels: Sequence[str], folder: Path,
                  put: Callable) -> list[str]:
    """Put a case's scan, under the case's name, into `folder`/<case> -> the names of its files there.

    put(source, target): a copy or a link. A header's other file goes along; a DICOM series becomes one NRRD file, in
    which no patient's name is.
    """
    home, names = folder / name, []
    make_folder(home)
    for number, scan in enumerate(scans):
        stem = f"{name}_{channels[number]}" if len(scans) == len(channels) else name
        names.append(f"{stem}{suffix(scan) or '.nrrd'}")
        if isinstance(scan, dicom.Series):
            if not (home / names[-1]).exists():
                file = read_scan_file(scan)
                save_on_grid(home / names[-1], file.array, file)
            continue
        for part in parts(scan):
            analyze = part.suffix.lower() == ".img"     # is found by the header's own name
            put(part, home / (names[-1] if part == scan else f"{stem}{part.suffix}" if analyze else part.name))
    return names


def copied(source: Path, target: Path) -> None:
    """Copy a file; what is there already stays: somebody may have begun to correct it."""
    if not target.exists():
        write_aside(target, lambda file: file.write(source.read_bytes()))
