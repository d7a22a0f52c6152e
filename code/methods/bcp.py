"""BCP, bidirectional copy-paste (Bai et al. 2023), on which CML is built.

    Idea: labelled and unlabelled scans learn from one another if a box of each is pasted into the other. The student
    sees both mixes; true labels count in full, the teacher's labels of the unlabelled part by half.

One order of box and outside serves all data sets (the release swaps it on ACDC, which is equivalent). Argmax decides
the teacher's labels: an exact tie goes to the background, in the release for LA to the foreground. The momentum of
pre-training is kept, as for CML; the release keeps it on ACDC and starts anew on LA. 'matched' pre-trains with Eq. 2 on
every data set; self-training has the release's loss in either protocol, since weighting the two regions is the method.
On BraTS, where no code was released, it is run as on LA [O].
"""
from dataclasses import dataclass

import torch

from cml import mix, segmentation_loss
from dataloaders.components import empty, reduced
from dataloaders.cutmix import zero_centered_mask
from method import Picture, Stage
from methods.losses import not_ignored, widened
from methods.teacher import StudentTeacher, moving_average
from networks.two_view import build_subnet
from runtime.errors import InputError

PRETRAINING = ("eq2", "regions")


@dataclass(frozen=True)
class Hyper:
    supervised: str = "eq2"         # of pre-training: eq2, on the mixed label map (LA) [C], or regions, which sums the
                                    # loss of box and outside (ACDC)                                     [C]
    beta: float = 2 / 3             # [C] edge of the box over edge of the patch
    pseudo_weight: float = 0.5      # [C] of the region that the teacher has labelled
    decay: float = 0.99             # [C] of the teacher's moving average, from the first step
    average_buffers: bool = False   # [C] the average takes running statistics too: on ACDC


def region_loss(logits, outside, inside, mask, weights):
    """Half of the two regions' weighted Dice and cross-entropy -> scalar.

    logits (B, C, *S); outside, inside: label maps (B, *S) that hold outside and inside the box; mask (*S), 1 outside;
    weights: (of the outside, of the inside), which are not normalised. The Dice of three axes is per sample, with a
    linear denominator (LA) [C], that of two axes pooled over the batch, with a squared one (ACDC) [C].
    """
    log_prob = widened(logits).log_softmax(1).flatten(2)                                # (B, C, voxels)
    classes = torch.arange(log_prob.shape[1], device=log_prob.device)[:, None]
    loss, mask = 0, mask.to(log_prob)
    for target, region, weight in zip((outside, inside), (mask, 1 - mask), weights, strict=True):
        onehot = (target.flatten(1)[:, None] == classes) * region.flatten()
        learnt = not_ignored(target) * region.flatten()
        entropy = -(log_prob * onehot).sum() / (learnt.sum() + 1e-16)
        loss = loss + weight * (_region_dice(log_prob.exp(), onehot, learnt, region.ndim) + entropy)
    return loss / 2


def _region_dice(prob, onehot, learnt, axes):
    """prob, onehot (B, C, voxels), the latter 0 where learnt (B, 1, voxels) is 0; axes of the patches."""
    if axes == 3:
        overlap, mass, eps = (prob * onehot).sum(2), (prob * learnt + onehot).sum(2), 1e-5
    else:
        squares = prob.square() * learnt + onehot
        overlap, mass, eps = (prob * onehot).sum((0, 2)), squares.sum((0, 2)), 1e-10
    return 1 - ((2 * overlap + eps) / (mass + eps)).mean()


class BCP(StudentTeacher):
    """student, teacher: x -> (logits, feature). The student is tested; before self-training the teacher is idle.

    components: whether pseudo-labels are reduced to each class's largest component.
    """

    Hyper = Hyper
    OPTIONS = frozenset({"components"})
    PAIRED = ("labeled_batch", "unlabeled_batch")

    def __init__(self, student, teacher, hyper, components=True):
        super().__init__(student, teacher, hyper)
        self.components = components

    @classmethod
    def defaults(cls, dataset, protocol="matched"):
        on_slices = dataset == "ACDC"
        return Hyper("regions" if on_slices and protocol == "original" else "eq2", average_buffers=on_slices)

    @classmethod
    def check(cls, recipe):
        super().check(recipe)
        if recipe.labeled_batch != recipe.unlabeled_batch:
            raise InputError(f"--labeled-batch {recipe.labeled_batch} --unlabeled-batch {recipe.unlabeled_batch}: BCP "
                             "pastes between labelled and unlabelled scans, so both must be equal")
        hyper = recipe.hyper or cls.Hyper()
        if hyper.supervised not in PRETRAINING:
            raise InputError(f"--hyper.supervised {hyper.supervised}: BCP pre-trains with {' or '.join(PRETRAINING)}")
        if not hyper.decay < 1:
            raise InputError(f"--hyper.decay {hyper.decay:g}: share of its past in the teacher, 0 to below 1")
        if not 0 < hyper.beta < 1 or hyper.beta * min(recipe.patch_size) < 1:
            raise InputError(f"--hyper.beta {hyper.beta:g}: edge of the box over edge of the patch, between 0 and 1, "
                             "and of a voxel at least")

    @classmethod
    def build(cls, recipe):
        student, teacher = (build_subnet(recipe.network, recipe.in_channels, recipe.num_classes) for _ in range(2))
        return cls(student, teacher, recipe.hyper, recipe.components)

    def stages(self, pre_steps, self_steps):
        """Pre-train on mixed labelled pairs, then self-train on both."""
        return [Stage("pre", pre_steps, self.pretraining_losses, unlabelled=False),
                Stage("self", self_steps, self.losses, cost=8 / 3)]     # two mixes, and the teacher's whole batch

    def begin(self, stage):
        """Self-training starts with the teacher as a copy of the pre-trained student."""
        if stage.name == "self":
            self.teacher.load_state_dict(self.networks.state_dict())

    def pretraining_losses(self, batch):
        """The second half of the labelled batch pasted into the first."""
        mask = self.box(batch)
        (l_a, l_b), (y_a, y_b) = batch.x_l.chunk(2), batch.y_l.chunk(2)
        x, y = mix(l_a, l_b, mask), mix(y_a, y_b, mask)
        logits, _ = self.networks(x)
        loss = (segmentation_loss(logits, y) if self.hyper.supervised == "eq2"
                else region_loss(logits, y_a, y_b, mask, (1, 1)))
        yield loss, {"sup_l": loss, "picture": Picture(x, y, {"student": logits.detach()})}

    def losses(self, batch):
        """An unlabelled box in labelled scans, then a labelled box in unlabelled ones: two passes, one box."""
        mask, true, pseudo = self.box(batch), 1, self.hyper.pseudo_weight
        (l_a, l_b), (y_a, y_b), (u_a, u_b) = (part.chunk(2) for part in (batch.x_l, batch.y_l, batch.x_u))
        pseudo_labels = self.pseudo_labels(*batch.for_targets.chunk(2))
        x = mix(l_a, u_a, mask)
        logits, _ = self.networks(x)
        p_a, p_b = pseudo_labels().long()       # only now: the CPU looks for components while a GPU computes logits
        yield self.objective("sup_l", x, logits, y_a, p_a, mask, (true, pseudo))
        x = mix(u_b, l_b, mask)
        loss, terms = self.objective("sup_u", x, self.networks(x)[0], p_b, y_b, mask, (pseudo, true))
        yield loss, terms | {"empty_pseudo_labels": empty(p_a, p_b)}

    def objective(self, term, x, logits, y_outer, y_inner, mask, weights):
        """One mix's (loss, terms); the term is named for the scans outside the box."""
        loss = region_loss(logits, y_outer, y_inner, mask, weights)
        return loss, {term: loss, "picture": Picture(x, mix(y_outer, y_inner, mask), {"student": logits.detach()})}

    @torch.no_grad()
    def pseudo_labels(self, *halves):
        """Start the teacher's pass of each half -> function that gives the pseudo-labels (2, B_u / 2, *S).

        They are the argmax, of each class the largest component where the method says so. The teacher is in training
        mode: dropout acts, batch statistics count.
        """
        labels = torch.stack([self.teacher(x)[0].argmax(1).byte() for x in halves])
        return reduced(labels, self.components)

    def box(self, batch):
        return zero_centered_mask(batch.x_l.shape[2:], self.hyper.beta, batch.generator, batch.x_l.device)

    def after_step(self, batch):
        if batch.x_u is not None:
            moving_average(self.teacher, self.networks, batch.step, self.hyper.decay, warm_up=False,
                           buffers=self.hyper.average_buffers)
        return {}
