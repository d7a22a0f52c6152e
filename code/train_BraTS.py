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
    labeled: int = 25                       # labelled scans, the first of train.txt: 25 (10 %) or 50 (20 %)  [P]
    num_classes: int = 2                    # background and whole tumour                                     [P]
    in_channels: int = 1                    # FLAIR; as many as were prepared                                 [P]
    patch_size: tuple[int, int, int] = (96, 96, 96)     # voxels                                              [P]
    labeled_batch: int = 4                  # labelled patches per step, mixed in pairs                       [P]
    unlabeled_batch: int = 4                # unlabelled patches per step, mixed in pairs                     [P]
    holdout_val: int = 0                    # validation cases taken from the end of the train list           [O]
    holdout_test: int = 0                   # test cases taken from that end, before those                    [O]
    half_resolution: bool = False           # halve every axis in memory; metrics stay on the native grid     [O]

    # method
    network: NetworkName = "vnet"           # two V-Nets [P]; decoder 0 transposed, decoder 1 trilinear       [O]
    beta: Ratio = 2 / 3                     # edge of the CutMix box over edge of the patch                   [P]
    lambda_unsup: float = 1.0               # lambda_1 of Eq. 4: weight of L_sup on unlabelled scans          [P]
    lambda_dis: float = 0.2                 # lambda_2 of Eq. 4 and 11: weight of the discrepancy             [P]

    # stochastic gradient descent
    pre_steps: int = 10_000                 # pre-training on labelled pairs, Eq. 11                          [P]
    self_steps: int = 30_000                # self-training, Eq. 4                                            [P]
    lr: float = 0.01                        # initial learning rate                                           [P]
    pre_schedule: Schedule = "poly"         # of the learning rate, power 0.9, as URPC                        [O]
    self_schedule: Schedule = "poly"        # starts anew from lr                                             [O]
    momentum: float = 0.9                   # of the gradients                                                [C]
    weight_decay: float = 1e-4              # L2 penalty on all parameters                                    [C]
    eval_every: int = 300                   # steps between validations: 25 volumes, under 5 % of the time    [O]

    # test
    stride: tuple[int, int, int] = (64, 64, 64)         # voxels between sliding windows of the patch size    [O]
    keep_largest: bool = False              # keep each class's largest component                             [O]


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
