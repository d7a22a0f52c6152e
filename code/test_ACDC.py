"""Test a run on ACDC: slice by slice, every view of the method, metrics of whole volumes, the paper's row beside it.

    python code/test_ACDC.py --run model/ACDC/cml_7_seed1337    the paper's recipe: not yet run on a GPU
    python code/test_ACDC.py --compare RUN1 RUN2    tested runs side by side, paired over patients

Writes RUN/test_<split>_<checkpoint>.csv, one row per case and class, and the table as Markdown and LaTeX beside it.
"""
from runtime.script import reported

from dataloaders.acdc import ACDC
from evaluation.report import test
from training.trained import load_run


@reported
def main(args=None):
    return test(ACDC, load_run, __doc__, args)


if __name__ == "__main__":
    main()
