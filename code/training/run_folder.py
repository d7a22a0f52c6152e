"""The run folder: config.json, CSV logs, checkpoints; who may write into it and where to go on."""
import json
import platform
import shlex
import subprocess
import sys
import warnings
from importlib.metadata import version

from runtime.errors import InputError, one_line
from runtime.files import ROOT, Table, load_tensors, make_folder, save_tensors, write_text, writing
from runtime.ranks import Ranks
from training.recipe import read_config

CHECKPOINT = ("method", "optimizer", "stage", "step", "best", "last_dice")     # what resume needs


class RunFolder:
    """`path` for a recipe: a new folder, or an unfinished run of the same recipe, which is then resumed.

    InputError for a folder with a run of another recipe (the fields are named) or with foreign files. Nothing is
    written before `open`.
    """

    def __init__(self, path, recipe):
        self.path, self.recipe = path, recipe
        if (path / "config.json").exists():
            self._compare(read_config(path))
        elif path.exists() and (not path.is_dir() or any(file.suffix != ".tmp" for file in path.iterdir())):
            raise InputError(f"{path} exists and is no run folder (no config.json): give --out a new or an empty one")

    def open(self):
        """Make the folder and config.json where they are not there yet; open the logs."""
        config = self.path / "config.json"
        if not config.exists():
            make_folder(self.path)
            write_text(config, json.dumps(description(self.recipe), indent=2) + "\n")
        self.log, self.val = Table(self.path / "log.csv"), Table(self.path / "val.csv")

    def _compare(self, config):
        recipe, old = self.recipe, config["recipe"]
        new = json.loads(json.dumps(recipe.to_json()))
        differing = [f"{name} was {old.get(name)}, is {new[name]}" for name in recipe.fields()
                     if old.get(name) != new[name]]
        if config.get("dataset") != recipe.dataset:
            differing.insert(0, f"data set was {config.get('dataset')}, is {recipe.dataset}")
        if differing:
            raise InputError(f"{self.path} holds a run of another recipe ({'; '.join(differing)}): "
                             "choose another --out, or delete that folder")

    @property
    def finished(self):
        return (self.path / "last.pt").exists()

    def save_checkpoint(self, state):
        """Logs first, then checkpoint.pt; its predecessor stays as checkpoint_prev.pt."""
        self.log.close()
        self.val.close()
        current = self.path / "checkpoint.pt"
        aside = self.path / "checkpoint_new.pt"
        save_tensors(aside, state)
        with writing(current):
            if current.exists():
                current.replace(self.path / "checkpoint_prev.pt")
            aside.replace(current)

    def load_checkpoint(self):
        """The newest usable checkpoint, or None; a damaged one is passed over with a warning."""
        # a new one is left by a kill before it was renamed
        for name in ("checkpoint_new.pt", "checkpoint.pt", "checkpoint_prev.pt"):
            if (self.path / name).exists():
                try:
                    return load_tensors(self.path / name, CHECKPOINT)
                except InputError as error:
                    warnings.warn(f"{error}; going on from an earlier checkpoint, or from the start", stacklevel=2)
        return None

    def cut_logs(self, after):
        """Drop log rows that a resumed run writes again: keep those for which after(row) is False."""
        for table in (self.log, self.val):
            rows = table.rows()
            try:
                kept = [row for row in rows if not after(row)]
            except (KeyError, ValueError) as error:
                raise InputError(f"{table.path} is damaged ({one_line(error)} is no stage or step): restore it from a "
                                 "copy, or delete it and go on without its rows") from error
            if table.columns:
                table.write(kept)


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
