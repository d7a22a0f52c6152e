"""Prepare anybody's 3D scans (NIfTI, NRRD, DICOM ...), some of them labelled, for train_own.py.

    python code/prepare_folder.py --images scans --labels masks --output data/mine
    python code/prepare_folder.py --images Task02_Heart --output data/heart     (holds a dataset.json)

A scan and its label have the same file name, which is the name of the case; or the label's name has _seg, _gt, _label
or _mask after it, and both may then lie in one folder. With several channels, the files are <case>_0000, <case>_0001,
... and the label is <case>. A Medical Segmentation Decathlon or nnU-Net folder is taken as its dataset.json describes
it: the cases that it lists (or imagesTr and labelsTr), its channels, classes and their names. Writes, below --output,
<case>/mri_norm2.h5 with `image` (x, y, z) or (C, x, y, z) turned to right, anterior, superior, and `label` where there
is one; plan.json, which says with reasons how the scans are prepared and what train_own.py starts from, and may be
edited; and train.list, labelled cases first, and with --holdout N test.list with N labelled cases, which are not
trained on. A list that was edited by hand is kept. Give the same command again when scans or labels are added.
"""
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from runtime.script import reported

from imaging.cases import Options, command_line
from runtime.errors import InputError
from runtime.files import ROOT


@dataclass(kw_only=True)
class FolderOptions(Options):
    images: Path | None = None  # folder with the scans, or one with dataset.json, imagesTr and labelsTr
    labels: Path | None = None  # folder with the label maps; scans without one are unlabelled
    dataset_json: Path | None = None    # dataset.json with imagesTr and labelsTr beside it; replaces --images
    output: Path = ROOT / "data" / "mine"   # dataset folder to write
    plan: Path | None = None    # how to prepare and train, an edited plan.json; by default what the scans suggest
    # intensities: ct, windows of the labelled foreground; zscore, over the whole scan; zscore_brain, over what is not
    # background; by default as the plan chooses
    normalise: Literal["ct", "zscore", "zscore_brain", "minmax"] | None = None
    spacing: tuple[float, float, float] | None = None   # resample to these mm along x, y, z; by default as planned
    num_classes: int | None = None  # with background; by default from dataset.json, or the values up to a gap
    class_names: tuple[str, ...] = ()   # of the foreground classes in order; by default those of dataset.json
    label_map: tuple[str, ...] = ()     # VALUE:CLASS, such as 255:1; other values stay as they are
    # value in the files of voxels that nobody has labelled, which are neither learnt nor measured; by default the one
    # that dataset.json calls ignore
    ignore_label: int | None = None
    same_voxels: bool = False   # labels belong to their scans voxel by voxel: their headers need not agree
    # endings of the channels' file names, in the network's order: 0000 0001 is <case>_0000, <case>_0001; by default
    # all that dataset.json names, or that are there
    channels: tuple[str, ...] = ()
    test_images: bool = False   # take imagesTs, too, as unlabelled scans
    # labelled cases, the last ones, that are in test.list instead of train.list; those that are there stay
    holdout: int | None = None
    # regular expression of what in a case's name is the patient, such as 'p\d+' of p01_before and p01_after: scans of
    # one patient are trained on together or tested together; by default as in DICOM headers, or in names of BIDS, of
    # BraTS (2015, since 2023) and of ACDC; otherwise each case is a patient
    patients: str | None = None


@reported
def main(args=None) -> int:
    options = command_line(FolderOptions, __doc__, args)
    if options.num_classes is not None and not 2 <= options.num_classes <= 255:
        raise InputError(f"--num-classes {options.num_classes}: background counts, so 2 to 255")
    if options.holdout is not None and options.holdout < 0:
        raise InputError(f"--holdout {options.holdout}: must be 0 or more")
    from imaging.own_folder import prepare_folder  # here: options are read without what scans need
    return prepare_folder(options)


if __name__ == "__main__":
    sys.exit(main())
