"""What gpu_day.py runs: the paper's recipes on phantoms, in the real training loop, at full size or small.

name: 'LA', 'ACDC' or 'BraTS'; quick: small patches and batches, on small scans.
"""
import contextlib
from dataclasses import replace
from pathlib import Path

import torch
from torch.nn.modules.dropout import _DropoutNd

from benchmarks import workloads
from benchmarks.workloads import SETS
from dataloaders.phantom import write_phantoms
from method import Batch
from methods import registry
from training.fit import Fit, backward
from training.run_folder import RunFolder

# a scan, an edge of a patch, and scans of a batch, labelled as unlabelled
SMALL = {"LA": ((24, 22, 20), 16, 4), "ACDC": ((3, 40, 36), 32, 2), "BraTS": ((40, 36, 34), 32, 2)}


def recipe_of(name, quick, **changes):
    """The paper's recipe of a data set, or a small one."""
    recipe = SETS[name].presets["paper"]
    if quick:
        _, edge, scans = SMALL[name]
        edges = (edge,) * len(recipe.patch_size)
        recipe = replace(recipe, patch_size=edges, labeled_batch=scans, unlabeled_batch=scans,
                         **({} if name == "ACDC" else {"stride": edges}))
    return replace(recipe, **changes)


def phantoms(name, quick, folder):
    """Phantoms of a data set below `folder`, drawn once: 8 training cases, 1 of each other kind."""
    root = Path(folder) / f"{name}_{'small' if quick else 'full'}"
    if not root.exists():
        write_phantoms(root, SETS[name].recipe.dataset, train=8, val=0 if name == "LA" else 1, test=1,
                       size=SMALL[name][0] if quick else workloads.SHAPES[name][0])
    return root


def loop_of(name, quick, folder, **changes):
    """A `Fit` at the start of self-training, on phantoms; nothing of it is on disk yet."""
    out = Path(folder) / f"run_{name}"
    recipe = recipe_of(name, quick, data_dir=phantoms(name, quick, folder), out=out, labeled=2, **changes).complete()
    loop = Fit(recipe, SETS[name].data(recipe), RunFolder(out, recipe))
    loop.stage = 1
    return loop


def exact(recipe):
    """The recipe's method without dropout, on the CPU, in float64, the same every time."""
    torch.manual_seed(recipe.seed)
    method = registry.build(recipe).double()
    for module in method.modules():
        if isinstance(module, _DropoutNd):
            module.p = 0.0
    return method.train()


def batch_of(name, recipe):
    """One batch of phantoms, in float64 on the CPU."""
    x_l, y_l, x_u = workloads.batch_of(name, recipe)
    return Batch(x_l.double(), y_l, x_u.double(), 0, 1, torch.Generator().manual_seed(0))


def step(method, batch, device=None):
    """{loss, gradients, running statistics} of one step of self-training, each a float64 vector on the CPU."""
    total, _ = backward(method.losses(batch), device.autocast if device else contextlib.nullcontext)
    gradients = [p.grad.double().cpu().flatten() for p in method.trained_parameters()]
    buffers = [b.double().cpu().flatten() for b in method.buffers()]
    return {"loss": total.double().cpu()[None], "gradients": torch.cat(gradients),
            "running statistics": torch.cat(buffers)}


def distance(found, expected):
    return ((found - expected).norm() / expected.norm()).item()
