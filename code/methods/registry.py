"""The methods by their names on the command line (`--method`): the one place that lists them."""
import importlib
import math
from collections.abc import Mapping
from dataclasses import replace

from runtime.errors import InputError
from runtime.records import from_record


class Methods(Mapping):
    """{name: class}, of {name: "module.Class"}; the module, and PyTorch with it, is loaded when it is needed."""

    def __init__(self, places):
        self.places = places

    def __getitem__(self, name):
        module, _, kind = self.places[name].rpartition(".")
        return getattr(importlib.import_module(module), kind)

    def __iter__(self):
        return iter(self.places)

    def __len__(self):
        return len(self.places)


METHODS = Methods({
    "supervised": "methods.supervised.Supervised",
    "mean_teacher": "methods.mean_teacher.MeanTeacher",
    "ua_mt": "methods.ua_mt.UAMT",
    "sassnet": "methods.sassnet.SASSNet",
    "dtc": "methods.dtc.DTC",
    "urpc": "methods.urpc.URPC",
    "mc_net": "methods.mc_net.MCNet",
    "dan": "methods.dan.DAN",
    "ss_net": "methods.ss_net.SSNet",
    "mcf": "methods.mcf.MCF",
    "ict": "methods.ict.ICT",
    "em": "methods.em.EM",
    "cps": "methods.cps.CPS",
    "cfl": "methods.cps.CFL",
    "bcp": "methods.bcp.BCP",
    "cml": "cml.CML",
    "cml_plus": "methods.cml_plus.CMLPlus",
})
OPTIONS = frozenset({"beta", "components", "fusion", "lambda_dis", "lambda_unsup"})    # that act on some methods only


def method_class(name):
    """The class of a name on the command line; InputError for an unknown one."""
    if name not in METHODS:
        raise InputError(f"--method {name}: unknown, choose one of {', '.join(METHODS)}")
    return METHODS[name]


def paired():
    """Names of the methods with two views to compare."""
    return [name for name, method in METHODS.items() if method.pair]


def check(recipe):
    """InputError, one line, for a recipe that its method cannot run."""
    from methods.losses import SUPERVISED, check_supervised
    from networks.two_view import AXES
    if AXES.get(recipe.network) != len(recipe.patch_size):
        raise InputError(f"--network {recipe.network}: choose one for {len(recipe.patch_size)} axes, "
                         f"{' or '.join(name for name, n in AXES.items() if n == len(recipe.patch_size))}")
    hyper = hyper_of(recipe)
    for name, value in vars(hyper).items():
        if isinstance(value, float) and not 0 <= value < math.inf:
            raise InputError(f"--hyper.{name} {value:g}: must be a number, 0 or more")
    from_record(method_class(recipe.method).Hyper, vars(hyper), f"hyperparameters of --method {recipe.method}",
                "fix it at the top of the method's file")
    if (loss := getattr(hyper, "supervised", None)) in SUPERVISED:     # a method may have its own
        check_supervised(loss, recipe.num_classes)
    method_class(recipe.method).check(recipe)


def hyper_of(recipe):
    """The hyperparameters of a recipe's method, its defaults where the recipe has none -> its `Hyper`."""
    return recipe.hyper or method_class(recipe.method).defaults(recipe.like, recipe.protocol)


def build(recipe):
    """The recipe's method with freshly initialised networks. Raises InputError for what it cannot run."""
    check(recipe)
    return method_class(recipe.method).build(replace(recipe, hyper=hyper_of(recipe)))
