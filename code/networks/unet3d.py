"""3D U-Net of SSL4MIS, its default for BraTS (Çiçek et al. 2016, narrow, with instance norm that has no weights).

Shapes: (B, channels, *S), every extent divisible by 16. The convolutions keep their biases, though a norm follows.
"""
import torch
from torch import nn

AXES = 3
WIDTHS = (16, 32, 64, 128, 256)     # channels from full resolution to the bottleneck       [C]
DROPOUT = 0.3                       # elementwise, on the bottleneck and before the head    [C]


def block(in_channels, channels):
    """Two 3x3x3 convolutions with instance norm and ReLU."""
    layers = []
    for width in (in_channels, channels):
        layers += [nn.Conv3d(width, channels, 3, padding=1), nn.InstanceNorm3d(channels), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class Encoder(nn.Module):
    """x (B, in_channels, *S) -> five features, (B, 16, *S) to (B, 256, *S/16); the last one after dropout."""

    def __init__(self, in_channels, dropout=DROPOUT):
        super().__init__()
        self.stages = nn.ModuleList(block(*io) for io in zip((in_channels, *WIDTHS), WIDTHS, strict=False))
        self.down = nn.MaxPool3d(2)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()

    def forward(self, x):
        features = [self.stages[0](x)]
        for stage in self.stages[1:]:
            features.append(stage(self.down(features[-1])))
        return [*features[:-1], self.dropout(features[-1])]


class Trunk(nn.Module):
    """A decoder up to its last dropout and head; skips are concatenated.

    dropouts: of whole channels after each of the four levels, from full resolution, on the way to the next one.
    """

    def __init__(self, dropouts=(0, 0, 0, 0)):
        super().__init__()
        self.up = nn.Upsample(scale_factor=2, mode="trilinear", align_corners=False)
        self.stages = nn.ModuleList(
            nn.Sequential(block(narrow + wide, narrow), nn.Dropout3d(dropout) if dropout else nn.Identity())
            for narrow, wide, dropout in zip(WIDTHS, WIDTHS[1:], dropouts, strict=False))

    def pyramid(self, features):
        """The encoder's five features -> the decoder's four, (B, 16, *S) to (B, 128, *S/8)."""
        *skips, x = features
        pyramid = []
        for stage, skip in zip(reversed(self.stages), reversed(skips), strict=True):
            x = stage(torch.cat([skip, self.up(x)], 1))
            pyramid.append(x)
        return pyramid[::-1]


class Decoder(Trunk):
    """The encoder's five features -> logits (B, num_classes, *S)."""

    def __init__(self, num_classes):
        super().__init__()
        self.head = nn.Sequential(nn.Dropout(DROPOUT), nn.Conv3d(WIDTHS[0], num_classes, 1))

    def forward(self, features):
        return self.head(self.pyramid(features)[0])
