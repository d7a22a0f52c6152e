"""Prepare BraTS2019: skull-stripped NIfTI scans -> HDF5 as the field uses it, whole tumour against the rest.

    python code/prepare_BraTS.py --input MICCAI_BraTS_2019_Data_Training

Reads <case>_flair.nii(.gz) and <case>_seg.nii(.gz), or <case>-t2f and <case>-seg as of 2023, at any depth below
--input, in HGG and LGG, say, and writes, below --output, data/<case>.h5 with `image` (x, y, z), or (C, x, y, z) with
several modalities, and `label`, 1 for any tumour label. In BraTS-GLI and BraTS-MET, 4 is no tumour but the resection
cavity. Brain is what differs from the value in the scan's corner, whatever that value is: crop to the brain's box (a
label reaching beyond widens it), clip at the 99.9 % intensity, z-score over the brain, the background along with it. A
scan without _seg is prepared without `label`, to be used unlabelled.
"""
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from runtime.script import reported

from imaging.cases import Case, Options, command_line, copy_lists, existing_folder, next_training
from runtime.errors import counted
from runtime.files import ROOT
from runtime.locks import locked

# Since 2024, 4 is the resection cavity in these cases, which is no part of the whole tumour, and enhancing tumour is 3
OPERATED, CAVITY = re.compile("BraTS-(GLI|MET)-"), ((4, 0),)


@dataclass(kw_only=True)
class BraTSOptions(Options):
    input: Path     # folder with <case>_flair.nii(.gz) and <case>_seg.nii(.gz), at any depth
    output: Path = ROOT / "data" / "BraTS2019"  # dataset folder to write
    modalities: str = "flair"   # file name endings such as flair,t1,t1ce,t2; they become the channels
    same_voxels: bool = False   # labels belong to their scans voxel by voxel: their headers need not agree
    # around the brain. own: what the z-score makes of the background, as published; mean: 0, the brain's mean
    background: Literal["own", "mean"] = "own"


def find_cases(folder: Path, modalities: tuple[str, ...]) -> tuple[list[Case], dict[str, str]]:
    """Cases below the folder, and one line for each that cannot be prepared."""
    from imaging.case_files import files_below, grouped, role_of  # here: options are read without what scans need
    from imaging.scan_files import case_name, is_label, is_scan
    files = [path for path in files_below(existing_folder(folder)) if is_label(path)]
    images, bad, _ = grouped(filter(is_scan, files), modalities, "leave {channel} out of --modalities")
    masks, bad_masks, _ = grouped(files, ("seg",))
    masks = {name: mask for name, (mask,) in masks.items()}
    # one label of 2020 has another name, W39_1998.09.19_Segm.nii, in its case's folder
    others = {path.parent: path for path in files if role_of(case_name(path), ("segm",))}
    masks |= {name: others[paths[0].parent] for name, paths in images.items()
              if name not in masks and paths[0].parent in others}
    bad |= {name: line for name, line in bad_masks.items() if name in images}
    return [Case(name, paths, masks.get(name), values=CAVITY * bool(OPERATED.match(name)))
            for name, paths in images.items() if name not in bad], bad


@reported
def main(args=None) -> int:
    options = command_line(BraTSOptions, __doc__, args)
    from imaging.preparation import prepare_cases  # here: options are read without what scans need
    from imaging.record import PUBLISHED
    preprocessing = replace(PUBLISHED["BraTS2019"], modalities=tuple(options.modalities.split(",")),
                            background=options.background)
    cases, bad = find_cases(options.input, preprocessing.modalities)
    print(f"BraTS: {counted(len(cases) + len(bad), 'case')} below {options.input}, {options.modalities}")
    if operated := sum(bool(case.values) for case in cases):
        print(f"in {counted(operated, 'case')} called BraTS-GLI or BraTS-MET, the value 4 is the resection cavity, and "
              "no tumour")
    with locked(options.output, "--output"):
        outcome = prepare_cases(cases, bad, preprocessing, options, "data/{case}.h5",
                                same_affine=not options.same_voxels)
        for name, case in outcome.good.items():
            if case["outside"]:
                print(f"{name}: {case['outside']} label voxels lie outside the brain (kept)")
        if unlabelled := [name for name, case in outcome.good.items() if case["classes"] is None]:
            print(f"{counted(len(unlabelled), 'case')} without a _seg file and a label: {', '.join(unlabelled[:5])}")
        copy_lists("BraTS2019", options, set(outcome.good))
        channels = len(preprocessing.modalities)
        print(next_training("train_BraTS", options, "train.txt", 25, "mini",
                            *["--in-channels", channels] * (channels > 1)))
        return 2 if outcome.bad else 0


if __name__ == "__main__":
    sys.exit(main())
