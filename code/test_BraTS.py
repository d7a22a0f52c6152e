"""Test a run on BraTS2019: sliding windows, every view of the method, the paper's row beside it.

    python code/test_BraTS.py --run model/BraTS2019/cml_25_seed1337    the paper's recipe: not yet run on a GPU
    python code/test_BraTS.py --compare RUN1 RUN2    tested runs side by side, paired over patients

Writes RUN/test_<split>_<checkpoint>.csv, one row per case and class, and the table as Markdown and LaTeX beside it.
"""
from runtime.script import reported

from dataloaders.brats import BraTS
from evaluation.report import test
from training.trained import load_run


@reported
def main(args=None):
    return test(BraTS, load_run, __doc__, args)


if __name__ == "__main__":
    main()
