"""Test a run on BraTS2019: sliding windows, both subnets and their fusion, the paper's row beside it.

    python code/test_BraTS.py --run model/BraTS2019/cml_25_seed1337
"""
from dataloaders.brats import BraTS
from evaluation.report import test
from runtime.errors import reported
from train_BraTS import BraTSRecipe

CLASSES = ["whole tumour"]
# method -> labelled scans -> Dice (%), 95HD (voxel), ASD (voxel): Table 3 of the paper
PAPER = {
    "cml": {25: (85.26, 9.08, 1.83), 50: (86.63, 7.83, 1.45)},
    "supervised": {25: (78.32, 22.29, 7.36), 50: (80.18, 20.57, 6.09), 250: (88.23, 7.21, 1.53)},
    "mean_teacher": {25: (81.70, 13.28, 3.56), 50: (85.03, 7.80, 1.89)},
}


@reported
def main(args=None):
    return test(BraTS, BraTSRecipe, CLASSES, PAPER, __doc__, args)


if __name__ == "__main__":
    main()
