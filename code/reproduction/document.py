"""The marked blocks of README.md and docs/results.md, written from the runs that are kept.

A block stands between `<!-- collect: KIND NAME -->` and `<!-- collected -->`; the text around it is written by hand.
"""
import re

from evaluation import published, tables
from reproduction import active, columns
from reproduction.experiments import PLACES
from reproduction.results import RESULTS
from reproduction.runs import kept, runs_of
from runtime.errors import InputError
from runtime.files import read_text, write_text

BLOCK = re.compile(r"(<!-- collect: (\w+) ?(\w*) -->\n).*?(<!-- collected -->)", re.S)
P_VALUE = re.compile(r"[+-]\d+\.\d\d \([\d.e-]+\)|\bp [\d.]+(e-\d+)?")       # of a cell or of a sentence
# Kind of block -> how the headings begin that it shows of a place's table
MEANS = "seeds", "Dice (", "95HD (", "ASD ("
BEGINNINGS = {"table": (*MEANS, "empty", "Δ", "validation", "paper", "difference"), "brief": (*MEANS, "Δ"),
              "means": (*MEANS, "empty", "last"), "views": ("Dice (", "subnet", "Dice between", "cosine")}
PICTURES = {
    "costs_ACDC": "ACDC, 3 labelled patients: Dice on the validation volumes during self-training, mean and range over "
                  "seeds: against steps, images through each network, images in the losses",
    "costs_LA": "LA, 8 labelled scans: Dice on the held-out scans during self-training: against steps, patches through "
                "each network, patches in the losses",
}


def table(name, results, kind="table"):
    """A place's rows that have runs, in the columns of the kind that hold something, and notes on the paper's; "" where
    no row has runs.
    """
    headings, rows = columns.table(PLACES[name], results=results)
    rows = [(title, cells) for title, cells, line in rows if line.runs]
    if not rows:
        return ""
    shown = [index for index, heading in enumerate(headings) if heading.startswith(BEGINNINGS[kind])
             and any(cells[index] for _, cells in rows)]
    rows = [(title, cells) for title, cells in rows if any(cells[index] for index in shown[1:])]
    note = published.NOTES.get(name)
    return tables.markdown([[title, *(cells[index] for index in shown)] for title, cells in rows],
                           [headings[index] for index in shown]) + (f"\n\n{note}" if note else "")


def missing(preset, results):
    """How many runs a preset's places should have and have not."""
    counts = {}
    for place in PLACES:
        if PLACES[place].preset == preset:
            runs = runs_of([place])
            counts[place] = sum(not kept(run, results) for run in runs), len(runs)
    words = [f"{absent} of {every} of `{place}`" for place, (absent, every) in counts.items() if absent]
    return f"Not run yet: {', '.join(words) or 'nothing'}. `reproduce.py list NAME` names them."


def picture(name, results):
    """A picture of docs/, where it has runs."""
    from reproduction import figures  # here: options are read without matplotlib
    return (f"![{PICTURES[name]}]({name}.png)" if figures.has_own(name, results)
            else f"{PICTURES[name]}: its runs are not there yet.")


def comparisons(text):
    """How many p values a document has, and what that means."""
    count = len(P_VALUE.findall(BLOCK.sub(lambda block: "" if block[2] == "comparisons" else block[0], text)))
    return (f"This page has {count} p values, none corrected for being one of many: were there no difference anywhere, "
            f"about {max(round(count / 20), 1)} of them would still be below 0.05.")


KINDS = {**dict.fromkeys(BEGINNINGS, PLACES), "missing": ("short", "mini"), "picture": PICTURES, "comparisons": ("",),
         "rounds": (active.NAME,)}


def filled(text, where, results=RESULTS):
    """`text` with every block written anew; InputError names `where` and a block that nobody can write."""
    def block(found):
        begin, kind, name, end = found.groups()
        if name not in (names := KINDS.get(kind, PLACES)) or kind not in KINDS:
            raise InputError(f"{where}: the block `collect: {kind} {name}` is unknown; kinds are {', '.join(KINDS)}, "
                             f"names {', '.join(names)}")
        if kind == "comparisons":
            return found[0]         # it counts what the others have written
        content = (table(name, results, kind) if kind in BEGINNINGS else
                   picture(name, results) if kind == "picture" else
                   active.rounds_table(results) if kind == "rounds" else missing(name, results))
        return begin + content + "\n" * bool(content) + end

    text = BLOCK.sub(block, text)
    return BLOCK.sub(lambda found: f"{found[1]}{comparisons(text)}\n{found[4]}" if found[2] == "comparisons"
                     else found[0], text)


def fill(path, results=RESULTS):
    """Write the blocks of a file; InputError if it has none."""
    text = read_text(path)
    if not BLOCK.search(text):
        raise InputError(f"{path} has no block `<!-- collect: table NAME -->` ... `<!-- collected -->`: put one where "
                         "a table belongs")
    write_text(path, filled(text, path, results))
