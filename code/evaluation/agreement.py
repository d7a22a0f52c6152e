"""After training: how alike a run's two subnets are, and how good their pseudo-labels were over the steps."""
import math
from contextlib import contextmanager
from itertools import islice

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from dataloaders.augment import resize_nearest
from dataloaders.scans import has_label
from evaluation.inference import segment
from evaluation.metrics import of_classes_there, overlap_of_classes
from evaluation.report import label_maps
from methods import registry
from networks.two_view import TwoView
from runtime.errors import InputError
from runtime.files import load_tensors, load_weights

SAMPLED = 200           # slices of the unlabelled ones, on which pseudo-labels are measured


def check_pair(trained):
    """InputError if a run's method has no pair of views to compare."""
    if trained.method.pair is None:
        raise InputError(f"{trained.run}: its method is {trained.recipe.method}, expected one with two views to "
                         f"compare: {', '.join(registry.paired())}")


@contextmanager
def noting_cosines(networks):
    """A list that grows by a tensor per pass: each patch's cosine over the bottlenecks' channels, mean over positions.

    Patches that are 0 throughout are left out: on a GPU they fill a batch. The list stays empty for networks other than
    two subnets.
    """
    noted = []
    if not isinstance(networks, TwoView):
        yield noted
        return

    def note(_, inputs, views):
        (_, feature0), (_, feature1) = views
        cosines, filled = F.cosine_similarity(feature0, feature1, dim=1).flatten(1).mean(1), inputs[0].flatten(1).any(1)
        noted.append(cosines.float().cpu()[filled.cpu()])

    with networks.register_forward_hook(note):
        yield noted


def agreement(trained, split):
    """How alike the two views of a trained run are on the cases of a list: one row per case.

    `dice`: of the views' label maps as they are tested, mean over the classes that any of them has; NaN of a case in
    which neither finds anything. `cosine`: of the tested networks' bottleneck features in evaluation mode, mean over
    positions and over the slices or windows of the test; NaN without two subnets.
    """
    check_pair(trained)
    recipe, method, data = trained.recipe, trained.method, trained.data
    rows, overlaps = [], []
    for name in tqdm(trained.names_to_test(split), "agreement", unit="case"):
        [scan] = data.cases([name])
        with noting_cosines(method.tested) as cosines:
            maps = label_maps(segment(method, scan.image, recipe, views=method.pair), recipe.keep_largest)
        overlaps.append(overlap_of_classes(*(maps[view] for view in method.pair), recipe.num_classes))
        rows.append({"case": name, "dice": math.nan,
                     "cosine": torch.cat(cosines).mean().item() if cosines else math.nan})
    dice = np.where(np.isnan(overlaps).all(-1), math.nan, of_classes_there(overlaps).mean(-1))
    return [row | {"dice": float(value)} for row, value in zip(rows, dice, strict=True)]


def hidden_labels(recipe, data):
    """Images (in_channels, N, H, W) and labels (N, H, W) of unlabelled slices at the training resolution.

    Up to SAMPLED slices, drawn by the recipe's seed among those with a label on disk, which training never opens.
    """
    names = np.random.default_rng(recipe.seed).permutation(data.split().unlabelled).tolist()
    names = islice((name for name in names if has_label(data.path_of(name))), SAMPLED)
    scans = data.train_scans(list(names), labelled=True)
    if not scans:
        raise InputError(f"{recipe.data_dir}: no unlabelled slice has a label on disk to measure pseudo-labels with")
    return (torch.stack([resize_nearest(scan.image, recipe.patch_size) for scan in scans], 1),
            np.stack([resize_nearest(scan.label.numpy(), recipe.patch_size) for scan in scans]))


def snapshots(run):
    """Paths of RUN/snapshots/*.pt; InputError where there is none."""
    paths = sorted((run / "snapshots").glob("*.pt"))
    if not paths:
        raise InputError(f"{run / 'snapshots'} has no *.pt: copy checkpoint.pt there from time to time while it trains")
    return paths


def pseudo_labels(trained, paths):
    """Dice of each view's argmax on unlabelled slices: one row per snapshot, a copy of checkpoint.pt.

    Measured with the labels on disk, in evaluation mode, over the voxels of all slices together, mean over the classes
    that are there.
    `between`: Dice of the two views with each other.
    """
    check_pair(trained)
    recipe, method, data = trained.recipe, trained.method, trained.data
    if len(recipe.patch_size) != 2:
        raise InputError(f"{trained.run}: a run on {recipe.dataset}; pseudo-labels are measured on slices, ACDC's")
    images, labels = hidden_labels(recipe, data)
    stages = method.stages(recipe.pre_steps, recipe.self_steps)
    rows = {}
    for path in tqdm(paths, "snapshots"):
        state = load_tensors(path, ["method", "stage", "step"])
        at, step = state["stage"], state["step"]
        lengths = [*(stage.steps for stage in stages), 0]       # a finished run stands behind its last stage
        if not (type(at) is type(step) is int and 0 <= at < len(lengths) and 0 <= step <= lengths[at]):
            raise InputError(f"{path}: stands at step {step!r} of stage {at!r}, which this run does not have; expected "
                             "a copy of its checkpoint.pt")
        load_weights(method, state["method"], path)
        step += sum(lengths[:at])
        maps = label_maps(segment(method, images, recipe), keep_largest=False)
        pairs = {view: (maps[view], labels) for view in maps} | {"between": [maps[view] for view in method.pair]}
        rows[step] = {what: overlap_of_classes(*pair, recipe.num_classes) for what, pair in pairs.items()}
    dice = of_classes_there([list(rows[step].values()) for step in sorted(rows)]).mean(-1).tolist()
    return [{"step": step, **dict(zip(rows[step], values, strict=True))}
            for step, values in zip(sorted(rows), dice, strict=True)]
