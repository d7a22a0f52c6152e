"""Mean Teacher (Tarvainen & Valpola 2017): the student agrees with its own moving average under noise.

Weights and schedules as SSL4MIS runs it; in the matched protocol the supervised loss is Eq. 2, as for every method. On
LA, where no code was released, 'original' takes UA-MT's settings [O].
"""
from dataclasses import dataclass

import torch

from method import Picture
from methods.losses import half_and_half, supervised_loss
from methods.ramps import ramped
from methods.teacher import StudentTeacher, bounded_noise, moving_average
from networks.two_view import build_subnet


@dataclass(frozen=True)
class Hyper:
    supervised: str = "eq2"         # [O: Eq. 2] loss of the labelled scans, a name of methods/losses.py
    consistency: float = 0.1        # [C] ceiling of the consistency weight
    ramp_share: float = 1.0         # [C] share of training that its ramp takes
    stairs: bool = False            # [O; SSL4MIS: True] the ramp rises every 150 iterations, not at every step
    delay: float = 0.0              # [C] share of training before it acts; 1/30 on slices (1,000 of 30,000)


class MeanTeacher(StudentTeacher):
    """student, teacher: x -> (logits, feature). The student is tested; the teacher is Figure 2's other curve."""

    Hyper = Hyper

    def __init__(self, student, teacher, hyper):
        super().__init__(student, teacher, hyper)
        self.supervised = supervised_loss(hyper.supervised)

    @classmethod
    def defaults(cls, dataset, protocol="matched"):
        return Hyper(half_and_half(dataset, protocol), stairs=protocol == "original",
                     delay=1 / 30 if dataset == "ACDC" else 0.0)

    @classmethod
    def build(cls, recipe):
        student, teacher = (build_subnet(recipe.network, recipe.in_channels, recipe.num_classes) for _ in range(2))
        return cls(student, teacher, recipe.hyper)

    @classmethod
    def smallest_pass(cls, recipe):
        return recipe.unlabeled_batch // (2 if cls.PAIRED else 1)       # the teacher's

    def losses(self, batch):
        """The supervised loss on labelled scans plus the mean squared difference of probabilities on the others."""
        labelled = len(batch.x_l)
        logits, _ = self.networks(torch.cat([batch.x_l, batch.x_u]))
        with torch.no_grad():
            target = self.teacher(batch.for_targets + bounded_noise(torch.randn_like(batch.x_u)))[0].softmax(1)
        weight = ramped(self.hyper, batch)
        if batch.step < self.hyper.delay * batch.steps:
            weight = 0.0
        sup = self.supervised(logits[:labelled], batch.y_l)
        consistency = (logits[labelled:].softmax(1) - target).square().mean()
        picture = Picture(batch.x_u, None, {"student": logits[labelled:].detach(), "teacher": target})
        yield sup + weight * consistency, {"sup_l": sup, "consistency": consistency, "picture": picture}

    def after_step(self, batch):
        moving_average(self.teacher, self.networks, batch.step)
        return {}
