"""Mean Teacher (Tarvainen & Valpola 2017): the student agrees with its own moving average under noise.

Weights and schedules as SSL4MIS runs it; the supervised loss is Eq. 2, as for every method here.
"""
import math

import torch

from cml import segmentation_loss
from evaluation.inference import class_probabilities
from method import Method

CONSISTENCY = 0.1           # ceiling of the consistency weight
WARM_UP = 1 / 30            # share of training before it acts (SSL4MIS 2D: 1,000 of 30,000 steps)
DECAY = 0.99                # of the moving average, once 100 steps have passed
NOISE, NOISE_LIMIT = 0.1, 0.2   # standard deviation and bound of the teacher's input noise


def sigmoid_ramp_up(progress):
    """exp(-5 (1 - progress)^2) with progress clipped to [0, 1] (Laine & Aila 2017)."""
    return math.exp(-5 * (1 - min(max(progress, 0.0), 1.0)) ** 2)


class MeanTeacher(Method):
    """student, teacher: x -> (logits, feature). The student is tested; the teacher is Figure 2's other curve."""

    def __init__(self, student, teacher):
        super().__init__(student)
        self.teacher = teacher.requires_grad_(False)

    def losses(self, batch):
        """Eq. 2 on labelled scans plus the mean squared difference of probabilities on unlabelled ones."""
        labelled = len(batch.x_l)
        logits, _ = self.networks(torch.cat([batch.x_l, batch.x_u]))
        noise = (torch.randn_like(batch.x_u) * NOISE).clamp(-NOISE_LIMIT, NOISE_LIMIT)
        with torch.no_grad():
            target = self.teacher(batch.x_u + noise)[0].softmax(1)
        progress = batch.step / batch.steps
        weight = CONSISTENCY * sigmoid_ramp_up(progress) if progress >= WARM_UP else 0.0
        sup = segmentation_loss(logits[:labelled], batch.y_l)
        consistency = (logits[labelled:].softmax(1) - target).square().mean()
        yield sup + weight * consistency, {"sup_l": sup, "consistency": consistency}

    @torch.no_grad()
    def after_step(self, batch):
        """teacher <- a teacher + (1 - a) student, parameters alone; the first step copies the student."""
        decay = min(1 - 1 / (batch.step + 1), DECAY)
        for mean, new in zip(self.teacher.parameters(), self.networks.parameters(), strict=True):
            mean.lerp_(new, 1 - decay)

    def predict(self, x):
        student = class_probabilities(self.networks(x))["network"]
        return {"student": student, "teacher": class_probabilities(self.teacher(x))["network"]}
