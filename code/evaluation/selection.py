"""Which scan to label next: choosing by what the network does not know, by how the scans differ, or by both.

Shapes: N cases, K features, C classes, *S spatial.
"""
from contextlib import contextmanager

import numpy as np

INTENSITIES = 0.05, 0.25, 0.5, 0.75, 0.95, 0.99      # quantiles of a scan's intensities by which scans differ


def farthest_first(features, start, count):
    """Places of `count` rows of features (N, K), each the farthest from the rows in `start` and those chosen before.

    Columns count alike, whatever their units. Without `start` the first one is the row nearest to the mean. Of equals,
    the first.
    """
    if not count:
        return []
    features = np.asarray(features, float)
    deviation = features.std(0)
    features = (features - features.mean(0)) / np.where(deviation > 0, deviation, 1)
    if not len(start):
        first = int(np.linalg.norm(features, axis=1).argmin())
        return [first, *farthest_first(features, [first], count - 1)]
    taken, chosen = list(start), []
    nearest = np.min([np.linalg.norm(features - features[place], axis=1) for place in taken], 0)
    for _ in range(min(count, len(features) - len(taken))):
        nearest[taken] = -1
        place = int(nearest.argmax())
        chosen.append(place)
        taken.append(place)
        nearest = np.minimum(nearest, np.linalg.norm(features - features[place], axis=1))
    return chosen


def appearance(scans):
    """Of a case's ScanFiles, one per channel -> features (K,): quantiles of its intensities, its size, its voxels."""
    values = [np.quantile(scan.array, INTENSITIES) for scan in scans]
    first = scans[0]
    order = np.sort(first.spacing)
    return np.concatenate([*values, np.log(np.sort(first.spacing * first.array.shape)), np.log(order)])


@contextmanager
def noting_bottlenecks(networks):
    """A list that grows by a row (B, K) per pass and encoder: bottleneck features, mean over positions.

    Patches that are 0 throughout are left out: on a GPU they fill a batch.
    """
    noted = []
    encoders = [module for module in networks.modules() if type(module).__name__ == "Encoder"]

    def noting(rows):
        def note(_, inputs, features):
            there = inputs[0].flatten(1).any(1)
            rows.append(features[-1].flatten(2).mean(2)[there].float().cpu().numpy())
        return note

    hooks = []
    for encoder in encoders:
        noted.append([])
        hooks.append(encoder.register_forward_hook(noting(noted[-1])))
    try:
        yield noted
    finally:
        for hook in hooks:
            hook.remove()


def bottleneck(method, image, recipe):
    """A prepared scan (in_channels, *S) -> features (K,): the means of the tested networks' bottlenecks."""
    from evaluation.inference import segment  # here: options are read without PyTorch
    with noting_bottlenecks(method.tested) as noted:
        segment(method, image, recipe, coarse=True, views=())
    return np.concatenate([np.concatenate(rows).mean(0) for rows in noted])
