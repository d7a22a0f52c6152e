"""SS-Net, smoothness and class separation (Wu et al. 2022, "Exploring Smoothness and Class-Separation").

    Idea: predictions should not change under the small perturbation that changes them most (virtual adversarial
    training), and each class's features should lie close to a few remembered, well predicted features of that class.

One backbone is trained and tested; small heads make the compared features of its last feature. Selectors that never act
are not built (networks/ssnet.py) [O]. Memory is replaced at every step; several processes share rank 0's memory, and
each compares its own features with it [O]. On BraTS, where no code was released, it is run as on LA [O]. The perturbed
passes come after the first backward pass, which leaves the sum of the gradients as it is.
"""
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from method import Picture
from methods.losses import WithSupervisedLoss, widened
from methods.ramps import ramped
from networks import compared
from networks.ssnet import SIZE
from networks.two_view import AXES
from runtime.ranks import Ranks

MEMORY = 32             # remembered features per class                                     [C]
POWER = 10.0            # length of the perturbation that looks for the direction           [C]


@dataclass(frozen=True)
class Hyper:
    supervised: str = "eq2"         # [O: Eq. 2] loss of the labelled scans, a name of methods/losses.py
    consistency: float = 1.0        # [C] ceiling of the weight of smoothness and separation
    ramp_share: float = 0.4         # [C] share of training that its ramp takes: 6,000 of 15,000
    stairs: bool = False            # [O; SS-Net: True] the ramp rises every 150 iterations, not at every step
    radius: float = 10.0            # [C] length of the adversarial perturbation of a scan
    separation: float = 0.1         # [C] weight of the separation beside the smoothness


ON_SLICES = {"consistency": 0.1, "ramp_share": 1.0, "radius": 6.0}       # [C]


# ---- smoothness --------------------------------------------------------------------------------------------------


def distance_2d(prob, other):
    """1 - (2 sum p q + 1e-10) / (sum p^2 + sum q^2 + 1e-10) over the batch, mean over the classes; (B, C, *S) twice."""
    prob, other = widened(prob).flatten(2), widened(other).flatten(2)
    overlap, mass = (prob * other).sum((0, 2)), (prob.square() + other.square()).sum((0, 2))
    return 1 - ((2 * overlap + 1e-10) / (mass + 1e-10)).mean()


def distance_3d(prob, other):
    """1 - (2 sum p q + 1e-8) / (sum p + sum q + 1e-8) over all, classes too; equal maps are at 0 only if they are sure.

    prob, other (B, C, *S) -> scalar.
    """
    prob, other = widened(prob), widened(other)
    return 1 - (2 * (prob * other).sum() + 1e-8) / (prob.sum() + other.sum() + 1e-8)


def adversarial_direction(predict, x, target, noise, distance):
    """One power step of virtual adversarial training (Miyato et al. 2018) -> d (B, channels, *S), constant, norm 1.

    predict: x -> softmax (B, C, *S); target: such a softmax, without gradient; noise: x's shape, uniform in
    [-.5, .5); distance: one of the two above. The norm is over each sample's channels and voxels. Gradients of
    parameters are left alone.
    """
    direction = _unit(noise).requires_grad_()
    gradient, = torch.autograd.grad(distance(predict(x + POWER * direction), target), direction)
    return _unit(gradient)


def _unit(d):
    norm = torch.linalg.vector_norm(widened(d).flatten(1), dim=1) + 1e-8
    return (d / norm.reshape(-1, *[1] * (d.ndim - 1))).to(d)


@contextmanager
def frozen_statistics(module):
    """Batch norms in training mode leave their running statistics alone."""
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm) and part.track_running_stats]
    try:
        for norm in norms:
            norm.track_running_stats = False
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


# ---- separation --------------------------------------------------------------------------------------------------


class Memory(nn.Module):
    """The remembered features of each foreground class: buffers of fixed size, so that checkpoints hold them.

    The first `filled[c - 1]` rows of `features[c - 1]` are class c's; their number stays on the device.
    """

    def __init__(self, num_classes):
        super().__init__()
        self.register_buffer("features", torch.zeros(num_classes - 1, MEMORY, SIZE))
        self.register_buffer("filled", torch.zeros(num_classes - 1, dtype=torch.long))

    def replace(self, c, features, count):
        """Class c's memory becomes the first `count`, a tensor, of features (n <= MEMORY, SIZE); 0 keeps the old."""
        places = torch.arange(len(features), device=features.device)[:, None]
        memory, filled = self.features[c - 1, :len(features)], self.filled[c - 1]
        memory.copy_(torch.where(places < count, features.to(memory), memory))
        filled.copy_(torch.where(count > 0, count, filled))

    def means(self):
        """[None for the background, then (mean of the normalised features (SIZE), whether there are two or more)]."""
        remembered = torch.arange(MEMORY, device=self.filled.device)[:, None] < self.filled[:, None, None]
        sums = (F.normalize(widened(self.features), dim=2) * remembered).sum(1)
        return [None, *zip(sums / self.filled.clamp(min=1)[:, None], self.filled > 1, strict=True)]


def rows_of(chosen, *tensors):
    """Tensors of N rows, and which of these are chosen, (N) bool -> (*tensors, chosen): on a CPU the chosen rows alone.

    Elsewhere all rows, since the host would have to wait for the number of the chosen ones.
    """
    if chosen.device.type != "cpu":
        return *tensors, chosen
    return *(tensor[chosen] for tensor in tensors), chosen[chosen]


def scores_of(module, rows, chosen, acts):
    """A module's output for rows (n, K), where batch norms see the chosen rows alone; that of other rows means nothing.

    acts: bool tensor, whether running statistics are updated.
    """
    if isinstance(module, _BatchNorm) and module.training:
        return _normalised(module, rows, chosen, acts)
    if not isinstance(module, nn.Sequential):
        return module(rows)
    for layer in module:
        rows = scores_of(layer, rows, chosen, acts)
    return rows


def _normalised(norm, rows, chosen, acts):
    rows, weight = widened(rows), chosen[:, None]
    count = chosen.sum()
    mean = (rows * weight).sum(0) / count.clamp(min=1)
    centred = rows - mean
    squares = (centred.square() * weight).sum(0)
    variance = squares / count.clamp(min=1)
    with torch.no_grad():
        for running, now in ((norm.running_mean, mean), (norm.running_var, squares / (count - 1).clamp(min=1))):
            running.lerp_(now.to(running), norm.momentum * acts.to(running))
        norm.num_batches_tracked += acts
    return centred * (variance + norm.eps).rsqrt() * norm.weight + norm.bias


def memorable(selector, features):
    """The features of one class that are worth remembering: (n, 32) -> (min(n, 32), 32).

    Of more than 32, those of the lowest score, ascending [C] (the release's comment says the highest); fewer stay
    as they are. selector: (n, 32) -> scores (n, 1), used in the mode it is in.
    """
    return _memorable(selector, features, torch.ones_like(features[:, 0], dtype=torch.bool))[0]


@torch.no_grad()
def _memorable(selector, features, chosen):
    """Of the chosen features (n, 32) -> up to 32 rows, those worth remembering first; their number, a tensor."""
    count = chosen.sum()
    scores = scores_of(selector, features, chosen, count > MEMORY)[:, 0]
    keys = torch.where(count > MEMORY, scores, chosen.cumsum(0).to(scores)).masked_fill(~chosen, torch.inf)
    first = keys.topk(min(MEMORY, len(keys)), largest=False).indices
    return features[first], count.clamp(max=MEMORY)


def separation(features, labels, memory, selectors):
    """Mean of share_i (1 - cos(f_i, m_j)) per class, summed over the classes, divided by their number -> scalar.

    features (N, 32), labels (N) int; memory: (n_c, 32) or None per class, background included; selectors: a module
    or None per class. share_i = n s_i / sum s with s = sigmoid(selector(f)) trains the selector, not the features.
    A class takes part if it has more than one feature here and in memory.
    """
    return separation_from([rows if rows is None else (F.normalize(widened(rows), dim=1).mean(0), len(rows) > 1)
                            for rows in memory], features, labels, selectors)


def separation_from(memory, features, labels, selectors):
    """`separation` from a memory as `Memory.means` gives it.

    Cosines are linear in the normalised memory: their mean over j is the cosine with its mean.
    """
    total = features[:0].sum()
    for c, (remembered, selector) in enumerate(zip(memory, selectors, strict=True)):
        if remembered is None:
            continue
        mean, known = remembered
        rows, chosen = rows_of(labels == c, features)
        rows, acts = widened(rows), (chosen.sum() > 1) & known
        score = widened(scores_of(selector, rows.detach(), chosen, acts)[:, 0]).sigmoid() * chosen
        distance = 1 - (F.normalize(rows, dim=1) * mean).sum(1)
        of_class = (score * distance).sum() / score.sum().clamp(min=torch.finfo(score.dtype).tiny)
        total = total + torch.where(acts, of_class, 0)
    return total / len(memory)


# ---- the method --------------------------------------------------------------------------------------------------


class SSNet(WithSupervisedLoss):
    """networks: x -> (logits, embedding), with heads; tested as it is."""

    Hyper = Hyper

    def __init__(self, networks, memory, hyper, axes):
        super().__init__(networks, hyper)
        self.memory = memory
        self.distance = distance_3d if axes == 3 else distance_2d
        self.offset = int(axes == 3)         # on volumes the counter is advanced before the weight      [C]

    @classmethod
    def defaults(cls, dataset, protocol="matched"):
        own = ON_SLICES if dataset == "ACDC" else {}
        if protocol == "matched":
            return Hyper(**own)
        return Hyper("dsq_all_1e-10" if dataset == "ACDC" else "dlin_fg", stairs=True, **own)

    @classmethod
    def build(cls, recipe):
        axes = AXES[recipe.network]
        networks = compared.build(f"ssnet{axes}d", recipe.in_channels, recipe.num_classes)
        return cls(networks, Memory(recipe.num_classes), recipe.hyper, axes)

    def losses(self, batch):
        """Labels and separation, with one pass of the whole batch; then smoothness, with three more."""
        x, labelled = torch.cat([batch.x_l, batch.x_u]), len(batch.x_l)
        weight = ramped(self.hyper, batch, self.offset)
        logits, embedding = self.networks(x)
        sup = self.supervised(logits[:labelled], batch.y_l)
        e_l, e_u = (half.movedim(1, -1).flatten(0, -2) for half in (embedding[:labelled], embedding[labelled:]))
        guess = logits.detach().argmax(1)
        y_l, guess_l, guess_u = (maps.flatten() for maps in (batch.y_l, guess[:labelled], guess[labelled:]))
        self.remember(e_l.detach(), y_l, guess_l)
        memory, selectors = self.memory.means(), [None, *self.networks.selectors]
        separated = sum(separation_from(memory, self.networks.prediction(self.networks.projection(e)), y, selectors)
                        for e, y in ((e_l, y_l), (e_u, guess_u)))
        picture = Picture(batch.x_u, None, {"network": logits[labelled:].detach()})
        yield sup + weight * self.hyper.separation * separated, {"sup_l": sup, "separation": separated,
                                                                 "picture": picture}
        smooth = self.smoothness(x)
        yield weight * smooth, {"smoothness": smooth}

    @torch.no_grad()
    def remember(self, embedding, y, guess):
        """Replace the memory of each class that has well predicted voxels: embedding (N, 16), y and guess (N).

        Projected with running statistics, not predicted; the selectors are in training mode.
        """
        embedding, y, chosen = rows_of((guess == y) & (y > 0), embedding, y)
        self.networks.projection.eval()
        candidates = self.networks.projection(embedding)
        self.networks.projection.train()
        for c, selector in enumerate(self.networks.selectors, 1):
            self.memory.replace(c, *_memorable(selector, *rows_of(chosen & (y == c), candidates)))
        Ranks().share_buffers(self.memory)

    def smoothness(self, x):
        """Distance between a clean pass, which is constant, and one perturbed in the adversarial direction.

        Dropout acts in all three passes; the clean one alone reaches the running statistics.
        """
        def predict(x):
            return widened(self.networks(x)[0]).softmax(1)
        with torch.no_grad():
            target = predict(x)
        with frozen_statistics(self.networks):
            direction = adversarial_direction(predict, x, target, torch.rand_like(x) - 0.5, self.distance)
            return self.distance(predict(x + self.hyper.radius * direction), target)

    def predict(self, x):
        return {"network": self.networks(x)[0].softmax(1)}
