"""Cross-View Mutual Learning, Section 3 of the paper: the losses (Eq. 1-2), the mixing (Eq. 5-9), the objectives.

Shapes: B scans, . their channels, C classes, K feature channels, *S = (H, W) or (D0, D1, D2), *s at the bottleneck.
Views 0 and 1 are the two subnets. A mask M is 1 outside its box, where the first scan of a pair stays, and 0 inside.
"""
import torch
import torch.nn.functional as F

from dataloaders.components import empty, reduced
from dataloaders.cutmix import zero_centered_mask
from imaging.cases import IGNORED
from method import Method, Picture, Stage
from networks import two_view
from runtime.device import at_least_float32


def discrepancy_loss(feature, other):
    """Eq. 1: 1 + cosine over the channels, mean over scans and positions. (B, K, *s) twice -> scalar in [0, 2].

    No gradient reaches `other`: each subnet moves away from where the other one is.
    """
    feature, other = at_least_float32(feature), at_least_float32(other.detach())
    return 1 + F.cosine_similarity(feature, other, dim=1).mean()


def segmentation_loss(logits, target):
    """Eq. 2: half of cross-entropy plus Dice loss. logits (B, C, *S), target (B, *S) int -> scalar.

    Dice per scan and class, background included, linear denominator, smoothed by 1e-5 [C]. Voxels of the target that
    are IGNORED do not count. In float32, and by sums alone, which repeat bit for bit on a GPU; `nll_loss` does not.
    """
    log_prob = at_least_float32(logits).log_softmax(1).flatten(2)                       # (B, C, voxels)
    target = target.flatten(1)[:, None]
    onehot, labelled = target == torch.arange(log_prob.shape[1], device=target.device)[:, None], target != IGNORED
    prob = log_prob.exp() * labelled
    entropy = -(log_prob * onehot).sum() / labelled.sum().clamp(min=1)
    overlap, mass = (prob * onehot).sum(2), prob.sum(2) + onehot.sum(2)
    return 0.5 * (entropy + 1 - ((2 * overlap + 1e-5) / (mass + 1e-5)).mean())


def mix(first, second, mask):
    """Eq. 5, 6, 8: first * M + second * (1 - M), for images and label maps alike; `mask` (*S) of {0, 1}."""
    return torch.where(mask.to(first.device) > 0, first, second)


def heterogeneous_targets(labels0, labels1, mask):
    """Eq. 9: outside the box the other view's label of scan p, inside it the view's own label of scan q.

    labels0, labels1 (2b, *S): the views' pseudo-labels, [:b] of the scans p and [b:] of the scans q
    -> targets of view 0 and view 1, (b, *S) each.
    """
    (p0, q0), (p1, q1) = labels0.chunk(2), labels1.chunk(2)
    return mix(p1, q0, mask), mix(p0, q1, mask)


class CML(Method):
    """networks: x -> ((logits0, feature0), (logits1, feature1)); the other arguments are fields of a recipe."""

    OPTIONS = frozenset({"beta", "lambda_unsup", "lambda_dis", "fusion", "components"})
    NETWORKS = ("vnet", "unet", "released", "narrow_vnet", "narrow_unet")
    PAIRED = ("labeled_batch", "unlabeled_batch")
    pair = "subnet0", "subnet1"

    def __init__(self, networks, beta, lambda_unsup, lambda_dis, fusion="softmax", components=True):
        super().__init__(networks)
        self.beta, self.lambda_unsup, self.lambda_dis = beta, lambda_unsup, lambda_dis
        self.fusion, self.components = fusion, components

    @classmethod
    def build(cls, recipe):
        return cls(two_view.build(recipe.network, recipe.in_channels, recipe.num_classes), recipe.beta,
                   recipe.lambda_unsup, recipe.lambda_dis, recipe.fusion, recipe.components)

    def stages(self, pre_steps, self_steps):
        """Section 3.3: pre-train on labelled scans, then self-train on both."""
        return [Stage("pre", pre_steps, self.pretraining_losses, unlabelled=False),
                Stage("self", self_steps, self.losses, cost=8 / 3)]     # two mixed halves; a whole batch forward

    def pretraining_losses(self, batch):
        """Eq. 11: L_pre = L_sup^l + lambda_2 L_dis^l."""
        yield self.labelled_half(batch)

    def losses(self, batch):
        """Eq. 4: L = L_sup^l + lambda_1 L_sup^u + lambda_2 (L_dis^l + L_dis^u), the labelled half first."""
        yield self.labelled_half(batch)
        if self.lambda_unsup or self.lambda_dis:
            yield self.unlabelled_half(batch)

    def labelled_half(self, batch):
        """Eq. 5-7: both views learn the true label of a mixed pair."""
        x, mask = self.mixed(batch.x_l, batch.generator)
        y = mix(*batch.y_l.chunk(2), mask)
        return self.objective("l", x, self.networks(x), (y, y), 1)

    def unlabelled_half(self, batch):
        """Eq. 8-10: of a mixed pair, each view learns its heterogeneous target."""
        pseudo_labels = self.pseudo_labels(batch.for_targets)
        x, mask = self.mixed(batch.x_u, batch.generator)
        views = self.networks(x)
        labels = pseudo_labels()        # only now: the CPU looks for components while a GPU computes the views
        loss, terms = self.objective("u", x, views, heterogeneous_targets(*labels, mask), self.lambda_unsup)
        return loss, terms | {"empty_pseudo_labels": empty(*labels)}

    def mixed(self, x, generator):
        """Scans (2b, ., *S), of which [:b] are mixed with [b:] by one mask -> (b, ., *S), the mask (*S)."""
        mask = zero_centered_mask(x.shape[2:], self.beta, generator, x.device)
        return mix(*x.chunk(2), mask), mask

    @torch.no_grad()
    def pseudo_labels(self, x):
        """Each view's argmax on clean scans (B, ., *S), cut to each class's largest component ("NMS" in the paper).

        -> function that returns both views' label maps (2, B, *S). The networks stay in training mode: dropout acts,
        and batch norm takes this pass into its running statistics [C].
        """
        labels = torch.stack([logits.argmax(1).byte() for logits, _ in self.networks(x)])
        return reduced(labels, self.components)

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
