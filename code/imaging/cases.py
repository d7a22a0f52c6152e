"""What the prepare scripts share before anything is prepared: cases, options, published lists.

Their options are read without NumPy and what stands on it, so that --help answers at once: see preparation.py.
"""
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from runtime import job
from runtime.command_line import parsed
from runtime.errors import DEBUG, InputError, some_of
from runtime.files import ROOT, check_readable, is_case_name, write_aside

SEED = 1337     # of what is drawn in preparing
LAYOUT = "{case}/mri_norm2.h5"      # of own data: a case's file below the data folder
INDEX = "DICOMDIR"  # file that lists the DICOM files below its folder
UNFIT = "{}: {!a} cannot be a case name; rename it with letters, digits, - and _"   # of a file, a name
TWICE = "{} and {} are one case, {}: remove or rename one of them"                  # of two files, their name
IGNORED = 255   # in prepared label maps: voxels that nobody has labelled, which no loss and no metric takes in


@dataclass(frozen=True)
class Case:
    """One scan to prepare: one file per modality, or one of all, and the label file or None."""

    name: str
    images: tuple[Path, ...]
    label: Path | None = None
    slices: str | None = None   # layout of its slice files, "data/slices/{case}_slice_{k}.h5"
    values: tuple[tuple[int, int], ...] = ()    # (value, class) in its label file where others have another class


def one_case_each(files: Iterable[tuple[str, Path]]) -> tuple[dict[str, Path], dict[str, str]]:
    """(name, path) pairs -> {name: path} of the usable ones, {name: one line} of names met twice or unfit."""
    good, bad = {}, {}
    for name, path in sorted(files, key=lambda item: (item[0], str(item[1]))):
        if not is_case_name(name):
            bad[name] = UNFIT.format(path, name)
        elif name in good or name in bad:
            other = good.pop(name, None)
            bad.setdefault(name, TWICE.format(other, path, name))
        else:
            good[name] = path
    return good, bad


def listed(path: Path) -> list[str]:
    """Names in a list of cases; none where there is no list."""
    check_readable(path)
    lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines() if path.exists() else []
    return [line.strip().removesuffix(".h5") for line in lines if line.strip()]


def copy_lists(dataset: str, options: "Options", present: set[str]) -> dict[str, list[str]]:
    """Put the published lists whose cases are all `present` into the output folder and say so.

    Returns {list: cases that are missing} for the others.
    """
    lists = {path: path.read_text(encoding="utf-8").split() for path in sorted((ROOT / "data" / dataset).iterdir())
             if path.suffix in (".list", ".txt")}
    missing = {path.name: [name for name in names if name not in present] for path, names in lists.items()}
    missing = {name: absent for name, absent in missing.items() if absent}
    if all(len(missing.get(path.name, ())) == len(names) for path, names in lists.items()):
        print(f"none of the published {dataset} cases are here: name your own, one per line, in "
              f"{', '.join(path.name for path in lists)} in {shown(options.output)}")
        return missing
    for source, names in lists.items():
        target, absent = options.output / source.name, missing.get(source.name, [])
        check_readable(target)
        if absent:
            remedy = f"; name those to use, one per line, in {shown(target)}"
            print(f"{source.name}: {len(names) - len(absent)} of the {len(names)} published entries are "
                  f"here, not copied; missing {some_of(absent, 3)}"
                  + remedy * (len(absent) < len(names) and not target.exists()))
        elif target.exists() and target.read_bytes() != source.read_bytes() and not options.force:
            print(f"{source.name}: the list in {shown(options.output)} is not the published one and is kept; "
                  "--force replaces it")
        else:
            if not (target.exists() and target.samefile(source)):
                write_aside(target, lambda file, source=source: file.write(source.read_bytes()))
            print(f"{source.name}: the published list, all {len(names)} entries are here")
    return missing


@dataclass(kw_only=True)
class Options:
    """What every prepare script understands."""

    output: Path
    workers: int = min(4, job.cpus())  # scans prepared at the same time; each is held in memory
    force: bool = False     # overwrite what was prepared in another way or from other files
    allow_empty: bool = False   # accept labels without any foreground (healthy cases)
    accept_predictions: bool = False    # take label maps of predict.py, as it wrote them, for labels
    # where the fields of a NIfTI header disagree. itk: voxel sizes of pixdim, directions of sform or qform as ITK, 3D
    # Slicer and ITK-SNAP choose; sform: the sform with its own voxel sizes, as nibabel
    geometry: Literal["itk", "sform"] = "itk"


def command_line(options_type: type, description: str, args: Sequence[str] | None = None) -> Options:
    """Command line -> options; every field is an option, --debug is added by `errors.reported`."""
    return parsed(options_type, args, config=(tyro.conf.FlagCreatePairsOff,),
                  description=f"{description}\n{DEBUG} Exit code: 0, or 2 if anything could not be prepared.")


def folder_of(path: Path) -> Path:
    """The folder that a DICOMDIR stands for, which some file systems write in small letters; any other path itself."""
    return path.parent if path.name.upper() == INDEX and path.is_file() else path


def existing_folder(path: Path) -> Path:
    """`folder_of` a path; InputError where that is no folder."""
    folder = folder_of(path)
    if not folder.is_dir():
        raise InputError(f"{path}: " + ("is no folder; give the one that holds it" if path.exists() else
                                        "there is no such folder"))
    return folder


def has_gpu() -> bool:
    """Whether an NVIDIA driver lists a GPU; PyTorch, which takes seconds to load, is not asked."""
    return any(Path("/proc/driver/nvidia/gpus").glob("*")) or Path("/dev/nvidia0").exists() or Path("/dev/dxg").exists()


def next_training(script: str, options: "Options", file: str, labeled: int, preset: str, *words: object,
                  patient_of: Callable[[str], str] = str) -> str:
    """The line that says how to train: with `preset` where there is no GPU, and no more labels than leave a case of the
    list unlabelled; without a list, of which was said that it is to be written, it comes after that.
    """
    patients = set(map(patient_of, listed(options.output / file)))
    labeled = max(min(labeled, len(patients) - 1), 1) if patients else labeled
    command = ["python", f"code/{script}.py", *[preset] * (not has_gpu()), "--labeled", labeled, "--data-dir",
               shown(options.output), *words]
    return f"{'next' if patients else 'then'}: {shlex.join(map(str, command))}"


def shown(path: Path) -> Path:
    """Relative to the working directory where it lies below it."""
    path = Path(path).resolve()
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def in_shell(path: Path) -> str:
    """`shown`, as a word of a command."""
    return shlex.quote(str(shown(path)))
