"""What the train scripts' recipes share: the options of a run, what they must fit, their record on disk."""
import dataclasses
import math
import os
import zlib
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import tyro

from dataloaders.lists import check_published
from methods import protocols, registry
from runtime.errors import InputError
from runtime.files import RESTORE, ROOT, expanded, is_case_name
from runtime.records import from_record, read_json


def _fraction(text):
    try:
        return float(Fraction(text))
    except (ValueError, ZeroDivisionError, OverflowError):
        raise ValueError(f"{text!r} is neither a number nor a fraction such as 2/3") from None


# A number that may be typed as 2/3
Ratio = Annotated[float, tyro.constructors.PrimitiveConstructorSpec(
    nargs=1, metavar="NUMBER|A/B", instance_from_str=lambda args: _fraction(args[0]),
    is_instance=lambda value: isinstance(value, float | int), str_from_instance=lambda value: [str(value)])]
Schedule = Literal["constant", "step", "poly"]
MethodName = Literal[*registry.METHODS]
NetworkName = Literal["vnet", "unet", "released", "narrow_vnet", "narrow_unet"]     # networks/two_view.py has them
LEAST = {1: ("labeled", "labeled_batch", "unlabeled_batch", "in_channels", "patch_size", "stride", "self_steps",
             "eval_every", "checkpoint_steps"),
         0: ("seed", "labeled_draw", "pre_steps", "workers", "holdout_val", "holdout_test", "weight_decay",
             "lambda_unsup", "lambda_dis")}     # smallest value of an option

LONGEST_NAME = 100      # letters of a run folder's name; the end of a longer one is its check sum, config.json says all
UNSAID = {"drop_every": 1 / 6, "components": True}      # what records from before these fields meant


@dataclass(kw_only=True)
class Recipe:
    """Options of every run. A train script adds its data set's hyperparameters (Section 4.2)."""

    dataset: ClassVar[str]
    class_names: ClassVar[tuple] = ()           # of the foreground; classes without one are numbered
    window_weights: ClassVar[str] = "uniform"   # of a window's voxels at test, as evaluation.inference names them
    stride: ClassVar[tuple | None] = None       # between windows; None: slices are resized to the patch, as ACDC's
    half_resolution: ClassVar[bool] = False
    # Fields that `planned` goes by, and their types
    GIVEN: ClassVar[dict] = {"data_dir": lambda text: expanded(text, "--data-dir")}
    # Fields that do not change what is computed: left out of the run's name, and free to differ on resume
    PLUMBING: ClassVar[tuple] = ("data_dir", "out", "name", "device", "workers", "deterministic", "compile",
                                 "monitor", "checkpoint_steps", "checkpoint_minutes")

    preset: tyro.conf.Suppress[str] = "paper"

    method: MethodName = "cml"  # how the unlabelled scans are used: docs/methods.md
    hyper: Any = None               # the method's own hyperparameters; None: its defaults
    # matched: one recipe for all methods; original: as each method's code was released (mini, short: its length aside)
    protocol: Literal["matched", "original"] = "matched"
    labeled_draw: int = 0           # [O] which cases carry labels: the first of the list, or (K) of its K-th shuffle
    seed: int = 1337                # [C] of initialisation, data order, crops, masks and dropout
    drop_every: Ratio = 2_500       # [C] steps between drops of the step schedule; below 1, a share of the stage
    # [O] strong: nnU-Net's beside the paper's; geometry, intensity: half of nnU-Net's alone; docs/methods.md
    augment: Literal["paper", "strong", "geometry", "intensity"] = "paper"
    # [O] zscore: each slice, or each scan of volumes, is given to the networks with mean 0 and deviation 1
    normalise: Literal["stored", "zscore"] = "stored"
    fusion: Literal["softmax", "logits"] = "softmax"    # averaged at test: probabilities [P], logits [C]
    components: bool = True         # [C] pseudo-labels keep each class's largest component, as the paper's "NMS"
    amp: bool = False               # [O] bfloat16 autocast

    select_on: Literal["val", "test"] = "val"   # [O] which cases choose best.pt; the table says so if test
    monitor: Literal["none", "test"] = "none"   # [O] also draw curves on these cases, choosing nothing
    eval_every: int = 200           # [C] steps between validations

    init_from: Path | None = None   # [O] run whose last weights this one starts from; same method and network

    out: Path | None = None         # run folder; by default model/<dataset>/<method>_<labeled>_seed<seed>...
    name: str | None = None         # of the run folder below model/<dataset>/, instead of the default's long name
    device: str = "auto"            # auto | cpu | cuda | cuda:1 ...
    workers: int | None = None      # processes that draw patches in advance, None: by device; the run is the same
    deterministic: bool = False     # kernels that repeat bit for bit where PyTorch has them (slower on a GPU)
    compile: bool = False           # torch.compile the networks: for a GPU, and slower on a CPU
    checkpoint_steps: int = 200     # steps between checkpoints, from the last of which a killed run goes on
    checkpoint_minutes: float = 10  # minutes after which there is one in any case

    def check(self):
        """Return self; InputError for values that no run could start with."""
        for least, names in LEAST.items():
            for name in names:
                value = getattr(self, name, least)      # only volumes have strides and hold-outs
                numbers = value if isinstance(value, tuple) else [value]
                if not all(number is None or least <= number < math.inf for number in numbers):
                    raise InputError(f"{option_text(name, value)}: must be {least} or more")
        if not 0 < self.lr < math.inf or not 0 <= self.momentum < 1 or not 0 < self.checkpoint_minutes < math.inf:
            raise InputError(f"--lr {self.lr:g} --momentum {self.momentum:g} --checkpoint-minutes "
                             f"{self.checkpoint_minutes:g}: the rate and the minutes must be above 0, the momentum "
                             "from 0 to below 1")
        if any(extent % 16 for extent in self.patch_size):
            near = [max(16, round(extent / 16) * 16) for extent in self.patch_size]
            raise InputError(f"{option_text('patch_size', self.patch_size)}: the networks halve it four times, so "
                             f"every extent must be divisible by 16; nearest is {' '.join(map(str, near))}")
        if any(step > extent for step, extent in zip(self.stride or (), self.patch_size, strict=False)):
            raise InputError(f"{option_text('stride', self.stride)}: leaves gaps between windows of --patch-size "
                             f"{' '.join(map(str, self.patch_size))}; choose no more than that, half of it say")
        if not 0 < self.beta < 1 or self.beta * min(self.patch_size) < 1:
            raise InputError(f"--beta {self.beta:g}: edge of the box over edge of the patch, between 0 and 1, and of a "
                             "voxel at least")
        if self.name is not None and not is_case_name(self.name):
            raise InputError(f"--name {self.name!r}: cannot be a folder's name; use letters, digits, - and _")
        if not 2 <= self.num_classes <= 255:
            raise InputError(f"--num-classes {self.num_classes}: background counts, so 2 to 255")
        if self.seed >= 2 ** 63:
            raise InputError(f"--seed {self.seed}: must be below 2^63")
        if not 0 < self.drop_every < math.inf:
            raise InputError(f"--drop-every {self.drop_every:g}: steps between drops, or below 1 a share of the stage")
        registry.check(self)
        smallest = registry.method_class(self.method).smallest_pass(self)
        if math.prod(extent // 16 for extent in self.patch_size) * smallest == 1:
            raise InputError(f"{option_text('patch_size', self.patch_size)}: shrinks to one voxel, and --method "
                             f"{self.method} with --labeled-batch {self.labeled_batch} --unlabeled-batch "
                             f"{self.unlabeled_batch} gives its networks single scans, where batch norm needs "
                             "two values; choose a larger patch or batch")
        return self

    @property
    def classes(self):
        """Names of the foreground classes, their numbers where they have none."""
        numbered = tuple(f"class {label}" for label in range(1, self.num_classes))
        return self.class_names if len(self.class_names) == len(numbered) else numbered

    @property
    def like(self):
        """The published data set whose settings the compared methods take on this one."""
        return self.dataset

    @property
    def home(self):
        """Name of the folder below model/ for the runs."""
        return self.dataset

    def planned(self):
        """The recipe with the defaults that its data suggest, on a published data set as it is; InputError for data
        that are none of it.
        """
        check_published(self.data_dir, self.dataset)
        return self

    def repeated(self):
        """The recipe of a run for the data in another folder; InputError as `planned`."""
        return self.planned()

    def reasons(self):
        """{field: why its default is what it is} where `planned` chose it."""
        return {}

    def complete(self):
        """The recipe with its method's hyperparameters spelled out."""
        return dataclasses.replace(self, hyper=registry.hyper_of(self))

    def fields(self):
        """The recipe proper: name -> value of every field that changes what is computed, `hyper.NAME` among them."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)
                  if field.name not in (*self.PLUMBING, "hyper")}
        if "step" not in (self.pre_schedule, self.self_schedule):
            del values["drop_every"]        # nothing drops
        if self.init_from is None:
            del values["init_from"]
        elif self.out:      # both may move together
            values["init_from"] = os.path.relpath(self.init_from, self.out)
        return values | {f"hyper.{name}": value for name, value in vars(registry.hyper_of(self)).items()}

    def folder(self, presets, untold=()):
        """The run folder: `out`, or below model/ `name`, or one that tells the run from its siblings.

        untold: fields that the name does not tell.
        """
        if self.out or self.name:
            return self.out or ROOT / "model" / self.home / self.name
        preset = dataclasses.replace(presets[self.preset], **{name: getattr(self, name) for name in self.GIVEN})
        preset = preset.planned()
        preset = protocols.switched(preset, preset, method=self.method, protocol=self.protocol).fields()
        named = "preset", "method", "labeled", "seed", *untold
        tags = [self.preset] * (self.preset != "paper") + [self.protocol] * (self.protocol != "matched")
        tags += [f"{name.removeprefix('hyper.')}{_short(value)}" for name, value in self.fields().items()
                 if name not in named and value != preset.get(name)]
        name = "_".join([self.method, str(self.labeled), f"seed{self.seed}", *tags])
        home = ROOT / "model" / self.home
        if len(name) > LONGEST_NAME and not (home / name).exists():
            name = f"{name[:LONGEST_NAME - 9]}_{zlib.crc32(name.encode()):08x}"
        return home / name

    def to_json(self):
        values = dataclasses.asdict(self)
        return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}

    @classmethod
    def from_json(cls, values, where):
        """The recipe that `to_json` gave; InputError names `where` and the fields that do not fit."""
        recipe = cls.typed(UNSAID | values if isinstance(values, dict) else values, where, RESTORE)
        try:
            return recipe.check()
        except InputError as error:
            raise InputError(f"{where}: {error}") from error

    @classmethod
    def typed(cls, values, where, remedy):
        """The recipe of `to_json`'s values, of the fields' types; InputError names `where` and ends in `remedy`."""
        hyper = values.get("hyper") if isinstance(values, dict) else None
        recipe = from_record(cls, values | {"hyper": None} if hyper is not None else values, where, remedy)
        if hyper is None:
            return recipe
        kind = registry.method_class(recipe.method).Hyper
        return dataclasses.replace(recipe, hyper=from_record(kind, hyper, f"{where}: hyper", remedy))


def option_text(name, value):
    """As it would be typed."""
    return f"--{name.replace('_', '-')} {' '.join(map(str, value)) if isinstance(value, tuple) else value}"


def _short(value):
    if isinstance(value, tuple | list):
        return "x".join(map(_short, value))
    return f"{value:.4g}" if isinstance(value, float) else value.name if isinstance(value, Path) else str(value)


def config_path(run):
    """Of a run folder, or of its config.json itself."""
    return Path(run) if Path(run).suffix == ".json" else Path(run) / "config.json"


def check_run_folder(run):
    """InputError for a file of a run, its config.json, say, where its folder is meant."""
    if Path(run).is_file():
        raise InputError(f"{run}: is a file; give the folder that it is in, {Path(run).parent}")


def read_config(run):
    """RUN/config.json; InputError if the folder is not a run."""
    path = config_path(run)
    if not path.exists():
        raise InputError(f"{path} does not exist: give a folder that a train script wrote")
    config = read_json(path, RESTORE)
    for name, kind in (("dataset", str), ("recipe", dict)):
        if not isinstance(config.get(name), kind):
            raise InputError(f"{path} is damaged (no {name}): {RESTORE}")
    if not isinstance(config.get("resumed", []), list):
        raise InputError(f"{path} is damaged (resumed is no list): {RESTORE}")
    return config


def load_recipe(run, recipe_class):
    """The recipe in RUN/config.json; InputError if the folder is not a run of this data set."""
    path, config = config_path(run), read_config(run)
    if config["dataset"] != recipe_class.dataset:
        raise InputError(f"{path} belongs to {config['dataset']}, not to {recipe_class.dataset}: "
                         "use that data set's script")
    return recipe_class.from_json(config["recipe"], path)
