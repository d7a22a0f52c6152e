"""Discriminators of SASSNet and DAN: does this map of this image come from a labelled scan?

Map and image go through a convolution each and are summed; three more follow, all of kernel 4 and stride 2. Biases, no
norms, logits without softmax.
"""
import torch.nn.functional as F
from torch import nn

WIDTHS = (64, 128, 256, 512)        # channels from the first convolutions on           (SASSNet, SSL4MIS) [C]
DROPOUT, SLOPE = 0.5, 0.2           # of whole channels; of LeakyReLU                   (SASSNet, SSL4MIS) [C]
CONV = {2: nn.Conv2d, 3: nn.Conv3d}
FEATURE, WINDOW = (16, 16), 7       # last feature of 256-pixel slices, and its average pool    [C]


class Discriminator(nn.Module):
    """map (B, map_channels, *S), image (B, in_channels, *S) -> logits (B, 2) of "unlabelled" and "labelled"."""

    def __init__(self, axes, map_channels, in_channels):
        super().__init__()
        dropout = {2: nn.Dropout2d, 3: nn.Dropout3d}[axes]
        self.of_map = CONV[axes](map_channels, WIDTHS[0], 4, 2, 1)
        self.of_image = CONV[axes](in_channels, WIDTHS[0], 4, 2, 1)
        # After the sum, volumes go through an activation and dropout, slices do not   [C]
        layers = [nn.LeakyReLU(SLOPE), dropout(DROPOUT)] if axes == 3 else []
        for narrow, wide in zip(WIDTHS, WIDTHS[1:], strict=False):
            layers += [CONV[axes](narrow, wide, 4, 2, 1), nn.LeakyReLU(SLOPE), dropout(DROPOUT)]
        self.body = nn.Sequential(*layers[:-1])
        self.classifier = nn.Linear(WIDTHS[-1] * (1 if axes == 3 else 4), 2)

    def forward(self, maps, image):
        return self.classifier(pooled(self.body(self.of_map(maps) + self.of_image(image))).flatten(1))


def pooled(feature):
    """(B, K, *s) -> volumes (B, K, 1, 1, 1), the mean over all positions; slices (B, K, 2, 2).

    For 256-pixel slices windows of 7 of the 16 positions, which leave out the last two rows and columns [C];
    other sizes are pooled over quarters, which is not the published function [O].
    """
    if feature.ndim == 5:
        return feature.mean((2, 3, 4), keepdim=True)
    return F.avg_pool2d(feature, WINDOW) if feature.shape[2:] == FEATURE else F.adaptive_avg_pool2d(feature, 2)
