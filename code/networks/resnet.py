"""ResNet-34 (He et al. 2016) as an encoder for V-Net's or U-Net's decoder: MCF's second network, and its 2D twin.

The stem keeps full resolution and every stage halves it, so that its five features have V-Net's shapes; there is no
max-pool and no dropout. Shapes: (B, channels, *S), every extent divisible by 16.
"""
from torch import nn

BLOCKS = (3, 4, 6, 3)       # residual blocks per stage                                     [C]
LAYERS = {2: (nn.Conv2d, nn.BatchNorm2d), 3: (nn.Conv3d, nn.BatchNorm3d)}


class EverySecond(nn.Module):
    """Every second voxel along each axis: the stride of a 1x1(x1) convolution.

    oneDNN's own strided one is wrong in channels-last memory with fewer than 8 channels (PyTorch 2.13).
    """

    def forward(self, x):
        return x[(..., *[slice(None, None, 2)] * (x.ndim - 2))]


class Block(nn.Module):
    """Two 3x3(x3) convolutions and the shortcut around them, a 1x1(x1) convolution where the grid is halved."""

    def __init__(self, axes, in_channels, channels, stride):
        super().__init__()
        conv, norm = LAYERS[axes]
        self.body = nn.Sequential(
            conv(in_channels, channels, 3, stride, padding=1, bias=False), norm(channels), nn.ReLU(inplace=True),
            conv(channels, channels, 3, padding=1, bias=False), norm(channels))
        self.shortcut = nn.Identity() if stride == 1 else nn.Sequential(
            EverySecond(), conv(in_channels, channels, 1, bias=False), norm(channels))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        return self.relu(self.body(x) + self.shortcut(x))


class Encoder(nn.Module):
    """x (B, in_channels, *S) -> five features, (B, widths[0], *S) to (B, widths[4], *S/16)."""

    def __init__(self, axes, in_channels, widths):
        super().__init__()
        conv, norm = LAYERS[axes]
        self.stem = nn.Sequential(conv(in_channels, widths[0], 7, padding=3, bias=False), norm(widths[0]),
                                  nn.ReLU(inplace=True))
        self.stages = nn.ModuleList(
            nn.Sequential(*(Block(axes, wide if i else narrow, wide, 1 if i else 2) for i in range(count)))
            for narrow, wide, count in zip(widths, widths[1:], BLOCKS, strict=False))

    def forward(self, x):
        features = [self.stem(x)]
        for stage in self.stages:
            features.append(stage(features[-1]))
        return features
