"""URPC, uncertainty-rectified pyramid consistency (Luo et al. 2022), as SSL4MIS runs it on slices and volumes.

    Idea: four heads on the decoder's scales should agree with their mean. Where a scale diverges from it (KL), it is
    uncertain: its squared difference counts less there, and the divergence itself is minimised beside it.

Gradient flows through the mean and the weights too, as released. On slices the coarse heads see disturbed features. On
volumes the release has a 3D U-Net, for another data set; here it is V-Net with dropout before the coarse heads, and the
ramp takes all of training, where the released one is twice as long as training [O].
"""
import math
from dataclasses import dataclass

import torch

from method import Picture, Stage
from methods.losses import WithSupervisedLoss, widened
from methods.ramps import ramped
from networks import compared
from networks.pyramid import feature_dropout

__all__ = ["URPC", "Hyper", "feature_dropout", "pyramid_consistency"]
SCALE_NAMES = "network", "half", "quarter", "eighth"


@dataclass(frozen=True)
class Hyper:
    supervised: str = "eq2"         # [O: Eq. 2] loss of each scale on labelled scans, a name of methods/losses.py
    consistency: float = 0.1        # [C] ceiling of its weight; 0: deep supervision of labelled scans alone
    ramp_share: float = 1.0         # [C] share of training that its ramp takes
    stairs: bool = False            # [O; SSL4MIS: True] the ramp rises every 150 iterations, not at every step


def pyramid_consistency(scales):
    """Full-size logits of the scales, a list of (B_u, C, *S) -> scalar: mean over the scales s of

    mean(W (p - p_s)^2) / (mean W + 1e-8) + mean D, with D = KL(p || p_s) and W = exp(-D) per voxel, p the mean softmax.
    """
    logs = torch.stack([widened(logits).log_softmax(1) for logits in scales])
    log_mean = logs.logsumexp(0) - math.log(len(logs))      # finite where a softmax underflows
    mean, loss = log_mean.exp(), 0
    for log in logs:
        divergence = (mean * (log_mean - log)).sum(1, keepdim=True)
        weight = (-divergence).exp()
        difference = (weight * (mean - log.exp()).square()).mean()
        loss = loss + difference / (weight.mean() + 1e-8) + divergence.mean()
    return loss / len(logs)


class URPC(WithSupervisedLoss):
    """networks: x -> (full-size logits, [logits of the 1/2, 1/4, 1/8 heads]). The full-resolution head is tested."""

    Hyper = Hyper

    @classmethod
    def defaults(cls, dataset, protocol="matched"):
        original = protocol == "original"
        return Hyper("ce_dsq_all" if original else "eq2", stairs=original)

    @classmethod
    def build(cls, recipe):
        return cls(compared.build(f"urpc_{recipe.network}", recipe.in_channels, recipe.num_classes), recipe.hyper)

    def stages(self, pre_steps, self_steps):
        return [Stage("self", pre_steps + self_steps, self.losses, unlabelled=self.hyper.consistency > 0)]

    def losses(self, batch):
        """One pass of the whole batch: the scales' mean supervised loss, their consistency on unlabelled scans."""
        labelled = len(batch.x_l)
        full, coarse = self.networks(batch.x_l if batch.x_u is None else torch.cat([batch.x_l, batch.x_u]))
        scales = [full, *coarse]
        loss = sum(self.supervised(logits[:labelled], batch.y_l) for logits in scales) / len(scales)
        terms, shown = {"sup_l": loss}, (batch.x_l, batch.y_l, scales)
        if batch.x_u is not None:
            unlabelled = [logits[labelled:] for logits in scales]
            terms["consistency"] = pyramid_consistency(unlabelled)
            weight = ramped(self.hyper, batch)
            loss, shown = loss + weight * terms["consistency"], (batch.x_u, None, unlabelled)
        x, y, scales = shown
        views = {name: logits.detach() for name, logits in zip(SCALE_NAMES, scales, strict=True)}
        yield loss, terms | {"picture": Picture(x, y, views)}

    def predict(self, x):
        full, coarse = self.networks(x)
        return {name: widened(logits).softmax(1) for name, logits in zip(SCALE_NAMES, [full, *coarse], strict=True)}
