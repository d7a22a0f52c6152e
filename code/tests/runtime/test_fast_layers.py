"""The fast layers compute what torch.nn's do, and take their places where they can."""
import collections
import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks import workloads
from methods import registry
from networks import compared, two_view
from runtime.device import CHANNELS_LAST, Device
from runtime.fast_layers import (
    BatchNorm3d,
    Conv2d,
    Conv3d,
    Dropout,
    DroppedPointwise3d,
    Upsample,
    folded,
    quicken,
    quicken_on_gpu,
    weight_gradient,
)


@pytest.mark.parametrize("capability", ["AVX2", "AVX512"])
def test_placing_on_a_cpu_exchanges_layers_and_keeps_names(capability, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    for name, product, other in (("ACDC", Conv2d, Dropout), ("LA", Conv3d, DroppedPointwise3d)):
        recipe = workloads.settings(name, quick=True)[1]
        plain, placed = registry.build(recipe), Device("cpu", len(recipe.patch_size)).place(registry.build(recipe))
        kinds = {type(module) for module in placed.modules()}
        assert other in kinds and (product in kinds) == (capability == "AVX2")
        assert not {product, other} & {type(module) for module in plain.modules()}
        assert list(plain.state_dict()) == list(placed.state_dict())


@pytest.mark.parametrize("p", [0.05, 0.5])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_dropout_drops_its_share_and_keeps_the_mean(p, layout):
    torch.manual_seed(0)
    x = torch.full((3, 7, 101, 103), 2.0).contiguous(memory_format=layout).requires_grad_()
    layer = Dropout(p)
    out = layer(x)
    share = (out == 0).double().mean().item()
    assert share == pytest.approx(p, abs=5 * (p * (1 - p) / x.numel()) ** 0.5)
    assert out.unique().tolist() == pytest.approx([0, 2 / (1 - p)])
    correlation = np.corrcoef((out[0, 0, :, :-1] == 0).flatten(), (out[0, 0, :, 1:] == 0).flatten())[0, 1]
    assert abs(correlation) < 0.05
    out.sum().backward()
    assert torch.equal(x.grad * 2, out)
    assert torch.equal(layer.eval()(x), x)


def test_dropout_follows_the_seed():
    x, layer = torch.ones(2, 3, 17, 19), Dropout(0.5)
    torch.manual_seed(5)
    first, second = layer(x), layer(x)
    torch.manual_seed(5)
    assert torch.equal(layer(x), first) and not torch.equal(first, second)


HEAD = nn.Sequential(nn.Dropout3d(0.5), nn.Conv3d(6, 3, 1))


@pytest.mark.parametrize("floats", [1, 1000, 2 ** 21])
@pytest.mark.parametrize("plain", [nn.Conv2d(32, 8, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1, bias=False),
                                   nn.Conv3d(6, 3, 3, padding=1), HEAD], ids=str)
def test_a_fast_layer_has_the_plain_ones_output_and_gradients(plain, floats, monkeypatch):
    """Whatever is copied at once; the head drops the same channels."""
    monkeypatch.setattr("runtime.fast_layers.FLOATS_AT_ONCE", floats)
    plain = copy.deepcopy(plain).double()
    fast = quicken(copy.deepcopy(plain), "AVX2")
    assert type(fast) in (Conv2d, Conv3d, DroppedPointwise3d)
    weight = next(plain.parameters())
    layout = torch.channels_last if weight.ndim == 4 else torch.channels_last_3d
    x = torch.randn(2, weight.shape[1], *[9, 11, 7][:weight.ndim - 2], dtype=torch.float64)
    inputs = [x.clone().requires_grad_(), x.contiguous(memory_format=layout).requires_grad_()]
    outputs = []
    for layer, given in zip((plain, fast), inputs, strict=True):
        torch.manual_seed(3)
        outputs.append(layer(given))
    torch.testing.assert_close(outputs[1], outputs[0])
    for output in outputs:
        output.sin().sum().backward()
    torch.testing.assert_close(inputs[1].grad, inputs[0].grad)
    assert inputs[1].grad.is_contiguous(memory_format=layout)
    for mine, theirs in zip(fast.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)


@pytest.mark.parametrize("extents", [(1, 1), (1, 5), (6, 1), (1, 4, 1), (3, 1, 2), (1, 1, 1)])
@pytest.mark.parametrize("last", [True, False])
def test_weight_gradient_of_any_extents_and_memory(extents, last):
    layout = {2: torch.channels_last, 3: torch.channels_last_3d}[len(extents)] if last else torch.contiguous_format
    weight = torch.zeros(2, 3, *[3] * len(extents), dtype=torch.float64, requires_grad=True)
    x, grad = (torch.randn(2, channels, *extents, dtype=torch.float64).contiguous(memory_format=layout)
               for channels in (3, 2))
    conv = {2: nn.functional.conv2d, 3: nn.functional.conv3d}[len(extents)]
    conv(x, weight, padding=1).backward(grad)
    torch.testing.assert_close(weight_gradient(grad, x), weight.grad)


def test_the_fast_head_drops_nothing_in_evaluation_mode():
    plain, x = copy.deepcopy(HEAD).eval(), torch.randn(2, 6, 4, 5, 3)
    torch.testing.assert_close(quicken(copy.deepcopy(plain))(x), plain(x))


# ---- on a GPU ----------------------------------------------------------------------------------------------------


def test_a_gpu_gets_layers_of_its_own_and_names_stay():
    for name, kinds in (("vnet", {BatchNorm3d, Upsample}), ("unet", {Upsample})):
        plain, placed = two_view.build(name, 1, 2), quicken_on_gpu(two_view.build(name, 1, 2))
        found = {type(module) for module in placed.modules()}
        assert kinds <= found and not found & {nn.BatchNorm3d, nn.Upsample}
        assert list(plain.state_dict()) == list(placed.state_dict())


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_of_a_volume_as_an_image_is_batch_norm_bit_for_bit(layout, training):
    """In channels-last memory; otherwise sums are taken in another order."""
    torch.manual_seed(1)
    plain = nn.BatchNorm3d(6).train(training)
    fast = quicken_on_gpu(copy.deepcopy(plain))
    x, grad = (torch.randn(2, 6, 8, 6, 4).contiguous(memory_format=layout) for _ in range(2))
    results = []
    for layer in (plain, fast):
        given = x.clone().requires_grad_()
        output = layer(given)
        output.backward(grad)
        assert output.is_contiguous(memory_format=layout)
        results.append([output.detach(), given.grad, layer.weight.grad, layer.bias.grad, layer.running_mean,
                        layer.running_var, layer.num_batches_tracked])
    for one, other in zip(*results, strict=True):
        if layout == torch.channels_last_3d:
            assert torch.equal(one, other)
        torch.testing.assert_close(one, other)


class Counted(TorchDispatchMode):
    """How often each operation runs."""

    def __init__(self):
        super().__init__()
        self.counts = collections.Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.counts[function.overloadpacket.__name__] += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["vnet", "unet", "resnet3d", "ssnet3d", "mcnet3d_v1"])
def test_a_gpus_layers_copy_nothing_that_plain_ones_do_not(narrow, name):
    """Of a pass and its gradients; batch norm's output is a view, on which an activation in place would copy."""
    axes = 2 if name == "unet" else 3
    layout = {"memory_format": CHANNELS_LAST[axes]}
    build = two_view.build_subnet if name in two_view.AXES else compared.build
    counts = []
    for change in (lambda network: network, quicken_on_gpu):
        network, x = change(build(name, 1, 2)).to(**layout).train(), torch.randn(2, 1, *[32] * axes).to(**layout)
        with Counted() as counted:
            outputs = network(x)
            first = outputs[0] if torch.is_tensor(outputs[0]) else outputs[0][0]
            first.sum().backward()
        counts.append(counted.counts)
    for operation in ("copy_", "clone", "new_zeros", "new_empty_strided", "zeros", "as_strided_"):
        assert counts[1][operation] <= counts[0][operation], operation
    assert counts[0]["native_batch_norm_backward"] == counts[1]["native_batch_norm_backward"] > 3


def test_the_gpus_batch_norm_takes_volumes_alone_and_is_folded():
    layers = quicken_on_gpu(nn.Sequential(nn.Conv3d(1, 4, 3), nn.BatchNorm3d(4))).eval()
    x = torch.randn(2, 1, 8, 8, 8)
    plain = layers(x)
    with folded(layers):
        layers[1].forward = None        # is not called
        torch.testing.assert_close(layers(x), plain)


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("mode, extents, factor", [("trilinear", (3, 5, 4), 2), ("trilinear", (1, 2, 7), 3),
                                                   ("bilinear", (5, 6), 2), ("linear", (9,), 4)])
def test_products_up_sample_as_torch_does(mode, extents, factor, align_corners):
    plain = nn.Upsample(scale_factor=factor, mode=mode, align_corners=align_corners)
    fast = quicken_on_gpu(copy.deepcopy(plain))
    x = torch.randn(2, 3, *extents, dtype=torch.float64)
    if len(extents) > 1:
        x = x.contiguous(memory_format=[torch.channels_last, torch.channels_last_3d][len(extents) - 2])
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    with torch.inference_mode():
        fast(x)                         # the matrices that it keeps serve a pass with gradients, too
    outputs = [layer(given) for layer, given in zip((plain, fast), inputs, strict=True)]
    torch.testing.assert_close(outputs[1], outputs[0], rtol=0, atol=1e-12)
    for output in outputs:
        output.sin().sum().backward()
    torch.testing.assert_close(inputs[1].grad, inputs[0].grad, rtol=0, atol=1e-12)
    if len(extents) > 1:
        layout = [torch.channels_last, torch.channels_last_3d][len(extents) - 2]
        assert outputs[1].is_contiguous(memory_format=layout) and inputs[1].grad.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("layer", [nn.Upsample(scale_factor=2), nn.Upsample((4, 4), mode="bilinear"),
                                   nn.Upsample(scale_factor=2, mode="bicubic"), nn.BatchNorm2d(3)], ids=str)
def test_other_layers_stay_on_a_gpu(layer):
    assert type(quicken_on_gpu(copy.deepcopy(layer))) is type(layer)


# ---- other layers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [
    nn.Conv2d(32, 8, 3, padding="same"), nn.Conv2d(32, 8, 3, padding=1, padding_mode="reflect"), nn.Conv2d(32, 8, 3),
    nn.Conv2d(16, 8, 3, padding=1), nn.Conv2d(32, 8, 3, padding=2, dilation=2), nn.Conv2d(32, 8, 3, 2, padding=1),
    nn.Conv2d(32, 8, 3, padding=1, groups=4), nn.Conv2d(32, 8, 1), nn.Conv3d(4, 4, 3, padding=1),
    nn.Sequential(nn.Dropout3d(), nn.Conv3d(4, 2, 1, groups=2)), nn.Sequential(nn.Dropout3d(), nn.Conv3d(4, 2, 3)),
    nn.Sequential(nn.Conv3d(4, 2, 1))], ids=str)
def test_other_layers_stay(layer):
    kinds = [type(module) for module in layer.modules()]
    assert [type(module) for module in quicken(layer, "AVX2").modules()] == kinds


def trained_norms(module):
    """Batch norms as after training: not the identity."""
    for norm in module.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm) and norm.running_mean is not None:
            for tensor in (norm.running_mean, norm.running_var, norm.weight.data, norm.bias.data):
                tensor.uniform_(0.5, 2)
    return module.eval()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", ["vnet", "unet", "released"])
def test_folded_batch_norms_change_no_output_and_come_back(narrow, name, dtype):
    networks = trained_norms(two_view.build(name, 1, 3).to(dtype))
    before, state = dict(networks.named_modules()), copy.deepcopy(networks.state_dict())
    kinds = [type(module) for module in networks.modules()]
    x = torch.randn(2, 1, *[32] * two_view.AXES[name], dtype=dtype)
    plain, ran = networks(x), []

    def count(module, *_):
        ran.append(isinstance(module, nn.modules.batchnorm._BatchNorm))
    with torch.inference_mode(), pytest.raises(KeyError), folded(networks):
        hook = nn.modules.module.register_module_forward_hook(count)
        for view, other in zip(networks(x), plain, strict=True):
            torch.testing.assert_close(view[0], other[0], rtol=1e-5, atol=2e-5 if dtype == torch.float32 else 1e-12)
        hook.remove()
        raise KeyError("whatever goes wrong meanwhile")
    assert ran and not any(ran)             # no batch norm was computed by itself
    assert dict(networks.named_modules()) == before and list(networks.state_dict()) == list(state)
    assert [type(module) for module in networks.modules()] == kinds
    assert all(torch.equal(tensor, state[key]) for key, tensor in networks.state_dict().items())
    assert torch.equal(networks(x)[0][0], plain[0][0]) and not any("steps" in vars(m) for m in networks.modules())


class Rectified(nn.BatchNorm2d):
    """Somebody's batch norm with an activation in it."""

    def forward(self, x):
        return super().forward(x).relu()


class Scaled(nn.Conv2d):
    def forward(self, x):
        return 2 * super().forward(x)


def shared_convolution():
    conv = nn.Conv2d(4, 4, 3, padding=1)
    return nn.Sequential(nn.Sequential(conv, nn.BatchNorm2d(4)), nn.Sequential(conv, nn.BatchNorm2d(4), nn.ReLU()))


def twice_in_one():
    conv, norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
    return nn.Sequential(conv, norm, nn.ReLU(), conv, norm, conv)


class Apart(nn.Module):
    """Layers of a Sequential that are called past it, too: one by one, a slice, the norm alone."""

    def __init__(self):
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())

    def forward(self, x):
        features = [x]
        for layer in self.block:
            features.append(layer(features[-1]))
        return self.block(x) + sum(features) + self.block[:1](x) + self.block[1](x)


def hooked():
    layers = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
    layers[0].register_forward_hook(lambda module, inputs, output: output + 1)
    return layers


def prehooked():
    layers = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
    layers[1].register_forward_pre_hook(lambda module, inputs: (inputs[0] + 1,))
    return layers


def replaced():
    layers = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
    layers[1].forward = lambda x: x.relu()
    return layers


STRANGE = {
    "activation in the norm": lambda: nn.Sequential(nn.Conv2d(4, 4, 3), Rectified(4)),
    "convolution of its own": lambda: nn.Sequential(Scaled(4, 4, 3), nn.BatchNorm2d(4)),
    "shared convolution": shared_convolution, "twice in one Sequential": twice_in_one, "layers apart": Apart,
    "hook": hooked, "hook before": prehooked, "replaced forward": replaced,
    "grouped transposed": lambda: nn.Sequential(nn.ConvTranspose2d(4, 4, 2, 2, groups=2), nn.BatchNorm2d(4)),
    "transposed": lambda: nn.Sequential(nn.ConvTranspose2d(4, 6, 3, 2, output_padding=1), nn.BatchNorm2d(6), nn.ReLU()),
    "grouped": lambda: nn.Sequential(nn.Conv2d(4, 8, 3, groups=2, dilation=2), nn.BatchNorm2d(8), nn.LeakyReLU(0.2)),
    "padding by name": lambda: nn.Sequential(nn.Conv2d(4, 4, 3, padding="same"), nn.BatchNorm2d(4), nn.ReLU()),
    "padding by reflection": lambda: nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
                                                   nn.BatchNorm2d(4)),
    "weight norm": lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 3)), nn.BatchNorm2d(4)),
    "spectral norm": lambda: nn.Sequential(nn.utils.spectral_norm(nn.Conv2d(4, 4, 3)), nn.BatchNorm2d(4)),
    "no bias, no weights": lambda: nn.Sequential(nn.Conv2d(4, 4, 3, bias=False), nn.BatchNorm2d(4, affine=False)),
    "no running statistics": lambda: nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)),
    "instance norm": lambda: nn.Sequential(nn.Conv2d(4, 4, 3), nn.InstanceNorm2d(4, affine=True)),
    "other activations": lambda: nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ELU(), nn.Conv2d(4, 4, 1),
                                               nn.BatchNorm2d(4), nn.ReLU6()),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", STRANGE)
def test_any_network_computes_what_it_does_unfolded(name, dtype):
    network = STRANGE[name]().to(dtype)
    if name != "no bias, no weights" and name != "no running statistics" and name != "instance norm":
        trained_norms(network)
    network.eval()
    for layout in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(2, 4, 9, 8, dtype=dtype).contiguous(memory_format=layout)
        with torch.no_grad():
            plain = network(x)
            with folded(network):
                torch.testing.assert_close(network(x), plain, rtol=1e-5 if dtype == torch.float32 else 1e-10, atol=1e-5)
            assert torch.equal(network(x), plain)


@pytest.mark.parametrize("shape", [(1, 4, 12, 10, 8), (2, 4, 12, 10, 8), (4, 12, 10, 8)])
@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("options", [{"padding": 1}, {"stride": 2}, {"groups": 2, "dilation": 2}, {"padding": "same"},
                                     {"padding": (0, 1, 2), "stride": (1, 2, 1), "bias": False}], ids=str)
def test_a_folded_convolution_of_volumes_is_the_plain_one(options, last, shape):
    """Of one scan or more, in either memory, with one channel as well: by oneDNN's kernel where that takes it."""
    for channels in (4, 1) if "groups" not in options else (4,):
        layers = nn.Sequential(nn.Conv3d(channels, 8, 3, **options), nn.BatchNorm3d(8), nn.ReLU()).eval()
        layers[1].running_mean.normal_()
        x = torch.randn(*shape[:-4], channels, *shape[-3:])
        if last and x.ndim == 5:
            x, layers = (one.to(memory_format=torch.channels_last_3d) for one in (x, layers))
        with torch.inference_mode():
            plain = layers[2](layers[1](layers[0](x if x.ndim == 5 else x[None])))
            with folded(layers):
                torch.testing.assert_close(layers(x), plain if x.ndim == 5 else plain[0], rtol=1e-4, atol=1e-5)


def test_a_batch_norm_that_trains_is_not_folded():
    layers = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))
    x = torch.randn(2, 1, 8, 8)
    plain = copy.deepcopy(layers)(x)
    with folded(layers):
        assert torch.equal(layers(x), plain)
