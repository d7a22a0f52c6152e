"""The run folder: its config.json, and who may write into it."""
import json
import platform
import shlex
import subprocess
import sys
from importlib.metadata import version

from runtime.errors import InputError
from runtime.files import ROOT, make_folder, write_text
from runtime.locks import LOCK
from runtime.ranks import Ranks
from training.recipe import read_config


class RunFolder:
    """`path` for a recipe: a new folder, or an unfinished run of the same recipe, which is then resumed.

    InputError for a folder with a run of another recipe (the fields are named) or with foreign files. Nothing is
    written before `open`.
    """

    def __init__(self, path, recipe):
        self.path, self.recipe = path, recipe
        if (path / "config.json").exists():
            self._compare(read_config(path))
        elif path.exists() and (not path.is_dir() or any(file.suffix != ".tmp" and file.name != LOCK
                                                          for file in path.iterdir())):
            raise InputError(f"{path} exists and is no run folder (no config.json): give --out a new or an empty one")

    def open(self):
        """Make the folder and config.json where they are not there yet."""
        config = self.path / "config.json"
        if not config.exists():
            make_folder(self.path)
            write_text(config, json.dumps(description(self.recipe), indent=2) + "\n")

    def _compare(self, config):
        if config["dataset"] != self.recipe.dataset:
            differing = [f"data set was {config['dataset']}, is {self.recipe.dataset}"]
        else:
            old = type(self.recipe).from_json(config["recipe"], self.path / "config.json").fields()
            differing = [f"{name} was {old.get(name)}, is {value}" for name, value in self.recipe.fields().items()
                         if old.get(name) != value]
        if differing:
            raise InputError(f"{self.path} holds a run of another recipe ({'; '.join(differing)}): "
                             "choose another --out, or delete that folder")

    @property
    def finished(self):
        return (self.path / "last.pt").exists()


def description(recipe):
    """What config.json holds: recipe, command line, versions, git commit."""
    packages = ("torch", "numpy", "scipy", "h5py", "connected-components-3d")
    return {"dataset": recipe.dataset, "recipe": recipe.to_json(),
            "command": shlex.join([*Ranks().launcher, *sys.argv]),
            "commit": _git_commit(), "versions": {"python": platform.python_version(),
                                                  **{name: version(name) for name in packages}}}


def _git_commit():
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
        dirty = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit.stdout.strip() + ("-dirty" if dirty.stdout.strip() else "")
