"""U-Net for slices, as the semi-supervised ACDC literature uses it (Ronneberger et al. 2015, narrow, with batch
norm and dropout). Shapes: (B, channels, H, W), both extents divisible by 16.
"""
import torch
from torch import nn

AXES = 2
WIDTHS = (16, 32, 64, 128, 256)             # channels from full resolution to the bottleneck     [P]
DROPOUTS = (0.05, 0.1, 0.2, 0.3, 0.5)       # elementwise, in the encoder's stages; none in the decoder  [C]
INTERPOLATION = {"linear": {"mode": "bilinear", "align_corners": True}, "nearest": {"mode": "nearest"}}


def block(in_channels, channels, dropout=0.0):
    """Two 3x3 convolutions with batch norm and LeakyReLU, dropout between them."""
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.LeakyReLU(inplace=True),
        nn.Dropout(dropout) if dropout else nn.Identity(),
        nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.LeakyReLU(inplace=True))


def upsampling(kind, in_channels, channels):
    """Doubles both extents: 'transposed' convolution, or 1x1 convolution and 'linear' or 'nearest' interpolation."""
    if kind == "transposed":
        return nn.ConvTranspose2d(in_channels, channels, 2, stride=2)
    if kind in INTERPOLATION:
        return nn.Sequential(nn.Conv2d(in_channels, channels, 1),
                             nn.Upsample(scale_factor=2, **INTERPOLATION[kind]))
    raise ValueError(f"up-sampling {kind!r} is unknown: choose 'transposed', 'linear' or 'nearest'")


def classifier(channels, num_classes):
    """The convolution that makes logits of a decoder's feature."""
    return nn.Conv2d(channels, num_classes, 3, padding=1)


def last_dropout():
    """What acts on the full-resolution feature before its heads: nothing here."""
    return nn.Identity()


class Encoder(nn.Module):
    """x (B, in_channels, H, W) -> five features, (B, 16, H, W) to (B, 256, H/16, W/16)."""

    def __init__(self, in_channels, widths=None):
        super().__init__()
        widths = widths or WIDTHS
        self.stages = nn.ModuleList(block(*io) for io in zip((in_channels, *widths), widths, DROPOUTS, strict=False))
        self.down = nn.MaxPool2d(2)

    def forward(self, x):
        features = [self.stages[0](x)]
        for stage in self.stages[1:]:
            features.append(stage(self.down(features[-1])))
        return features


class Trunk(nn.Module):
    """A decoder up to its head; skips are concatenated."""

    def __init__(self, kind, widths=None):
        super().__init__()
        self.widths = widths = widths or WIDTHS
        self.ups = nn.ModuleList(upsampling(kind, wide, narrow)
                                 for narrow, wide in zip(widths, widths[1:], strict=False))
        self.stages = nn.ModuleList(block(2 * width, width) for width in widths[:-1])

    def pyramid(self, features):
        """The encoder's five features -> the decoder's four, (B, 16, H, W) to (B, 128, H/8, W/8)."""
        *skips, x = features
        pyramid = []
        for up, stage, skip in zip(reversed(self.ups), reversed(self.stages), reversed(skips), strict=True):
            x = stage(torch.cat([skip, up(x)], 1))
            pyramid.append(x)
        return pyramid[::-1]


class Decoder(Trunk):
    """The encoder's five features -> logits (B, num_classes, H, W)."""

    def __init__(self, num_classes, kind, widths=None):
        super().__init__(kind, widths)
        self.head = classifier(self.widths[0], num_classes)

    def forward(self, features):
        return self.head(self.pyramid(features)[0])
