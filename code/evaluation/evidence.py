"""What a segmentation says of itself: how far the views decide alike, and how certain the network is.

Shapes: B patches, C classes, *S spatial.
"""
import itertools
import math

import numpy as np
import torch

from dataloaders.augment import standardised
from dataloaders.volumes import halved
from evaluation.inference import segment
from evaluation.trust import Evidence, quantiles

SLAB = 2 ** 17          # voxels whose entropy is computed at a time


class Agreement:
    """How far views decide alike: Dice of each class, over the windows or slices that `segment` shows one by one.

    Of more than two views, over all pairs. Voxels count as their windows are weighted.
    """

    def __init__(self, views, num_classes):
        self.views, self.counts = tuple(views), np.zeros((num_classes, num_classes))

    def note(self, parts):
        """parts: {view: probabilities (B, C, *S)}, each voxel's times its weight."""
        classes = len(self.counts)
        weights = parts[self.views[0]].sum(1).double().flatten()
        decided = [parts[view].max(1).indices.flatten() for view in self.views]
        for one, other in itertools.combinations(decided, 2):
            counts = torch.bincount(one * classes + other, weights, classes ** 2)
            self.counts += counts.cpu().numpy().reshape(classes, classes)

    @property
    def dice(self):
        """Of each foreground class; 1 where no view has it."""
        sums = self.counts.sum(0) + self.counts.sum(1)
        return [float(2 * both / total) if total else 1.0
                for both, total in zip(np.diag(self.counts)[1:], sums[1:], strict=True)]


def examined(method, image, recipe, **how):
    """`segment` -> its {view: probabilities (C, *S)}, and Evidence; how: options of `segment`."""
    watch = Agreement(method.pair, recipe.num_classes) if getattr(method, "pair", None) else None
    views = segment(method, image, recipe, watch=watch, **how)
    entropy, whole = entropies(next(iter(views.values())))
    return views, Evidence(entropy, whole, watch and watch.dice, quantiles(as_trained(image, recipe).numpy()))


def entropies(probs):
    """Probabilities (C, *S) -> mean entropy of each foreground class where it is the likeliest, and of all of them.

    In units of log C: 0 where the network is certain, 1 where all classes are equally likely. NaN without voxels.
    """
    classes = len(probs)
    sums, counts = torch.zeros(2, classes, dtype=torch.float64)
    thick = max(1, SLAB // max(1, probs[0, 0].numel()))
    for first in range(0, probs.shape[1], thick):
        slab = probs[:, first:first + thick].float()
        entropy = torch.special.entr(slab).sum(0).double().flatten() / math.log(classes)
        labels = slab.max(0).indices.flatten()
        sums += torch.bincount(labels, entropy, classes).cpu()
        counts += torch.bincount(labels, minlength=classes).cpu()
    return (sums[1:] / counts[1:]).tolist(), (sums[1:].sum() / counts[1:].sum()).item()


def as_trained(image, recipe):
    """A prepared image (in_channels, *S) with the intensities and at the resolution that training has."""
    if recipe.normalise == "zscore":
        image = torch.from_numpy(standardised(image.numpy(), len(recipe.patch_size))[0])
    return halved(image) if recipe.half_resolution else image
