"""Dice against what it cost: steps, images through the networks, and images in the losses."""
import functools
from dataclasses import replace
from typing import NamedTuple

import torch

from method import Batch
from methods import registry


class Images(NamedTuple):
    """Of one step of a stage, for each of two subnets."""

    passed: int         # went through the networks
    learned: int        # of them in a loss


class Point(NamedTuple):
    """A validation."""

    step: int           # since the start of training
    self_step: int      # of the last stage, 0 or less before
    images: int
    learned: int
    dice: float         # of the headline, in percent


@functools.cache
def _images(recipe_class, items):
    recipe = recipe_class(**dict(items))
    patch = *(16,) * (len(recipe.patch_size) - 1), 32       # two positions at the lowest resolution
    method = registry.build(replace(recipe, patch_size=patch))
    counts = []
    method.networks.register_forward_pre_hook(
        lambda _, inputs: counts.append((len(inputs[0]), torch.is_grad_enabled())))

    def batch(size):
        return torch.randn(size, recipe.in_channels, *patch)

    images = {}
    for stage in method.stages(1, 1):
        counts.clear()
        x_l, x_u = batch(recipe.labeled_batch), batch(recipe.unlabeled_batch) if stage.unlabelled else None
        y_l = torch.zeros(x_l[:, 0].shape, dtype=torch.long)
        for _ in stage.losses(Batch(x_l, y_l, x_u, 0, 1, torch.Generator())):
            pass
        images[stage.name] = Images(sum(size for size, _ in counts), sum(size for size, learns in counts if learns))
    return images


def images_a_step(recipe):
    """{stage: Images} of a recipe, counted in one step of its method on small noise."""
    with torch.random.fork_rng(devices=[]):
        return _images(type(recipe), tuple(vars(replace(recipe, seed=0)).items()))


def curve(run, found):
    """Points of a kept run's val.csv."""
    images, recipe = images_a_step(run.recipe), run.recipe
    points = []
    for row, dice in zip(found.validations, found.headlines, strict=True):
        step, pre = int(row["step"]), row["stage"] == "pre"
        before = {"pre": step, "self": 0} if pre else {"pre": recipe.pre_steps if "pre" in images else 0, "self": step}
        spent = [sum(before[name] * one[index] for name, one in images.items()) for index in (0, 1)]
        points.append(Point(sum(before.values()), before["self"] if not pre else step - recipe.pre_steps, *spent,
                            dice))
    return points
