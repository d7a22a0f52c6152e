"""The marked blocks of README.md and docs/results.md, written from the runs that are kept.

A block stands between `<!-- collect: KIND NAME -->` and `<!-- collected -->`; the text around it is written by hand.
"""
import re

import numpy as np

from evaluation import published, tables
from reproduction import columns, figures, passes
from reproduction.experiments import METHODS, PLACES, STEPS
from reproduction.runs import RESULTS, kept, runs_of
from runtime.errors import InputError
from runtime.files import read_text, write_text

BLOCK = re.compile(r"(<!-- collect: (\w+) ?(\w*) -->\n).*?(<!-- collected -->)", re.S)
AFTER_STEPS, AFTER_IMAGES = (600, 1600, 2400, 3600), (15_000, 30_000, 45_000)       # milestones of `milestones`


def table(name, results):
    """A place's table, and what the paper's numbers have of their own."""
    note = published.NOTES.get(name)
    return columns.markdown(name, results=results) + (f"\n\n{note}" if note else "")


def brief(name, results):
    """Seeds, metrics and differences of a place, for README."""
    headings, rows = columns.table(PLACES[name], results=results)
    shown = [index for index, heading in enumerate(headings)
             if heading in ("seeds", "Dice (%) ↑", "95HD (voxel) ↓", "ASD (voxel) ↓") or heading.startswith("Δ")]
    return tables.markdown([[title, *(cells[index] for index in shown)] for title, cells, _ in rows],
                           [headings[index] for index in shown])


def gpu(name, results):
    """How a table's missing runs are made, and what they cost as far as that is known."""
    runs = runs_of([name], "paper")
    there = [found for run in runs if (found := kept(run, results))]
    lines = [f"`python code/reproduce.py run {name}` makes the {len(runs)} runs ({len(there)} are there)."]
    costs = [(found.hours, found.memory) for found in there]
    lines.append("Hours and memory on a GPU: not yet measured." if not costs else
                 "Hours a run and memory: {:.1f} h, {:.1f} GiB (medians).".format(*np.median(costs, 0)))
    return " ".join(lines)


def milestones(name, results):
    """Dice on the validation volumes after so many steps of self-training, and after so many images."""
    lines, rows = columns.lines_of(PLACES[name], results=results), []
    for method in (*STEPS, "cml_plus"):
        line = lines[METHODS[method][0]]
        curves = [passes.curve(run, found) for run, found in passes.with_runs(line, PLACES[name].at(None))]
        rows.append([line.row.title, str(len(curves)) if curves else "",
                     *(columns.over_runs([passes.at(curve, "self_step", step) for curve in curves])
                       for step in AFTER_STEPS),
                     *(columns.over_runs([passes.at(curve, "images", count) for curve in curves])
                       for count in AFTER_IMAGES)])
    headings = ["seeds", *(f"{step:,} steps" for step in AFTER_STEPS), *(f"{n:,} images" for n in AFTER_IMAGES)]
    return tables.markdown(rows, headings)


def pseudo_labels(name, results):
    """What `reproduce.py pseudo-labels` measured of the runs of a place."""
    keys, lines = ("subnet0", "subnet1", "fused", "between"), []
    for line in columns.lines_of(PLACES[name], results=results).values():
        for seed, run in line.runs.items():
            rows = run.rows("pseudo_labels", ("step", *keys))
            lines += [[f"{line.row.title}, seed {seed}", f"{row['step']:.0f}",
                       *(f"{100 * row[key]:.2f}" for key in keys)] for row in rows]
    return tables.markdown(lines, ["step", "subnet 0: Dice (%)", "subnet 1: Dice", "fused: Dice",
                                   "between the subnets: Dice"])


def missing(name, results):
    """Runs that a preset's places should have and have not."""
    places = [place for place in PLACES if PLACES[place].preset == name]
    names = [f"`{run.name}`" for run in runs_of(places) if not kept(run, results)]
    return f"Not run yet: {', '.join(names) or 'none'}."


def picture(name, results):
    """A picture of docs/, where it has runs."""
    there = figures.own(name, results)
    return f"![{PICTURES[name]}]({name}.png)" if there else f"{PICTURES[name]}: its runs are not there yet."


PICTURES = {
    "figure2_short": "ACDC, 3 labelled: Dice of each view on the validation volumes during self-training",
    "figure6_short": "Dice of the methods: ACDC, 3 labelled, and LA, 8 labelled",
    "costs_short": "Dice on the validation volumes during self-training, mean and range over seeds: against steps, "
                   "images through each network, images in the losses",
    "figure5_short": "ACDC, 3 labelled: Dice over β; ringed: the paper's value",
    "figure2_mini": "ACDC, 7 labelled: Dice of each view on the validation volumes during self-training",
    "figure6_mini": "Dice of the methods: ACDC, 7 labelled, and LA, 8 labelled",
}
KINDS = {"table": table, "brief": brief, "gpu": gpu, "milestones": milestones, "pseudo_labels": pseudo_labels,
         "missing": missing, "picture": picture}


def filled(text, where, results=RESULTS):
    """`text` with every block written anew; InputError names `where` and a block that nobody can write."""
    def block(found):
        begin, kind, name, end = found.groups()
        names = {"missing": ("short", "mini"), "picture": PICTURES}.get(kind, PLACES)
        if kind not in KINDS or name not in names:
            raise InputError(f"{where}: the block `collect: {kind} {name}` is unknown; kinds are {', '.join(KINDS)}, "
                             f"names {', '.join(names)}")
        return f"{begin}{KINDS[kind](name, results)}\n{end}"
    return BLOCK.sub(block, text)


def fill(path, results=RESULTS):
    """Write the blocks of a file; InputError if it has none."""
    text = read_text(path)
    if not BLOCK.search(text):
        raise InputError(f"{path} has no block `<!-- collect: table NAME -->` ... `<!-- collected -->`: put one where "
                         "a table belongs")
    write_text(path, filled(text, path, results))
