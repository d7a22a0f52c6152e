"""MC-Net's network (Wu et al. 2021): decoders that differ in their up-sampling share one encoder."""
from torch import nn


class MultiDecoder(nn.Module):
    """x (B, in_channels, *S) -> ((logits (B, C, *S), bottleneck feature), ...), one pair for each decoder.

    One draw of the encoder's last dropout serves all decoders; each has its own before its head.
    """

    def __init__(self, encoder, decoders):
        super().__init__()
        self.encoder, self.decoders = encoder, nn.ModuleList(decoders)

    def forward(self, x):
        features = self.encoder(x)
        return tuple((decoder(features), features[-1]) for decoder in self.decoders)
