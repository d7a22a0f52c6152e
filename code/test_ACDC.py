"""Test a run on ACDC: slice by slice, both subnets and their fusion, volume metrics, the paper's row beside it.

    python code/test_ACDC.py --run model/ACDC/cml_7_seed1337
"""
from dataloaders.acdc import ACDC
from evaluation.report import test
from runtime.errors import reported
from train_ACDC import ACDCRecipe

CLASSES = ["RV", "MYO", "LV"]
# method -> labelled patients -> Dice (%), 95HD (voxel), ASD (voxel): Table 2 of the paper
PAPER = {
    "cml": {3: (88.53, 1.87, 0.57), 7: (89.42, 1.42, 0.52)},
    "supervised": {3: (47.83, 31.16, 12.62), 7: (79.41, 9.35, 2.70), 70: (91.44, 4.30, 0.99)},
}


@reported
def main(args=None):
    return test(ACDC, ACDCRecipe, CLASSES, PAPER, __doc__, args)


if __name__ == "__main__":
    main()
