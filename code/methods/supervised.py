"""Supervised baseline: one network, the labelled scans alone, no mixing (Tables 1-3, "V-Net" and "U-Net")."""
from cml import segmentation_loss
from method import Method


class Supervised(Method):
    """networks: x -> (logits, feature). The loss is Eq. 2, so that the comparison is about the scans."""

    uses_unlabelled = False

    def losses(self, batch):
        logits, _ = self.networks(batch.x_l)
        loss = segmentation_loss(logits, batch.y_l)
        yield loss, {"sup_l": loss, "target_l": batch.y_l}
