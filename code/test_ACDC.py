"""Test a run on ACDC: slice by slice, both subnets and their fusion, volume metrics, the paper's row beside it.

    python code/test_ACDC.py --run model/ACDC/cml_7_seed1337
"""
from dataloaders.acdc import ACDC
from evaluation.report import test
from runtime.errors import reported
from train_ACDC import ACDCRecipe

CLASSES = ["RV", "MYO", "LV"]


@reported
def main(args=None):
    return test(ACDC, ACDCRecipe, CLASSES, __doc__, args)


if __name__ == "__main__":
    main()
