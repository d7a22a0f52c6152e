"""What gpu_day.py does: check, time and train, each found thing printed and kept at once."""
import json
import os
import signal
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks import gpu_checks, gpu_runs, gpu_timing
from benchmarks.workloads import SETS
from runtime.device import Device
from runtime.errors import InputError, one_line
from runtime.files import make_folder
from training.fit import train

ORDER = ("ACDC", 7), ("LA", 8), ("ACDC", 3), ("LA", 4)      # of training: data set, labelled cases
QUICK = {"pre_steps": 2, "self_steps": 2, "eval_every": 2, "workers": 0}


# ---- records -------------------------------------------------------------------------------------------------


class Records:
    """OUT/<name>.jsonl: what was found by which card and versions, one object per line."""

    def __init__(self, options, name, machine):
        self.path, self.key = options.out / f"{name}.jsonl", {**machine, "quick": options.quick}
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        self.found = {one["item"]: one["value"] for one in map(_record, lines) if one and one["key"] == self.key}

    def add(self, item, value):
        self.found[item] = value
        make_folder(self.path.parent)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"item": item, "value": value, "key": self.key}) + "\n")


def _record(line):
    """A line's object; None for the half-written one of a process that was killed."""
    try:
        return json.loads(line)
    except ValueError:
        return None


def machine_of(device):
    """What numbers depend on: {card, torch, CUDA, cuDNN}."""
    own = Device(device)
    return {"card": str(own), "torch": torch.__version__, **own.versions()}


def table_line(*cells):
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def heading(*cells):
    print()
    table_line(*cells)
    table_line(*["---"] * len(cells))


# ---- check, time, train --------------------------------------------------------------------------------------


def check(options, machine):
    """A line per check -> whether none failed."""
    records, failed = Records(options, "check", machine), 0
    heading("check", "found", "tolerance", "")
    with TemporaryDirectory() as folder:
        for name in gpu_checks.CHECKS:
            if name in records.found:
                lines = map(gpu_checks.Finding._make, records.found[name])
            else:
                lines = gpu_checks.lines(name, options.device, options.quick, Path(folder) / name)
            kept = []
            for line in lines:
                table_line(line.item, line.value, line.tolerance, {True: "PASS", False: "FAIL", None: "–"}[line.passed])
                kept.append(line)
            wrong = sum(line.passed is False for line in kept)
            failed += wrong
            if name not in records.found and not wrong:
                records.add(name, kept)
    return not failed


def measure(options, machine):
    """A table of steps, the longest kernels of each data set, and what else takes time -> whether all were timed.

    What failed is not kept: the next call tries it again.
    """
    records = Records(options, "time", machine)
    rows, failed = [], False
    heading(*gpu_timing.STEP_HEADINGS)
    with TemporaryDirectory() as folder:
        for name in ("ACDC", "LA") if options.quick else ("ACDC", "LA", "BraTS"):
            variants = gpu_timing.variants(options.device)
            for variant in variants:
                item = f"{name}, {variant.name}"
                try:
                    if item not in records.found:
                        records.add(item, _timed(variant, name, options, folder, variant is variants[-1]))
                except Exception as error:      # what goes wrong on a machine that nobody has seen
                    failed = True
                    table_line(item, f"{type(error).__name__}: {one_line(error)[:300]}")
                    continue
                row, below = records.found[item]
                table_line(*row)
                rows += below
    heading("milliseconds per step, or seconds", "")
    for row in rows:
        table_line(*row)
    return not failed


def _timed(variant, name, options, folder, last):
    """[a row of the table, rows that stand below it]."""
    row, found, loop = gpu_timing.measure(variant, name, options.device, options.quick, folder)
    below = [[f"{name}, {variant.name}: {kernel[:80]}", f"{spent:.3g} ms"]
             for kernel, spent in found.kernels[:gpu_timing.KERNELS] if last]
    below += [[f"{name}, {variant.name}: SLOW KERNEL", kernel] for kernel in found.slow()]
    if last:
        below += [[what, f"{seconds:.3g} s"] for what, seconds in gpu_timing.others(name, loop, options.quick)]
    return [row, below]


def train_all(options, machine):
    """The paper's recipes one after the other until time is over -> True; each finished one's row."""
    print(f"\n{', '.join(f'{name} {labeled}' for name, labeled in ORDER)}: {options.minutes:g} minutes", flush=True)
    with stopping_after(options.minutes):
        for name, labeled in ORDER:
            recipe = recipe_of(name, labeled, options)
            try:
                run = train(recipe, SETS[name].data(recipe))
                if split := tested(recipe, name):
                    SETS[name].test.main.__wrapped__(["--run", str(run), "--split", split, "--device", options.device])
            except InputError as error:
                print(f"{name} {labeled}: {error}", flush=True)
    return True


def recipe_of(name, labeled, options):
    """The paper's recipe, its run folder in --out."""
    if options.quick:
        recipe = gpu_runs.recipe_of(name, True, data_dir=gpu_runs.phantoms(name, True, options.out / "phantoms"),
                                    labeled=min(labeled, 4), **QUICK)
    else:
        recipe = replace(SETS[name].presets["paper"], labeled=labeled, data_dir=options.data_dir / name)
    words = [word for word, chosen in (("amp", options.amp), ("compile", options.compile)) if chosen]
    return replace(recipe, device=options.device, amp=options.amp, compile=options.compile,
                   out=options.out / "_".join([name, str(labeled), *words])).check()


def tested(recipe, name):
    """The split whose scans are here: test, or else val; None if neither is."""
    data = SETS[name].data(recipe)
    split = data.split()
    for which in ("test", "val"):
        try:
            if [data.path_of(case) for case in getattr(split, which)]:
                return which
        except InputError:
            continue
    return None


@contextmanager
def stopping_after(minutes):
    """As a scheduler does: SIGTERM when time is over, at which a run saves its checkpoint and leaves."""
    def over(*_):
        raise SystemExit(128 + signal.SIGTERM)      # where no run is on that takes it for itself
    timer = threading.Timer(60 * minutes, os.kill, (os.getpid(), signal.SIGTERM))
    before = signal.signal(signal.SIGTERM, over)
    timer.daemon = True
    begun = time.monotonic()
    timer.start()
    try:
        yield
        print("nothing is left to train here", flush=True)
    except SystemExit as left:
        if left.code != 128 + signal.SIGTERM or time.monotonic() - begun < 60 * minutes:
            raise                                   # somebody else's signal
        print("time is over: the same command goes on from here", flush=True)
    finally:
        timer.cancel()
        signal.signal(signal.SIGTERM, before)


def carry_out(options):
    """What `options`, those of gpu_day.py, ask for -> the exit code."""
    options.device = str(Device(options.device).torch)
    machine = machine_of(options.device)
    print("; ".join(f"{key} {value}" for key, value in machine.items()), flush=True)
    done = [{"check": check, "time": measure, "train": train_all}[what](options, machine) for what in options.what]
    return 0 if all(done) else 1
