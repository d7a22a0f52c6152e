"""How good is a run, or a method, on your own scans: metrics of every case and class, in the volumes' own voxels.

    python code/test_own.py --run model/mine/cml_plus_8_seed1337            on test.list, every view of the method
    python code/test_own.py --run model/mine/cml_plus_8_seed1337_folds      each case by the fold that never saw it
    python code/test_own.py --compare RUN1 RUN2                 tested runs side by side, paired over cases
    python code/test_own.py --predictions maps --labels masks   label maps that any program made

Writes RUN/test_<split>_<checkpoint>.csv, one row per case and class, and the table as Markdown and LaTeX beside it; of
folds and of label maps with a bootstrap interval of the Dice, distances in mm where the voxel size is known, and the
worst cases first. Surface Dice counts surface voxels within --tolerance of the other surface.
"""
import math
from dataclasses import replace

from runtime.script import reported

from dataloaders.own import Own
from evaluation import pooled, scored
from evaluation.report import result_path, tested
from imaging.cases import in_shell
from runtime.command_line import parsed
from runtime.errors import DEBUG, InputError
from runtime.ranks import Ranks
from training.trained import load_run


@reported
def main(args=None):
    options = parsed(pooled.OwnOptions, args, description=f"{__doc__}\n{DEBUG}")
    if not 0 <= options.tolerance < math.inf:
        raise InputError(f"--tolerance {options.tolerance:g}: must be 0 or more")
    if options.predictions or options.labels:
        return scored.score_maps(options)
    for name in ("output", "class_names", "label_map", "ignore_label", "geometry"):
        if getattr(options, name) not in (None, ()):
            raise InputError(f"--{name.replace('_', '-')}: belongs to --predictions and --labels; a run's result is in "
                             "its own folder, with the names and labels that it was trained with")
    if options.run and pooled.is_folds(options.run):
        Ranks().say(f"{options.run}, {options.checkpoint}.pt of every fold: PyTorch is loading")
        rows = pooled.test_folds(options, load_run, Own.dataset)
    else:
        there = [unit for unit in ("voxel", "mm") if all(       # of folds mm where known
            result_path(run, replace(options, spacing=unit)).exists() for run in options.compare)]
        rows = tested(replace(options, spacing=options.spacing or (there or ["voxel"])[0]), Own, load_run)
    if options.run:
        Ranks().say(f"next: python code/predict.py --run {in_shell(options.run)} --input new_scans --output maps")
    return rows


if __name__ == "__main__":
    main()
