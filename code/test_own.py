"""Test a run on your own scans: sliding windows, every view of the method, metrics in the volumes' own voxels.

    python code/test_own.py --run model/mine/cml_plus_8_seed1337
    python code/test_own.py --compare RUN1 RUN2    tested runs side by side, paired over cases

Writes RUN/test_<split>_<checkpoint>.csv, one row per case and class, and the table as Markdown and LaTeX beside it.
"""
from runtime.script import reported

from dataloaders.own import Own
from evaluation.report import test
from training.trained import load_run


@reported
def main(args=None):
    return test(Own, load_run, __doc__, args)


if __name__ == "__main__":
    main()
