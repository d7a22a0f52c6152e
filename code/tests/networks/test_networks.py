"""Backbones and the pair of views: sizes the literature states, shapes, and what is shared."""
import pytest
import torch
from torch import nn

from networks import unet, vnet
from networks.two_view import build, build_subnet

PAIRS = [("vnet", 2, (32, 16, 16)), ("unet", 4, (32, 48))]
pairs = pytest.mark.parametrize(("name", "num_classes", "size"), PAIRS)


def count(network):
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(("make", "name", "num_classes", "expected"), [
    (build_subnet, "vnet", 2, 9_448_866), (build_subnet, "unet", 4, 1_813_764),
    (build, "vnet", 2, 19_724_612), (build, "unet", 4, 3_758_088), (build, "released", 4, 1_813_764),
    (build, "narrow_vnet", 2, 4_935_588), (build, "narrow_unet", 4, 942_216),
])
def test_parameter_counts(make, name, num_classes, expected):
    with torch.device("meta"):
        assert count(make(name, 1, num_classes)) == expected


@pairs
def test_input_channels_widen_the_first_convolution_alone(name, num_classes, size):
    with torch.device("meta"):
        one, four = (count(build_subnet(name, channels, num_classes)) for channels in (1, 4))
    assert four - one == 3 * 16 * 3 ** len(size)


@pairs
def test_logits_have_the_input_grid_and_the_feature_is_the_bottleneck(name, num_classes, size):
    views = build(name, 2, num_classes).eval()(torch.randn(2, 2, *size))
    for logits, feature in views:
        assert logits.shape == (2, num_classes, *size)
        assert feature.shape == (2, 256, *(extent // 16 for extent in size))


@pairs
def test_views_share_no_parameter_or_buffer(name, num_classes, size):
    networks = build(name, 1, num_classes)
    addresses = [{t.data_ptr() for t in subnet.state_dict().values()} for subnet in networks.subnets]
    assert all(len(own) == len(subnet.state_dict()) for own, subnet in zip(addresses, networks.subnets, strict=True))
    assert not addresses[0] & addresses[1]


@pairs
def test_views_start_from_different_weights(narrow, name, num_classes, size):
    first, second = (subnet.encoder.state_dict() for subnet in build(name, 1, num_classes).subnets)
    assert first.keys() == second.keys()
    assert not any(torch.equal(first[key], second[key]) for key in first
                   if key.endswith("weight") and first[key].ndim > 1)


@pytest.mark.parametrize(("name", "transposed"), [("vnet", 0), ("unet", 1)])
def test_one_view_upsamples_by_transposed_convolution_and_the_other_linearly(name, transposed):
    with torch.device("meta"):
        subnets = build(name, 1, 2).subnets
    kinds = [{type(module) for module in subnet.modules()} & {nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Upsample}
             for subnet in subnets]
    assert kinds[1 - transposed] == {nn.Upsample}
    assert kinds[transposed] == {nn.ConvTranspose3d if name == "vnet" else nn.ConvTranspose2d}
    modes = {(m.mode, m.align_corners) for m in subnets.modules() if isinstance(m, nn.Upsample)}
    assert modes == {("trilinear" if name == "vnet" else "bilinear", True)}


def test_released_serves_both_views_with_all_its_parameters(narrow):
    networks = build("released", 1, 4)
    first, second = networks.subnets
    assert first is second
    x = torch.randn(2, 1, 32, 32)
    (logits0, feature0), (logits1, feature1) = networks.eval()(x)
    assert torch.equal(logits0, logits1) and torch.equal(feature0, feature1)
    (logits0, _), (logits1, _) = networks.train()(x)
    assert not torch.equal(logits0, logits1)        # by their dropout masks


@pytest.mark.parametrize(("name", "size"), [("vnet", (16, 16, 32)), ("unet", (32, 32)), ("released", (32, 32)),
                                           ("narrow_vnet", (16, 16, 32)), ("narrow_unet", (32, 32))])
def test_every_parameter_is_used(narrow, name, size):
    networks = build(name, 1, 2)
    sum(logits.square().sum() for logits, _ in networks(torch.randn(2, 1, *size))).backward()
    assert [key for key, p in networks.named_parameters() if p.grad is None] == []


def test_dropout_follows_the_release():
    with torch.device("meta"):
        flat, deep = build_subnet("unet", 1, 4), build_subnet("vnet", 1, 2)
    assert [m.p for m in flat.encoder.modules() if type(m) is nn.Dropout] == [0.05, 0.1, 0.2, 0.3, 0.5]
    assert not any(isinstance(m, nn.Dropout) for m in flat.decoder.modules())
    assert [[m.p for m in part.modules() if type(m) is nn.Dropout3d] for part in (deep.encoder, deep.decoder)] == [
        [0.5], [0.5]]


def test_the_3d_feature_is_taken_after_dropout_of_whole_channels():
    network = build_subnet("vnet", 1, 2)
    x = torch.randn(2, 1, 32, 32, 32)
    _, feature = network.train()(x)
    dead = (feature == 0).flatten(2).all(2).float().mean()
    assert 0.4 < dead < 0.65        # half by dropout, few by ReLU
    network.encoder.dropout.p = 0.0
    _, feature = network(x)
    assert (feature == 0).flatten(2).all(2).float().mean() < 0.15


@pytest.mark.parametrize("backbone", [unet, vnet])
def test_widths_and_upsampling_are_stated_once(narrow, backbone):
    name, size = ("unet", (32, 32)) if backbone is unet else ("vnet", (32, 32, 32))
    (logits, feature), _ = build(name, 1, 3).eval()(torch.randn(1, 1, *size))
    assert logits.shape == (1, 3, *size) and feature.shape[1] == backbone.WIDTHS[-1] == 32
    with pytest.raises(ValueError, match="cubic"):
        backbone.upsampling("cubic", 4, 2)


@pytest.mark.parametrize("make", [build, build_subnet])
def test_unknown_network_is_refused_by_name(make):
    with pytest.raises(ValueError, match="'resnet'.*vnet.*unet"):
        make("resnet", 1, 2)
