"""Cross-View Mutual Learning, Section 3 of the paper: the losses (Eq. 1-2), the mixing (Eq. 5-9), the objectives.

Shapes: B scans, C classes, K feature channels, *S = (H, W) or (D0, D1, D2), *s the bottleneck's extents. Views 0
and 1 are the two subnets. Where a mask M is 1, outside the box, the first scan of a pair stays; where it is 0,
inside, the second one is pasted.
"""
import torch
import torch.nn.functional as F

from dataloaders.components import largest_components
from dataloaders.cutmix import zero_centered_mask
from method import Method, Picture, Stage
from networks import two_view
from runtime.device import fetch
from runtime.errors import InputError


def discrepancy_loss(feature, other):
    """Eq. 1: 1 + cosine over the channels, mean over scans and positions. (B, K, *s) twice -> scalar in [0, 2].

    No gradient reaches `other`: each subnet moves away from where the other one is.
    """
    feature, other = at_least_float32(feature), at_least_float32(other.detach())
    return 1 + F.cosine_similarity(feature, other, dim=1).mean()


def segmentation_loss(logits, target):
    """Eq. 2: half of cross-entropy plus Dice loss. logits (B, C, *S), target (B, *S) int -> scalar.

    Dice per scan and class, background included, linear denominator, smoothed by 1e-5 [authors' release]. In float32
    whatever the autocast, and by sums alone: they repeat bit for bit on a GPU, `nll_loss` does not.
    """
    log_prob = at_least_float32(logits).log_softmax(1).flatten(2)                       # (B, C, voxels)
    prob = log_prob.exp()
    classes = torch.arange(prob.shape[1], device=prob.device)[:, None]
    onehot = target.flatten(1)[:, None] == classes
    entropy = -(log_prob * onehot).sum() / target.numel()
    overlap, mass = (prob * onehot).sum(2), prob.sum(2) + onehot.sum(2)
    dice = (2 * overlap + 1e-5) / (mass + 1e-5)
    return 0.5 * (entropy + 1 - dice.mean())


def at_least_float32(x):
    """bfloat16 and float16 become float32; float64 stays."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def mix(first, second, mask):
    """Eq. 5, 6, 8: first * M + second * (1 - M), for images and label maps alike; `mask` (*S) of {0, 1}."""
    return torch.where(mask.to(first.device) > 0, first, second)


def heterogeneous_targets(labels0, labels1, mask):
    """Eq. 9: outside the box the other view's label of scan p, inside it the own label of scan q.

    labels0, labels1 (2b, *S): the views' pseudo-labels, [:b] of the scans p and [b:] of the scans q
    -> targets of view 0 and view 1, (b, *S) each.
    """
    (p0, q0), (p1, q1) = labels0.chunk(2), labels1.chunk(2)
    return mix(p1, q0, mask), mix(p0, q1, mask)


def check_pairs(recipe):
    """Raise InputError unless both batches can be mixed in pairs."""
    if recipe.labeled_batch % 2 or recipe.unlabeled_batch % 2:
        raise InputError(f"--labeled-batch {recipe.labeled_batch} --unlabeled-batch {recipe.unlabeled_batch}: CutMix "
                         "takes scans in pairs, so both must be even")


class CML(Method):
    """The method; without `mixing` it is CFL, without the discrepancy besides CPS (Section 4.6).

    networks: x -> ((logits0, feature0), (logits1, feature1)); beta: edge of the box over edge of the patch;
    lambda_unsup, lambda_dis: lambda_1 and lambda_2 of Eq. 4; fusion: 'softmax' (paper) | 'logits' (release).
    """

    HALVES = True
    OPTIONS = frozenset({"beta", "lambda_unsup", "lambda_dis", "fusion"})
    NETWORKS = ("vnet", "unet", "released")
    pair = "subnet0", "subnet1"

    def __init__(self, networks, beta, lambda_unsup, lambda_dis, mixing=True, fusion="softmax"):
        super().__init__(networks)
        self.beta, self.lambda_unsup, self.lambda_dis = beta, lambda_unsup, lambda_dis
        self.mixing, self.fusion = mixing, fusion

    @classmethod
    def build(cls, recipe):
        networks = two_view.build(recipe.network, recipe.in_channels, recipe.num_classes)
        return cls(networks, recipe.beta, recipe.lambda_unsup, recipe.lambda_dis, fusion=recipe.fusion)

    @classmethod
    def check(cls, recipe):
        super().check(recipe)
        check_pairs(recipe)

    def stages(self, pre_steps, self_steps):
        """Section 3.3: pre-train on labelled scans, then self-train on both."""
        return [Stage("pre", pre_steps, self.pretraining_losses, unlabelled=False),
                Stage("self", self_steps, self.losses, cost=8 / 3)]     # a mixed half, and a pass twice as large

    def pretraining_losses(self, batch):
        """Eq. 11: L_pre = L_sup^l + lambda_2 L_dis^l."""
        yield self.labelled_half(batch)

    def losses(self, batch):
        """Eq. 4: L = L_sup^l + lambda_1 L_sup^u + lambda_2 (L_dis^l + L_dis^u), the labelled half first.

        The pseudo-labels' pass may come ahead of the labelled half's backward pass, beside which the host then reduces
        them: the networks' passes, and with them running statistics and dropout, stay in their order.
        """
        labelled, unlabelled = self.labelled_half(batch), self.lambda_unsup or self.lambda_dis
        begun = self.begin_pseudo_labels(batch.x_u) if unlabelled and self.mixing and self.ahead(batch.x_u) else None
        yield labelled
        if unlabelled:
            yield self.unlabelled_half(batch, begun)

    @staticmethod
    def ahead(x):
        """Whether another device than the host computes, which can meanwhile do something else."""
        return x.is_cuda

    def labelled_half(self, batch):
        """Eq. 5-7: both views learn the true label of a mixed pair; unmixed, of the batch as it is."""
        x, y = batch.x_l, batch.y_l
        if self.mixing:
            mask = zero_centered_mask(x.shape[2:], self.beta, batch.generator, x.device)
            x, y = (mix(*self.in_pairs(scans).chunk(2), mask) for scans in (x, y))
            x = self.seen(x)
        return self.objective("l", x, self.networks(x), (y, y), 1)

    def unlabelled_half(self, batch, begun=None):
        """Eq. 8-10: mixed pairs, heterogeneous targets. Unmixed, Eq. 3: each view learns the other's argmax.

        begun: what `begin_pseudo_labels` gave, if that has been called.
        """
        x = batch.x_u
        if self.mixing:
            labels0, labels1 = begun() if begun else self.pseudo_labels(x)
            mask = zero_centered_mask(x.shape[2:], self.beta, batch.generator, x.device)
            x = self.seen(mix(*self.in_pairs(x).chunk(2), mask))
            views = self.networks(x)
            targets = heterogeneous_targets(self.in_pairs(labels0), self.in_pairs(labels1), mask)
        else:
            views = self.networks(x)
            labels0, labels1 = (logits.detach().argmax(1) for logits, _ in views)
            targets = labels1, labels0
        loss, terms = self.objective("u", x, views, targets, self.lambda_unsup)
        empty = sum((labels.flatten(1) == 0).all(1).sum() for labels in (labels0, labels1))
        return loss, terms | {"empty_pseudo_labels": empty}

    def in_pairs(self, scans):
        """Scans or label maps, their first half to be mixed with their second: as they were loaded."""
        return scans

    def seen(self, x):
        """What the networks see of mixed scans: all."""
        return x

    def pseudo_labels(self, x):
        """The views' argmax on clean scans, reduced to its largest components: (B, ., *S) -> two (B, *S).

        The paper calls the reduction NMS. The networks stay in training mode: dropout acts, and batch norm takes
        this pass into its running statistics [authors' release].
        """
        return self.begin_pseudo_labels(x)()

    @torch.no_grad()
    def begin_pseudo_labels(self, x):
        """The pass of `pseudo_labels` -> function that reduces its argmax on the host and gives them."""
        labels = fetch(torch.stack([logits.argmax(1).byte() for logits, _ in self.networks(x)]))
        return lambda: largest_components(labels()).to(x.device, non_blocking=True)

    def objective(self, half, x, views, targets, weight):
        """One half's share of Eq. 4, summed over the views -> (loss, its terms)."""
        (logits0, feature0), (logits1, feature1) = views
        sup = segmentation_loss(logits0, targets[0]) + segmentation_loss(logits1, targets[1])
        dis = discrepancy_loss(feature0, feature1) + discrepancy_loss(feature1, feature0)
        picture = Picture(x, targets[0], {"subnet0": logits0.detach(), "subnet1": logits1.detach()})
        return weight * sup + self.lambda_dis * dis, {f"sup_{half}": sup, f"dis_{half}": dis, "picture": picture}

    def predict(self, x):
        """Section 3.3: the mean of the views' probabilities, and each view's own."""
        (logits0, _), (logits1, _) = self.networks(x)
        return two_view.fuse(logits0, logits1, self.fusion)
