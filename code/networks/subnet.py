"""A subnet of the paper: an encoder E and a decoder D with parameters of their own (Section 3.1)."""
from torch import nn


class Subnet(nn.Module):
    """P = D(E(X)): forward(x) with x (B, in_channels, *S) -> logits (B, C, *S), bottleneck feature (B, K, *s).

    The encoder returns its features from full resolution to the bottleneck, the decoder takes that list.
    """

    def __init__(self, encoder, decoder):
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, x):
        features = self.encoder(x)
        return self.decoder(features), features[-1]
