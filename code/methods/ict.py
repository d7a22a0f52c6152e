"""ICT, interpolation consistency training (Verma et al. 2019), as SSL4MIS runs it.

    Idea: between two unlabelled scans the prediction should be as linear as the input. The student sees the mix
    (1 - lambda) u0 + lambda u1 and learns (1 - lambda) p_t(u0) + lambda p_t(u1), where p_t is its moving average's.

As released, no noise is added and the teacher stays in training mode, so that its dropout acts. On LA, where no code
was released, 'original' takes UA-MT's settings [O].
"""
from dataclasses import dataclass

import torch

from method import Picture
from methods.losses import half_and_half, squared_difference, widened
from methods.mean_teacher import MeanTeacher
from methods.ramps import ramped
from runtime.errors import InputError


@dataclass(frozen=True)
class Hyper:
    supervised: str = "eq2"         # [O: Eq. 2] loss of the labelled scans, a name of methods/losses.py
    consistency: float = 0.1        # [C] ceiling of the consistency weight
    ramp_share: float = 1.0         # [C] share of training that its ramp takes
    stairs: bool = False            # [O; SSL4MIS: True] the ramp rises every 150 iterations, not at every step
    alpha: float = 0.2              # [C] lambda ~ Beta(alpha, alpha): mostly near 0 or 1


def shares(alpha, count, like):
    """Draw lambda ~ Beta(alpha, alpha) for `count` pairs -> (count,) on `like`'s device.

    Drawn on the CPU, the same for every device, and filled in there: a copy would be waited for.
    """
    drawn = torch.distributions.Beta(alpha, alpha).sample((count,)).tolist()
    return torch.stack([torch.full((), share, device=like.device) for share in drawn])


def interpolate(first, second, share):
    """(1 - share) first + share second; first, second (n, ...), images or probabilities, share (n)."""
    share = share.to(first).reshape(-1, *[1] * (first.ndim - 1))
    return (1 - share) * first + share * second


class ICT(MeanTeacher):
    """student, teacher: x -> (logits, feature). The student is tested."""

    Hyper = Hyper
    PAIRED = ("unlabeled_batch",)

    @classmethod
    def defaults(cls, dataset, protocol="matched"):
        return Hyper(half_and_half(dataset, protocol), stairs=protocol == "original")

    @classmethod
    def check(cls, recipe):
        super().check(recipe)
        hyper = recipe.hyper or cls.Hyper()
        if not hyper.alpha > 0:
            raise InputError(f"--hyper.alpha {hyper.alpha:g}: of a Beta distribution, must be above 0")

    def losses(self, batch):
        """Pairs (i, i + B_u / 2) of the unlabelled scans, one lambda per pair; the student sees [labelled; mixed]."""
        labelled, (first, second) = len(batch.x_l), batch.x_u.chunk(2)
        share = shares(self.hyper.alpha, len(first), first)
        mixed = interpolate(first, second, share)
        with torch.no_grad():       # two passes, each with batch statistics of its own
            target = interpolate(*(widened(self.teacher(x)[0]).softmax(1) for x in batch.for_targets.chunk(2)), share)
        logits, _ = self.networks(torch.cat([batch.x_l, mixed]))
        sup = self.supervised(logits[:labelled], batch.y_l)
        consistency = squared_difference(widened(logits[labelled:]).softmax(1), target)
        weight = ramped(self.hyper, batch)
        picture = Picture(mixed, None, {"student": logits[labelled:].detach(), "teacher": target})
        yield sup + weight * consistency, {"sup_l": sup, "consistency": consistency, "picture": picture}
