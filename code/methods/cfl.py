"""CFL, conflict-based feature learning: CML without mixing (Section 4.6, Figure 6; Eq. 1-4). No code was released."""
from cml import CML
from method import Method
from networks import two_view


class CFL(CML):
    """Both subnets see whole batches, and each learns the other's plain argmax (Eq. 3).

    Pre-training is on labelled batches as they are, with the discrepancy: the paper has it with CutMix alone [ours].
    """

    OPTIONS = frozenset({"lambda_unsup", "lambda_dis", "fusion"})
    HALVES = False
    check = Method.check        # no pairs are made

    def stages(self, pre_steps, self_steps):
        pre, later = super().stages(pre_steps, self_steps)
        return [pre, later._replace(cost=2)]        # both batches whole, once; pseudo-labels need no pass of their own

    @classmethod
    def build(cls, recipe):
        networks = two_view.build(recipe.network, recipe.in_channels, recipe.num_classes)
        return cls(networks, recipe.beta, recipe.lambda_unsup, recipe.lambda_dis, mixing=False, fusion=recipe.fusion)
