"""SASSNet, shape-aware semi-supervised segmentation (Li et al. 2020).

    Idea: a second head predicts the signed distance to the object's surface, which knows the object's shape. A
    discriminator sees these maps beside their scans, so that those of unlabelled scans become like those of labelled
    ones.

The release also computes a cross-entropy, but never adds it to the loss; it is left out. Published for LA alone. On
slices [O]: one map for each foreground class, a softmax head, Dice of all classes in 'original'. On BraTS [O]: as LA.
"""
from dataclasses import dataclass
from functools import partial

import torch

from method import Picture
from methods.adversarial import AdversarialMethod
from methods.ramps import ramped
from methods.sdm import distance_loss, distance_maps, views_of
from networks import compared


@dataclass(frozen=True)
class Hyper:
    supervised: str = "eq2"         # [O: Eq. 2] loss of the labelled scans, a name of methods/losses.py
    distance: float = 0.3           # [C] weight of the distance maps' squared error
    consistency: float = 0.01       # [C] ceiling of the adversarial weight; 0.015 with few labels
    ramp_share: float = 1.0         # [C] share of training that its ramp takes
    stairs: bool = False            # [O; SASSNet: True] the ramp rises every 150 iterations, not at every step


def shape_loss(dataset, protocol):
    """Name of SASSNet's and DTC's supervised loss: Dice alone, on slices of all classes [O]; 'matched': Eq. 2."""
    if protocol == "matched":
        return "eq2"
    return "dsq_all" if dataset == "ACDC" else "dsq_fg"


class SASSNet(AdversarialMethod):
    """networks: x -> (logits, signed distance maps). The segmentation head is tested."""

    Hyper = Hyper

    def __init__(self, networks, discriminator, hyper, num_classes):
        super().__init__(networks, discriminator, hyper)
        self.of_label = partial(distance_maps, num_classes=num_classes)

    @classmethod
    def defaults(cls, dataset, protocol="matched"):
        """c = 0.015 on LA: the release's with 8 labelled scans, ours with 4; with 16 it has 0.01."""
        return Hyper(shape_loss(dataset, protocol), consistency=0.015 if dataset == "LA" else 0.01,
                     stairs=protocol == "original")

    @classmethod
    def build(cls, recipe):
        networks = compared.build(f"sdm_{recipe.network}", recipe.in_channels, recipe.num_classes)
        name = f"discriminator{len(recipe.patch_size)}d_{recipe.num_classes - 1}"
        return cls(networks, compared.build(name, recipe.in_channels, 0), recipe.hyper, recipe.num_classes)

    def maps(self, output):
        return output[1]

    def losses(self, batch):
        """One pass of the whole batch: labels and distances on its labelled part, the discriminator on the other."""
        labelled = len(batch.x_l)
        logits, maps = self.networks(torch.cat([batch.x_l, batch.x_u]))
        sup = self.supervised(logits[:labelled], batch.y_l)
        distance = distance_loss(maps[:labelled], batch.z_l, batch.y_l)
        adversarial = self.fooling(maps[labelled:], batch.x_u)
        weight = ramped(self.hyper, batch)
        picture = Picture(batch.x_u, None, views_of(logits[labelled:].detach(), maps[labelled:].detach()))
        yield (sup + self.hyper.distance * distance + weight * adversarial,
               {"sup_l": sup, "distance": distance, "adversarial": adversarial, "picture": picture})

    def predict(self, x):
        return views_of(*self.networks(x))
