"""Prepare LA: the scans of the 2018 Atrial Segmentation Challenge -> HDF5 as the field uses it.

    python code/prepare_LA.py --input "Training Set"

Reads <case>/lgemri.nrrd and <case>/laendo.nrrd at any depth below --input and writes, below --output,
2018LA_Seg_Training Set/<case>/mri_norm2.h5 with `image` (x, y, z), z-scored over the whole scan, then cropped
in plane, and `label`, 1 for the left atrium. The published lists that apply are put beside them.
"""
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from runtime.script import reported

from imaging.cases import SEED, Case, Options, command_line, copy_lists, existing_folder, next_training, one_case_each
from runtime.command_line import check_seed
from runtime.errors import counted
from runtime.files import ROOT
from runtime.locks import locked

CROPS = {
    "label": "crop label: around the ground truth, as published; numbers compare with the paper's, but the "
             "network never sees the rest of a scan, and a new scan has no ground truth to be cropped with",
    "none": "crop none: whole scans, no ground truth used; numbers do not compare with the paper's: more "
            "background to be wrong in, and many times the windows at test",
    "foreground": "crop foreground: box of the bright voxels (Otsu), no ground truth used; numbers do not "
                  "compare with the paper's: more background to be wrong in, and more windows at test",
}


@dataclass(kw_only=True)
class LAOptions(Options):
    input: Path     # folder with <case>/lgemri.nrrd and <case>/laendo.nrrd, at any depth
    output: Path = ROOT / "data" / "LA"     # dataset folder to write
    # In-plane crop. label: box of the ground truth, at least 112 voxels wide, plus 10 to 19 voxels per side, as
    # published. none or foreground: without the ground truth, also for scans that have none.
    crop: Literal["label", "none", "foreground"] = "label"
    seed: int = SEED    # of the random margins; each case draws its own


def find_cases(folder: Path, needs_label: bool) -> tuple[list[Case], dict[str, str]]:
    """Cases below the folder, and one line for each that cannot be prepared."""
    from imaging.case_files import files_below  # here: options are read without what scans need
    scans = [path for path in files_below(existing_folder(folder)) if path.name == "lgemri.nrrd"]
    images, bad = one_case_each((path.parent.name, path) for path in scans)
    cases = []
    for name, image in images.items():
        label = image.with_name("laendo.nrrd")
        if needs_label and not label.exists():
            bad[name] = (f"{label}: is missing, the crop is made around it; "
                         "put it there, or use --crop foreground, which needs no label")
        else:
            cases.append(Case(name, (image,), label if label.exists() else None))
    return cases, bad


@reported
def main(args=None) -> int:
    options = command_line(LAOptions, __doc__, args)
    check_seed(options.seed)
    from imaging.preparation import prepare_cases  # here: options are read without what scans need
    from imaging.record import PUBLISHED
    cases, bad = find_cases(options.input, needs_label=options.crop == "label")
    preprocessing = replace(PUBLISHED["LA"], crop=options.crop, seed=options.seed)
    print(f"LA: {counted(len(cases) + len(bad), 'case')} below {options.input}\n{CROPS[options.crop]}")
    with locked(options.output, "--output"):
        outcome = prepare_cases(cases, bad, preprocessing, options, "2018LA_Seg_Training Set/{case}/mri_norm2.h5",
                                same_affine=False)
        if cut := {name: case["outside"] for name, case in outcome.good.items() if case["outside"]}:
            print(f"the crop cuts label voxels away in {counted(len(cut), 'case')}, {max(cut.values())} at most: "
                  f"{', '.join(list(cut)[:5])}")
        copy_lists("LA", options, set(outcome.good))
        print(next_training("train_LA", options, "train.list", 8, "short"))
        return 2 if outcome.bad else 0


if __name__ == "__main__":
    sys.exit(main())
