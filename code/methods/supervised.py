"""Supervised baseline: one network, the labelled scans alone, no mixing (Tables 1-3, "V-Net" and "U-Net")."""
from dataclasses import dataclass

from method import Picture, Stage
from methods.losses import WithSupervisedLoss, half_and_half
from networks.two_view import build_subnet


@dataclass(frozen=True)
class Hyper:
    supervised: str = "eq2"         # [O: Eq. 2] loss, a name of methods/losses.py


class Supervised(WithSupervisedLoss):
    """networks: x -> (logits, feature). By default the loss is Eq. 2, as that of the other methods."""

    Hyper = Hyper
    NETWORKS = ("vnet", "unet", "narrow_vnet", "narrow_unet")

    @classmethod
    def defaults(cls, dataset, protocol="matched"):
        return Hyper(half_and_half(dataset, protocol))

    @classmethod
    def build(cls, recipe):
        return cls(build_subnet(recipe.network, recipe.in_channels, recipe.num_classes), recipe.hyper)

    @classmethod
    def smallest_pass(cls, recipe):
        return recipe.labeled_batch

    def stages(self, pre_steps, self_steps):
        return [Stage("self", pre_steps + self_steps, self.losses, unlabelled=False)]

    def losses(self, batch):
        logits, _ = self.networks(batch.x_l)
        loss = self.supervised(logits, batch.y_l)
        yield loss, {"sup_l": loss, "picture": Picture(batch.x_l, batch.y_l, {"network": logits.detach()})}

    def predict(self, x):
        return {"network": self.networks(x)[0].softmax(1)}
