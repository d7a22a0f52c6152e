"""Losses that several compared methods share: the Dice variants of their releases, by name, and sharpening.

Shapes: B samples, C classes, *S two or three spatial axes. Of several processes, each pools its own share of a batch.
Voxels that are IGNORED in a target do not count.
"""
from functools import partial

import torch

from cml import segmentation_loss
from imaging.cases import IGNORED
from method import Method
from runtime.device import at_least_float32 as widened
from runtime.errors import InputError


def pooled_dice(prob, target, power, eps, foreground):
    """1 - (2 sum p y + eps) / (sum p^power + sum y^power + eps), sums over the batch and its voxels -> scalar.

    prob (B, C, *S), target (B, *S) int; power: 1 or 2; foreground: channel 1 against target == 1 alone, otherwise
    the mean over all classes, background included (UA-MT, SSL4MIS, MC-Net, SS-Net) [C].
    """
    overlap, mass = _sums(prob, target, power, foreground)
    return 1 - ((2 * overlap + eps) / (mass + eps)).mean()


def halved_dice(prob, target):
    """1 - sum p y / (sum p^2 + sum y^2 + 1e-10), mean over all classes: MC-Net's on slices -> scalar.

    Without the factor 2, a class that is present costs at least 1/2 and an absent one 1 [C].
    prob (B, C, *S), target (B, *S) int.
    """
    overlap, mass = _sums(prob, target, power=2, foreground=False)
    return 1 - (overlap / (mass + 1e-10)).mean()


def _sums(prob, target, power, foreground):
    """sum p y and sum p^power + sum y per class, over the batch and its voxels: two tensors (classes,)."""
    onehot, prob = _onehot(target, prob), widened(prob).flatten(2) * not_ignored(target)
    if foreground:
        onehot, prob = onehot[:, 1:2], prob[:, 1:2]
    return (prob * onehot).sum((0, 2)), prob.pow(power).sum((0, 2)) + onehot.sum((0, 2))


def _onehot(target, prob):
    """Label maps (B, *S) -> (B, C, voxels) bool, of as many classes as prob (B, C, *S) has."""
    return target.flatten(1)[:, None] == torch.arange(prob.shape[1], device=prob.device)[:, None]


def not_ignored(target):
    """Where a target (B, *S) is not IGNORED: (B, 1, voxels) bool."""
    return target.flatten(1)[:, None] != IGNORED


def squared_difference(prob, target):
    """Mean of all squared differences of two tensors of one shape -> scalar; gradient into both."""
    return (widened(prob) - widened(target)).square().mean()


def sharpen(prob, temperature):
    """p^(1/T) / (p^(1/T) + (1 - p)^(1/T)), elementwise: the same shape, finite at 0 and 1 [C].

    More than two classes no longer sum to 1.
    """
    prob = widened(prob)
    power = prob.pow(1 / temperature)
    return power / (power + (1 - prob).pow(1 / temperature))


# ---- supervised losses by name -----------------------------------------------------------------------------------

# Squared (dsq) or linear (dlin) denominators, on the foreground (fg) or all classes; dmc2 is `halved_dice`
DICE = {
    "dsq_fg": partial(pooled_dice, power=2, eps=1e-5, foreground=True),             # UA-MT, SASSNet, DTC, MCF
    "dsq_all": partial(pooled_dice, power=2, eps=1e-5, foreground=False),           # SSL4MIS
    "dsq_all_1e-10": partial(pooled_dice, power=2, eps=1e-10, foreground=False),    # SS-Net on slices
    "dlin_fg": partial(pooled_dice, power=1, eps=1e-8, foreground=True),            # MC-Net and SS-Net on volumes
    "dmc2": halved_dice,                                                            # MC-Net on slices
}
# With cross-entropy (ce): (weight of both, name of the Dice)
COMBINED = {
    "ce_dsq_fg": (0.5, "dsq_fg"), "ce_dsq_all": (0.5, "dsq_all"),                   # UA-MT, SSL4MIS
    "ce_plus_dsq_fg": (1, "dsq_fg"), "ce_plus_dsq_all": (1, "dsq_all"),             # MCF
}
SUPERVISED = ("eq2", *COMBINED, *DICE)


def check_supervised(name, num_classes):
    """InputError for a name that is unknown, or whose Dice looks at class 1 alone where there are more than two."""
    if name not in SUPERVISED:
        raise InputError(f"--hyper.supervised {name}: unknown, choose one of {', '.join(SUPERVISED)}")
    if name.endswith("_fg") and num_classes > 2:
        raise InputError(f"--hyper.supervised {name}: its Dice looks at class 1 alone, and there are {num_classes} "
                         "classes; choose eq2 or dsq_all")


def supervised_loss(name):
    """callable(logits (B, C, *S), target (B, *S) int) -> scalar, of a name in SUPERVISED; 'eq2' is the paper's Eq. 2.

    Raises InputError as `check_supervised`; the callable, too, which knows C.
    """
    check_supervised(name, 2)
    return segmentation_loss if name == "eq2" else partial(_named, name)


class WithSupervisedLoss(Method):
    """A method whose hyperparameter `supervised` names the loss of its labelled scans."""

    def __init__(self, networks, hyper):
        super().__init__(networks)
        self.hyper, self.supervised = hyper, supervised_loss(hyper.supervised)


def half_and_half(dataset, protocol):
    """Name of the loss of UA-MT, SSL4MIS and what follows them: half cross-entropy, half Dice; 'matched': Eq. 2.

    On LA the Dice of the foreground (UA-MT) [C], elsewhere of all classes (SSL4MIS) [C].
    """
    if protocol == "matched":
        return "eq2"
    return "ce_dsq_fg" if dataset == "LA" else "ce_dsq_all"


def _named(name, logits, target):
    check_supervised(name, logits.shape[1])
    log_prob = widened(logits).log_softmax(1)
    weight, dice = COMBINED.get(name, (1, name))
    loss = DICE[dice](log_prob.exp(), target)
    if name in COMBINED:
        entropy = -(log_prob.flatten(2) * _onehot(target, log_prob)).sum() / not_ignored(target).sum().clamp(min=1)
        loss = loss + entropy
    return weight * loss
