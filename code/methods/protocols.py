"""`--protocol original`: each method's batch, steps, schedule and rate as its released code has them.

A method's own loss, weights and ramp are in its `Hyper`, and `Method.defaults(dataset, protocol)` knows which of them
belong to its release. What is left are fields of the recipe, and they stand here, a cell for each method and data set.
"""
import dataclasses
from dataclasses import dataclass

from runtime.errors import InputError

DROP_EVERY = 2_500      # steps between drops of every release's step schedule; MCF's comes one step later, ours do not
FIELDS = ("labeled_batch", "unlabeled_batch", "pre_steps", "self_steps", "pre_schedule", "self_schedule", "drop_every",
          "lr")         # of a recipe: what a cell may change


@dataclass(frozen=True)
class Cell:
    """What a released code trains with on one data set; all momentum is 0.9 and all weight decay 1e-4."""

    batch: tuple[int, int | None]       # labelled and unlabelled scans per step; None: it takes no unlabelled ones
    steps: tuple[int, int]              # of pre-training and self-training; methods of one stage: 0 and all steps
    schedule: str                       # of the (last) stage; pre-training is constant where the two differ
    lr: float = 0.01
    released: bool = True               # whether its authors, or SSL4MIS, published code for the data set


def ours(cell, **changes):
    """The same settings for a data set for which no code was published: our recommendation."""
    return dataclasses.replace(cell, released=False, **changes)


UA_MT_LA = Cell((2, 2), (0, 6_000), "step")                 # UA-MT, SASSNet, DTC, MCF
SSL4MIS_ACDC = Cell((12, 12), (0, 30_000), "poly")
SSL4MIS_BRATS = Cell((2, 2), (0, 30_000), "poly")           # 0.01 is the scripts' default, the shell script passes 0.1
MC_NET_LA, MC_NET_ACDC = Cell((2, 2), (0, 15_000), "constant"), Cell((12, 12), (0, 30_000), "constant")
SS_NET_LA = Cell((2, 2), (0, 15_000), "step")
CML_LA, CML_ACDC = Cell((4, 4), (2_000, 15_000), "step"), Cell((12, 12), (10_000, 30_000), "constant")
CML_BRATS = Cell((4, 4), (10_000, 30_000), "poly", released=False)      # batch and steps are the paper's
CML_ROW = CML_LA, CML_ACDC, CML_BRATS

PUBLISHED_ON = "LA", "ACDC", "BraTS2019"
TABLE = {
    "supervised": (Cell((4, None), (0, 6_000), "step"), Cell((24, None), (0, 30_000), "poly"),
                   Cell((2, None), (0, 30_000), "poly")),
    "mean_teacher": (ours(UA_MT_LA), SSL4MIS_ACDC, SSL4MIS_BRATS),
    "ua_mt": (UA_MT_LA, SSL4MIS_ACDC, SSL4MIS_BRATS),
    "sassnet": (UA_MT_LA, ours(SSL4MIS_ACDC), ours(UA_MT_LA)),
    "dtc": (UA_MT_LA, ours(SSL4MIS_ACDC), ours(UA_MT_LA)),
    "urpc": (ours(UA_MT_LA), SSL4MIS_ACDC, ours(SSL4MIS_BRATS, lr=0.1)),    # SSL4MIS's 3D script is for another set
    "mc_net": (MC_NET_LA, MC_NET_ACDC, ours(MC_NET_LA)),
    "ss_net": (SS_NET_LA, MC_NET_ACDC, ours(SS_NET_LA)),
    "mcf": (UA_MT_LA, ours(SSL4MIS_ACDC), ours(UA_MT_LA)),
    "dan": (ours(UA_MT_LA), SSL4MIS_ACDC, SSL4MIS_BRATS),
    "ict": (ours(UA_MT_LA), SSL4MIS_ACDC, SSL4MIS_BRATS),
    "em": (ours(UA_MT_LA), SSL4MIS_ACDC, SSL4MIS_BRATS),
    "bcp": (CML_LA, CML_ACDC, ours(CML_LA, steps=(10_000, 30_000))),
    "cml": CML_ROW,
    "cps": tuple(map(ours, CML_ROW)),       # of the paper's Figure 6, for which no code was released
    "cfl": tuple(map(ours, CML_ROW)),
    "cml_plus": tuple(map(ours, CML_ROW)),
}


def cell(recipe):
    """The settings of a recipe's method on its data set; InputError if the table has no such method or data set."""
    if recipe.dataset not in PUBLISHED_ON:
        raise InputError(f"--protocol {recipe.protocol}: the methods' authors published on "
                         f"{', '.join(PUBLISHED_ON)}; on your own data use --protocol matched")
    if recipe.method not in TABLE:
        raise InputError(f"--protocol {recipe.protocol}: it is not known how --method {recipe.method} was published; "
                         "use --protocol matched, or add it to code/methods/protocols.py")
    return TABLE[recipe.method][PUBLISHED_ON.index(recipe.dataset)]


def changes(recipe):
    """{field: value} that the recipe's protocol makes of its preset: nothing if it is 'matched'.

    Presets other than `paper` are as short as they are for a reason, and keep their batch and steps; the interval
    of the step schedule becomes its share of the stage there.
    """
    if recipe.protocol == "matched":
        return {}
    own = cell(recipe)
    values = {"self_schedule": own.schedule, "lr": own.lr}
    if own.steps[0]:
        values["pre_schedule"] = "poly" if own.schedule == "poly" else "constant"
    if own.schedule == "step":
        values["drop_every"] = DROP_EVERY if recipe.preset == "paper" else DROP_EVERY / own.steps[1]
    if recipe.preset == "paper":
        values |= {"labeled_batch": own.batch[0], "pre_steps": own.steps[0], "self_steps": own.steps[1]}
        if own.batch[1]:
            values["unlabeled_batch"] = own.batch[1]
    return values


def switched(recipe, preset, **fields):
    """The recipe with another method or protocol, and with what follows from that.

    preset: the recipe's preset; its values come back where the recipe leaves a protocol or a method of 'original'.
    """
    new = dataclasses.replace(recipe, hyper=None, **fields)
    if "original" in (recipe.protocol, new.protocol):
        new = dataclasses.replace(new, **{name: getattr(preset, name) for name in FIELDS} | changes(new))
    return new


def note(recipe):
    """One line to print before training, or None: that 'original' is our recommendation, no code was published."""
    if recipe.protocol == "matched" or cell(recipe).released:
        return None
    return (f"--protocol original: there is no published code of {recipe.method} for {recipe.dataset}; batch, steps, "
            "schedule and loss are our recommendation (docs/methods.md)")
