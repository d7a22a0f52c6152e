"""Entropy minimisation (Grandvalet & Bengio 2004; Vu et al. 2019, ADVENT), as SSL4MIS runs it.

    Idea: a network that is sure of its answer draws its boundaries where data are sparse. So, beside the supervised
    loss, minimise the entropy of each voxel's prediction, scaled to [0, 1], with a weight that ramps up.

The entropy covers labelled and unlabelled scans, as SSL4MIS has it; ADVENT takes the unlabelled ones alone. On LA,
where no code was released, 'original' takes UA-MT's settings [O].
"""
import math
from dataclasses import dataclass

import torch

from method import Picture
from methods.losses import WithSupervisedLoss, half_and_half, widened
from methods.ramps import ramped
from networks.two_view import build_subnet


@dataclass(frozen=True)
class Hyper:
    supervised: str = "eq2"         # [O: Eq. 2] loss of the labelled scans, a name of methods/losses.py
    consistency: float = 0.1        # [C] ceiling of the entropy's weight
    ramp_share: float = 1.0         # [C] share of training that its ramp takes
    stairs: bool = False            # [O; SSL4MIS: True] the ramp rises every 150 iterations, not at every step


def entropy_loss(prob):
    """Mean of -sum_c p ln(p + 1e-6) / ln C over samples and voxels: (B, C, *S) -> scalar; gradient through both p."""
    prob = widened(prob)
    return -(prob * (prob + 1e-6).log()).sum(1).mean() / math.log(prob.shape[1])


class EM(WithSupervisedLoss):
    """networks: x -> (logits, feature); tested as it is."""

    Hyper = Hyper

    @classmethod
    def defaults(cls, dataset, protocol="matched"):
        return Hyper(half_and_half(dataset, protocol), stairs=protocol == "original")

    @classmethod
    def build(cls, recipe):
        return cls(build_subnet(recipe.network, recipe.in_channels, recipe.num_classes), recipe.hyper)

    def losses(self, batch):
        """One pass of the whole batch: labels on its labelled part, entropy on all of it."""
        labelled = len(batch.x_l)
        logits, _ = self.networks(torch.cat([batch.x_l, batch.x_u]))
        sup, entropy = self.supervised(logits[:labelled], batch.y_l), entropy_loss(widened(logits).softmax(1))
        weight = ramped(self.hyper, batch)
        picture = Picture(batch.x_u, None, {"network": logits[labelled:].detach()})
        yield sup + weight * entropy, {"sup_l": sup, "entropy": entropy, "picture": picture}

    def predict(self, x):
        return {"network": self.networks(x)[0].softmax(1)}
