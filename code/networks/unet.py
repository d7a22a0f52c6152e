"""U-Net for slices, as the semi-supervised ACDC literature uses it (Ronneberger et al. 2015, narrow, with batch
norm and dropout). Shapes: (B, channels, H, W), both extents divisible by 16.
"""
import torch
from torch import nn

WIDTHS = (16, 32, 64, 128, 256)             # channels from full resolution to the bottleneck     [P]
DROPOUTS = (0.05, 0.1, 0.2, 0.3, 0.5)       # elementwise, in the encoder's stages; none in the decoder  [C]


def block(in_channels, channels, dropout=0.0):
    """Two 3x3 convolutions with batch norm and LeakyReLU, dropout between them."""
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.LeakyReLU(inplace=True),
        nn.Dropout(dropout) if dropout else nn.Identity(),
        nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.LeakyReLU(inplace=True))


def upsampling(kind, in_channels, channels):
    """Doubles both extents: 'transposed' convolution, or 1x1 convolution and 'linear' (bilinear) interpolation."""
    if kind == "transposed":
        return nn.ConvTranspose2d(in_channels, channels, 2, stride=2)
    if kind == "linear":
        return nn.Sequential(nn.Conv2d(in_channels, channels, 1),
                             nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True))
    raise ValueError(f"up-sampling {kind!r} is unknown: choose 'transposed' or 'linear'")


class Encoder(nn.Module):
    """x (B, in_channels, H, W) -> five features, (B, 16, H, W) to (B, 256, H/16, W/16)."""

    def __init__(self, in_channels):
        super().__init__()
        widths = (in_channels, *WIDTHS)
        self.stages = nn.ModuleList(block(*io) for io in zip(widths, WIDTHS, DROPOUTS, strict=False))
        self.down = nn.MaxPool2d(2)

    def forward(self, x):
        features = [self.stages[0](x)]
        for stage in self.stages[1:]:
            features.append(stage(self.down(features[-1])))
        return features


class Decoder(nn.Module):
    """The encoder's five features -> logits (B, num_classes, H, W); skips are concatenated."""

    def __init__(self, num_classes, kind):
        super().__init__()
        self.ups = nn.ModuleList(upsampling(kind, wide, narrow)
                                 for narrow, wide in zip(WIDTHS, WIDTHS[1:], strict=False))
        self.stages = nn.ModuleList(block(2 * width, width) for width in WIDTHS[:-1])
        self.head = nn.Conv2d(WIDTHS[0], num_classes, 3, padding=1)

    def forward(self, features):
        *skips, x = features
        for up, stage, skip in zip(reversed(self.ups), reversed(self.stages), reversed(skips), strict=True):
            x = stage(torch.cat([skip, up(x)], 1))
        return self.head(x)
