"""Train on ACDC, three structures of the heart in cine MRI: 70 training patients, of which --labeled carry labels.

    python code/train_ACDC.py --labeled 7         the paper's recipe: not yet run on a GPU; the paper has 89.42 % Dice
    python code/train_ACDC.py short --labeled 3   slices at 128 x 128, an hour or more on one CPU core, 1.0 GiB:
                                                  79.9 +- 1.6 % Dice on the 40 test volumes (three runs)
    python code/train_ACDC.py mini --labeled 7    the same in 20 minutes: 74.5 % on 20 volumes (one run)
    python code/test_ACDC.py --run model/ACDC/cml_7_seed1337

Two U-Nets look at the same slice. They are pre-trained on labelled pairs, then self-trained on both kinds. The
method is cml.py; this file is the ACDC recipe, Section 4.2 of the paper.
"""
from dataclasses import dataclass
from pathlib import Path

from runtime.script import reported

from dataloaders.acdc import ACDC
from runtime.files import ROOT
from training.recipe import NetworkName, Ratio, Recipe, Schedule
from training.recipe_options import command_line


# Where a value comes from: [P] the paper, [C] the authors' code only, [O] ours
@dataclass(kw_only=True)
class ACDCRecipe(Recipe):
    """ACDC: 2D U-Net, CutMix box of 1/2, pre-training and self-training."""

    dataset = ACDC.dataset
    class_names = "RV", "MYO", "LV"

    # data
    data_dir: Path = ROOT / "data/ACDC"     # folder with the scans, and the lists if not the published ones
    labeled: int = 7                        # [P] labelled patients, the first of the list: 3 (5 %) or 7 (10 %)
    num_classes: int = 4                    # [P] background, RV, MYO, LV
    in_channels: int = 1                    # [P] channels of a slice
    patch_size: tuple[int, int] = (256, 256)            # [P] pixels; every slice is resized to it
    labeled_batch: int = 12                 # [C] labelled slices per step, mixed in pairs (24 in all [P])
    unlabeled_batch: int = 12               # [C] unlabelled slices per step, mixed in pairs

    # method
    network: NetworkName = "unet"           # two U-Nets [P], bilinear and transposed; released: one for both [C]
    beta: Ratio = 1 / 2                     # [P] edge of the CutMix box over edge of the patch
    lambda_unsup: float = 0.5               # [P] lambda_1 of Eq. 4: weight of L_sup on unlabelled slices
    lambda_dis: float = 0.1                 # [P] lambda_2 of Eq. 4 and 11: weight of the discrepancy

    # stochastic gradient descent
    pre_steps: int = 10_000                 # [P] pre-training on labelled pairs, Eq. 11
    self_steps: int = 30_000                # [P] self-training, Eq. 4
    lr: float = 0.01                        # [P] initial learning rate
    pre_schedule: Schedule = "constant"     # [C] of the learning rate, in pre-training
    self_schedule: Schedule = "constant"    # [C] in self-training
    momentum: float = 0.9                   # [C] of the gradients
    weight_decay: float = 1e-4              # [C] L2 penalty on all parameters

    # test
    keep_largest: bool = False              # [C] keep each class's largest component


PRESETS = {
    "paper": ACDCRecipe(),
    "mini": ACDCRecipe(preset="mini", patch_size=(128, 128), labeled_batch=6, unlabeled_batch=6,
                       pre_steps=400, self_steps=1_200, eval_every=100),
    "short": ACDCRecipe(preset="short", patch_size=(128, 128), labeled_batch=6, unlabeled_batch=6,
                        pre_steps=1_200, self_steps=3_600),
}


@reported
def main(args=None):
    recipe = command_line(PRESETS, __doc__, args)
    from training.fit import train  # here: options are read without PyTorch
    return train(recipe, ACDC(recipe))


if __name__ == "__main__":
    main()
