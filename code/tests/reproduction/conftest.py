"""Results made up for tables: five patients of one class."""
import json

import pytest

from evaluation.report import write_rows
from reproduction import runs
from reproduction.experiments import PLACES

BASE = [0.5, 0.6, 0.7, 0.4, 0.3]        # Dice of five patients


@pytest.fixture
def write():
    """write(results, place, title, seed, gain, views=(), best=0.0, hd95=5.0) -> folder of a tested run.

    Patient i has Dice BASE[i] + gain(i); the views each 0.01 less; `best` more with the weights best.pt.
    """
    def make(results, place, title, seed, gain, views=(), best=0.0, hd95=5.0):
        row = next(row for row in PLACES[place].rows if row.title == title)
        run = runs.Run(row.experiment, PLACES[place].at(None), seed)
        folder = results / run.name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps({"dataset": run.dataset, "recipe": run.recipe.to_json()}),
                                            encoding="utf-8")
        for split, weights in run.tested:
            rows = []
            for patient, dice in enumerate(BASE):
                values = {"dice": dice + gain(patient) + best * (weights == "best"), "jaccard": 0.5, "hd95": hd95,
                          "asd": 1.0}
                row = {"case": f"patient{patient}_frame01", "class": 1, **values}
                for less, view in enumerate(views):
                    row |= {f"{view}_{key}": value - 0.01 * less * (key == "dice") for key, value in values.items()}
                rows.append(row)
            write_rows(folder / f"test_{split}_{weights}.csv", rows)
        return folder
    return make


@pytest.fixture
def results(tmp_path, write):
    """Two seeds of the baseline, three of CML, the third better than all: it has no partner in the baseline."""
    folder = tmp_path / "results"
    for seed, gain in ((1337, 0), (1338, 0.02)):
        write(folder, "mini_acdc7", "supervised", seed, lambda _, gain=gain: gain)
    for seed, gain in ((1337, 0.1), (1338, 0.08), (1339, 0.24)):
        write(folder, "mini_acdc7", "CML", seed, lambda patient, gain=gain: gain + 0.01 * patient,
              ("fused", "subnet0", "subnet1"), best=0.01)
    return folder
