"""URPC's network (Luo et al. 2022): a head on each of the decoder's four features, all logits at full size."""
import torch
from torch import nn

FEATURE_NOISE = 0.3                     # bound of e in a feature's factor 1 + e                    [C]
KEPT = (0.7, 0.9)                       # share of the largest mean that a position may have        [C]
DROPOUTS = (0.2, 0.3, 0.5)              # of whole channels, before V-Net's heads at 1/2, 1/4, 1/8  [O]
TRUNK_DROPOUTS = (0.1, 0.2, 0.3, 0.5)   # of whole channels, in the 3D U-Net's decoder, at 1/1 to 1/8   [C]


def feature_dropout(feature, factor):
    """(B, K, *s) -> the same, 0 in all channels where their mean reaches factor times the sample's largest."""
    mean = feature.mean(1, keepdim=True)
    largest = mean.flatten(1).amax(1).view(-1, *[1] * (feature.ndim - 1))
    return feature * (mean < factor * largest)


class FeatureDropout(nn.Module):
    """`feature_dropout` in training mode, one random factor a call."""

    def forward(self, feature):
        if not self.training:
            return feature
        return feature_dropout(feature, torch.empty((), device=feature.device).uniform_(*KEPT))


class FeatureNoise(nn.Module):
    """In training mode times 1 + e; one e of shape (K, *s), uniform in [-0.3, 0.3], for the whole batch."""

    def forward(self, feature):
        if not self.training:
            return feature
        return feature * (1 + torch.empty_like(feature[0]).uniform_(-FEATURE_NOISE, FEATURE_NOISE))


class PyramidNet(nn.Module):
    """x (B, in_channels, *S) -> logits (B, C, *S), [those of the 1/2, 1/4 and 1/8 heads, up-sampled to full size].

    trunk: a decoder without head; heads: modules from each of its features to logits; up: options of the up-sampling.
    """

    def __init__(self, encoder, trunk, heads, up):
        super().__init__()
        self.encoder, self.trunk, self.heads = encoder, trunk, nn.ModuleList(heads)
        self.ups = nn.ModuleList(nn.Upsample(scale_factor=2 ** level, **up) for level in range(1, len(heads)))

    def forward(self, x):
        pyramid = self.trunk.pyramid(self.encoder(x))
        full, *coarse = [head(feature) for head, feature in zip(self.heads, pyramid, strict=True)]
        return full, [up(logits) for up, logits in zip(self.ups, coarse, strict=True)]
