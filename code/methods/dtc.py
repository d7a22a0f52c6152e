"""DTC, dual-task consistency (Luo et al. 2021).

    Idea: a mask and the signed distance to its surface say the same thing. One head predicts each; the level set
    sigmoid(-1500 z) turns distances into a mask, and on all scans, labelled or not, the two masks must agree.

Neither side of the agreement is detached. The release also computes a cross-entropy, but never adds it to the loss; it
is left out. Published for LA alone. On slices [O]: one map and level set for each foreground class, against that
class's softmax probability. On BraTS [O]: as on LA.
"""
from dataclasses import dataclass
from functools import partial

import torch

from method import Picture
from methods.losses import WithSupervisedLoss, squared_difference, widened
from methods.ramps import ramped
from methods.sassnet import shape_loss
from methods.sdm import distance_loss, distance_maps, level_set, views_of
from networks import compared


@dataclass(frozen=True)
class Hyper:
    supervised: str = "eq2"         # [O: Eq. 2] loss of the labelled scans, a name of methods/losses.py
    distance: float = 0.3           # [C] weight of the distance maps' squared error
    consistency: float = 1.0        # [C] ceiling of the consistency weight
    ramp_share: float = 1.0         # [C] share of training that its ramp takes
    stairs: bool = False            # [O; DTC: True] the ramp rises every 150 iterations, not at every step


def dual_task_consistency(sdm, prob):
    """Mean of (level_set(sdm) - prob)^2: distance maps and foreground probabilities, (B, K, *S) twice -> scalar."""
    return squared_difference(level_set(sdm), prob)


class DTC(WithSupervisedLoss):
    """networks: x -> (logits, signed distance maps). The segmentation head is tested."""

    Hyper = Hyper
    pair = "network", "level_set"

    def __init__(self, networks, hyper, num_classes):
        super().__init__(networks, hyper)
        self.of_label = partial(distance_maps, num_classes=num_classes)

    @classmethod
    def defaults(cls, dataset, protocol="matched"):
        return Hyper(shape_loss(dataset, protocol), stairs=protocol == "original")

    @classmethod
    def build(cls, recipe):
        networks = compared.build(f"sdm_{recipe.network}", recipe.in_channels, recipe.num_classes)
        return cls(networks, recipe.hyper, recipe.num_classes)

    def losses(self, batch):
        """One pass of the whole batch: labels and distances on its labelled part, consistency on all of it."""
        labelled = len(batch.x_l)
        logits, maps = self.networks(torch.cat([batch.x_l, batch.x_u]))
        sup = self.supervised(logits[:labelled], batch.y_l)
        distance = distance_loss(maps[:labelled], batch.z_l, batch.y_l)
        consistency = dual_task_consistency(maps, widened(logits).softmax(1)[:, 1:])
        weight = ramped(self.hyper, batch)
        picture = Picture(batch.x_u, None, views_of(logits[labelled:].detach(), maps[labelled:].detach()))
        yield (sup + self.hyper.distance * distance + weight * consistency,
               {"sup_l": sup, "distance": distance, "consistency": consistency, "picture": picture})

    def predict(self, x):
        return views_of(*self.networks(x))
