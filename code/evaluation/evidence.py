"""What a segmentation says of itself: how far the views decide alike, and how certain the network is.

Shapes: B patches, C classes, *S spatial.
"""
import itertools
import math

import numpy as np
import torch
from tqdm import tqdm

from dataloaders.scans import for_networks, read_geometry
from dataloaders.volumes import halved
from evaluation import trust
from evaluation.components import keep_largest
from evaluation.inference import likeliest, segment
from evaluation.metrics import of_classes_there, overlap_of_classes
from evaluation.windows import DISAGREEMENT
from runtime.errors import InputError, counted

SLAB = 2 ** 17          # voxels whose entropy is computed at a time


class Agreement:
    """How far views decide alike: Dice of each class, over the windows or slices that `segment` shows one by one.

    Of more than two views, over all pairs. Voxels count as their windows are weighted.
    """

    def __init__(self, views, num_classes):
        self.views, self.counts = tuple(views), torch.zeros(num_classes, num_classes, dtype=torch.float64)

    def note(self, parts):
        """parts: {view: probabilities (B, C, *S)}, each voxel's times its weight."""
        classes = len(self.counts)
        weights = parts[self.views[0]].sum(1).double().flatten()
        decided = [parts[view].max(1).indices.flatten() for view in self.views]
        self.counts = sum((confusion(*pair, classes, weights) for pair in itertools.combinations(decided, 2)),
                          self.counts.to(weights.device))       # which are read once, when all are there

    @property
    def dice(self):
        return dice_of(self.counts)


def confusion(one, other, classes, weights=None):
    """Voxels by the classes that two label maps (*S) give them, or the sums of their weights (voxels) -> (C, C)."""
    pairs = one.flatten().to(torch.promote_types(one.dtype, torch.int32)) * classes + other.flatten()
    return torch.bincount(pairs, weights, classes ** 2).view(classes, classes)


def dice_of(confused):
    """Dice of each foreground class of a `confusion`; 1 where neither map has it."""
    return [2 * both / total if total else 1.0 for both, total in
            zip(confused.diag()[1:].tolist(), (confused.sum(0) + confused.sum(1))[1:].tolist(), strict=True)]


def examined(method, image, recipe, **how):
    """`segment` -> its {view: probabilities (C, *S)}, and Evidence; how: options of `segment`."""
    watch = Agreement(method.pair, recipe.num_classes) if method.pair else None
    views = segment(method, image, recipe, watch=watch, **how)
    entropy, whole = entropies(next(iter(views.values())))
    seen = trust.quantiles(as_trained(image, recipe).numpy())
    return views, trust.Evidence(entropy, whole, watch and watch.dice, seen)


def examined_together(members, image, apart=False):
    """The mean of the probabilities of several `windows.Member` -> {"mean": (C, *S)}, and Evidence of it, whose
    agreement is that of all runs and their views.

    One run's probabilities are held at a time, besides their sum. apart: also DISAGREEMENT (*S), 0 to 1, the root of
    the mean over pairs of runs and views of half their squared distance; with two classes and two runs it is the
    difference.
    """
    total, squares, sums, decided, count = None, None, None, [], 0
    for method, recipe, windows in members:
        views = segment(method, image, recipe, views=method.pair or (), **windows)
        headline = next(iter(views.values()))
        total = headline.float().cpu().clone() if total is None else total.add_(headline.float().cpu())
        for view in method.pair or [next(iter(views))]:
            probs = views[view].float().cpu()
            decided.append(torch.from_numpy(likeliest(probs)))
            count += 1
            if apart:
                sums = probs.clone() if sums is None else sums.add_(probs)
                square = probs.square().sum(0)
                squares = square if squares is None else squares.add_(square)
        del views, headline
    mean, classes = total.div_(len(members)), len(total)
    found = {"mean": mean}
    if apart:
        pairs = count * (count - 1) / 2
        found[DISAGREEMENT] = ((count * squares - sums.square().sum(0)) / (2 * pairs)).clamp(0, 1).sqrt()
    entropy, whole = entropies(mean)
    pairs = itertools.combinations(decided, 2)
    agreement = np.mean([dice_of(confusion(*pair, classes)) for pair in pairs], axis=0).tolist()
    seen = trust.quantiles(as_trained(image, members[0].recipe).numpy())
    return found, trust.Evidence(entropy, whole, agreement, seen)


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
    image = for_networks(image, recipe)
    return halved(image) if recipe.half_resolution else image


def judged(trained, image, training, geometry, name=""):
    """A prepared scan (in_channels, *S) -> its label map (*S) uint8 as it is tested, Evidence, rows of `case_rows`.

    training: trust.TrainingCases; geometry: preprocess.Geometry, or None where the file does not have it.
    """
    recipe = trained.recipe
    views, evidence = examined(trained.method, image, recipe, views=())
    decided = likeliest(next(iter(views.values())))
    labels = keep_largest(decided, recipe.keep_largest)
    rows = trust.case_rows(name, recipe.classes, trust.measured(labels, recipe.num_classes), evidence, training,
                           geometry and math.prod(geometry.spacing) / 1000, geometry and geometry.voxel_size,
                           trust.middles(labels, recipe.num_classes),
                           trust.taken_away(decided, labels, recipe.num_classes))
    return labels, evidence, rows


def examined_cases(runs, split):
    """What the score says of a list's cases and how good they are, of runs {name: Trained}, of folds all of them:
    {name: one row per case, the one to look at first in front}.

    `dice`: of the headline, as tested, mean over the foreground classes that any case of the runs has.
    """
    found = {name: _examined(trained, split) for name, trained in runs.items()}
    overlaps = [overlap for _, own in found.values() for overlap in own]
    if np.isnan(overlaps).all():
        raise InputError(f"--split {split}: neither a label nor a prediction of its {counted(len(overlaps), 'case')} "
                         "has a class, so that there is no Dice to compare the score with; choose cases with labels")
    dice = iter(of_classes_there(overlaps).mean(-1))
    for name, (rows, _) in found.items():
        rows = {row["case"]: row | {"dice": float(next(dice))} for row in rows}
        found[name] = [rows[case] for case in trust.scores(rows.values())]
    return found


def _examined(trained, split):
    """A run's rows of `examined_cases`, without their Dice, and the Dice of each case's classes."""
    recipe, data = trained.recipe, trained.data
    names = trained.names_to_test(split)
    training, rows, overlaps = trust.read_training_cases(trained.run, recipe), [], []
    if training is None:
        raise InputError(f"{trained.run / trust.TRAINING}: is not there, and the score compares with it: copy it from "
                         "the run's own folder; a run of an earlier version, which has none, is trained again")
    for name in tqdm(names, "trust", unit="case"):
        [scan] = data.cases([name])
        labels, evidence, of_classes = judged(trained, scan.image, training, read_geometry(data.path_of(name)), name)
        agreement = math.nan if evidence.agreement is None else float(np.mean(evidence.agreement))
        overlaps.append(overlap_of_classes(labels, scan.label.numpy(), recipe.num_classes))
        rows.append({"case": name, "score": of_classes[0]["score"], "dice": math.nan,
                     "entropy": evidence.whole, "agreement": agreement, "flags": "; ".join(trust.flags_of(of_classes))})
    return rows, overlaps
