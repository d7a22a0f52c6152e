"""SS-Net's network (Wu et al. 2022): a backbone that shows its last feature, and small heads beside it."""
from torch import nn

SIZE = 32       # of a projected feature        [C]


class Selector(nn.Sequential):
    """Features (n, 32) of one class -> scores (n, 1), before their sigmoid.

    The numbers of features differ from process to process, so its batch norm stays each process's own.
    """

    local_batch_norm = True

    def __init__(self):
        super().__init__(nn.Linear(SIZE, SIZE), nn.BatchNorm1d(SIZE), nn.LeakyReLU(0.2), nn.Linear(SIZE, 1))


def perceptron(size):
    """Features (n, size) -> (n, 32): `projection` of embeddings, `prediction` of projections."""
    return nn.Sequential(nn.Linear(size, SIZE), nn.BatchNorm1d(SIZE), nn.ReLU(), nn.Linear(SIZE, SIZE))


class EmbeddingNet(nn.Module):
    """x (B, in_channels, *S) -> logits (B, C, *S), embedding (B, 16, *S): the feature that the logits are made of.

    `projection` and `prediction` act on rows of features; `selectors[c - 1]` is foreground class c's. The release's
    further selectors never change a result and are left out [O].
    """

    def __init__(self, backbone, in_channels, num_classes, kind):
        super().__init__()
        self.encoder, self.trunk = backbone.Encoder(in_channels), backbone.Trunk(kind)
        self.dropout = backbone.last_dropout()
        self.head = backbone.classifier(backbone.WIDTHS[0], num_classes)
        self.projection, self.prediction = perceptron(backbone.WIDTHS[0]), perceptron(SIZE)
        self.selectors = nn.ModuleList(Selector() for _ in range(num_classes - 1))

    def forward(self, x):
        embedding = self.dropout(self.trunk.pyramid(self.encoder(x))[0])
        return self.head(embedding), embedding
