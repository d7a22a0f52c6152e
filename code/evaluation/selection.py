"""Which scan to label next: choosing by what the network does not know, by how the scans differ, or by both.

Shapes: N cases, K features, C classes, *S spatial.
"""
import random
from contextlib import ExitStack, contextmanager

import numpy as np

TEST_EVERY = 5      # of so many cases to label, one is drawn at random and kept for testing
QUANTILES = 0.05, 0.25, 0.5, 0.75, 0.95, 0.99      # of a scan's intensities by which scans differ


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


def half_spread(labelled, ranked, count, features_of):
    """Up to `count` of the first half of ranked cases: those farthest from the labelled ones and from each other.

    features_of: names -> their features, a row (K,) each; it is asked for those of the labelled cases, too.
    """
    names = [*labelled, *ranked[:max(count, -(-len(ranked) // 2))]]
    return [names[place] for place in farthest_first(list(features_of(names)), range(len(labelled)), count)]


def appearance(scans):
    """Of a case's ScanFiles, one per channel -> features (K,): quantiles of its intensities, its size, its voxels."""
    values = [np.quantile(scan.array, QUANTILES) for scan in scans]
    first = scans[0]
    order = np.sort(first.spacing)
    return np.concatenate([*values, np.log(np.sort(first.spacing * first.array.shape)), np.log(order)])


@contextmanager
def noting_bottlenecks(networks):
    """A list that grows by a row (B, K) per pass and encoder: bottleneck features, mean over positions.

    Patches that are 0 throughout are left out: on a GPU they fill a batch.
    """
    noted = []

    def noting(rows):
        def note(_, inputs, features):
            there = inputs[0].flatten(1).any(1)
            rows.append(features[-1].flatten(2).mean(2)[there].float().cpu().numpy())
        return note

    with ExitStack() as hooks:
        for module in networks.modules():
            if type(module).__name__ == "Encoder":
                noted.append([])
                hooks.enter_context(module.register_forward_hook(noting(noted[-1])))
        yield noted


def bottleneck(method, image, recipe):
    """A prepared scan (in_channels, *S) -> features (K,): the means of the tested networks' bottlenecks."""
    from evaluation.inference import segment  # here: options are read without PyTorch
    with noting_bottlenecks(method.tested) as noted:
        segment(method, image, recipe, coarse=True, views=())
    return np.concatenate([np.concatenate(rows).mean(0) for rows in noted])


def drawn_for_testing(names, waiting, patients, labelled, count, seed):
    """(cases for testing, those to choose from), of names without a label: of `count`, one in TEST_EVERY is drawn.

    Those go first that were drawn before and wait for labels. Of patients that are trained on none is drawn, and of
    those drawn none is chosen for training.
    """
    waiting = [name for name in dict.fromkeys(waiting) if name in names]
    trained = set(map(patients.of, labelled))
    pool = [name for name in sorted(names) if name not in waiting]
    free = [name for name in pool if patients.of(name) not in trained]
    drawn = [*waiting, *shuffled(free, seed)][:count // TEST_EVERY]
    tested = set(map(patients.of, {*waiting, *drawn}))
    return drawn, [name for name in pool if patients.of(name) not in tested]


def shuffled(names, seed):
    """In an order that depends on the seed and on the names alone."""
    return random.Random(seed).sample(sorted(names), len(names))
