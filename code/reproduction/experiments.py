"""Experiments as data: every cell of Tables 1-4, every point of Figures 2, 4, 5 and 6, and what we added ourselves.

A `Place` is a table or figure, its rows the experiments that answer it; an experiment that answers several places is
trained once. A table more is an entry of PLACES.
"""
from typing import NamedTuple

from evaluation import published


class Experiment(NamedTuple):
    """A method in a setting; with a preset and a seed it is a run."""

    dataset: str
    method: str                 # as `--method` names it
    labeled: int                # labelled cases; all where the preset has fewer
    changes: tuple = ()         # ((field of the recipe, or hyper.NAME, value), ...) on top of the preset

    def plainly_augmented(self):
        """It with the paper's augmentation; None where it has that."""
        changes = tuple(change for change in self.changes if change[0] != "augment")
        return self._replace(changes=changes) if changes != self.changes else None


class Row(NamedTuple):
    """An experiment's line in a table."""

    title: str
    experiment: Experiment
    paper: tuple | None = None  # (Dice, 95HD, ASD) that the paper reports
    seeds: int = 1              # how many it should have
    last: bool = False          # of a run whose moving average is tested: its last iterate instead


class Place(NamedTuple):
    """A table or a figure."""

    caption: str
    rows: tuple
    preset: str | None = None   # that its numbers are of; None: of any, the paper's by default
    columns: str = "paper"      # of reproduction.columns.LAYOUTS
    baselines: tuple = ()       # titles of the rows that all others are compared with

    def at(self, preset):
        """The preset of its runs, `preset` or None being asked for."""
        return self.preset or preset or "paper"


# method -> name in tables and figures, colour in all figures (told apart without red and green)
APPEARANCE = {
    "supervised": ("supervised", "#7f7f7f"),
    "mean_teacher": ("mean teacher", "#e69f00"),
    "ua_mt": ("UA-MT", "#b8860b"),
    "sassnet": ("SASSNet", "#882255"),
    "dtc": ("DTC", "#999933"),
    "urpc": ("URPC", "#44aa99"),
    "mc_net": ("MC-Net", "#aa4499"),
    "ss_net": ("SS-Net", "#117733"),
    "mcf": ("MCF", "#6699cc"),
    "dan": ("DAN", "#661100"),
    "ict": ("ICT", "#ddcc77"),
    "em": ("EM", "#332288"),
    "bcp": ("BCP", "#f0a3c0"),
    "cps": ("CPS", "#56b4e9"),
    "cfl": ("CFL", "#009e73"),
    "cml": ("CML", "#d55e00"),
    "cml_plus": ("CML+ (ours)", "#0072b2"),
}
SEEDS = tuple(range(1337, 1347))        # seeds in the order they are taken


def of(method, dataset, labeled, seeds=1, title=None, paper=None, **changes):
    """A row; a change to the value that the data set has anyway is none, so that the run is found again.

    `hyper__NAME=` stands for hyper.NAME.
    """
    chosen = published.CHOSEN[dataset]
    changes = tuple((name.replace("__", "."), value) for name, value in changes.items() if chosen.get(name) != value)
    return Row(title or APPEARANCE[method][0], Experiment(dataset, method, labeled, changes), paper, seeds)


def _compared(dataset):
    """Every row of Table 1, 2 or 3, in its order: by labelled cases, the fully labelled row among the supervised."""
    rows = [(method, labeled, row) for method, ratios in published.TABLES[dataset].items()
            for labeled, row in ratios.items()]
    supervised = [row for row in rows if row[0] == "supervised"]
    others = sorted((row for row in rows if row[0] != "supervised"), key=lambda row: row[1])
    return tuple(of(method, dataset, labeled, title=f"{APPEARANCE[method][0]}, {labeled}", paper=paper)
                 for method, labeled, paper in supervised + others)


TERMS = {"labelled": (False, False), "+ discrepancy": (True, False), "+ unlabelled": (False, True),
         "all (CML)": (True, True)}     # row of Table 4 -> whether the discrepancy and the unlabelled term are in


def _terms(dataset, labeled, prefix="", paper=None):
    """Table 4's rows: CML with terms of its objective taken out."""
    return tuple(of("cml", dataset, labeled, title=prefix + title, paper=paper and paper[terms],
                    **{} if terms[1] else {"lambda_unsup": 0.0}, **{} if terms[0] else {"lambda_dis": 0.0})
                 for title, terms in TERMS.items())


SYMBOLS = {"lambda_unsup": "λ1", "lambda_dis": "λ2", "beta": "β"}


def fraction(value):
    """0.333... -> '1/3', 0.5 of β -> '1/2': how the paper writes β, and the command line takes it."""
    tops = {round(top / bottom, 9): f"{top}/{bottom}" for bottom in range(6, 1, -1) for top in range(1, bottom)}
    return tops.get(round(value, 9), f"{value:g}")


def _sensitivity(dataset, labeled, names=tuple(published.FIGURE5), prefix=""):
    return tuple(of("cml", dataset, labeled, title=f"{prefix}{SYMBOLS[name]} = "
                    f"{fraction(value) if name == 'beta' else f'{value:g}'}", **{name: value})
                 for name in names for value in published.FIGURE5[name])


def _parts(dataset, labeled):
    """CML, CML+, and CML+ with one or two of its parts.

    Averaging changes nothing in training but which pre-trained weights are kept. So what is not averaged is not trained
    again: it is the last iterate of the run that averages.
    """
    off = {f"{part} alone": {*PARTS} - {part} for part in PARTS} | {f"without {part}": {part} for part in PARTS}
    return (of("cml", dataset, labeled), of("cml_plus", dataset, labeled), *(
        of("cml_plus", dataset, labeled, title=title.replace("_", " "),
           **{f"hyper__{part}": False for part in PARTS if part in parts and part != "averaged"})
        ._replace(last="averaged" in parts) for title, parts in off.items()))


def _several(methods, dataset, labeled, seeds=()):
    """Rows of one setting; seeds: those methods that have more than one."""
    return tuple(of(method, dataset, labeled, dict(seeds).get(method, 1)) for method in methods)


TEN = published.ABLATED
STEPS = "cps", "cfl", "cml"             # towards CML, Section 4.6
FIGURE4 = dict.fromkeys(("LA", "ACDC"), ("ua_mt", "mc_net", "ss_net", "mcf", "cml"))
COMPARED = tuple(name for name in APPEARANCE if name != "cml_plus")     # all but ours
MAIN = "supervised", "mean_teacher", "cps", "cfl", "bcp", "cml", "cml_plus"
THREE = {"cps": 3, "cml": 3, "cml_plus": 3}
AUGMENTATIONS = {"strong": {"augment": "strong"}, "geometry alone": {"augment": "geometry"},
                 "intensities alone": {"augment": "intensity"}, "z-scored scans": {"normalise": "zscore"}}
PARTS = "both_orders", "averaged", "perturbed"      # switches of cml_plus

PLACES = {
    **{f"table{number}": Place(f"Table {number}: {dataset}", _compared(dataset))
       for dataset, number in published.TABLE_NUMBERS.items()},
    "table4": Place("Table 4: terms of CML's objective, 10 % labelled", tuple(
        row for dataset, rows in published.TABLE4.items()
        for row in _terms(dataset, TEN[dataset], f"{dataset}: ", rows))),
    "figure2": Place("Figure 2: Dice of each view over the steps, LA, 8 labelled",
                     _several(("mean_teacher", "cps", "cml"), "LA", TEN["LA"])),
    "figure4": Place("Figure 4: segmentations, 10 % labelled", tuple(
        row for dataset, methods in FIGURE4.items() for row in _several(methods, dataset, TEN[dataset]))),
    "figure5": Place("Figure 5: sensitivity to λ1, λ2 and β, 10 % labelled", tuple(
        row for dataset, labeled in TEN.items() for row in _sensitivity(dataset, labeled, prefix=f"{dataset}: "))),
    "figure6": Place("Figure 6: CPS, CFL and CML, 10 % labelled", tuple(
        row._replace(title=f"{dataset}: {row.title}") for dataset, labeled in TEN.items()
        for row in _several(STEPS, dataset, labeled))),
    # ours: hours per run without a GPU
    "short_acdc3": Place("ACDC, 3 labelled patients, 40 test volumes", _several(MAIN, "ACDC", 3, THREE.items()),
                         "short", "short", ("CPS",)),
    "short_la8": Place("LA, 8 labelled scans, 8 held-out scans",
                       (*_several(("supervised", "cps", "cfl", "cml", "cml_plus"), "LA", 8),
                        of("cml_plus", "LA", 8, title="CML+, strong augmentation", augment="strong")),
                       "short", "short", ("CPS",)),
    "short_acdc7": Place("ACDC, 7 labelled patients, 40 test volumes",
                         _several(("cps", "cml", "cml_plus"), "ACDC", 7), "short", "short", ("CPS",)),
    **{f"short_draw{draw}": Place(
        f"ACDC, 3 other labelled patients: the first of the list's shuffle {draw}", tuple(
            of(method, "ACDC", 3, labeled_draw=draw) for method in ("supervised", "cps", "cml", "cml_plus")),
        "short", "short", ("CPS",)) for draw in (1, 2)},
    "short_augment": Place("ACDC, what augmentation the labelled patients alone gain from, 3 labelled patients", (
        of("supervised", "ACDC", 3), *(of("supervised", "ACDC", 3, title=f"supervised, {title}", **changes)
                                       for title, changes in AUGMENTATIONS.items()),
        of("urpc", "ACDC", 3, title="supervised, strong, four heads", augment="strong", hyper__consistency=0.0)),
        "short", "short", ("supervised",)),
    "short_strong": Place("ACDC, strong augmentation, 3 labelled patients", (
        *(of(method, "ACDC", 3, 1 if method == "supervised" else 2, augment="strong")
          for method in ("supervised", "cps", "bcp", "cml", "cml_plus")),
        of("cml_plus", "ACDC", 3, title="CML+ without perturbed", augment="strong", hyper__perturbed=False)),
        "short", "augmented", ("supervised", "CPS")),
    "short_terms": Place("ACDC, terms of CML's objective (Table 4), 3 labelled patients", _terms("ACDC", 3), "short",
                         "short", ("labelled",)),
    "short_beta": Place("ACDC, β (Figure 5c), 3 labelled patients", _sensitivity("ACDC", 3, ("beta",)), "short",
                        "short", ("β = 1/2",)),
    "short_parts": Place("ACDC, the parts of CML+, 3 labelled patients", _parts("ACDC", 3), "short", "short",
                         ("CML", "CML+ (ours)")),
    "short_long": Place("ACDC, three times the steps, 3 labelled patients", tuple(
        of(method, "ACDC", 3, title=f"{APPEARANCE[method][0]}, 3 × the steps", pre_steps=3600, self_steps=10800)
        for method in ("cps", "cml")), "short", "short", ("CPS, 3 × the steps",)),
    "short_long_la8": Place("LA, three times the steps for CML, 8 labelled scans", (
        of("cps", "LA", 8), of("cml", "LA", 8), of("cml", "LA", 8, title="CML, 3 × the steps", pre_steps=1800,
                                                   self_steps=7200)), "short", "short", ("CPS",)),
    # ours: minutes a run, too short to rank methods
    "mini_acdc7": Place("ACDC, 7 labelled patients, 20 validation volumes: does every method run and learn?",
                        _several(COMPARED, "ACDC", 7), "mini", "mini", ("supervised", "CPS")),
}


def places_of(experiment, preset):
    """Names of the places that a run of this preset answers."""
    return [name for name, place in PLACES.items() if place.preset in (None, preset)
            and any(row.experiment == experiment for row in place.rows)]
