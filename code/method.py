"""What a semi-supervised method is to the rest of the code: losses to train with, probabilities to test with.

A new method is one file in methods/: subclass `Method`, give it its networks, write `losses`.
"""
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from evaluation.inference import class_probabilities


class Batch(NamedTuple):
    """One step's input. Labels of unlabelled scans do not exist here."""

    x_l: Tensor                     # (B_l, in_channels, *S) labelled patches
    y_l: Tensor                     # (B_l, *S) their label maps, int64
    x_u: Tensor | None              # (B_u, in_channels, *S) unlabelled patches; None where a method uses none
    step: int                       # counted from 0 within the stage
    steps: int                      # length of the stage: ramps are functions of step / steps
    generator: torch.Generator      # on the CPU, a function of (seed, stage, step): masks are drawn from it


class Stage(NamedTuple):
    """A stretch of training with one objective; `losses` takes a Batch and yields (loss, terms)."""

    name: str
    steps: int
    losses: Callable[[Batch], Iterator[tuple[Tensor, dict]]]
    unlabelled: bool = True         # whether its batches have an unlabelled half
    yields: int = 1                 # losses a step


class Method(nn.Module):
    """Base of all methods; parameters, buffers and `get_extra_state` (own optimisers, say) go into checkpoints.

    `networks` maps (B, in_channels, *S) to logits, to (logits, feature), or to one such pair a view. Of several
    processes each sees its share of the batch, and the gradients of `networks` are averaged.
    """

    uses_unlabelled = True

    def __init__(self, networks, fusion="softmax"):
        super().__init__()
        self.networks, self.fusion = networks, fusion

    def stages(self, pre_steps, self_steps):
        """One stage of pre + self steps from random initialisation, unless a method says otherwise."""
        return [Stage("self", pre_steps + self_steps, self.losses)]

    def losses(self, batch):
        """Yield (loss, terms) as often as the stage's `yields` says; backward runs on each loss before the next one
        is asked for, so that only one graph lives at a time. `terms`: name -> scalar for log.csv (whole numbers are
        counts, summed over processes; others are averaged), and perhaps the label maps learned from, `target_l`
        and `target_u`, for TensorBoard.
        """
        raise NotImplementedError

    def trained_parameters(self):
        """What the recipe's optimiser moves; a method with a second optimiser leaves its share out."""
        return [p for p in self.parameters() if p.requires_grad]

    def after_step(self, batch):
        """Called when the optimiser has stepped: moving averages, for instance."""

    def predict(self, x):
        """(B, in_channels, *S) -> {view: class probabilities (B, C, *S)}; the first view is the test row."""
        return class_probabilities(self.networks(x), self.fusion)
