"""The networks of the compared methods by name; number of parameters with one input channel, 2 classes (3D) or 4 (2D).

| name | forward(x) returns | parameters |
|---|---|---|
| unet3d, resnet3d, resnet2d | (logits, bottleneck feature) | 5,884,050, 17,930,354, 6,083,652 |
| sdm_vnet, sdm_unet | (logits, signed distance maps) | 9,448,866, 1,814,199 |
| urpc_vnet, urpc_unet, urpc_unet3d | (logits, [logits of the 1/2, 1/4, 1/8 heads]) | 9,449,320, 1,821,840, 5,884,504 |
| mcnet3d_v1, mcnet3d_v2 | ((logits, bottleneck feature), ...), one a decoder | 12,347,716, 15,246,566 |
| mcnet2d_v1, mcnet2d_v2 | the same | 2,577,624, 3,210,924 |
| ssnet3d, ssnet2d | (logits, embedding) | 9,453,859, 1,821,063 |
| discriminator3d_K | of forward(map of K channels, image): logits (B, 2) | K 1: 11,020,290, 2: 11,024,386 |
| discriminator2d_K | the same | K 3: 2,761,730, 4: 2,762,754 |
"""
import re

from torch import nn

from networks import pyramid, resnet, unet, unet3d, vnet
from networks.discriminator import Discriminator
from networks.initialisation import kaiming
from networks.multi_decoder import MultiDecoder
from networks.pyramid import FeatureDropout, FeatureNoise, PyramidNet
from networks.signed_distance import SignedDistanceNet
from networks.ssnet import EmbeddingNet
from networks.subnet import Subnet
from runtime.errors import InputError

TRILINEAR = {"mode": "trilinear", "align_corners": False}       # of the 3D U-Net's coarse logits   [C]


def _resnet(backbone):
    """MCF's network B, in 3D and in 2D [O]: kaiming initialisation, transposed convolutions in the decoder."""
    def build(in_channels, num_classes):
        encoder = resnet.Encoder(backbone.AXES, in_channels, backbone.WIDTHS)
        return kaiming(Subnet(encoder, backbone.Decoder(num_classes, "transposed")))
    return build


def _unet3d(in_channels, num_classes):
    return kaiming(Subnet(unet3d.Encoder(in_channels), unet3d.Decoder(num_classes)))


def _urpc_vnet(in_channels, num_classes):
    """No V-Net was published: the heads of the 3D U-Net, their dropout beside V-Net's own decoder [O]."""
    heads = [nn.Sequential(nn.Dropout3d(dropout), vnet.classifier(width, num_classes))
             for width, dropout in zip(vnet.WIDTHS, (vnet.DROPOUT, *pyramid.DROPOUTS), strict=False)]
    return PyramidNet(vnet.Encoder(in_channels), vnet.Trunk("transposed"), heads, TRILINEAR)


def _urpc_unet(in_channels, num_classes):
    """What disturbs a feature reaches its own head alone: the decoder and the main head see the clean one."""
    disturbances = nn.Identity(), FeatureNoise(), FeatureDropout(), nn.Dropout(0.5)
    heads = [nn.Sequential(disturbance, unet.classifier(width, num_classes))
             for width, disturbance in zip(unet.WIDTHS, disturbances, strict=False)]
    return PyramidNet(unet.Encoder(in_channels), unet.Trunk("linear"), heads, {"mode": "nearest"})


def _urpc_unet3d(in_channels, num_classes):
    """Here dropout is on the decoder's own way up, so that it reaches the main head too."""
    heads = [nn.Conv3d(width, num_classes, 1) for width in unet3d.WIDTHS[:-1]]
    return kaiming(PyramidNet(unet3d.Encoder(in_channels, dropout=0), unet3d.Trunk(pyramid.TRUNK_DROPOUTS), heads,
                              TRILINEAR))


def _mcnet(backbone, kinds):
    def build(in_channels, num_classes):
        return MultiDecoder(backbone.Encoder(in_channels), [backbone.Decoder(num_classes, kind) for kind in kinds])
    return build


def _on(backbone, kind, network):
    def build(in_channels, num_classes):
        return network(backbone, in_channels, num_classes, kind)
    return build


DECODERS_3D, DECODERS_2D = ("transposed", "linear", "nearest"), ("linear", "transposed", "nearest")    # [C]
NETWORKS = {
    "unet3d": _unet3d, "resnet3d": _resnet(vnet), "resnet2d": _resnet(unet),
    "sdm_vnet": _on(vnet, "transposed", SignedDistanceNet), "sdm_unet": _on(unet, "linear", SignedDistanceNet),
    "urpc_vnet": _urpc_vnet, "urpc_unet": _urpc_unet, "urpc_unet3d": _urpc_unet3d,
    "mcnet3d_v1": _mcnet(vnet, DECODERS_3D[:2]), "mcnet3d_v2": _mcnet(vnet, DECODERS_3D),
    "mcnet2d_v1": _mcnet(unet, DECODERS_2D[:2]), "mcnet2d_v2": _mcnet(unet, DECODERS_2D),
    "ssnet3d": _on(vnet, "transposed", EmbeddingNet), "ssnet2d": _on(unet, "linear", EmbeddingNet),
}


def build(name, in_channels, num_classes):
    """A freshly initialised network; `num_classes` of a discriminator says nothing. InputError for an unknown name."""
    if parts := re.fullmatch(r"discriminator([23])d_([1-9]\d*)", name):
        return Discriminator(int(parts[1]), int(parts[2]), in_channels)
    if name not in NETWORKS:
        raise InputError(f"network {name!r} is unknown: choose one of {', '.join(NETWORKS)}, discriminator3d_K or "
                         "discriminator2d_K for maps of K channels")
    return NETWORKS[name](in_channels, num_classes)
