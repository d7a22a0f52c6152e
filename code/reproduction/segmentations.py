"""Segmentations of a trained run's cases, for Figure 4 and the page's case browser."""
from pathlib import Path
from typing import NamedTuple

import numpy as np

from evaluation import measurements
from evaluation.inference import segment
from evaluation.metrics import where_labelled
from evaluation.pooled import case_dice
from evaluation.report import label_maps
from evaluation.saved_maps import prepared_axes
from runtime.errors import InputError
from training import datasets
from training.trained import load_run


class Segmented(NamedTuple):
    """A case as a run sees it; all arrays (*S) on the case's own grid, background where nobody has labelled it."""

    name: str
    image: np.ndarray
    reference: np.ndarray
    views: dict             # name -> label map, the headline first
    depth_axis: int         # the axis that slices are cut along
    axes: str | None = None     # where the array's axes point, "LPS" say, if anything says so


def has_weights(folder):
    return (Path(folder) / "last.pt").exists()


def segmented(folder, names, device="auto", data_dir=None):
    """Yield `Segmented` of the named cases with the weights in RUN/last.pt.

    data_dir: folder with one folder per data set; None: where the run was trained.
    """
    dataset = datasets.of_run(folder)
    trained = load_run(folder, "last", device, data_dir and Path(data_dir) / dataset.data.dataset)
    trained.check_cases(names)
    for name in names:
        [scan] = trained.data.cases([name])
        views = label_maps(segment(trained.method, scan.image, trained.recipe), trained.recipe.keep_largest)
        label = scan.label.numpy()
        reference, *maps = (where_labelled(labels, label)[0] for labels in (label, *views.values()))
        yield Segmented(name, scan.image[0].numpy(), reference, dict(zip(views, maps, strict=True)),
                        trained.data.depth_axis, prepared_axes(trained.data))


def tested(folder):
    """The list that RUN's last.pt was tested on, 'test' before 'val', or None without weights or a test."""
    if not has_weights(folder):
        return None
    return next((split for split in ("test", "val") if (Path(folder) / f"test_{split}_last.csv").exists()), None)


def ranked(folder):
    """(list, {case: Dice}, the worst first) of a tested run; InputError for one without weights or a test."""
    split = tested(folder)
    if split is None:
        raise InputError(f"{folder}: has no weights or was not tested yet; finish it and run its test script first")
    return split, case_dice(measurements.read_rows(Path(folder) / f"test_{split}_last.csv"))
