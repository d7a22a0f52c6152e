"""V-Net for volumes, as the semi-supervised LA and BraTS literature uses it (Milletari et al. 2016, without
residuals inside the stages). Shapes: (B, channels, D0, D1, D2), every extent divisible by 16.
"""
from torch import nn

AXES = 3
WIDTHS = (16, 32, 64, 128, 256)     # channels from full resolution to the bottleneck       [P: 16 filters]
ENCODER_CONVS = (1, 2, 3, 3, 3)     # 3x3x3 convolutions per stage, going down                [C]
DECODER_CONVS = (1, 2, 3, 3)        # going up, listed from full resolution; none at the bottleneck   [C]
DROPOUT = 0.5                       # of whole channels: on the bottleneck and before the head        [C]
INTERPOLATION = {"linear": {"mode": "trilinear", "align_corners": True}, "nearest": {"mode": "nearest"}}


def convolutions(in_channels, channels, count):
    """`count` times 3x3x3 convolution, batch norm, ReLU."""
    layers = []
    for i in range(count):
        layers += [nn.Conv3d(channels if i else in_channels, channels, 3, padding=1), *norm_relu(channels)]
    return nn.Sequential(*layers)


def norm_relu(channels):
    return nn.BatchNorm3d(channels), nn.ReLU(inplace=True)


def upsampling(kind, in_channels, channels):
    """Doubles every extent: 'transposed' convolution, or 'linear' or 'nearest' interpolation and a convolution."""
    if kind == "transposed":
        return nn.Sequential(nn.ConvTranspose3d(in_channels, channels, 2, stride=2), *norm_relu(channels))
    if kind in INTERPOLATION:
        return nn.Sequential(nn.Upsample(scale_factor=2, **INTERPOLATION[kind]), convolutions(in_channels, channels, 1))
    raise ValueError(f"up-sampling {kind!r} is unknown: choose 'transposed', 'linear' or 'nearest'")


def classifier(channels, num_classes):
    """The convolution that makes logits of a decoder's feature."""
    return nn.Conv3d(channels, num_classes, 1)


def last_dropout():
    """What acts on the full-resolution feature before its heads, one draw for all of them."""
    return nn.Dropout3d(DROPOUT)


class Encoder(nn.Module):
    """x (B, in_channels, *S) -> five features, (B, 16, *S) to (B, 256, *S/16); the last one after dropout."""

    def __init__(self, in_channels, widths=None):
        super().__init__()
        widths = widths or WIDTHS
        self.stages = nn.ModuleList(
            convolutions(wide if level else narrow, wide, count)
            for level, (narrow, wide, count)
            in enumerate(zip((in_channels, *widths), widths, ENCODER_CONVS, strict=False)))
        self.downs = nn.ModuleList(
            nn.Sequential(nn.Conv3d(narrow, wide, 2, stride=2), *norm_relu(wide))
            for narrow, wide in zip(widths, widths[1:], strict=False))
        self.dropout = nn.Dropout3d(DROPOUT)

    def forward(self, x):
        features = [self.stages[0](x)]
        for down, stage in zip(self.downs, self.stages[1:], strict=True):
            features.append(stage(down(features[-1])))
        return [*features[:-1], self.dropout(features[-1])]


class Trunk(nn.Module):
    """A decoder up to its last dropout and head; skips are added."""

    def __init__(self, kind, widths=None):
        super().__init__()
        self.widths = widths = widths or WIDTHS
        self.ups = nn.ModuleList(upsampling(kind, wide, narrow)
                                 for narrow, wide in zip(widths, widths[1:], strict=False))
        self.stages = nn.ModuleList(convolutions(width, width, count)
                                    for width, count in zip(widths, DECODER_CONVS, strict=False))

    def pyramid(self, features):
        """The encoder's five features -> the decoder's four, (B, 16, *S) to (B, 128, *S/8)."""
        *skips, x = features
        pyramid = []
        for up, stage, skip in zip(reversed(self.ups), reversed(self.stages), reversed(skips), strict=True):
            x = stage(up(x) + skip)
            pyramid.append(x)
        return pyramid[::-1]


class Decoder(Trunk):
    """The encoder's five features -> logits (B, num_classes, *S)."""

    def __init__(self, num_classes, kind, widths=None):
        super().__init__(kind, widths)
        self.head = nn.Sequential(last_dropout(), classifier(self.widths[0], num_classes))

    def forward(self, features):
        return self.head(self.pyramid(features)[0])
