"""Methods as the training loop meets them, narrow and in float64, with a batch of random scans."""
import dataclasses
from types import SimpleNamespace

import pytest
import torch

from method import Batch
from methods import registry
from train_ACDC import PRESETS as ACDC
from train_BraTS import PRESETS as BRATS
from train_LA import PRESETS as LA

PRESETS = {"LA": LA, "ACDC": ACDC, "BraTS2019": BRATS}
SHAPES = {"LA": (16, 32, 16), "ACDC": (32, 48), "BraTS2019": (16, 16, 32)}
SIZE = 4        # scans of each half of a batch


@pytest.fixture
def setting(narrow):
    """setting(method, dataset, protocol, step, steps, hyper={...}, **recipe) -> its recipe, method and batch."""
    def make(name, dataset="ACDC", protocol="matched", step=50, steps=100, hyper=None, **changes):
        values = {"method": name, "protocol": protocol, "labeled_batch": SIZE, "unlabeled_batch": SIZE} | changes
        recipe = dataclasses.replace(PRESETS[dataset]["mini"], **values)
        recipe = dataclasses.replace(recipe, hyper=dataclasses.replace(registry.hyper_of(recipe), **(hyper or {})))
        torch.manual_seed(1)
        method = registry.build(recipe).double().train()
        x_l, x_u = torch.randn(2, SIZE, recipe.in_channels, *SHAPES[dataset], dtype=torch.float64)
        y_l = torch.randint(recipe.num_classes, (SIZE, *SHAPES[dataset]))
        z_l = method.of_label and torch.stack([torch.from_numpy(method.of_label(y)) for y in y_l.byte().numpy()])
        batch = Batch(x_l, y_l, x_u, step, steps, torch.Generator().manual_seed(2), z_l)
        return SimpleNamespace(recipe=recipe, method=method, batch=batch)
    return make


@pytest.fixture
def step():
    """step(losses, batch) -> loss and terms of one step, all yields together; gradients are left in the method."""
    def take(losses, batch, seed=7):
        torch.manual_seed(seed)         # dropout and noise
        total, terms = 0, {}
        for loss, new in losses(batch):
            loss.backward()
            total, terms = total + loss.detach(), terms | new
        return total, terms
    return take


@pytest.fixture
def watch():
    """watch(module) -> a list that takes (input, logits, training) of each of its passes, without gradient."""
    def start(module):
        passes = []
        module.register_forward_hook(lambda module, inputs, output: passes.append(
            SimpleNamespace(x=inputs[0].detach().clone(), logits=output[0].detach().clone(),
                            training=module.training, gradient=output[0].requires_grad)))
        return passes
    return start
