"""SASSNet's and DTC's network (Li et al. 2020, Luo et al. 2021): classes and signed distances from one feature."""
import torch
from torch import nn


class SignedDistanceNet(nn.Module):
    """x (B, in_channels, *S) -> logits (B, C, *S), signed distance maps of the foreground (B, C-1, *S) in (-1, 1).

    Both heads see one draw of V-Net's last dropout. Two classes of a volume have one channel s, emitted as the logits
    (0, s), whose softmax is (1 - sigmoid(s), sigmoid(s)) [C]; otherwise there is one per class [O].
    """

    def __init__(self, backbone, in_channels, num_classes, kind):
        super().__init__()
        self.encoder, self.trunk = backbone.Encoder(in_channels), backbone.Trunk(kind)
        self.dropout = backbone.last_dropout()
        alone = num_classes == 2 and backbone.AXES == 3
        self.head = backbone.classifier(backbone.WIDTHS[0], 1 if alone else num_classes)
        self.map_head = backbone.classifier(backbone.WIDTHS[0], num_classes - 1)

    def forward(self, x):
        feature = self.dropout(self.trunk.pyramid(self.encoder(x))[0])
        logits = self.head(feature)
        if logits.shape[1] == 1:
            logits = torch.cat([torch.zeros_like(logits), logits], 1)
        return logits, self.map_head(feature).tanh()
