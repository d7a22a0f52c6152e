"""Train on your own scans, as prepare_folder.py wrote them, of which some or all carry labels.

    python code/train_own.py --data-dir data/mine           for a GPU
    python code/train_own.py short --data-dir data/mine     smaller patches and a sixth of the steps, for a CPU
    python code/train_own.py mini --data-dir data/mine      a third of that: does it run, does it learn?
    python code/test_own.py --run model/mine/cml_plus_8_seed1337

How good is it? Cross-validation: each labelled scan is tested by the one run that was not trained on it.

    python code/train_own.py short --data-dir data/mine --folds 4           fold after fold; or --fold 2/4 alone
    python code/test_own.py --run model/mine/cml_plus_8_seed1337_short_folds

Do the unlabelled scans help, and would more labels? Supervised and the method, with 2, 4 and 6 labels, over the folds:

    python code/train_own.py short --data-dir data/mine --folds 4 --budget 2 4 6

folds.json in the data folder says which fold a case belongs to, once for all. Each of these commands goes on where it
was stopped.

What depends on the scans is in their plan, plan.json in the data folder, which gives each value with its reason and may
be edited; options marked [plan] are taken from there. Values of options that name SIZES or SLICES depend on the preset
and on whether patches are volumes or slices: see the top of this script. The method is CML+, methods/cml_plus.py, or
methods/supervised.py where every scan has a label.
"""
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from runtime.script import reported

from dataloaders.folds import fold_folder, fold_number
from dataloaders.own import Own
from imaging.plan import PLAN, PREPARED, read_plan, shrunk
from imaging.record import RECORD, moved_name, read_preprocessing
from runtime.errors import InputError
from runtime.files import ROOT, expanded, is_case_name
from training.recipe import MethodName, NetworkName, Ratio, Recipe, Schedule, option_text
from training.recipe_options import command_line

# What is different for slices: the paper's values for ACDC                                                   [P]
SLICES = dict(network="unet", beta=1 / 2, lambda_unsup=0.5, lambda_dis=0.1)
# preset -> (most voxels of a patch, scans per batch) for volumes, then for slices                             [O]
SIZES = {"paper": ((112 * 112 * 80, 4), (256 * 256, 12)), "short": ((48 * 48 * 32, 4), (128 * 128, 6)),
         "mini": ((48 * 48 * 32, 4), (128 * 128, 6))}


def folder(text):
    return expanded(text, "--data-dir or --plan")


# Where a value comes from: [P] the paper, [C] the authors' code only, [O] ours, [plan] the data folder's plan.json,
# which replaces the value here, as SIZES and SLICES do in the lines that name them
@dataclass(kw_only=True)
class OwnRecipe(Recipe):
    """Own data: 3D V-Net or, of slices, 2D U-Net; pre-training and self-training."""

    dataset = Own.dataset
    window_weights = "gaussian"             # of a window's voxels at test                                    [O]
    GIVEN = {"data_dir": folder, "plan": folder, "labeled": int, "budget": lambda text: (int(text),)}
    PLUMBING = (*Recipe.PLUMBING, "plan", "class_names", "folds", "budget")

    # data
    data_dir: Path = ROOT / "data/mine"     # folder that prepare_folder.py wrote
    plan: Path | None = None                # plan.json, if not the one of the data folder
    labeled: int = 0                        # [plan] labelled scans, the first of train.list; all that have a label
    num_classes: int = 2                    # [plan] classes, background included
    in_channels: int = 1                    # [plan] channels of a scan
    class_names: tuple[str, ...] = ()       # [plan] of the foreground, in tables, pictures and CSV files
    patch_size: tuple[int, ...] = (112, 112, 80)        # [plan] voxels; of slices two numbers
    labeled_batch: int = 4                  # [P] labelled patches per step, mixed in pairs; SIZES
    unlabeled_batch: int = 4                # [P] unlabelled patches per step, mixed in pairs; SIZES
    foreground: Ratio = 1 / 2               # [plan] share of labelled patches that are drawn around foreground
    flips: tuple[int, ...] = ()             # [plan] axes of the patch that are mirrored
    quarter_turns: bool = False             # [plan] turns by 90 degrees, in slices by any angle
    # [O] strong: nnU-Net's augmentation; geometry, intensity: half of it; paper: crops, flips, quarter turns
    augment: Literal["paper", "strong", "geometry", "intensity"] = "strong"

    # method
    method: MethodName = "cml_plus"         # [plan] how the unlabelled scans are used: docs/methods.md
    network: NetworkName = "vnet"           # [plan] vnet for volumes, unet for slices
    beta: Ratio = 2 / 3                     # [P] edge of the CutMix box over edge of the patch; SLICES
    lambda_unsup: float = 1.0               # [P] lambda_1 of Eq. 4: weight of L_sup on unlabelled scans; SLICES
    lambda_dis: float = 0.2                 # [P] lambda_2 of Eq. 4 and 11: weight of the discrepancy; SLICES
    components: tuple[int, ...] = ()        # [plan] classes whose pseudo-labels keep the largest component

    # stochastic gradient descent
    pre_steps: int = 2_000                  # [O] pre-training on labelled pairs, Eq. 11
    self_steps: int = 15_000                # [O] self-training, Eq. 4
    lr: float = 0.01                        # [P] initial learning rate
    pre_schedule: Schedule = "constant"     # [C] of the learning rate, in pre-training
    self_schedule: Schedule = "poly"        # [O] in self-training; power 0.9
    hours: float | None = None              # [O] take no more steps than fit into so many hours
    momentum: float = 0.9                   # [C] of the gradients
    weight_decay: float = 1e-4              # [C] L2 penalty on all parameters

    # cross-validation
    folds: int | None = None                # number of folds: one run each, without the fold's labelled cases
    fold: str | None = None                 # train one of these runs alone, 2/4 for the second of four
    # numbers of labels: train supervised and the method with each of them over the folds (4 if --folds is not given)
    budget: tuple[int, ...] = ()

    # test
    stride: tuple[int, ...] | None = None   # [O] voxels between sliding windows; by default half the patch
    keep_largest: tuple[int, ...] = ()      # [plan] classes that keep the largest component

    @property
    def like(self):
        return "LA" if len(self.patch_size) == 3 else "ACDC"

    @property
    def home(self):
        return self.data_dir.name if is_case_name(self.data_dir.name) else self.dataset

    def planned(self):
        path = self.plan or self.data_dir / PLAN
        record = read_preprocessing(self.data_dir)
        if record is None or not path.exists():
            raise InputError(f"{path}: does not exist; python code/prepare_folder.py --output {self.data_dir} writes "
                             "it, beside the scans that it prepares")
        plan, _ = read_plan(path)
        if record.made != plan.made:
            raise InputError(f"{path}: the scans in {self.data_dir} were prepared in another way (preprocessing.json); "
                             f"python code/prepare_folder.py --plan {path} with another --output prepares them so")
        if moved := moved_name(record.class_names, plan.class_names):
            raise InputError(f"{path}: calls another class {moved} than {self.data_dir / RECORD}, by which labels are "
                             "taken and drawn segments told; prepare the folder again, or put the names back")
        data = Own(self)
        train = data.listed("train")
        labelled = self.labeled or len(data.labelled(train))
        slices = plan.slices != "none"
        voxels, batch = SIZES.get(self.preset, SIZES["paper"])[slices]
        return replace(
            self, **(SLICES if slices else {}),
            method=self.method if labelled < len(train) or self.budget else "supervised",
            labeled=labelled, num_classes=record.num_classes, in_channels=len(record.modalities),
            class_names=plan.class_names, patch_size=shrunk(plan.patch_size, voxels), labeled_batch=batch,
            unlabeled_batch=batch, foreground=plan.foreground, flips=plan.flips, quarter_turns=plan.quarter_turns,
            components=plan.components, keep_largest=plan.keep_largest)

    def repeated(self):
        """On scans with other classes or channels than the run's, with what follows from these in their plan."""
        now, scans = replace(self, plan=None).planned(), ("num_classes", "in_channels", "class_names")
        if all(getattr(now, name) == getattr(self, name) for name in scans):
            return self
        return replace(self, plan=None, **{name: getattr(now, name) for name in (
            *scans, "flips", "quarter_turns", "components", "keep_largest")})

    def reasons(self):
        path = self.plan or self.data_dir / PLAN
        if not path.exists():
            return {}
        _, lines = read_plan(path)
        preset = replace(PRESETS[self.preset], **{name: getattr(self, name) for name in self.GIVEN}).planned()
        lines = {"network": lines.get("slices", "")} | {name: lines[name] for name in lines.keys() - set(PREPARED)}
        return {name: lines[name] for name in vars(preset)
                if name in lines and getattr(self, name) == getattr(preset, name)}

    def folder(self, presets):
        """The run folder; NAME_folds/fold2 of --fold 2/4, and what --folds and --budget fill with such runs."""
        home = super().folder(presets, untold=("fold",))
        if not self.out:
            home = home.with_name(home.name + ("_budget" if self.budget else "_folds" * bool(self.folds or self.fold)))
        return home / fold_folder(self.fold) if self.fold else home

    def check(self):
        if self.fold:
            fold_number(self.fold)
        if (self.folds or self.budget) and self.fold:
            raise InputError(f"--fold {self.fold}: is one run; leave it out, or "
                             f"{'--budget' if self.budget else '--folds'}")
        if self.folds is not None and self.folds < 2:
            raise InputError(f"--folds {self.folds}: must be 2 or more")
        if min(self.budget, default=1) < 1 or sorted(set(self.budget)) != [*self.budget]:
            raise InputError(f"{option_text('budget', self.budget)}: expected rising numbers of labels, such as 2 4 8")
        axes = set(range(len(self.patch_size)))
        if len(axes) not in (2, 3):
            raise InputError(f"{option_text('patch_size', self.patch_size)}: expected three numbers, or two of a patch "
                             "of slices")
        if not axes >= set(self.flips) or len(set(self.flips)) < len(self.flips):
            raise InputError(f"{option_text('flips', self.flips)}: a patch of {len(axes)} axes has the axes "
                             f"{' '.join(map(str, axes))}, each once")
        for name in ("components", "keep_largest"):
            if not set(range(1, self.num_classes)) >= set(getattr(self, name)):
                raise InputError(f"{option_text(name, getattr(self, name))}: expected classes from 1 to "
                                 f"{self.num_classes - 1}, as of --num-classes {self.num_classes}")
        if len(self.class_names) not in (0, self.num_classes - 1):
            raise InputError(f"{option_text('class_names', self.class_names)}: expected {self.num_classes - 1} names "
                             f"or none, as of --num-classes {self.num_classes} with the background")
        if self.hours is not None and not 0 < self.hours < math.inf:
            raise InputError(f"--hours {self.hours:g}: must be above 0")
        if not 0 <= self.foreground <= 1:
            raise InputError(f"--foreground {self.foreground:g}: a share, from 0 to 1")
        if self.stride is not None and len(self.stride) != len(axes):
            raise InputError(f"{option_text('stride', self.stride)}: expected {len(axes)} numbers, as of --patch-size")
        return super().check()

    def fields(self):
        """As the base class's; a stride of half the patch is None, the default, also where it was asked for."""
        values = super().fields()
        return values | {"stride": None if self.stride == self._half else self.stride}

    def complete(self):
        return replace(super().complete(), stride=self.stride or self._half)

    @property
    def _half(self):
        return tuple(side // 2 for side in self.patch_size)


PRESETS = {
    "paper": OwnRecipe(),
    "short": OwnRecipe(preset="short", pre_steps=600, self_steps=2_400),
    "mini": OwnRecipe(preset="mini", pre_steps=200, self_steps=800, eval_every=100),
}


@reported
def main(args=None):
    recipe = command_line(PRESETS, __doc__, args)
    if recipe.budget:
        from training import budget  # here and below: options are read without PyTorch
        return budget.compare_labels(recipe)
    from training import cross_validation
    return cross_validation.start(recipe)


if __name__ == "__main__":
    main()
