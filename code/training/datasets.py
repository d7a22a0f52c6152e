"""The data sets by name: which data class, recipe and scripts belong together. There is no other list of them."""
import importlib
from typing import NamedTuple

from dataloaders.acdc import ACDC
from dataloaders.brats import BraTS
from dataloaders.la import LA
from dataloaders.own import Own
from imaging.record import RECORD, moved_name, read_preprocessing
from runtime.errors import InputError
from runtime.files import RESTORE
from training.recipe import check_run_folder, config_path, read_config


class DataSet(NamedTuple):
    """A data set; its scripts are imported when they are asked for, since they stand above this module."""

    data: type                  # of dataloaders/
    scripts: str                # train_<scripts>.py, test_<scripts>.py
    recipe_name: str            # of the recipe class in the train script

    @property
    def train(self):
        """The train script, a module with PRESETS and main."""
        return importlib.import_module(f"train_{self.scripts}")

    @property
    def test(self):
        """The test script, a module with main."""
        return importlib.import_module(f"test_{self.scripts}")

    @property
    def presets(self):
        return self.train.PRESETS

    @property
    def recipe(self):
        """The recipe class."""
        return getattr(self.train, self.recipe_name)


DATASETS = {data.dataset: DataSet(data, scripts, recipe) for data, scripts, recipe in (
    (LA, "LA", "LARecipe"), (ACDC, "ACDC", "ACDCRecipe"), (BraTS, "BraTS", "BraTSRecipe"), (Own, "own", "OwnRecipe"))}


def of_run(run):
    """The data set that a run folder belongs to; InputError where it names none of them."""
    check_run_folder(run)
    name = read_config(run)["dataset"]
    if name not in DATASETS:
        raise InputError(f"{config_path(run)}: the data set is {name!r}, expected one of {', '.join(DATASETS)}: "
                         f"{RESTORE}")
    return DATASETS[name]


def check_there(data_dir, run):
    """InputError where the folder with the scans of a run has moved."""
    if not data_dir.is_dir():
        raise InputError(f"{data_dir}: is no longer there; --data-dir names the folder where {run}'s data are now")


def prepared_as(run, data_dir):
    """The record of the data that a run was trained on; InputError where the folder has moved or holds other data."""
    check_there(data_dir, run)
    there, own = read_preprocessing(data_dir), read_preprocessing(run)
    if there is None or own is None or there.to_dict() != own.to_dict():
        raise InputError(f"{data_dir}: its {RECORD} is not that of {run}, whose proposals would have other values or "
                         "lie elsewhere: train again on these data, or name those of the run with --data-dir")
    check_class_order(run, data_dir)
    return there


def check_class_order(run, data_dir):
    """InputError where a class of the data is called as another one of the run's: files have them in another order."""
    made, now = ((record := read_preprocessing(folder)) and record.class_names or () for folder in (run, data_dir))
    if moved := moved_name(made, now):
        raise InputError(f"{data_dir}: its classes are {' '.join(now)}, those of {run} {' '.join(made)}, so that "
                         f"{moved} is another one; prepare these scans with the run's classes in their order "
                         "(--label-map, --class-names)")
