"""What is different where the data are not the published set: no hold-outs of a preset, folders of their own."""
import dataclasses

from dataloaders.scans import is_published
from runtime.files import ROOT, is_case_name

OF_DATA = "num_classes", "in_channels"      # options that say what the data are: left out of names of own data's runs


def is_own(recipe):
    """Whether the recipe's data folder has a train list of its own, with other names than the published one."""
    lists = (ROOT / "data" / recipe.dataset).glob("train*")
    return not all(is_published(recipe.data_dir, recipe.dataset, path.name) for path in lists)


def fitted(preset, data_dir):
    """A preset for the data there: of own data nothing is held out unless it is asked for, their test list stands."""
    preset = dataclasses.replace(preset, data_dir=data_dir)
    held = {name: 0 for name in ("holdout_val", "holdout_test") if getattr(preset, name, 0)}
    return dataclasses.replace(preset, **held) if held and is_own(preset) else preset


def home(recipe):
    """Name of the folder below model/ for the recipe's runs: the data set, or the folder of somebody's own data."""
    name = recipe.data_dir.name
    return name if is_own(recipe) and is_case_name(name) else recipe.dataset
