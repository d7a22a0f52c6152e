"""Segmentations of a trained run's cases, for Figure 4 and the page's case browser."""
from pathlib import Path
from typing import NamedTuple

import numpy as np

from evaluation import tables
from evaluation.inference import segment
from evaluation.report import label_maps, load_run
from training import datasets


class Segmented(NamedTuple):
    """A case as a run sees it; all arrays (*S) on the case's own grid."""

    name: str
    image: np.ndarray
    reference: np.ndarray
    views: dict             # name -> label map, the headline first
    depth_axis: int         # the axis that slices are cut along


def has_weights(folder):
    return (Path(folder) / "last.pt").exists()


def segmented(folder, names, device="auto", data_dir=None):
    """Yield `Segmented` of the named cases with the weights in RUN/last.pt.

    data_dir: folder with one folder a data set; None: where the run was trained.
    """
    dataset = datasets.of_run(folder)
    recipe, method = load_run(folder, dataset.recipe, "last", device,
                              data_dir and Path(data_dir) / dataset.data.dataset)
    data = dataset.data(recipe)
    for name in names:
        [scan] = data.cases([name])
        views = label_maps(segment(method, scan.image, recipe), recipe.keep_largest)
        yield Segmented(name, scan.image[0].numpy(), scan.label.numpy(), views, data.depth_axis)


def worst_first(rows):
    """Case names of a tested run's rows by mean Dice over classes, the worst first -> {name: Dice}."""
    cases = {}
    for row in rows:
        cases.setdefault(row["case"], []).append(row["dice"])
    return dict(sorted(((name, float(np.mean(dice))) for name, dice in cases.items()), key=lambda item: item[1]))


def tested_rows(folder):
    """(list, rows) of what RUN was tested on with last.pt, the test list before the validation list; None if not."""
    for split in ("test", "val"):
        path = Path(folder) / f"test_{split}_last.csv"
        if path.exists():
            return split, tables.read_rows(path)
    return None
