"""Train on LA, the left atrium in 3D MRI: 80 training scans, of which --labeled carry labels.

    python code/train_LA.py --labeled 8           the paper's recipe: not yet run on a GPU; the paper has 90.36 % Dice
    python code/train_LA.py short --labeled 8     half resolution, up to four hours on one CPU core, 1.4 GiB:
                                                  60.1 % Dice on 8 scans (one run)
    python code/train_LA.py mini --labeled 8      half resolution, half an hour, 1.4 GiB: does it run, does it learn?
    python code/test_LA.py --run model/LA/cml_8_seed1337

Two V-Nets look at the same scan. They are pre-trained on labelled pairs, then self-trained on both kinds. The
method is cml.py; this file is the LA recipe, Section 4.2 of the paper.
"""
from dataclasses import dataclass
from pathlib import Path

from runtime.script import reported

from dataloaders.la import LA
from runtime.files import ROOT
from training.recipe import NetworkName, Ratio, Recipe, Schedule
from training.recipe_options import command_line


# Where a value comes from: [P] the paper, [C] the authors' code only, [O] ours
@dataclass(kw_only=True)
class LARecipe(Recipe):
    """LA: 3D V-Net, CutMix box of 2/3, pre-training and self-training."""

    dataset = LA.dataset
    class_names = "left atrium",

    # data
    data_dir: Path = ROOT / "data/LA"       # folder with the scans, and the lists if not the published ones
    labeled: int = 8                        # [P] labelled scans, the first of train.list: 4 (5 %) or 8 (10 %)
    num_classes: int = 2                    # [P] background and left atrium
    in_channels: int = 1                    # [P] channels of a scan
    patch_size: tuple[int, int, int] = (112, 112, 80)   # [P] voxels
    labeled_batch: int = 4                  # [P] labelled patches per step, mixed in pairs
    unlabeled_batch: int = 4                # [P] unlabelled patches per step, mixed in pairs
    holdout_val: int = 0                    # [O] validation cases taken from the end of the train list
    holdout_test: int = 0                   # [O] test cases taken from that end first
    half_resolution: bool = False           # [O] halve every axis in memory; metrics stay on the native grid

    # method
    network: NetworkName = "vnet"           # [P] two V-Nets; [C] decoder 0 transposed, decoder 1 trilinear
    beta: Ratio = 2 / 3                     # [P] edge of the CutMix box over edge of the patch
    lambda_unsup: float = 1.0               # [P] lambda_1 of Eq. 4: weight of L_sup on unlabelled scans
    lambda_dis: float = 0.2                 # [P] lambda_2 of Eq. 4 and 11: weight of the discrepancy

    # stochastic gradient descent
    pre_steps: int = 2_000                  # [P] pre-training on labelled pairs, Eq. 11
    self_steps: int = 15_000                # [P] self-training, Eq. 4
    lr: float = 0.01                        # [P] initial learning rate
    pre_schedule: Schedule = "constant"     # [C] of the learning rate, in pre-training
    self_schedule: Schedule = "step"        # [C] in self-training: a tenth every 2,500 of 15,000 steps
    momentum: float = 0.9                   # [C] of the gradients
    weight_decay: float = 1e-4              # [C] L2 penalty on all parameters

    # test
    stride: tuple[int, int, int] = (18, 18, 4)          # [C] voxels between sliding windows of the patch size
    keep_largest: bool = True               # [C] keep each class's largest component


PRESETS = {
    "paper": LARecipe(),
    "mini": LARecipe(preset="mini", half_resolution=True, patch_size=(48, 48, 32), stride=(24, 24, 16),
                     pre_steps=200, self_steps=800, drop_every=1 / 6, eval_every=100, holdout_test=8),
    "short": LARecipe(preset="short", half_resolution=True, patch_size=(48, 48, 32), stride=(24, 24, 16),
                      pre_steps=600, self_steps=2_400, drop_every=4 / 5, holdout_test=8),
}


@reported
def main(args=None):
    recipe = command_line(PRESETS, __doc__, args)
    from training.fit import train  # here: options are read without PyTorch
    return train(recipe, LA(recipe))


if __name__ == "__main__":
    main()
