"""What a semi-supervised method is to the rest of the code: losses to train with, probabilities to test with.

A new method is one file in methods/ and one line in methods/registry.py: subclass `Method`, build its networks, write
`losses` and `predict`. docs/methods.md has an example of thirty lines.
"""
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from runtime.errors import InputError


class Batch(NamedTuple):
    """The input of one step. The labels of unlabelled scans do not exist here."""

    x_l: Tensor                     # (B_l, in_channels, *S) labelled patches
    y_l: Tensor                     # (B_l, *S) their label maps, int64; own data's with IGNORED voxels: not to learn
    x_u: Tensor | None              # (B_u, in_channels, *S) unlabelled patches; None in a stage without them. A pass
                                    # without gradient that makes targets takes `for_targets` instead
    step: int                       # counted from 0 within the stage
    steps: int                      # length of the stage: ramps are functions of step / steps
    generator: torch.Generator      # on the CPU, a function of (seed, stage, step): masks are drawn from it
    z_l: Tensor | None = None       # (B_l, K, *S) float32: what `Method.of_label` made of each label map
    clean_u: Tensor | None = None   # x_u before its intensities changed, if they did

    @property
    def for_targets(self):
        """The unlabelled patches, their intensities as they are in the scan (B_u, in_channels, *S)."""
        return self.x_u if self.clean_u is None else self.clean_u


class Picture(NamedTuple):
    """What a pass was about: TensorBoard shows its first scan."""

    image: Tensor                   # (B, in_channels, *S) as the networks saw it
    target: Tensor | None           # (B, *S) the label map that was learned, if there is one
    views: dict[str, Tensor]        # name -> logits or probabilities (B, C, *S)


class Stage(NamedTuple):
    """A stretch of training with one objective."""

    name: str
    steps: int
    losses: Callable[[Batch], Iterator[tuple[Tensor, dict]]]
    unlabelled: bool = True         # whether its batches have an unlabelled half: nothing else says so
    cost: float = 1                 # of one step, relative to the other stages': for the estimate of a run's hours


@dataclass(frozen=True)
class Hyper:
    """Hyperparameters of a method that has none of its own; others define a frozen dataclass like this one."""


class Method(nn.Module):
    """Base of all methods. Parameters, buffers and `get_extra_state` (own optimisers) go into checkpoints.

    With several processes, each sees its share of the batch. The loop averages the gradients of `trained_parameters`
    over them. A method with a second optimiser averages the gradients of that one by `Ranks().average_gradients`, and
    sees to it that all processes agree on any other state.
    """

    Hyper = Hyper                   # its own hyperparameters: `--hyper.NAME` on the command line
    OPTIONS = frozenset()           # optional fields of a recipe that act on it: beta, fusion, components ...
    NETWORKS = ("vnet", "unet")     # values of --network that it takes
    PAIRED = ()                     # its batches whose scans it takes in pairs: labeled_batch, unlabeled_batch
    pair = None                     # names of the two views whose disagreement is measured, if there are two
    of_label = None                 # function of a label map (*S) uint8 -> (K, *S) float32, called in loader workers

    def __init__(self, networks):
        super().__init__()
        self.networks = networks

    # ---- from a recipe ---------------------------------------------------------------------------------------

    @classmethod
    def defaults(cls, dataset, protocol="matched"):
        """The hyperparameters for a recipe's data set ('LA', 'ACDC', 'BraTS2019') and protocol -> Hyper."""
        return cls.Hyper()

    @classmethod
    def check(cls, recipe):
        """Raise InputError, one line, for a recipe that the method cannot run."""
        if recipe.network not in cls.NETWORKS:
            raise InputError(f"--network {recipe.network}: --method {recipe.method} takes "
                             f"{' or '.join(cls.NETWORKS)}")
        paired = {f"--{name.replace('_', '-')}": getattr(recipe, name) for name in cls.PAIRED}
        if any(size % 2 for size in paired.values()):
            raise InputError(f"{' '.join(f'{option} {size}' for option, size in paired.items())}: --method "
                             f"{recipe.method} takes scans in pairs, so {'both' if len(paired) > 1 else 'it'} must be "
                             "even")

    @classmethod
    def smallest_pass(cls, recipe):
        """Scans in the smallest batch that the networks are given in training."""
        return min((getattr(recipe, name) // 2 for name in cls.PAIRED),
                   default=recipe.labeled_batch + recipe.unlabeled_batch)

    @classmethod
    def build(cls, recipe):
        """The method with freshly initialised networks; recipe.hyper is a `Hyper`."""
        raise NotImplementedError

    # ---- training --------------------------------------------------------------------------------------------

    def stages(self, pre_steps, self_steps):
        """One stage of pre + self steps from random initialisation, unless a method says otherwise."""
        return [Stage("self", pre_steps + self_steps, self.losses)]

    def losses(self, batch):
        """Yield (loss, terms) once or several times a step.

        Backward runs on each loss before the next one is asked for, so that only one graph lives at a time. `terms`:
        name -> scalar tensor for log.csv (whole numbers are counts, summed over processes; others are averaged), and
        `picture`, a Picture, if there is one to show.
        """
        raise NotImplementedError

    def trained_parameters(self):
        """What the recipe's optimiser moves; a method with a second optimiser leaves its share out."""
        return [p for p in self.parameters() if p.requires_grad]

    def begin(self, stage):
        """Called when a stage starts, after its weights are loaded; not when a run resumes within it."""

    def after_step(self, batch):
        """Called when the optimiser has stepped: moving averages, a discriminator's own step -> terms, as above."""
        return {}

    # ---- test ------------------------------------------------------------------------------------------------

    @property
    def tested(self):
        """The networks that the first view of `predict` comes from."""
        return self.networks

    def predict(self, x):
        """(B, in_channels, *S) -> {view: class probabilities (B, C, *S)}; the first view is the test row."""
        raise NotImplementedError

    def predicted(self, x, views=()):
        """`predict`'s first view, and of the others those that are named.

        A method overrides it where views that nobody asks for would cost passes of their own.
        """
        first, *others = self.predict(x).items()
        return dict([first, *((view, probs) for view, probs in others if view in views)])
