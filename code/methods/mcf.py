"""MCF, mutual correction framework (Wang et al. 2023).

    Idea: two networks of different architecture err in different places. Labelled voxels on which they disagree count
    once more in both losses; and the one with the lower Dice loss at this step teaches the other on unlabelled scans.

Both see the same scans. One optimiser moves both, which is the same as the release's two, since their parameters are
disjoint. For ACDC and BraTS no code was released: with more than two classes, the rectification is the squared distance
to the one-hot label over C, and the competing Dice covers all classes; on slices, network B is a 2D twin of the
released one; BraTS is run as LA [O]. On slices, too, both networks have the initialisation of 3D [O].
"""
from dataclasses import dataclass

import torch

from imaging.cases import IGNORED
from method import Picture
from methods.losses import WithSupervisedLoss, pooled_dice, squared_difference, supervised_loss, widened
from methods.ramps import ramped
from networks import compared
from networks.initialisation import kaiming
from networks.two_view import AXES, TwoView, build_subnet
from runtime.ranks import Ranks

TEMPERATURE = 0.1           # of the sharpened pseudo-label             [C]
RECTIFICATION = 0.5         # weight of the rectification               [C]


@dataclass(frozen=True)
class Hyper:
    supervised: str = "eq2"         # [O: Eq. 2] loss of the labelled scans, a name of methods/losses.py
    consistency: float = 0.1        # [C] ceiling of the weight of what the worse network learns
    ramp_share: float = 1.0         # [C] share of training that its ramp takes
    stairs: bool = False            # [O; MCF: True] the ramp rises every 150 iterations, not at every step


def rectification(prob, target, mismatch):
    """Mean of |p - onehot|^2 / C over the voxels of `mismatch`, 0 without any: (p_fg - y)^2 of two classes -> scalar.

    prob (B, C, *S), with gradient; target (B, *S) int; mismatch (B, *S) bool.
    """
    classes = torch.arange(prob.shape[1], device=prob.device).reshape(-1, *[1] * (target.ndim - 1))
    errors = (prob - (target[:, None] == classes).to(prob)).square() * mismatch[:, None]
    return errors.sum() / (prob.shape[1] * mismatch.sum() + 1e-16)


def competition(logits_a, logits_b, target, weight, supervised=None):
    """Both networks' losses and who teaches: (loss A, loss B, teacher), teacher a tensor, 0 for A, 1 for B.

    logits (B, C, *S) of the whole batch, labelled first; target (B_l, *S); weight: of the learner's mean squared
    difference from the teacher's sharpened prediction, which is constant. supervised: callable(logits, target); by
    default cross-entropy plus Dice [C]. The Dice losses that decide are averaged over the processes of a run, so
    that all have the same teacher; a tie makes it B.
    """
    foreground, labelled = logits_a.shape[1] == 2, len(target)
    supervised = supervised or supervised_loss(f"ce_plus_dsq_{'fg' if foreground else 'all'}")
    both = widened(logits_a), widened(logits_b)
    probs = [logits.softmax(1) for logits in both]
    with torch.no_grad():
        dice = torch.stack([pooled_dice(prob[:labelled], target, 2, 1e-5, foreground) for prob in probs])
        dice_a, dice_b = Ranks().mean(dice)
        b_teaches = ~(dice_a < dice_b)      # stays on the device: the host would wait for it
        taught = torch.where(b_teaches, both[1][labelled:], both[0][labelled:])
        sharpened = (taught / TEMPERATURE).softmax(1)                           # p^(1/T), normalised over the classes
        mismatch = both[0][:labelled].argmax(1) != both[1][:labelled].argmax(1)
        mismatch &= target != IGNORED
    loss_a, loss_b = (supervised(logits[:labelled], target)
                      + RECTIFICATION * rectification(prob[:labelled], target, mismatch)
                      for logits, prob in zip(both, probs, strict=True))
    learner = torch.where(b_teaches, probs[0][labelled:], probs[1][labelled:])
    learnt = weight * squared_difference(learner, sharpened)
    none = torch.zeros_like(learnt)
    return (loss_a + torch.where(b_teaches, learnt, none), loss_b + torch.where(b_teaches, none, learnt),
            b_teaches.long())


class MCF(WithSupervisedLoss):
    """networks: x -> ((logits, feature) of A, the backbone, and of B, with a ResNet-34 encoder).

    The mean of their probabilities is tested.
    """

    Hyper = Hyper
    pair = "network_a", "network_b"

    @classmethod
    def defaults(cls, dataset, protocol="matched"):
        if protocol == "matched":
            return Hyper()
        return Hyper(f"ce_plus_dsq_{'all' if dataset == 'ACDC' else 'fg'}", stairs=True)

    @classmethod
    def build(cls, recipe):
        size = recipe.in_channels, recipe.num_classes
        network_a = kaiming(build_subnet(recipe.network, *size))
        return cls(TwoView(network_a, compared.build(f"resnet{AXES[recipe.network]}d", *size)), recipe.hyper)

    def losses(self, batch):
        """One pass of the whole batch by each network."""
        (logits_a, _), (logits_b, _) = self.networks(torch.cat([batch.x_l, batch.x_u]))
        weight = ramped(self.hyper, batch)
        loss_a, loss_b, teacher = competition(logits_a, logits_b, batch.y_l, weight, self.supervised)
        labelled = len(batch.x_l)
        picture = Picture(batch.x_u, None, {name: logits[labelled:].detach() for name, logits
                                            in zip(self.pair, (logits_a, logits_b), strict=True)})
        yield loss_a + loss_b, {"loss_a": loss_a, "loss_b": loss_b, "b_teaches": teacher.to(loss_a),
                                "picture": picture}

    def predict(self, x):
        prob_a, prob_b = (logits.softmax(1) for logits, _ in self.networks(x))
        return {"fused": (prob_a + prob_b) / 2, "network_a": prob_a, "network_b": prob_b}
