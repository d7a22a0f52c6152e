"""V-Net for volumes, as the semi-supervised LA and BraTS literature uses it (Milletari et al. 2016, without
residuals inside the stages). Shapes: (B, channels, D0, D1, D2), every extent divisible by 16.
"""
from torch import nn

WIDTHS = (16, 32, 64, 128, 256)     # channels from full resolution to the bottleneck       [P: 16 filters]
ENCODER_CONVS = (1, 2, 3, 3, 3)     # 3x3x3 convolutions a stage, going down                [C]
DECODER_CONVS = (1, 2, 3, 3)        # going up, listed from full resolution; none at the bottleneck   [C]
DROPOUT = 0.5                       # of whole channels: on the bottleneck and before the head        [C]


def convolutions(in_channels, channels, count):
    """`count` times 3x3x3 convolution, batch norm, ReLU."""
    layers = []
    for i in range(count):
        layers += [nn.Conv3d(channels if i else in_channels, channels, 3, padding=1), *norm_relu(channels)]
    return nn.Sequential(*layers)


def norm_relu(channels):
    return nn.BatchNorm3d(channels), nn.ReLU(inplace=True)


def upsampling(kind, in_channels, channels):
    """Doubles every extent: 'transposed' convolution, or 'linear' (trilinear) interpolation and a convolution."""
    if kind == "transposed":
        return nn.Sequential(nn.ConvTranspose3d(in_channels, channels, 2, stride=2), *norm_relu(channels))
    if kind == "linear":
        return nn.Sequential(nn.Upsample(scale_factor=2, mode="trilinear", align_corners=True),
                             convolutions(in_channels, channels, 1))
    raise ValueError(f"up-sampling {kind!r} is unknown: choose 'transposed' or 'linear'")


class Encoder(nn.Module):
    """x (B, in_channels, *S) -> five features, (B, 16, *S) to (B, 256, *S/16); the last one after dropout."""

    def __init__(self, in_channels):
        super().__init__()
        widths = (in_channels, *WIDTHS)
        self.stages = nn.ModuleList(
            convolutions(wide if level else narrow, wide, count)
            for level, (narrow, wide, count) in enumerate(zip(widths, WIDTHS, ENCODER_CONVS, strict=False)))
        self.downs = nn.ModuleList(
            nn.Sequential(nn.Conv3d(narrow, wide, 2, stride=2), *norm_relu(wide))
            for narrow, wide in zip(WIDTHS, WIDTHS[1:], strict=False))
        self.dropout = nn.Dropout3d(DROPOUT)

    def forward(self, x):
        features = [self.stages[0](x)]
        for down, stage in zip(self.downs, self.stages[1:], strict=True):
            features.append(stage(down(features[-1])))
        return [*features[:-1], self.dropout(features[-1])]


class Decoder(nn.Module):
    """The encoder's five features -> logits (B, num_classes, *S); skips are added."""

    def __init__(self, num_classes, kind):
        super().__init__()
        self.ups = nn.ModuleList(upsampling(kind, wide, narrow)
                                 for narrow, wide in zip(WIDTHS, WIDTHS[1:], strict=False))
        self.stages = nn.ModuleList(convolutions(width, width, count)
                                    for width, count in zip(WIDTHS, DECODER_CONVS, strict=False))
        self.head = nn.Sequential(nn.Dropout3d(DROPOUT), nn.Conv3d(WIDTHS[0], num_classes, 1))

    def forward(self, features):
        *skips, x = features
        for up, stage, skip in zip(reversed(self.ups), reversed(self.stages), reversed(skips), strict=True):
            x = stage(up(x) + skip)
        return self.head(x)
