"""Test a run on BraTS2019: sliding windows, both subnets and their fusion, the paper's row beside it.

    python code/test_BraTS.py --run model/BraTS2019/cml_25_seed1337
"""
from dataloaders.brats import BraTS
from evaluation.report import test
from runtime.errors import reported
from train_BraTS import BraTSRecipe

CLASSES = ["whole tumour"]


@reported
def main(args=None):
    return test(BraTS, BraTSRecipe, CLASSES, __doc__, args)


if __name__ == "__main__":
    main()
