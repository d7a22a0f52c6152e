"""DAN, deep adversarial network (Zhang et al. 2017), as SSL4MIS runs it.

    Idea: segmentations of unlabelled scans should look as good as those of labelled ones. A discriminator tells the two
    apart from the softmax beside its scan; the network is trained until it cannot.

On LA, where no code was released, 'original' takes UA-MT's settings [O].
"""
from dataclasses import dataclass

import torch

from method import Picture
from methods.adversarial import AdversarialMethod
from methods.losses import half_and_half, widened
from methods.ramps import ramped
from networks import compared
from networks.two_view import build_subnet


@dataclass(frozen=True)
class Hyper:
    supervised: str = "eq2"         # [O: Eq. 2] loss of the labelled scans, a name of methods/losses.py
    consistency: float = 0.1        # [C] ceiling of the adversarial weight
    ramp_share: float = 1.0         # [C] share of training that its ramp takes
    stairs: bool = False            # [O; SSL4MIS: True] the ramp rises every 150 iterations, not at every step


class DAN(AdversarialMethod):
    """networks: x -> (logits, feature); tested as it is."""

    Hyper = Hyper

    @classmethod
    def defaults(cls, dataset, protocol="matched"):
        return Hyper(half_and_half(dataset, protocol), stairs=protocol == "original")

    @classmethod
    def build(cls, recipe):
        networks = build_subnet(recipe.network, recipe.in_channels, recipe.num_classes)
        name = f"discriminator{len(recipe.patch_size)}d_{recipe.num_classes}"
        return cls(networks, compared.build(name, recipe.in_channels, 0), recipe.hyper)

    def maps(self, output):
        return widened(output[0]).softmax(1)

    def losses(self, batch):
        """One pass of the whole batch: labels on its labelled part, the discriminator on the other."""
        labelled = len(batch.x_l)
        output = self.networks(torch.cat([batch.x_l, batch.x_u]))
        logits, maps = output[0], self.maps(output)
        sup = self.supervised(logits[:labelled], batch.y_l)
        adversarial = self.fooling(maps[labelled:], batch.x_u)
        weight = ramped(self.hyper, batch)
        picture = Picture(batch.x_u, None, {"network": logits[labelled:].detach()})
        yield sup + weight * adversarial, {"sup_l": sup, "adversarial": adversarial, "picture": picture}

    def predict(self, x):
        return {"network": self.maps(self.networks(x))}
