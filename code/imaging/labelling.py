"""Records of the labelling loop: where a data folder's scans came from, and which scans are handed out to be labelled.

Scan files are copied, or linked, into a folder per case, so that a label saved beside them is that case's.
"""
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from imaging import dicom, dicom_series
from imaging.case_files import files_below
from imaging.scan_files import parts, read_scan_file, save_on_grid, suffix
from runtime.errors import InputError
from runtime.files import make_folder, read_text, write_text
from runtime.records import from_record, read_json

SOURCES = "sources.json"        # in a data folder
ROUND = "label_next.json"       # in a folder of scans to label
TESTS = "to_test.list"          # in a data folder and in a folder of labels: cases that are for testing once labelled
PROPOSALS = "proposals"         # folder of what the network said, as it said it


@dataclass(frozen=True)
class Sources:
    """What a data folder was prepared from."""

    command: tuple[str, ...]                # options of prepare_folder.py, paths absolute
    labels: str                             # folder with label maps
    channels: tuple[str, ...]               # endings of the channels' file names
    cases: dict[str, tuple[str, ...]]       # name -> its scan files

    def write(self, folder: Path) -> None:
        write_text(folder / SOURCES, json.dumps(asdict(self), indent=1) + "\n")


def read_sources(folder: Path) -> Sources:
    path, remedy = folder / SOURCES, "prepare_folder.py with the same options as before writes it anew"
    if not path.exists():
        raise InputError(f"{path}: does not exist, and where the scans are is unknown; {remedy} (finished cases are "
                         "skipped)")
    return from_record(Sources, read_json(path, remedy), path, remedy)


@dataclass(frozen=True)
class Handed:
    """One case that is to be labelled."""

    sources: tuple[str, ...]        # its scan files, where they were
    copies: tuple[str, ...]         # their names in the case's folder
    proposal: str | None = None     # file below the round's folder with what the network said
    test: bool = False              # drawn at random, for testing


@dataclass(frozen=True)
class Round:
    """What is handed out in a folder."""

    run: str | None = None          # that chose; None before any label existed
    command: tuple[str, ...] | None = None      # options by which prepare_folder.py goes on
    labels: dict[int, int] | None = None        # value in label files -> class; None: not known yet
    class_names: tuple[str, ...] = ()
    geometry: str = "itk"
    same_voxels: bool = False
    cases: dict[str, dict] = field(default_factory=dict)

    def handed(self, where: Path) -> dict[str, Handed]:
        return {name: from_record(Handed, case, f"{where}: {name}", REMEDY) for name, case in self.cases.items()}

    def write(self, folder: Path) -> None:
        write_text(folder / ROUND, json.dumps(asdict(self), indent=1) + "\n")


REMEDY = "restore the file from a copy, or run label_next.py with another --output"


def read_round(folder: Path) -> Round:
    path = folder / ROUND
    if not path.exists():
        raise InputError(f"--input {folder}: has no {ROUND}; give a folder that label_next.py wrote")
    return from_record(Round, read_json(path, REMEDY), path, REMEDY)


def tests_of(folder: Path) -> list[str]:
    """Cases that are for testing once they are labelled, as a folder's record says."""
    path = folder / TESTS
    return [line.strip() for line in read_text(path).splitlines() if line.strip()] if path.exists() else []


def add_tests(folder: Path, names: Sequence[str]) -> None:
    """Add to the record those that are not there yet."""
    known = tests_of(folder)
    if new := [name for name in names if name not in known]:
        write_text(folder / TESTS, "".join(f"{name}\n" for name in [*known, *new]))


def source_files(images: Sequence[Path | dicom.Series]) -> tuple[str, ...]:
    """A case's scan files as they are recorded: one per channel, or those of a DICOM series."""
    return tuple(str(path.resolve()) for image in images
                 for path in (image.files if isinstance(image, dicom.Series) else [image]))


def scan_of(name: str, sources: Sequence[str], images: Path | None) -> list[Path | dicom.Series]:
    """The scan files of a case, where they are now: below `images` if they have moved. InputError where they are not.
    """
    paths = [moved(source, images) for source in sources]
    if suffix(paths[0]):
        return paths
    found = dicom_series.find(paths, Path(os.path.commonpath(paths)))
    if len(found.series) != 1:
        raise InputError(f"{paths[0]}: with {len(paths) - 1} more files of {name}, holds {len(found.series)} volumes, "
                         f"expected one; convert it to NIfTI or NRRD {' '.join(found.bad.values())}")
    return found.series


def placed_beside(name: str, scans: Sequence[Path | dicom.Series], channels: Sequence[str], folder: Path,
                  put: Callable) -> list[str]:
    """Put a case's scan, under the case's name, into `folder`/<case> -> the names of its files there.

    put(source, target): a copy or a link. A header's other file goes along; a DICOM series becomes one NRRD file, in
    which no patient's name is.
    """
    home, names = folder / name, []
    make_folder(home)
    for number, scan in enumerate(scans):
        stem = f"{name}_{channels[number]}" if len(scans) > 1 else name
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


def moved(source: str, images: Path | None) -> Path:
    """Where a file is: as recorded, or of that name below `images`; InputError where it is not, or not one."""
    path = Path(source)
    if images is not None:
        found = [file for file in (images, *files_below(images)) if file.name == path.name]
        if len(found) > 1:
            found = [file for file in found if file.parent.name == path.parent.name] or found
        if len(found) != 1:
            raise InputError(f"--images {images}: holds {len(found)} files called {path.name}, expected one; name the "
                             "folder where the scans are now")
        return found[0]
    if not path.exists():
        raise InputError(f"{path}: is no longer there; --images names the folder where the scans are now")
    return path
