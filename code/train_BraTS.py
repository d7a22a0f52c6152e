"""Train on BraTS2019, whole tumours in FLAIR MRI: 250 training scans, of which --labeled carry labels.

    python code/train_BraTS.py --labeled 25       the paper's recipe: not yet run on a GPU; the paper has 85.26 % Dice
    python code/train_BraTS.py mini --labeled 25  half resolution, an hour on one CPU core, 1.5 GiB: run on other
                                                  scans only (BraTS 2013)
    python code/test_BraTS.py --run model/BraTS2019/cml_25_seed1337

Two V-Nets look at the same scan. They are pre-trained on labelled pairs, then self-trained on both kinds. The
method is cml.py; this file is the BraTS recipe, Section 4.2 of the paper. The authors released no BraTS code:
what the paper leaves open follows URPC, whose setting it names.
"""
from dataclasses import dataclass
from pathlib import Path

from runtime.script import reported

from dataloaders.brats import BraTS
from runtime.files import ROOT
from training.recipe import NetworkName, Ratio, Recipe, Schedule
from training.recipe_options import command_line


# Where a value comes from: [P] the paper, [C] the authors' code only, [O] ours
@dataclass(kw_only=True)
class BraTSRecipe(Recipe):
    """BraTS2019: 3D V-Net, CutMix box of 2/3, pre-training and self-training."""

    dataset = BraTS.dataset
    class_names = "whole tumour",

    # data
    data_dir: Path = ROOT / "data/BraTS2019"    # folder with the scans, and the lists if not the published ones
    labeled: int = 25                       # [P] labelled scans, the first of train.txt: 25 (10 %) or 50 (20 %)
    num_classes: int = 2                    # [P] background and whole tumour
    in_channels: int = 1                    # [P] FLAIR; as many as were prepared
    patch_size: tuple[int, int, int] = (96, 96, 96)     # [P] voxels
    labeled_batch: int = 4                  # [P] labelled patches per step, mixed in pairs
    unlabeled_batch: int = 4                # [P] unlabelled patches per step, mixed in pairs
    holdout_val: int = 0                    # [O] validation cases taken from the end of the train list
    holdout_test: int = 0                   # [O] test cases taken from that end first
    half_resolution: bool = False           # [O] halve every axis in memory; metrics stay on the native grid

    # method
    network: NetworkName = "vnet"           # [P] two V-Nets; [O] decoder 0 transposed, decoder 1 trilinear
    beta: Ratio = 2 / 3                     # [P] edge of the CutMix box over edge of the patch
    lambda_unsup: float = 1.0               # [P] lambda_1 of Eq. 4: weight of L_sup on unlabelled scans
    lambda_dis: float = 0.2                 # [P] lambda_2 of Eq. 4 and 11: weight of the discrepancy

    # stochastic gradient descent
    pre_steps: int = 10_000                 # [P] pre-training on labelled pairs, Eq. 11
    self_steps: int = 30_000                # [P] self-training, Eq. 4
    lr: float = 0.01                        # [P] initial learning rate
    pre_schedule: Schedule = "poly"         # [O] of the learning rate, in pre-training; power 0.9, as URPC
    self_schedule: Schedule = "poly"        # [O] in self-training, which starts anew from lr
    momentum: float = 0.9                   # [C] of the gradients
    weight_decay: float = 1e-4              # [C] L2 penalty on all parameters
    eval_every: int = 300                   # [O] steps between validations: 25 volumes, under 5 % of the time

    # test
    stride: tuple[int, int, int] = (64, 64, 64)         # [O] voxels between sliding windows of the patch size
    keep_largest: bool = False              # [O] keep each class's largest component


PRESETS = {
    "paper": BraTSRecipe(),
    "mini": BraTSRecipe(preset="mini", half_resolution=True, patch_size=(48, 48, 48), stride=(24, 24, 24),
                        labeled_batch=2, unlabeled_batch=2, pre_steps=100, self_steps=400, eval_every=100),
}


@reported
def main(args=None):
    recipe = command_line(PRESETS, __doc__, args)
    from training.fit import train  # here: options are read without PyTorch
    return train(recipe, BraTS(recipe))


if __name__ == "__main__":
    main()
