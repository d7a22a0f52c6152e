"""The compared methods by their names on the command line (`--method`)."""
from cml import CML
from methods.mean_teacher import MeanTeacher
from methods.supervised import Supervised
from networks.two_view import AXES, build_subnet
from networks.two_view import build as two_views
from runtime.errors import InputError


def _check_network(recipe):
    axes = AXES.get(recipe.network)
    if axes != len(recipe.patch_size):
        raise InputError(f"--network {recipe.network}: choose one for {len(recipe.patch_size)} axes, "
                         f"{' or '.join(name for name, n in AXES.items() if n == len(recipe.patch_size))}")


def _cml(mixing, discrepancy):
    def make(recipe):
        networks = two_views(recipe.network, recipe.in_channels, recipe.num_classes)
        return CML(networks, recipe.beta, recipe.lambda_unsup, recipe.lambda_dis if discrepancy else 0,
                   mixing, recipe.fusion)
    return make


def _subnet(recipe):
    return build_subnet(recipe.network, recipe.in_channels, recipe.num_classes)


# name -> recipe -> Method; Section 4.6 calls CPS and CFL the steps on the way to CML
METHODS = {
    "cml": _cml(mixing=True, discrepancy=True),
    "cfl": _cml(mixing=False, discrepancy=True),
    "cps": _cml(mixing=False, discrepancy=False),
    "supervised": lambda recipe: Supervised(_subnet(recipe)),
    "mean_teacher": lambda recipe: MeanTeacher(_subnet(recipe), _subnet(recipe)),
}


def build(recipe):
    """The recipe's method with freshly initialised networks. Raises InputError for an unknown name."""
    if recipe.method not in METHODS:
        raise InputError(f"--method {recipe.method}: unknown, choose one of {', '.join(METHODS)}")
    _check_network(recipe)
    return METHODS[recipe.method](recipe)
