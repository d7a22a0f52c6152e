"""Speed and memory: each fast path beside the plain recipe that it replaces, both timed in one run.

    python code/benchmark.py metrics            one row
    python code/benchmark.py all                every row; about an hour on two cores without a GPU
    python code/benchmark.py all --quick        small shapes, under five minutes: shows that it runs, judges nothing

What is timed is in workloads.py. Each variant lives in a fresh process of its own; the two take turns, a row is the
ratio of the medians, memory is each process's peak. Prints Markdown, each line as soon as it is measured.

`validation`: share of training time that validation takes at the paper preset. `limit`: the convolutions' own time
at the best rate this machine reaches for their shapes, and its share of the step or volume. `growth`: step
time against patch volume, test time against volume, memory of the scans against their number, fitted and drawn.
`methods`: a step of every method in the training loop, on slices, in turns with the supervised one.
`windows`: an LA volume by the paper's windows and by predict's. `memory`: of a scan of many classes. `monai`: our
windows beside MONAI's function, where MONAI is installed. `demo`: seconds of the demo beside those of --against.
`start`: how soon scripts answer, CPU time beside that of another revision (--against), the least of --repeat, in turns.
"""
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from runtime.script import reported

import tyro

from benchmarks.targets import REPORTS, TARGETS
from runtime.command_line import check_number, parsed


@dataclass(kw_only=True)
class Options:
    """Fast paths beside the plain recipe."""

    row: tyro.conf.Positional[Literal[("all", *TARGETS, *REPORTS)]]     # what to measure
    quick: bool = False             # small shapes, one repetition, no verdict
    repeat: int = 3                 # repetitions of each variant
    data_dir: Path | None = None    # LA scans for `metrics` and `sampling`; phantoms without it
    plot: Path | None = None        # where `growth` draws its three curves (PNG)
    device: str = "cpu"             # cpu | cuda | cuda:1 ...: of the rows about steps and volumes
    against: str | None = None      # the revision that `start` and `demo` compare with, such as 1484acb


@reported
def main(args=None):
    options = parsed(Options, args, description=__doc__)
    check_number("--repeat", options.repeat)
    from benchmarks.rows import measure  # here: options are read without PyTorch
    return measure(options)


if __name__ == "__main__":
    main()
