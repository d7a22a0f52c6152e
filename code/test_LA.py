"""Test a run on LA: sliding windows, both subnets and their fusion, largest component, the paper's row beside it.

    python code/test_LA.py --run model/LA/cml_8_seed1337
"""
from dataloaders.la import LA
from evaluation.report import test
from runtime.errors import reported
from train_LA import LARecipe

CLASSES = ["left atrium"]
# method -> labelled scans -> Dice (%), 95HD (voxel), ASD (voxel): Table 1 of the paper
PAPER = {
    "cml": {4: (87.63, 8.92, 2.23), 8: (90.36, 6.06, 1.68)},
    "supervised": {4: (52.55, 47.05, 9.87), 8: (82.74, 13.35, 3.26), 80: (91.47, 5.48, 1.51)},
}


@reported
def main(args=None):
    return test(LA, LARecipe, CLASSES, PAPER, __doc__, args)


if __name__ == "__main__":
    main()
