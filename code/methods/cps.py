"""CPS and CFL, with which the paper's Figure 6 compares: CML's two subnets without mixing (Eq. 3).

CPS is cross pseudo supervision; CFL, conflict-based feature learning, adds the discrepancy of Section 3.1. No code was
released for either. Both pre-train on labelled batches without mixing, CFL with the discrepancy [O]: the paper
describes pre-training for CML alone, with CutMix (Eq. 11).
"""
from dataclasses import replace

from cml import CML
from dataloaders.components import empty


class CFL(CML):
    """Both subnets see whole batches, and each learns the other's argmax as it is."""

    OPTIONS = frozenset({"lambda_unsup", "lambda_dis", "fusion"})
    PAIRED = ()

    @classmethod
    def smallest_pass(cls, recipe):
        return min(recipe.labeled_batch, recipe.unlabeled_batch)

    def stages(self, pre_steps, self_steps):
        pre, later = super().stages(pre_steps, self_steps)
        return [pre, later._replace(cost=2)]        # a labelled and an unlabelled batch

    def labelled_half(self, batch):
        """Both views learn the true label."""
        return self.objective("l", batch.x_l, self.networks(batch.x_l), (batch.y_l, batch.y_l), 1)

    def unlabelled_half(self, batch):
        """Eq. 3: each view learns the other's argmax, which is constant."""
        views = self.networks(batch.x_u)
        labels0, labels1 = (logits.detach().argmax(1) for logits, _ in views)
        loss, terms = self.objective("u", batch.x_u, views, (labels1, labels0), self.lambda_unsup)
        return loss, terms | {"empty_pseudo_labels": empty(labels0, labels1)}


class CPS(CFL):
    """CFL without the discrepancy."""

    OPTIONS = frozenset({"lambda_unsup", "fusion"})

    @classmethod
    def build(cls, recipe):
        return super().build(replace(recipe, lambda_dis=0))
