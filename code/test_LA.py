"""Test a run on LA: sliding windows, both subnets and their fusion, largest component, the paper's row beside it.

    python code/test_LA.py --run model/LA/cml_8_seed1337
"""
from dataloaders.la import LA
from evaluation.report import test
from runtime.errors import reported
from train_LA import LARecipe

CLASSES = ["left atrium"]


@reported
def main(args=None):
    return test(LA, LARecipe, CLASSES, __doc__, args)


if __name__ == "__main__":
    main()
