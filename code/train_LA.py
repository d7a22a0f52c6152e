"""Train on LA, the left atrium in 3D MRI: 80 training scans, of which --labeled carry labels.

    python code/train_LA.py --labeled 8           the paper's recipe: not yet run on a GPU; the paper has 90.36 % Dice
    python code/train_LA.py short --labeled 8     half resolution, up to four hours on one CPU core, 1.4 GiB:
                                                  63.5 % Dice on 8 scans (one run, labels half a voxel off)
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
    labeled: int = 8                        # labelled scans, the first of train.list: 4 (5 %) or 8 (10 %)    [P]
    num_classes: int = 2                    # background and left atrium                                      [P]
    in_channels: int = 1                    # channels of a scan                                              [P]
    patch_size: tuple[int, int, int] = (112, 112, 80)   # voxels                                              [P]
    labeled_batch: int = 4                  # labelled patches per step, mixed in pairs                       [P]
    unlabeled_batch: int = 4                # unlabelled patches per step, mixed in pairs                     [P]
    holdout_val: int = 0                    # validation cases taken from the end of the train list           [O]
    holdout_test: int = 0                   # test cases taken from that end, before those                    [O]
    half_resolution: bool = False           # halve every axis in memory; metrics stay on the native grid     [O]

    # method
    network: NetworkName = "vnet"           # two V-Nets [P]; decoder 0 transposed, decoder 1 trilinear       [C]
    beta: Ratio = 2 / 3                     # edge of the CutMix box over edge of the patch                   [P]
    lambda_unsup: float = 1.0               # lambda_1 of Eq. 4: weight of L_sup on unlabelled scans          [P]
    lambda_dis: float = 0.2                 # lambda_2 of Eq. 4 and 11: weight of the discrepancy             [P]

    # stochastic gradient descent
    pre_steps: int = 2_000                  # pre-training on labelled pairs, Eq. 11                          [P]
    self_steps: int = 15_000                # self-training, Eq. 4                                            [P]
    lr: float = 0.01                        # initial learning rate                                           [P]
    pre_schedule: Schedule = "constant"     # of the learning rate                                            [C]
    self_schedule: Schedule = "step"        # a tenth every 2,500 of 15,000 steps                             [C]
    momentum: float = 0.9                   # of the gradients                                                [C]
    weight_decay: float = 1e-4              # L2 penalty on all parameters                                    [C]

    # test
    stride: tuple[int, int, int] = (18, 18, 4)          # voxels between sliding windows of the patch size    [C]
    keep_largest: bool = True               # keep each class's largest component                             [C]


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
