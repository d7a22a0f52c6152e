"""Prepare ACDC: the challenge's cine MRI -> HDF5 volumes and slices as the field uses them.

    python code/prepare_ACDC.py --input ACDC/database/training

Reads patientXXX/Info.cfg at any depth below --input, takes the two frames that it names, end-diastole (ED)
and end-systole (ES), with their _gt files, and writes, below --output, data/patientXXX_frame01.h5 (ED) and
data/patientXXX_frame02.h5 (ES) with `image` (slices, H, W), min-max to [0, 1] over the volume, and `label`: 1
right ventricle, 2 myocardium, 3 left ventricle. All patients but those of val.list and test.list also get
data/slices/patientXXX_frame0Y_slice_K.h5, K from 1. The published lists that apply are put beside them.
"""
import sys
from dataclasses import dataclass
from pathlib import Path

from runtime.script import reported

from imaging.cases import Case, Options, command_line, copy_lists, existing_folder, next_training, one_case_each
from runtime.errors import InputError, counted
from runtime.files import ROOT
from runtime.locks import locked

SLICE_FILES = "data/slices/{case}_slice_{k}.h5"


@dataclass(kw_only=True)
class ACDCOptions(Options):
    input: Path     # folder with patientXXX/Info.cfg, patientXXX_frameYY.nii.gz and _gt.nii.gz, at any depth
    output: Path = ROOT / "data" / "ACDC"   # dataset folder to write


def frames(patient: Path) -> dict[str, int]:
    """{"ED": 1, "ES": 12}: frame numbers from the patient's Info.cfg."""
    info = patient / "Info.cfg"
    if not info.is_file():
        raise InputError(f"{info}: is missing, it names the ED and ES frames; "
                         "copy it from the challenge's archive")
    lines = info.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    try:
        return {phase: int(fields[phase]) for phase in ("ED", "ES")}
    except (KeyError, ValueError) as error:
        raise InputError(f"{info}: names no ED and ES frame, expected lines such as 'ED: 1' and 'ES: 12'; "
                         "copy it from the challenge's archive") from error


def frame_case(patient: Path, name: str, frame: int, slices: str | None) -> Case:
    """The case of one frame. Raises InputError where its scan or its ground truth is missing."""
    from imaging.scan_files import find_scan  # here: options are read without what scans need
    scan = patient / f"{patient.name}_frame{frame:02d}"
    files = []
    for stem, what in ((scan, "scan"), (scan.with_name(f"{scan.name}_gt"), "ground truth")):
        if (path := find_scan(stem)) is None:
            raise InputError(f"{stem}.nii.gz: is missing, the {what} of frame {frame} that Info.cfg names; "
                             "copy it from the challenge's archive, or remove the patient's folder")
        files.append(path)
    return Case(name, (files[0],), files[1], slices=slices)


def find_cases(folder: Path) -> tuple[list[Case], dict[str, str]]:
    """Cases below the folder, and one line for each that cannot be prepared."""
    from imaging.case_files import files_below  # here: options are read without what scans need
    folders = {path.parent for path in files_below(existing_folder(folder))
               if path.name == "Info.cfg" or path.match("patient*_frame*.nii*")}
    held_out = {name for split in ("val", "test")
                for name in (ROOT / "data" / "ACDC" / f"{split}.list").read_text(encoding="utf-8").split()}
    patients, bad = one_case_each((patient.name, patient) for patient in folders)
    cases = []
    for patient in patients.values():
        try:
            numbers = frames(patient)
        except InputError as error:
            bad[patient.name] = str(error)
            continue
        for suffix, phase in (("frame01", "ED"), ("frame02", "ES")):
            name = f"{patient.name}_{suffix}"
            try:
                slices = None if name in held_out else SLICE_FILES
                cases.append(frame_case(patient, name, numbers[phase], slices))
            except InputError as error:
                bad[name] = str(error)
    return cases, bad


@reported
def main(args=None) -> int:
    options = command_line(ACDCOptions, __doc__, args)
    from imaging.preparation import prepare_cases  # here: options are read without what scans need
    from imaging.record import PUBLISHED
    cases, bad = find_cases(options.input)
    print(f"ACDC: {counted(len(cases) + len(bad), 'volume')} below {options.input}")
    with locked(options.output, "--output"):
        outcome = prepare_cases(cases, bad, PUBLISHED["ACDC"], options, "data/{case}.h5", same_affine=False)
        written = {path.stem for case in cases if case.slices and case.name in outcome.good
                   for k in range(outcome.good[case.name]["shape"][0])
                   if (path := options.output / SLICE_FILES.format(case=case.name, k=k + 1)).exists()}
        missing = copy_lists("ACDC", options, written | set(outcome.good))
        # absent patients are the user's choice; absent slices of a patient who is there are not
        lost = [name for name in missing.get("train_slices.list", ()) if name.split("_slice_")[0] in outcome.good]
        if lost:
            raise InputError(f"{len(lost)} listed slices of prepared volumes do not exist: {', '.join(lost)}; "
                             "--force writes deleted ones again; else these are not the challenge's own files")
        print(f"{len(written)} training slices")
        print(next_training("train_ACDC", options, "train_slices.list", 7, "short",
                            patient_of=lambda name: name.split("_frame")[0]))
        return 2 if outcome.bad else 0


if __name__ == "__main__":
    sys.exit(main())
