"""What the three train scripts' recipes share: the options of a run, their way from the command line to disk."""
import dataclasses
import json
import sys
import types
import typing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import tyro

from errors import InputError
from files import ROOT


def _fraction(text):
    try:
        return float(Fraction(text))
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"{text!r} is neither a number nor a fraction such as 2/3") from None


# A number that may be typed as 2/3
Ratio = Annotated[float, tyro.constructors.PrimitiveConstructorSpec(
    nargs=1, metavar="NUMBER|A/B", instance_from_str=lambda args: _fraction(args[0]),
    is_instance=lambda value: isinstance(value, float | int), str_from_instance=lambda value: [str(value)])]
Schedule = Literal["constant", "step", "poly"]


@dataclass(kw_only=True)
class Recipe:
    """Options of every run. A train script adds its data set's hyperparameters (Section 4.2)."""

    dataset: ClassVar[str]
    # Fields that do not change what is computed: left out of the run's name, and free to differ on resume
    PLUMBING: ClassVar[tuple] = ("data_dir", "out", "device", "workers", "deterministic", "monitor",
                                 "checkpoint_steps", "checkpoint_minutes")

    preset: tyro.conf.Suppress[str] = "paper"

    method: str = "cml"             # cml | cfl | cps | supervised | mean_teacher
    seed: int = 1337                # of initialisation, data order, crops, masks and dropout           [C]
    fusion: Literal["softmax", "logits"] = "softmax"    # averaged at test: probabilities [P], logits [C]
    amp: bool = False               # bfloat16 autocast                                                 [O]

    select_on: Literal["val", "test"] = "val"   # which cases choose best.pt; the table says so if test  [O]
    monitor: Literal["none", "test"] = "none"   # also draw curves on these cases, choosing nothing      [O]
    eval_every: int = 200           # steps between validations                                         [C]

    out: Path | None = None         # run folder; by default model/<dataset>/<method>_<labeled>_seed<seed>...
    device: str = "auto"            # auto | cpu | cuda | cuda:1 ...
    workers: int = 2                # processes that draw patches ahead; any number gives the same run
    deterministic: bool = False     # only kernels that repeat bit for bit (slower on a GPU)
    checkpoint_steps: int = 200     # a killed run loses at most the steps since its last checkpoint:
    checkpoint_minutes: float = 10  # ... so many steps or minutes, whichever comes first

    def check(self):
        """Return self; InputError for values that no run could start with."""
        sizes = (*self.patch_size, *getattr(self, "stride", ()))
        counts = {"--labeled-batch": self.labeled_batch, "--unlabeled-batch": self.unlabeled_batch,
                  "--eval-every": self.eval_every, "--checkpoint-steps": self.checkpoint_steps,
                  "--patch-size or --stride": min(sizes), "--self-steps": self.self_steps}
        for option, value in counts.items():
            if value < 1:
                raise InputError(f"{option} {value}: must be 1 or more")
        if self.pre_steps < 0 or self.workers < 0:
            raise InputError("--pre-steps and --workers must be 0 or more")
        if any(extent % 16 for extent in self.patch_size):
            near = [max(16, round(extent / 16) * 16) for extent in self.patch_size]
            raise InputError(f"--patch-size {' '.join(map(str, self.patch_size))}: the networks halve it four times, "
                             f"so every extent must be divisible by 16; nearest is {' '.join(map(str, near))}")
        if self.method == "cml" and (self.labeled_batch % 2 or self.unlabeled_batch % 2):
            raise InputError(f"--labeled-batch {self.labeled_batch} --unlabeled-batch {self.unlabeled_batch}: CutMix "
                             "takes scans in pairs, so both must be even")
        if not 0 < self.beta < 1:
            raise InputError(f"--beta {self.beta:g}: edge of the box over edge of the patch, between 0 and 1")
        if not 2 <= self.num_classes <= 255:
            raise InputError(f"--num-classes {self.num_classes}: background counts, so 2 to 255")
        return self

    def fields(self):
        """The recipe proper: name -> value of every field that changes what is computed."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)
                if field.name not in self.PLUMBING}

    def folder(self, presets):
        """The run folder: `out`, or a name that tells the run from its siblings."""
        if self.out:
            return self.out
        preset = presets[self.preset].fields()
        named = ("preset", "method", "labeled", "seed")
        tags = [self.preset] * (self.preset != "paper")
        tags += [f"{name}{_short(value)}" for name, value in self.fields().items()
                 if name not in named and value != preset[name]]
        name = "_".join([self.method, str(self.labeled), f"seed{self.seed}", *tags])
        return ROOT / "model" / self.dataset / name

    def to_json(self):
        values = dataclasses.asdict(self)
        return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}

    @classmethod
    def from_json(cls, values, where):
        """The recipe that `to_json` gave; InputError names `where` and the fields that do not fit."""
        hints = typing.get_type_hints(cls)
        known = {field.name for field in dataclasses.fields(cls)}
        if set(values) - known:
            raise InputError(f"{where}: unknown fields {', '.join(sorted(set(values) - known))}: it was written by "
                             "another version or for another data set")
        return cls(**{name: _typed(value, hints[name]) for name, value in values.items()})


def _short(value):
    if isinstance(value, tuple | list):
        return "x".join(map(_short, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _typed(value, hint):
    if isinstance(value, list):
        return tuple(value)
    is_path = hint is Path or (isinstance(hint, types.UnionType) and Path in typing.get_args(hint))
    return Path(value) if is_path and value is not None else value


def command_line(presets, description, args=None):
    """`[paper|mini] [--option value ...]` -> Recipe; the preset is the first word, every field an option."""
    args = list(sys.argv[1:] if args is None else args)
    preset = "paper"
    if args and not args[0].startswith("-"):
        preset = args.pop(0)
        if preset not in presets:
            raise InputError(f"preset {preset!r} is unknown: the first word is one of {', '.join(presets)}")
    usage = f"{description}\n\nThe first word is the preset, {' or '.join(presets)}; shown here: {preset}."
    recipe = tyro.cli(type(presets[preset]), default=presets[preset], args=args, description=usage,
                      config=(tyro.conf.FlagConversionOff,)).check()
    # absolute: the run folder is tested from any working directory
    return dataclasses.replace(recipe, data_dir=recipe.data_dir.expanduser().resolve(),
                               out=recipe.out and recipe.out.expanduser().resolve())


def read_config(run):
    """RUN/config.json; InputError if the folder is not a run."""
    path = Path(run) / "config.json"
    try:
        config = json.loads(path.read_text())
        return {"dataset": config["dataset"], "recipe": config["recipe"], **config}
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path} does not exist: --run takes a folder that a train script wrote") from None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error}): restore it, or train again") from error


def load_recipe(run, recipe_class):
    """The recipe in RUN/config.json; InputError if the folder is not a run of this data set."""
    path, config = Path(run) / "config.json", read_config(run)
    if config["dataset"] != recipe_class.dataset:
        raise InputError(f"{path} belongs to {config['dataset']}, not to {recipe_class.dataset}: "
                         "use that data set's script")
    return recipe_class.from_json(config["recipe"], path)
