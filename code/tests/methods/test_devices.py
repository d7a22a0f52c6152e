"""Every method where no GPU is: at the paper's size on the meta device, compiled, and in bfloat16."""
import copy
from dataclasses import replace

import pytest
import torch
import torch.fx.experimental._config as settings
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from dataloaders import components
from method import Batch
from methods import registry, ss_net
from networks.two_view import build_subnet
from runtime.device import CHANNELS_LAST, Device
from runtime.errors import InputError
from runtime.fast_layers import quicken_on_gpu
from runtime.ranks import Ranks
from training.datasets import DATASETS


def batch_of(recipe, of_label=None, device="cpu"):
    """A batch of noise; on the meta device of shapes alone."""
    generator, size = torch.Generator().manual_seed(1), recipe.patch_size
    x_l, x_u = (torch.randn(count, 1, *size, generator=generator) if device == "cpu" else
                torch.empty(count, 1, *size, device=device).to(memory_format=CHANNELS_LAST[len(size)])
                for count in (recipe.labeled_batch, recipe.unlabeled_batch))
    y_l = torch.randint(recipe.num_classes, (recipe.labeled_batch, *size), generator=generator, dtype=torch.uint8)
    z_l = of_label and torch.stack([torch.as_tensor(of_label(label.numpy())) for label in y_l]).to(device)
    return Batch(x_l, y_l.to(device).long(), x_u, 5, 10, torch.Generator().manual_seed(0), z_l)


def recipe_of(dataset, method, **changes):
    """The paper's recipe with this method, or a skip where the method does not take the data set."""
    try:
        recipe = replace(DATASETS[dataset].presets["paper"], method=method, device="cpu", **changes).complete()
        registry.check(recipe)
        return recipe
    except InputError as error:
        pytest.skip(str(error))


@pytest.fixture
def meta(monkeypatch):
    """What looks at values does without them: components, who teaches in MCF, which voxels SS-Net chooses."""
    monkeypatch.setattr(components, "largest_components", lambda maps, classes: maps)
    monkeypatch.setattr(Ranks, "mean", lambda self, value: torch.ones(value.shape))
    monkeypatch.setattr(ss_net.Memory, "per_class", lambda self: [None, *self.features])
    with settings.patch(meta_nonzero_assume_all_nonzero=True):
        yield


@pytest.mark.parametrize("dataset", ["LA", "ACDC", "BraTS2019"])
@pytest.mark.parametrize("method", ["cml", *(pytest.param(name, marks=pytest.mark.slow)
                                             for name in registry.METHODS if name != "cml")])
def test_a_step_at_the_papers_size_fits_together_on_the_meta_device(meta, dataset, method):
    """Networks, losses and updates meet in shape, precision and device, with the layers that a GPU gets."""
    recipe = recipe_of(dataset, method)
    with torch.device("meta"):
        own = registry.build(recipe)
    own = quicken_on_gpu(own.to(memory_format=CHANNELS_LAST[len(recipe.patch_size)])).train()
    assert not any(type(module) is nn.BatchNorm3d for module in own.modules())
    batch = batch_of(recipe, own.of_label, "meta")
    for stage in own.stages(5, 5):
        own.begin(stage)
        for loss, terms in stage.losses(batch if stage.unlabelled else batch._replace(x_u=None)):
            assert loss.shape == () and loss.is_meta and loss.dtype == torch.float32
            assert all(term.shape == () for name, term in terms.items() if name != "picture")
            loss.backward()
        own.after_step(batch)
    assert all(p.grad is not None and p.grad.shape == p.shape for p in own.trained_parameters())


@pytest.mark.parametrize("method", registry.METHODS)
def test_a_step_on_slices_in_bfloat16_is_that_in_float32(narrow, method):
    """Losses are in float32 and near, gradients arrive everywhere; as in training, each loss is one autocast."""
    recipe = recipe_of("ACDC", method, patch_size=(32, 32), labeled_batch=4, unlabeled_batch=4)
    found = {}
    for amp in (False, True):
        torch.manual_seed(0)
        own = registry.build(recipe).train()
        device = Device("cpu", 2, amp=amp)
        torch.manual_seed(1)
        losses, found[amp] = own.stages(5, 5)[-1].losses(batch_of(recipe, own.of_label)), []
        while True:
            with device.autocast():
                loss, _ = next(losses, (None, None))
            if loss is None:
                break
            loss.backward()
            found[amp].append(loss.detach())
        assert all(p.grad is not None and p.grad.isfinite().all() for p in own.trained_parameters())
        own.after_step(batch_of(recipe, own.of_label))
    assert all(loss.dtype == torch.float32 for loss in found[True])
    assert [loss.item() for loss in found[True]] == pytest.approx([loss.item() for loss in found[False]], rel=0.05)


@pytest.mark.slow
def test_a_network_compiles_in_one_graph_with_the_layers_of_a_gpu(narrow):
    """Outputs, gradients and running statistics are those of the eager one, in training and evaluation mode.

    The V-Net with linear up-sampling; the U-Net's turn is in gpu_day.py's checks.
    """
    eager = quicken_on_gpu(build_subnet("vnet", 1, 2, view=1)).double()
    for module in eager.modules():
        if isinstance(module, _DropoutNd):
            module.p = 0.0
    compiled = copy.deepcopy(eager)
    compiled.compile(backend="aot_eager", fullgraph=True)
    x = torch.randn(2, 1, 32, 32, 32, dtype=torch.float64)
    for network in (eager, compiled):
        network(x)[0].square().mean().backward()
    for one, other in zip([*eager.buffers(), *(p.grad for p in eager.parameters())],
                          [*compiled.buffers(), *(p.grad for p in compiled.parameters())], strict=True):
        torch.testing.assert_close(one, other)
    with torch.inference_mode():
        torch.testing.assert_close(compiled.eval()(x)[0], eager.eval()(x)[0])
