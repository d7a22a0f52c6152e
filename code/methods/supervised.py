"""Supervised baseline: one network, the labelled scans alone, no mixing (Tables 1-3, "V-Net" and "U-Net")."""
from cml import segmentation_loss
from method import Method, Picture, Stage
from networks.two_view import build_subnet


class Supervised(Method):
    """networks: x -> (logits, feature). The loss is Eq. 2, so that the comparison is about the scans."""

    @classmethod
    def build(cls, recipe):
        return cls(build_subnet(recipe.network, recipe.in_channels, recipe.num_classes))

    def stages(self, pre_steps, self_steps):
        return [Stage("self", pre_steps + self_steps, self.losses, unlabelled=False)]

    def losses(self, batch):
        logits, _ = self.networks(batch.x_l)
        loss = segmentation_loss(logits, batch.y_l)
        yield loss, {"sup_l": loss, "picture": Picture(batch.x_l, batch.y_l, {"network": logits.detach()})}

    def predict(self, x):
        return {"network": self.networks(x)[0].softmax(1)}
