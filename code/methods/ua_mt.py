"""UA-MT, uncertainty-aware mean teacher (Yu et al. 2019).

    Idea: a teacher is worth following where it is certain. Eight noisy passes with dropout estimate the entropy of its
    prediction; the student agrees with it on voxels below a threshold that rises during training.

The consistency acts on unlabelled scans alone, as in the released command and in SSL4MIS; the paper's objective and
another script of the release include labelled ones. The threshold rises to ln 2 and the loss is divided by 2 whatever
the number of classes, as in SSL4MIS on ACDC, where the entropy can reach ln 4.
"""
import math
from dataclasses import dataclass

import torch

from method import Picture
from methods.losses import half_and_half, widened
from methods.mean_teacher import MeanTeacher
from methods.ramps import ramped, sigmoid_ramp_up
from methods.teacher import bounded_noise

PASSES, COPIES = 4, 2       # of the teacher for its uncertainty, and of each unlabelled scan in a pass    [C]


@dataclass(frozen=True)
class Hyper:
    supervised: str = "eq2"         # [O: Eq. 2] loss of the labelled scans, a name of methods/losses.py
    consistency: float = 0.1        # [C] ceiling of the consistency weight
    ramp_share: float = 1.0         # [C] share of training that its ramp takes
    stairs: bool = False            # [O; UA-MT: True] the ramp rises every 150 iterations, not at every step


def predictive_entropy(probs):
    """Entropy -sum_c p ln(p + 1e-6) of the passes' mean: softmaxes (passes, B, C, *S) -> (B, 1, *S)."""
    mean = widened(probs).mean(0)
    return -(mean * (mean + 1e-6).log()).sum(1, keepdim=True)


def certainty_threshold(progress):
    """Entropy below which a voxel counts as certain, at `progress` = step / steps; rises from 0.75 ln 2 to ln 2."""
    return (0.75 + 0.25 * sigmoid_ramp_up(progress)) * math.log(2)


def certain_consistency(student, teacher, mask):
    """sum m (p_s - p_t)^2 / (2 sum m), 0 if no voxel is certain -> scalar.

    student, teacher: probabilities (B, C, *S); mask (B, 1, *S) floating, 1 where certain. The numerator sums over
    samples, classes and voxels, the denominator over samples and voxels.
    """
    student, teacher, mask = map(widened, (student, teacher, mask))
    return (mask * (student - teacher).square()).sum() / (2 * mask.sum() + 1e-16)


class UAMT(MeanTeacher):
    """student, teacher: x -> (logits, feature). The student is tested."""

    Hyper = Hyper

    @classmethod
    def defaults(cls, dataset, protocol="matched"):
        return Hyper(half_and_half(dataset, protocol), stairs=protocol == "original")

    def losses(self, batch):
        """Student on the whole batch; teacher on the noisy unlabelled half, then its passes for the uncertainty."""
        labelled, noise = len(batch.x_l), bounded_noise(torch.randn_like(batch.x_u))
        logits, _ = self.networks(torch.cat([batch.x_l, batch.x_u]))
        with torch.no_grad():
            target = widened(self.teacher(batch.for_targets + noise)[0]).softmax(1)
            entropy = predictive_entropy(self.noisy_passes(batch.for_targets))
        # the threshold follows the plain iteration, whatever the ramp of the weight does
        mask = (entropy < certainty_threshold(batch.step / batch.steps)).to(entropy)
        sup = self.supervised(logits[:labelled], batch.y_l)
        consistency = certain_consistency(widened(logits[labelled:]).softmax(1), target, mask)
        weight = ramped(self.hyper, batch)
        picture = Picture(batch.x_u, None, {"student": logits[labelled:].detach(), "teacher": target})
        yield sup + weight * consistency, {"sup_l": sup, "consistency": consistency, "certain": mask.mean(),
                                           "picture": picture}

    def noisy_passes(self, x):
        """The teacher's softmaxes of every copy of each scan, each under noise of its own -> (8, B_u, C, *S)."""
        copies = x.repeat(COPIES, *[1] * (x.ndim - 1))
        probs = [widened(self.teacher(copies + bounded_noise(torch.randn_like(copies)))[0]).softmax(1)
                 for _ in range(PASSES)]
        return torch.stack(probs).unflatten(1, (COPIES, len(x))).flatten(0, 1)
