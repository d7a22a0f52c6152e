"""MC-Net, mutual consistency (Wu et al. 2021).

    Idea: decoders that up-sample differently disagree where a scan is hard. On every scan each decoder's probability
    learns the sharpened probability of each other one, which also pushes it away from uncertainty.

The tables' MC-Net has two decoders; three are MC-Net+ (Wu et al. 2022). The sharpened side is not detached, as
released. On BraTS, where no code was released, as on LA [O].
"""
import itertools
from dataclasses import dataclass

import torch

from method import Picture
from methods.losses import WithSupervisedLoss, sharpen, squared_difference, widened
from methods.ramps import ramped
from networks import compared
from runtime.errors import InputError

TEMPERATURE = 0.1       # of the sharpening             [C]
COUNTER_AHEAD = 1       # steps by which the released counter is ahead when the ramp's stair is looked up    [C]


@dataclass(frozen=True)
class Hyper:
    supervised: str = "eq2"         # [O: Eq. 2] loss of each decoder on labelled scans, a name of methods/losses.py
    share_l: float = 0.5            # [C] weight of the sum of these losses: 0.5 on volumes, 1 on slices
    consistency: float = 1.0        # [C] ceiling of the consistency weight: 1 on volumes, 0.1 on slices
    ramp_share: float = 0.4         # [C] share of training that its ramp takes: 0.4 on volumes, 1 on slices
    stairs: bool = False            # [O; MC-Net: True] the ramp rises every 150 iterations, not at every step
    decoders: int = 2               # [C] 2: MC-Net, 3: MC-Net+


def mutual_consistency(probs):
    """Sum over ordered pairs i, j of mean (p_i - sharpened p_j)^2: list of (B, C, *S) -> scalar, gradient into both."""
    targets = [sharpen(prob, TEMPERATURE) for prob in probs]
    return sum(squared_difference(probs[i], targets[j]) for i, j in itertools.permutations(range(len(probs)), 2))


class MCNet(WithSupervisedLoss):
    """networks: x -> ((logits, feature), ...), one pair for each decoder. The first decoder is tested."""

    Hyper = Hyper
    pair = "decoder1", "decoder2"

    @classmethod
    def defaults(cls, dataset, protocol="matched"):
        original = protocol == "original"
        if dataset == "ACDC":
            return Hyper("dmc2" if original else "eq2", share_l=1.0, consistency=0.1, ramp_share=1.0, stairs=original)
        return Hyper("dlin_fg" if original else "eq2", stairs=original)

    @classmethod
    def check(cls, recipe):
        super().check(recipe)
        if recipe.hyper and recipe.hyper.decoders not in (2, 3):
            raise InputError(f"--hyper.decoders {recipe.hyper.decoders}: choose 2 for MC-Net or 3 for MC-Net+")

    @classmethod
    def build(cls, recipe):
        name = f"mcnet{len(recipe.patch_size)}d_v{recipe.hyper.decoders - 1}"
        return cls(compared.build(name, recipe.in_channels, recipe.num_classes), recipe.hyper)

    def losses(self, batch):
        """One pass of the whole batch: labels on its labelled part, mutual consistency on all of it."""
        labelled = len(batch.x_l)
        views = [logits for logits, _ in self.networks(torch.cat([batch.x_l, batch.x_u]))]
        sup = sum(self.supervised(logits[:labelled], batch.y_l) for logits in views)
        consistency = mutual_consistency([widened(logits).softmax(1) for logits in views])
        weight = ramped(self.hyper, batch, COUNTER_AHEAD)
        shown = named([logits[labelled:].detach() for logits in views])
        yield (self.hyper.share_l * sup + weight * consistency,
               {"sup_l": sup, "consistency": consistency, "picture": Picture(batch.x_u, None, shown)})

    def predict(self, x):
        """Each decoder's probabilities, and beside them their mean."""
        views = [widened(logits).softmax(1) for logits, _ in self.networks(x)]
        return named(views) | {"mean": sum(views) / len(views)}

    def predicted(self, x, views=()):
        if views:
            return super().predicted(x, views)
        first, *_ = self.networks.decoders
        return {"decoder1": widened(first(self.networks.encoder(x))).softmax(1)}


def named(views):
    return {f"decoder{number}": view for number, view in enumerate(views, 1)}
