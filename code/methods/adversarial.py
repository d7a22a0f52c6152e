"""What SASSNet and DAN share: a discriminator with an optimiser and a step of its own.

The discriminator sees what the network makes of a scan, beside the scan, and says whether the scan is labelled; the
network learns to have its unlabelled scans taken for labelled ones.
"""
import torch
import torch.nn.functional as F

from methods.losses import WithSupervisedLoss, widened
from runtime.ranks import Ranks

RATE, BETAS = 1e-4, (0.9, 0.99)     # of the discriminator's Adam       (SASSNet, SSL4MIS) [C]


def fool(logits):
    """The discriminator's logits (B_u, 2) of unlabelled samples -> scalar: cross-entropy against "labelled", 1."""
    return judge(logits, len(logits))


def judge(logits, labelled):
    """The discriminator's logits (B, 2) -> scalar: cross-entropy against 1 for the first `labelled`, 0 for the rest."""
    target = (torch.arange(len(logits), device=logits.device) < labelled).long()
    return F.cross_entropy(widened(logits), target)


class AdversarialMethod(WithSupervisedLoss):
    """networks: what is tested; discriminator: (map, image) -> logits (B, 2). A subclass says what a map is."""

    def __init__(self, networks, discriminator, hyper):
        super().__init__(networks, hyper)
        self.discriminator = discriminator.requires_grad_(False)        # except in its own step
        self.optimizer = torch.optim.Adam(discriminator.parameters(), RATE, BETAS)

    def maps(self, output):
        """What the discriminator sees of the network's output -> (B, K, *S)."""
        raise NotImplementedError

    def fooling(self, maps, images):
        """The network's adversarial loss on unlabelled samples; the discriminator is frozen, without dropout."""
        self.discriminator.eval()
        return fool(self.discriminator(maps, images))

    def after_step(self, batch):
        """The discriminator's step: on all samples, as the network sees them now, in evaluation mode."""
        images = torch.cat([batch.x_l, batch.x_u])
        self.networks.eval()
        with torch.no_grad():
            maps = self.maps(self.networks(images))
        self.networks.train()
        self.discriminator.train().requires_grad_(True)
        self.optimizer.zero_grad()
        loss = judge(self.discriminator(maps, images), len(batch.x_l))
        loss.backward()
        Ranks().average_gradients(list(self.discriminator.parameters()))
        self.optimizer.step()
        self.discriminator.requires_grad_(False)
        return {"discriminator": loss.detach()}

    def get_extra_state(self):
        """The discriminator's optimiser, for checkpoints."""
        return {"optimizer": self.optimizer.state_dict()}

    def set_extra_state(self, state):
        self.optimizer.load_state_dict(state["optimizer"])
