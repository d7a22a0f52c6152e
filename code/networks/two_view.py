"""Two subnets look at the same scan (Section 3.1); which backbone they are made of, and how views differ."""
from torch import nn

from networks import unet, vnet
from networks.subnet import Subnet
from runtime.errors import InputError

# name: backbone, up-sampling of decoder 0 and decoder 1. LA/BraTS and ACDC differ in the order   [C]
BACKBONES = {"vnet": (vnet, ("transposed", "linear")), "unet": (unet, ("linear", "transposed"))}
NARROW = {"narrow_vnet": "vnet", "narrow_unet": "unet"}     # with half as many channels everywhere: the demo's  [O]
AXES = {"vnet": 3, "unet": 2, "released": 2, "narrow_vnet": 3, "narrow_unet": 2}     # of the patches a network takes


class TwoView(nn.Module):
    """x (B, in_channels, *S) -> ((logits0, feature0), (logits1, feature1)); logits (B, C, *S), feature (B, K, *s)."""

    def __init__(self, subnet0, subnet1):
        super().__init__()
        self.subnets = nn.ModuleList([subnet0, subnet1])

    def forward(self, x):
        return tuple(subnet(x) for subnet in self.subnets)


def fuse(logits0, logits1, fusion="softmax"):
    """Class probabilities {"fused", "subnet0", "subnet1"} of two views' logits (B, C, *S).

    fusion: 'softmax' is (P_0 + P_1) / 2 (Section 3.3), 'logits' the softmax of the mean logits [C].
    """
    if fusion not in ("softmax", "logits"):
        raise ValueError(f"fusion {fusion!r} is unknown: choose 'softmax' or 'logits'")
    views = {"subnet0": logits0.softmax(1), "subnet1": logits1.softmax(1)}
    fused = ((logits0 + logits1) / 2).softmax(1) if fusion == "logits" else (views["subnet0"] + views["subnet1"]) / 2
    return {"fused": fused, **views}


def build_subnet(name, in_channels, num_classes, view=0):
    """One subnet: an encoder and view `view`'s decoder. V-Net 9,448,866 parameters, U-Net 1,813,764 (view 0)."""
    if name not in (*BACKBONES, *NARROW):
        raise InputError(f"network {name!r} is unknown: choose one of {', '.join(AXES)}")
    backbone, kinds = BACKBONES[NARROW.get(name, name)]
    widths = [width // 2 for width in backbone.WIDTHS] if name in NARROW else backbone.WIDTHS
    return Subnet(backbone.Encoder(in_channels, widths), backbone.Decoder(num_classes, kinds[view], widths))


def build(name, in_channels, num_classes):
    """'vnet' (3D, 19,724,612 parameters) | 'unet' (2D, 3,758,088): two subnets that share nothing (paper 3.1).

    'released': the 2D network of the authors' release, where one encoder and one decoder serve both views, so
    that these differ by their dropout masks alone. 'narrow_vnet' | 'narrow_unet': half as wide.
    Raises InputError (a ValueError) for an unknown name.
    """
    if name == "released":
        shared = build_subnet("unet", in_channels, num_classes)
        return TwoView(shared, shared)
    return TwoView(*(build_subnet(name, in_channels, num_classes, view) for view in (0, 1)))
