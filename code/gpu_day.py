"""The day a GPU is at hand: check the path on it, time it, train the paper's recipes on it.

    python code/gpu_day.py check                the GPU against the CPU, a line for each check; under 10 minutes
    python code/gpu_day.py time                 a step of each data set, plain and fast; under 20 minutes
    python code/gpu_day.py train --minutes 30   ACDC 7, LA 8, ACDC 3, LA 4, in this order, for as long as there is
    python code/gpu_day.py check time train --quick --device cpu    all of it, small, without a GPU

Lines are printed as soon as they are known, and kept in --out: a check that passed and a variant that was timed on the
same card with the same versions are shown again, not made again. Training goes on from its checkpoints; a run that is
finished is tested, and its row printed. No GPU has run this yet: what fails first may be this script.
"""
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from runtime.script import reported

import tyro

from runtime.command_line import check_number, parsed
from runtime.errors import DEBUG
from runtime.files import ROOT

MOST_MINUTES = 7 * 24 * 60


@dataclass(kw_only=True)
class Options:
    """What is done, in the order in which it is named."""

    what: tyro.conf.Positional[tuple[Literal["check", "time", "train"], ...]]   # to do, in this order
    device: str = "auto"            # auto | cpu | cuda | cuda:1 ...
    quick: bool = False             # small shapes, few steps: shows that it runs, judges no speed
    minutes: float = 30             # for `train`
    data_dir: Path = ROOT / "data"  # for `train`: folder with ACDC/ and LA/; with --quick phantoms are drawn
    amp: bool = False               # for `train`: bfloat16 autocast, which is not the paper's recipe
    compile: bool = False           # for `train`: torch.compile the networks
    out: Path = ROOT / "model/gpu_day"      # records, and run folders


@reported
def main(args=None):
    options = parsed(Options, args, description=f"{__doc__}\n{DEBUG}")
    check_number("--minutes", options.minutes, most=MOST_MINUTES, least=0)
    from benchmarks.gpu_parts import carry_out  # here: options are read without PyTorch
    return carry_out(options)


if __name__ == "__main__":
    sys.exit(main())
