"""The methods by their names on the command line (`--method`): the one place that lists them."""
import math
from dataclasses import replace

from cml import CML
from methods.bcp import BCP
from methods.cml_plus import CMLPlus
from methods.cps import CFL, CPS
from methods.dan import DAN
from methods.dtc import DTC
from methods.em import EM
from methods.ict import ICT
from methods.losses import SUPERVISED, check_supervised
from methods.mc_net import MCNet
from methods.mcf import MCF
from methods.mean_teacher import MeanTeacher
from methods.sassnet import SASSNet
from methods.ss_net import SSNet
from methods.supervised import Supervised
from methods.ua_mt import UAMT
from methods.urpc import URPC
from networks.two_view import AXES
from runtime.errors import InputError

METHODS = {
    "supervised": Supervised,
    "mean_teacher": MeanTeacher,
    "ua_mt": UAMT,
    "sassnet": SASSNet,
    "dtc": DTC,
    "urpc": URPC,
    "mc_net": MCNet,
    "dan": DAN,
    "ss_net": SSNet,
    "mcf": MCF,
    "ict": ICT,
    "em": EM,
    "cps": CPS,
    "cfl": CFL,
    "bcp": BCP,
    "cml": CML,
    "cml_plus": CMLPlus,
}


OPTIONS = frozenset().union(*(method.OPTIONS for method in METHODS.values()))     # of a recipe, for some methods only


def method_class(name):
    """The class of a name on the command line; InputError for an unknown one."""
    if name not in METHODS:
        raise InputError(f"--method {name}: unknown, choose one of {', '.join(METHODS)}")
    return METHODS[name]


def check(recipe):
    """InputError, one line, for a recipe that its method cannot run."""
    if AXES.get(recipe.network) != len(recipe.patch_size):
        raise InputError(f"--network {recipe.network}: choose one for {len(recipe.patch_size)} axes, "
                         f"{' or '.join(name for name, n in AXES.items() if n == len(recipe.patch_size))}")
    for name, value in vars(hyper_of(recipe)).items():
        if isinstance(value, float) and not 0 <= value < math.inf:
            raise InputError(f"--hyper.{name} {value:g}: must be a number from 0 on")
    if (loss := getattr(hyper_of(recipe), "supervised", None)) in SUPERVISED:     # a method may have its own
        check_supervised(loss, recipe.num_classes)
    method_class(recipe.method).check(recipe)


def smallest_pass(recipe):
    """Scans in the smallest batch that the networks of a recipe's method are given in training."""
    return method_class(recipe.method).smallest_pass(recipe)


def hyper_of(recipe):
    """The hyperparameters of a recipe's method, its defaults where the recipe has none -> its `Hyper`."""
    return recipe.hyper or method_class(recipe.method).defaults(recipe.like, recipe.protocol)


def build(recipe):
    """The recipe's method with freshly initialised networks. Raises InputError for what it cannot run."""
    check(recipe)
    return method_class(recipe.method).build(replace(recipe, hyper=hyper_of(recipe)))
