"""CML+ [O], which is in no paper: CML with three additions, for the best network out of few labels.

Each is a switch of `Hyper`, and without all three this is CML, bit for bit:

- both orders: a pair (a, b) is mixed as a M + b (1 - M) and as b M + a (1 - M), with one mask M, so that as many mixed
  scans enter the losses as were loaded; the pass that makes pseudo-labels stays the same. Eq. 9 holds in both orders:
  outside the box the other view's label, inside it the own one.
- averaged: a moving average of both subnets, weights and running statistics, copied at the first step of each stage,
  is what is tested; the last iterate's views stand beside it.
- perturbed: the mixed scans that the losses see change in contrast, brightness, sharpness and noise; the pseudo-labels
  come from the clean scans.

Its results stand in rows of their own, never in CML's.
"""
import copy
from dataclasses import dataclass

import torch

from cml import CML
from methods.teacher import moving_average
from networks import two_view
from runtime.errors import InputError

FACTORS = 0.5, 1.5      # of contrast and of brightness, uniform, one of each per scan                    [O]
BLURS = 0.1, 1.0        # voxels: standard deviation of the Gaussian filter, uniform, one per scan        [O]
NOISES = 0.0, 0.2       # standard deviation of the noise over the scan's, uniform, one per scan          [O]
TAPS = range(-3, 4)     # of the filter: three deviations on either side                                [O]


@dataclass(frozen=True)
class Hyper:
    both_orders: bool = True        # [O] mix each pair both ways, with one mask
    averaged: bool = True           # [O] test the moving average of the subnets, not their last iterate
    perturbed: bool = True          # [O] the mixed scans change in intensity
    decay: float = 0.99             # [O] of the moving average, once 100 steps have passed


class CMLPlus(CML):
    """CML with what we found to help; `average` is a copy of `networks` that follows them, if the switch is on."""

    Hyper = Hyper

    def __init__(self, networks, hyper, *of_cml):
        super().__init__(networks, *of_cml)
        self.hyper = hyper
        if hyper.averaged:
            self.average = copy.deepcopy(networks).requires_grad_(False)

    @classmethod
    def build(cls, recipe):
        networks = two_view.build(recipe.network, recipe.in_channels, recipe.num_classes)
        return cls(networks, recipe.hyper, recipe.beta, recipe.lambda_unsup, recipe.lambda_dis, recipe.fusion,
                   recipe.components)

    @classmethod
    def check(cls, recipe):
        super().check(recipe)
        if recipe.hyper and not recipe.hyper.decay < 1:
            raise InputError(f"--hyper.decay {recipe.hyper.decay:g}: share of its past in the average, 0 to below 1")

    @classmethod
    def smallest_pass(cls, recipe):
        both_orders = (recipe.hyper or cls.Hyper()).both_orders
        return super().smallest_pass(recipe) * (2 if both_orders else 1)

    def stages(self, pre_steps, self_steps):
        pre, later = super().stages(pre_steps, self_steps)
        # in units of pre-training: B labelled scans, then B unlabelled ones and a forward pass for their pseudo-labels
        return [pre, later._replace(cost=7 / 3) if self.hyper.both_orders else later]

    def labelled_half(self, batch):
        return super().labelled_half(batch._replace(y_l=self.in_pairs(batch.y_l)))

    def unlabelled_half(self, batch):
        loss, terms = super().unlabelled_half(batch)
        orders = 2 if self.hyper.both_orders else 1     # a pseudo-label is counted once
        return loss, terms | {"empty_pseudo_labels": terms["empty_pseudo_labels"] // orders}

    def in_pairs(self, scans):
        """Scans or label maps (a, b) of the pairs -> (a, b, b, a), whose halves give both orders."""
        return torch.cat([scans, *reversed(scans.chunk(2))]) if self.hyper.both_orders else scans

    def mixed(self, x, generator):
        x, mask = super().mixed(self.in_pairs(x), generator)
        return perturb(x) if self.hyper.perturbed else x, mask

    def pseudo_labels(self, x):
        labels = super().pseudo_labels(x)
        return lambda: [self.in_pairs(of_view) for of_view in labels()]

    def after_step(self, batch):
        if self.hyper.averaged:
            moving_average(self.average, self.networks, batch.step, self.hyper.decay, buffers=True)
        return {}

    @property
    def tested(self):
        return self.average if self.hyper.averaged else self.networks

    def predict(self, x):
        """The average's mean and views, then the last iterate's; without the average, as CML."""
        views = super().predict(x)
        if not self.hyper.averaged:
            return views
        return self._averages(x) | {f"last_{view}": prob for view, prob in views.items()}

    def predicted(self, x, views=()):
        if not self.hyper.averaged or any(view.startswith("last_") for view in views):
            return super().predicted(x, views)
        return {view: probs for view, probs in self._averages(x).items() if view in ("fused", *views)}

    def _averages(self, x):
        (logits0, _), (logits1, _) = self.average(x)
        return two_view.fuse(logits0, logits1, self.fusion)


def perturb(x):
    """(B, in_channels, *S) -> the same scans, each under a contrast, brightness, sharpness and noise of its own.

    Contrast spreads the intensities about the scan's mean, brightness from its darkest voxel, so that scans whose mean
    is 0 are treated as those in [0, 1]. Draws come from torch, which is reseeded at every step.
    """
    def draw(low, high):
        return torch.rand(len(x), *[1] * (x.ndim - 1), dtype=x.dtype, device=x.device) * (high - low) + low

    axes = tuple(range(2, x.ndim))
    mean = x.mean(axes, keepdim=True)
    x = mean + (x - mean) * draw(*FACTORS)
    darkest = x.amin(axes, keepdim=True)
    x = darkest + (x - darkest) * draw(*FACTORS)
    noise = x.std(axes, keepdim=True) * draw(*NOISES) * torch.randn_like(x)
    return blur(x, draw(*BLURS)) + noise


def blur(x, deviation):
    """Gaussian filter of (B, in_channels, *S) along every axis of S, seven taps, edges repeated.

    deviation: in voxels, (B, 1, ...) with as many axes as x.
    """
    weights = torch.stack([-(tap / deviation) ** 2 / 2 for tap in TAPS]).softmax(0)
    for axis in range(2, x.ndim):
        places = torch.arange(x.shape[axis], device=x.device)
        x = sum(weight * x.index_select(axis, (places + tap).clamp(0, len(places) - 1))
                for tap, weight in zip(TAPS, weights, strict=True))
    return x
