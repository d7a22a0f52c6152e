"""CPS, cross pseudo supervision, as the paper's Figure 6 compares with it: CML's two subnets, Eq. 3 no more."""
from methods.cfl import CFL
from networks import two_view


class CPS(CFL):
    """CFL without the discrepancy: constant weight lambda_1, cross-entropy and Dice on the other's argmax."""

    OPTIONS = frozenset({"lambda_unsup", "fusion"})

    @classmethod
    def build(cls, recipe):
        networks = two_view.build(recipe.network, recipe.in_channels, recipe.num_classes)
        return cls(networks, recipe.beta, recipe.lambda_unsup, lambda_dis=0, mixing=False, fusion=recipe.fusion)
