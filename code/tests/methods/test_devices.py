"""Every method where no GPU is: in bfloat16 and compiled; test_simulated_cuda.py has the rest."""
import copy
from dataclasses import replace

import pytest
import torch
from torch.nn.modules.dropout import _DropoutNd

from method import Batch
from methods import registry
from networks.two_view import build_subnet
from runtime.device import Device
from runtime.fast_layers import quicken_on_gpu
from train_ACDC import PRESETS


def batch_of(recipe, of_label=None):
    """A batch of noise."""
    generator, size = torch.Generator().manual_seed(1), recipe.patch_size
    x_l, x_u = (torch.randn(count, 1, *size, generator=generator)
                for count in (recipe.labeled_batch, recipe.unlabeled_batch))
    y_l = torch.randint(recipe.num_classes, (recipe.labeled_batch, *size), generator=generator, dtype=torch.uint8)
    z_l = of_label and torch.stack([torch.as_tensor(of_label(label.numpy())) for label in y_l])
    return Batch(x_l, y_l.long(), x_u, 5, 10, torch.Generator().manual_seed(0), z_l)


@pytest.mark.parametrize("method", registry.METHODS)
def test_a_step_on_slices_in_bfloat16_is_that_in_float32(narrow, method):
    """Losses are in float32 and near, gradients arrive everywhere; as in training, each loss is one autocast."""
    recipe = replace(PRESETS["paper"], method=method, device="cpu", patch_size=(32, 32), labeled_batch=4,
                     unlabeled_batch=4).complete()
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
