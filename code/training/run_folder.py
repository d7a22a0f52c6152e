"""The run folder: its config.json, the data that it was trained on, and who may write into it."""
import json
import platform
import shlex
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import asdict
from functools import cache
from importlib.metadata import version
from pathlib import Path

from imaging.record import read_preprocessing
from runtime.errors import InputError
from runtime.files import ROOT, make_folder
from runtime.locks import LOCK, locked
from runtime.ranks import Ranks
from runtime.records import from_record, read_record, write_record
from training.checkpoints import is_finished
from training.material import EARLIER, Content
from training.recipe import read_config

DATA = "data.json"


class RunFolder:
    """`path` for a recipe: a new folder, or an unfinished run of the same recipe, which is then resumed.

    InputError for a folder with a run of another recipe (the fields are named) or with foreign files. Nothing is
    written before `open`, but for the lock while it is held.
    """

    def __init__(self, path, recipe):
        self.path, self.recipe = path, recipe
        self._check_recipe()
        self.finished = is_finished(path)

    def held(self):
        """A context in which no other process trains here; a finished run is not written to, and needs none."""
        return nullcontext() if self.finished or not Ranks().main else locked(self.path)

    def open(self, device, content=None):
        """Make config.json, or note there who goes on with the run, and data.json where it is not there yet.

        device: the Device to train on; content: of what is trained on.
        """
        self._check_recipe()        # once more: another process may have held the folder meanwhile
        make_folder(self.path)
        path = self.path / "config.json"
        there = read_config(self.path) if path.exists() else None
        config = noted(there or description(self.recipe), origin(device))
        if config != there:
            write_record(path, config, indent=2)
        if content is not None and not self.knows_data:
            write_record(self.path / DATA, content)

    def fields(self):
        """The recipe's fields, as the record has them: without an option that is younger than the run."""
        if not (self.path / "config.json").exists():
            return self.recipe.fields()
        recipe = read_config(self.path)["recipe"]
        known = {*recipe, *(f"hyper.{name}" for name in recipe.get("hyper") or ())}
        return {name: value for name, value in self._held(recipe).fields().items() if name in known}

    @property
    def knows_data(self):
        """Whether there is a record of the data; runs of earlier versions have none."""
        return (self.path / DATA).exists()

    def check_data(self, content):
        """InputError where the run's record says other data than `content`, and how they differ."""
        if not self.knows_data:
            return
        # through JSON: tuples become lists, as in the record
        words = read_content(self.path).differences(
            from_record(Content, json.loads(json.dumps(asdict(content))), "this run", ""))
        if words:
            more = f" and {len(words) - 4} more" if len(words) > 4 else ""
            raise InputError(f"{self.path} holds a run on other data ({'; '.join(words[:4])}{more}): give it the "
                             "data it was trained on (--data-dir), or choose another --out")

    def earlier(self):
        """Content of the run that this one starts from, as first recorded; None where there is none, or no record."""
        if self.recipe.init_from is None:
            return None
        if self.knows_data:     # that run may be gone
            return Content(None, {EARLIER: read_content(self.path).cases.get(EARLIER, {})})
        first = read_config(self.recipe.init_from)["recipe"]
        for name in ("method", "network"):
            own = getattr(self.recipe, name, None)
            if (other := first.get(name, own)) != own:
                raise InputError(f"--init-from {self.recipe.init_from}: is a run of another method or network; its "
                                 f"{name} is {other}, this one's {own}: choose --{name} {other}, or leave --init-from "
                                 "out")
        self._compare_scans(first)
        content = read_content(self.recipe.init_from)
        if content is None or first.get("init_from") and EARLIER not in content.cases:
            Ranks().say(f"--init-from {self.recipe.init_from}: it, or a run that it was started from, has no {DATA}: "
                        "whether test cases of this run were trained on there is not known")
        return content

    def _compare_scans(self, first):
        """InputError where the run of the recipe `first`, which this one starts from, had other channels or classes;
        what else is different of the scans is said.
        """
        recipe, start = self.recipe, f"--init-from {self.recipe.init_from}"
        records = [read_preprocessing(folder) for folder in (recipe.init_from, recipe.data_dir)]
        channels = [record.modalities if all(records) and recipe.in_channels > 1 else () for record in records]
        classes = tuple(first.get("class_names", ())), recipe.class_names
        for what, way, was, now in (("channels", "--channels", *channels),
                                    ("classes", "--label-map, --class-names", *classes)):
            if was and now and was != now:
                raise InputError(f"{start}: its {what} are {' '.join(was)}, these {' '.join(now)}: prepare these scans "
                                 f"with the same ones in one order ({way}), or leave --init-from out")
        made = [record.to_dict() if all(records) else {} for record in records]
        how = first.get("normalise", recipe.normalise), recipe.normalise
        one, two = (Content({**values, "--normalise": value}, {}) for values, value in zip(made, how, strict=True))
        if words := one.differences(two):
            Ranks().say(f"{start}: its scans were prepared in another way than these; {'; '.join(words)}")

    def _check_recipe(self):
        if (self.path / "config.json").exists():
            self._compare(read_config(self.path))
        elif self.path.exists() and (not self.path.is_dir() or any(
                file.suffix != ".tmp" and file.name != LOCK for file in self.path.iterdir())):
            raise InputError(f"{self.path} exists and is no run folder (no config.json): give --out a new or an empty "
                             "one")

    def _held(self, recipe):
        """The recipe that the record has."""
        return type(self.recipe).from_json(recipe, self.path / "config.json")

    def _compare(self, config):
        if config["dataset"] != self.recipe.dataset:
            differing = [f"data set was {config['dataset']}, is {self.recipe.dataset}"]
        else:
            held = self._held(config["recipe"])
            old, new = held.fields(), self.recipe.fields()
            if held.init_from and held.init_from == self.recipe.init_from:      # the run's folder alone was moved
                new["init_from"] = old["init_from"]
            differing = [f"{name} was {old.get(name)}, is {new.get(name)}" for name in new | old
                         if old.get(name) != new.get(name)]
        if differing:
            raise InputError(f"{self.path} holds a run of another recipe ({'; '.join(differing)}): "
                             "choose another --out, or delete that folder")


def read_content(run):
    """What a run was trained on, its data.json; None for runs made before this file existed."""
    return read_record(Content, Path(run) / DATA, "restore the file from a copy, or delete it and go on unchecked")


def description(recipe):
    """What config.json says about a run: data set, recipe, what the plan of own data chose and why, command line."""
    reasons = recipe.reasons()
    return {"dataset": recipe.dataset, "recipe": recipe.to_json(), **({"plan": reasons} if reasons else {}),
            "command": shlex.join([*Ranks().launcher, *sys.argv])}


def origin(device):
    """What config.json says about who trains: git commit, versions, device."""
    packages = ("torch", "numpy", "scipy", "h5py", "connected-components-3d")
    return {"commit": _git_commit(), "device": str(device),
            "versions": {"python": platform.python_version(), **{name: version(name) for name in packages},
                         **device.versions()}}


def noted(config, own):
    """config.json with an `origin`: as the run's own, or added to `resumed` where it differs from the latest one."""
    if "commit" not in config:
        return config | own
    resumed = config.get("resumed", [])
    last = resumed[-1] if resumed else {name: config.get(name) for name in own}
    return config if own == last else config | {"resumed": [*resumed, own]}


@cache
def _git_commit():
    try:
        commit, dirty = (subprocess.run(["git", *words], cwd=ROOT, capture_output=True, check=True) for words
                         in (["rev-parse", "HEAD"], ["status", "--porcelain", "--", "code"]))
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit.stdout.decode().strip() + ("-dirty" if dirty.stdout.strip() else "")
