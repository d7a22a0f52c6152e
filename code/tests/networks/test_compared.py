"""The compared methods' networks: parameter counts, forms, what is shared, disturbed, initialised."""
import copy
import inspect

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from networks import compared, discriminator, pyramid, unet3d
from networks.compared import build
from networks.two_view import build_subnet
from runtime.errors import InputError
from runtime.fast_layers import DroppedPointwise3d, folded, quicken, quicken_on_gpu
from runtime.ranks import _synchronise_batch_norms

SIZES = {2: (32, 48), 3: (16, 16, 32)}
COUNTS = {
    "unet3d": (2, 5_884_050), "resnet3d": (2, 17_930_354), "resnet2d": (4, 6_083_652),
    "sdm_vnet": (2, 9_448_866), "sdm_unet": (4, 1_814_199),
    "urpc_vnet": (2, 9_449_320), "urpc_unet": (4, 1_821_840), "urpc_unet3d": (2, 5_884_504),
    "mcnet3d_v1": (2, 12_347_716), "mcnet3d_v2": (2, 15_246_566),
    "mcnet2d_v1": (4, 2_577_624), "mcnet2d_v2": (4, 3_210_924),
    "ssnet3d": (2, 9_453_859), "ssnet2d": (4, 1_821_063),
    "discriminator3d_1": (0, 11_020_290), "discriminator3d_2": (0, 11_024_386),
    "discriminator2d_3": (0, 2_761_730), "discriminator2d_4": (0, 2_762_754),
}
every_network = pytest.mark.parametrize("name", compared.NETWORKS)


def axes(name):
    return 2 if "2d" in name or name.endswith("unet") else 3


def make(name, in_channels=1, num_classes=None):
    return build(name, in_channels, num_classes or (2 if axes(name) == 3 else 4))


def image(name, channels=1, batch=2):
    return torch.randn(batch, channels, *SIZES[axes(name)])


def tensors(output):
    return [output] if isinstance(output, torch.Tensor) else [t for part in output for t in tensors(part)]


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_counts(name):
    classes, expected = COUNTS[name]
    with torch.device("meta"):
        assert sum(p.numel() for p in build(name, 1, classes).parameters()) == expected


def test_every_network_has_its_count_here():
    assert set(compared.NETWORKS) < set(COUNTS)


def test_an_unknown_network_is_refused_by_name():
    for name in ("vgg", "discriminator3d_0", "discriminator4d_2"):
        with pytest.raises(InputError, match=f"'{name}' is unknown: choose one of unet3d, .*discriminator3d_K"):
            build(name, 1, 2)


@every_network
@pytest.mark.parametrize("training", [True, False])
def test_forms_do_not_depend_on_the_mode(narrow, name, training):
    classes = 2 if axes(name) == 3 else 4
    x = image(name, 3)
    size, coarse = x.shape[2:], tuple(extent // 16 for extent in x.shape[2:])
    output = make(name, 3).train(training)(x)
    assert type(output) is tuple
    shapes = [tuple(t.shape) for t in tensors(output)]
    pair = [(2, classes, *size), (2, 32, *coarse)]
    if name.startswith("mcnet"):
        assert all(type(view) is tuple for view in output) and len(output) == int(name[-1]) + 1
        assert shapes == pair * len(output)
    elif name.startswith("urpc"):
        assert type(output[1]) is list and shapes == [(2, classes, *size)] * 4
    elif name.startswith(("sdm", "ssnet")):
        assert shapes == [(2, classes, *size), (2, classes - 1 if name[:3] == "sdm" else 2, *size)]
    else:
        assert shapes == pair


@every_network
def test_every_parameter_is_used(narrow, name):
    network, x = make(name), image(name)
    output = network(x)
    loss = sum(t.square().sum() for t in tensors(output))
    if name.startswith("ssnet"):
        projected = network.projection(output[1].flatten(2).transpose(1, 2).flatten(0, 1))
        loss += network.prediction(projected).square().sum()
        loss += sum(selector(projected).square().sum() for selector in network.selectors)
    loss.backward()
    assert [key for key, p in network.named_parameters() if p.grad is None] == []


@every_network
def test_folded_and_quickened_networks_compute_the_same(narrow, name):
    network = make(name).double()
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for tensor in (module.running_mean, module.running_var, module.weight.data, module.bias.data):
                tensor.uniform_(0.5, 2)
    network.eval()
    x = image(name).double()
    plain = tensors(network(x))
    with folded(network), torch.inference_mode():
        for one, other in zip(tensors(network(x)), plain, strict=True):
            torch.testing.assert_close(one, other)
    for fast in (quicken(copy.deepcopy(network), "AVX2"), quicken_on_gpu(copy.deepcopy(network))):
        for one, other in zip(tensors(fast(x)), plain, strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", ["vnet", "unet"])
def test_the_pyramid_goes_from_full_resolution_down_and_its_head_makes_the_logits(narrow, name):
    network = build_subnet(name, 1, 3).eval()
    x = torch.randn(1, 1, *SIZES[3 if name == "vnet" else 2])
    features = network.encoder(x)
    steps = network.decoder.pyramid(features)
    assert [t.shape[1:] for t in steps] == [t.shape[1:] for t in features[:-1]]
    assert torch.equal(network.decoder.head(steps[0]), network(x)[0])


@pytest.mark.parametrize(("name", "kinds"), [
    ("mcnet3d_v1", ["transposed", "trilinear"]), ("mcnet3d_v2", ["transposed", "trilinear", "nearest"]),
    ("mcnet2d_v1", ["bilinear", "transposed"]), ("mcnet2d_v2", ["bilinear", "transposed", "nearest"]),
    ("sdm_vnet", ["transposed"]), ("sdm_unet", ["bilinear"]),
    ("urpc_vnet", ["transposed"]), ("urpc_unet", ["bilinear"]),
    ("ssnet3d", ["transposed"]), ("ssnet2d", ["bilinear"]), ("resnet3d", ["transposed"]), ("resnet2d", ["transposed"]),
    ("unet3d", ["trilinear"]), ("urpc_unet3d", ["trilinear"])])
def test_upsampling_of_each_decoder(narrow, name, kinds):
    network = make(name)
    found = []
    for decoder in getattr(network, "decoders", [getattr(network, "trunk", getattr(network, "decoder", None))]):
        of = {module.mode if isinstance(module, nn.Upsample) else "transposed" for module in decoder.modules()
              if isinstance(module, nn.Upsample | nn.ConvTranspose2d | nn.ConvTranspose3d)}
        aligned = {module.align_corners for module in decoder.modules() if isinstance(module, nn.Upsample)}
        assert aligned <= ({False} if "unet3d" in name else {True, None})
        found += of
    assert found == kinds


def test_one_draw_of_the_bottleneck_serves_all_decoders_and_each_draws_before_its_head(narrow):
    network = make("mcnet3d_v2").train()
    seen = []
    for decoder in network.decoders:
        decoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][-1]))
    draws = [decoder.head[0].register_forward_hook(lambda _, i, out: seen.append((out == 0).flatten(2).all(2)))
             for decoder in network.decoders]
    views = network(image("mcnet3d_v2", batch=16))
    bottlenecks, masks = seen[::2], seen[1::2]
    assert len(draws) == 3 and all(torch.equal(views[0][1], feature) for feature in bottlenecks)
    assert len({tuple(mask.flatten().tolist()) for mask in masks}) == 3


def test_signed_distance_heads_see_one_draw_and_two_classes_of_a_volume_are_one_channel(narrow):
    network = make("sdm_vnet").train()
    inputs = []
    for head in (network.head, network.map_head):
        head.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    logits, maps = network(image("sdm_vnet"))
    assert torch.equal(*inputs) and (inputs[0] == 0).flatten(2).all(2).any()
    assert not logits[:, 0].any() and maps.abs().max() < 1
    torch.testing.assert_close(logits.softmax(1)[:, 1], logits[:, 1].sigmoid())
    assert network.head.out_channels == network.map_head.out_channels == 1
    with torch.no_grad():
        network.map_head.weight.zero_()
        network.map_head.bias.fill_(0.5)
    torch.testing.assert_close(network(image("sdm_vnet"))[1].unique(), torch.tensor([0.5]).tanh())
    three = make("sdm_vnet", num_classes=3).eval()(image("sdm_vnet"))
    assert [t.shape[1] for t in three] == [3, 2] and three[0][:, 0].any()
    assert [t.shape[1] for t in make("sdm_unet", num_classes=2)(image("sdm_unet"))] == [2, 1]


# ---- URPC ------------------------------------------------------------------------------------------------------


def test_urpc_upsamples_the_logits_of_each_scale(narrow):
    for name, options in (("urpc_unet", {"mode": "nearest"}),
                          ("urpc_vnet", {"mode": "trilinear", "align_corners": False}),
                          ("urpc_unet3d", {"mode": "trilinear", "align_corners": False})):
        network, x = make(name).eval(), image(name)
        features = network.trunk.pyramid(network.encoder(x))
        full, coarse = network(x)
        assert torch.equal(full, network.heads[0](features[0]))
        for scale, (logits, head, feature) in enumerate(zip(coarse, network.heads[1:], features[1:], strict=True), 1):
            small = head(feature)
            assert small.shape[2:] == tuple(extent >> scale for extent in x.shape[2:])
            torch.testing.assert_close(logits, F.interpolate(small, scale_factor=2 ** scale, **options))


def test_what_disturbs_urpcs_slices_reaches_its_own_head_alone(narrow):
    network, x = make("urpc_unet"), image("urpc_unet")
    for module in network.encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    network.train()
    (first, others), (second, repeated) = network(x), network(x)
    assert torch.equal(first, second)
    assert not any(torch.equal(one, other) for one, other in zip(others, repeated, strict=True))
    dropout = network.heads[3][0]
    assert type(dropout) is nn.Dropout and dropout.p == 0.5
    assert [type(head[0]) for head in network.heads[:3]] == [nn.Identity, pyramid.FeatureNoise, pyramid.FeatureDropout]


def test_feature_dropout_empties_positions_that_reach_the_factor():
    feature = torch.tensor([[1.0, 4.0, 8.0, 10.0], [0.7, 0.81, 0.75, 1.0]]).view(2, 1, 2, 2)
    feature = torch.cat([feature - 0.25, feature + 0.25], 1)            # the mean over channels decides
    kept = pyramid.feature_dropout(feature, 0.8)
    expected = torch.tensor([[1, 1, 0, 0], [1, 0, 1, 0]]).view(2, 1, 2, 2)      # reaching it counts
    torch.testing.assert_close(kept, feature * expected)


def test_feature_noise_is_one_factor_a_batch_within_its_bounds():
    torch.manual_seed(1)
    feature = torch.ones(3, 8, 16, 16)
    noisy = pyramid.FeatureNoise().train()(feature)
    assert torch.equal(noisy[0], noisy[1]) and torch.equal(noisy[0], noisy[2])
    e = noisy[0] - 1
    assert 0.29 < float(e.max()) <= 0.3 + 1e-6 and -0.3 - 1e-6 <= float(e.min()) < -0.29
    assert float(e.std()) == pytest.approx(0.6 / 12 ** 0.5, abs=0.01)
    assert torch.equal(pyramid.FeatureNoise().eval()(feature), feature)


def test_feature_dropout_draws_its_factor_between_7_and_9_tenths():
    feature = torch.linspace(0, 1, 1001).view(1, 1, 7, 143)
    kept = {float(pyramid.FeatureDropout().train()(feature).max()) for _ in range(200)}
    assert 0.695 < min(kept) < 0.72 and 0.88 < max(kept) < 0.9
    assert torch.equal(pyramid.FeatureDropout().eval()(feature), feature)


def test_dropout_of_the_volumes_pyramids():
    with torch.device("meta"):
        deep, narrow3d, plain = make("urpc_vnet"), make("urpc_unet3d"), make("unet3d")
    assert [head[0].p for head in deep.heads] == [0.5, 0.2, 0.3, 0.5] and deep.encoder.dropout.p == 0.5
    assert all(type(head[0]) is nn.Dropout3d for head in deep.heads)
    assert [stage[1].p for stage in narrow3d.trunk.stages] == [0.1, 0.2, 0.3, 0.5]
    assert all(type(stage[1]) is nn.Dropout3d for stage in narrow3d.trunk.stages)
    assert type(narrow3d.encoder.dropout) is nn.Identity
    assert [(type(m), m.p) for m in plain.modules() if "Dropout" in type(m).__name__] == [(nn.Dropout, 0.3)] * 2
    assert all(type(head) is DroppedPointwise3d for head in quicken(deep, "AVX2").heads)


# ---- initialisation, batch norms ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["unet3d", "urpc_unet3d", "resnet3d", "resnet2d"])
def test_kaiming_networks_have_its_deviation_on_every_convolution(name):
    checked = 0
    for module in make(name).modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
            fan_in = module.weight[0].numel()
            if module.weight.numel() > 2000:
                assert float(module.weight.detach().std()) == pytest.approx((2 / fan_in) ** 0.5, rel=0.08)
                checked += 1
    assert checked > 8


def test_resnets_norms_start_as_the_identity_and_its_residual_convolutions_have_no_bias():
    with torch.device("meta"):
        encoder = make("resnet3d").encoder
    assert all(m.bias is None for m in encoder.modules() if isinstance(m, nn.Conv3d))
    assert [len(stage) for stage in encoder.stages] == [3, 4, 6, 3]
    norms = [m for m in make("resnet2d").modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms and all((m.weight == 1).all() and (m.bias == 0).all() for m in norms)


def test_a_residual_block_is_its_body_around_a_shortcut(narrow):
    block = make("resnet2d").eval().encoder.stages[0]
    x = torch.randn(2, 2, 8, 8)
    first = block[0](x)
    assert first.shape == (2, 4, 4, 4) and type(block[1].shortcut) is nn.Identity
    torch.testing.assert_close(first, F.relu(block[0].body(x) + block[0].shortcut(x)))
    torch.testing.assert_close(block[1](first), F.relu(block[1].body(first) + first))


def test_the_3d_unets_instance_norms_have_neither_weights_nor_statistics():
    with torch.device("meta"):
        norms = [m for m in make("unet3d").modules() if isinstance(m, nn.InstanceNorm3d)]
    assert len(norms) == 18 and not any(m.affine or m.track_running_stats for m in norms)
    assert unet3d.DROPOUT == 0.3


def test_ssnets_selectors_keep_their_batch_norms_to_each_process(narrow):
    network = make("ssnet2d")
    assert len(network.selectors) == 3
    _synchronise_batch_norms(network)
    kinds = {name: {type(m) for m in part.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
             for name, part in network.named_children()}
    assert kinds["selectors"] == {nn.BatchNorm1d}
    assert all(kinds[name] == {nn.SyncBatchNorm} for name in ("encoder", "trunk", "projection", "prediction"))


def test_ssnets_embedding_is_what_its_head_reads(narrow):
    network = make("ssnet3d").train()
    logits, embedding = network(image("ssnet3d", batch=16))
    assert torch.equal(network.head(embedding), logits)
    assert (embedding == 0).flatten(2).all(2).any()         # after dropout of whole channels


# ---- discriminators ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "size"), [("discriminator3d_1", (32, 32, 16)), ("discriminator3d_2", (48, 32, 32)),
                                            ("discriminator2d_4", (64, 32)), ("discriminator2d_3", (256, 256))])
def test_discriminators_take_every_patch_and_number_of_image_channels(narrow, name, size):
    network = build(name, 2, 0)
    maps, x = torch.randn(3, int(name[-1]), *size), torch.randn(3, 2, *size)
    assert network(maps, x).shape == (3, 2)
    network.eval()
    assert torch.equal(network(maps, x), network(maps, x))
    network(maps, x).square().sum().backward()
    assert all(p.grad is not None for p in network.parameters())


def test_volumes_are_pooled_over_all_positions_as_published():
    feature = torch.randn(2, 5, 7, 7, 5)
    assert torch.equal(discriminator.pooled(feature).flatten(1), feature.mean((2, 3, 4))) or torch.allclose(
        discriminator.pooled(feature).flatten(1), feature.mean((2, 3, 4)), atol=1e-6)
    cube = torch.randn(2, 5, 6, 6, 6)
    torch.testing.assert_close(discriminator.pooled(cube), F.avg_pool3d(cube, 6))


def test_slices_of_256_pixels_are_pooled_as_published_and_others_over_quarters():
    feature = torch.randn(2, 5, 16, 16)
    torch.testing.assert_close(discriminator.pooled(feature)[:, :, 1, 0], feature[:, :, 7:14, :7].mean((2, 3)))
    other = torch.randn(2, 5, 4, 4)
    torch.testing.assert_close(discriminator.pooled(other)[:, :, 1, 0], other[:, :, 2:, :2].mean((2, 3)))


def test_layers_of_the_discriminators():
    with torch.device("meta"):
        volume, plane = build("discriminator3d_1", 1, 0), build("discriminator2d_4", 1, 0)
    assert [type(m) for m in volume.body] == [nn.LeakyReLU, nn.Dropout3d] + [
        nn.Conv3d, nn.LeakyReLU, nn.Dropout3d] * 2 + [nn.Conv3d, nn.LeakyReLU]
    assert [type(m) for m in plane.body] == [nn.Conv2d, nn.LeakyReLU, nn.Dropout2d] * 2 + [nn.Conv2d, nn.LeakyReLU]
    for m in (*volume.modules(), *plane.modules()):
        if isinstance(m, nn.Conv2d | nn.Conv3d):
            assert set(m.kernel_size + m.stride + m.padding) == {4, 2, 1} and m.bias is not None
        elif isinstance(m, nn.LeakyReLU):
            assert m.negative_slope == 0.2
        elif isinstance(m, nn.Dropout2d | nn.Dropout3d):
            assert m.p == 0.5
    assert inspect.signature(volume.forward).parameters.keys() == {"maps", "image"}
