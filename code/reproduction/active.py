"""Which patients to label next, measured on ACDC: Dice after each round of choices by look, by spread, at random.

Every strategy begins with one run on the first START patients of the list, adds STEP patients in each of ROUNDS rounds,
as label_next.py chooses cases, and trains anew on all of them. Runs are `mini`, tested on the validation volumes.
"""
import contextlib
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dataloaders.acdc import ACDC
from dataloaders.lists import read_lists
from dataloaders.scans import read_geometry
from evaluation import tables
from evaluation.pooled import case_dice
from evaluation.selection import bottleneck, half_spread
from reproduction.experiments import SEEDS, Experiment
from reproduction.results import RESULTS, Kept
from reproduction.runs import MODEL, Run, check_scans, hours
from runtime.csv_table import Table
from runtime.errors import InputError
from runtime.files import make_folder, write_text
from runtime.locks import locked
from training.checkpoints import is_finished
from training.datasets import DATASETS
from training.trained import load_run

NAME = "active_acdc"
CAPTION = "ACDC, which patients to label next, 20 validation volumes"
FILE = f"{NAME}.csv"            # in the folder of results: a row per run
START, ROUNDS, STEP = 3, 2, 2   # patients at first, rounds, patients that each adds
DRAWS, REPEATS = 5, 3           # random choices per seed, seeds
TRAIN_OPTIONS = "mini", "--method", "cml_plus"        # of train_ACDC.py
STRATEGIES = "look", "spread", "random"


class ActiveRun(NamedTuple):
    """A run of the table."""

    seed: int
    by: str                     # one of STRATEGIES, or "start"
    draw: int                   # which of the random choices
    number: int                 # of rounds before it

    @property
    def folder(self):
        return f"seed{self.seed}_{self.by}{self.draw or ''}_round{self.number}"


def ways():
    """(strategy, draw) of each row of choices."""
    return [(by, draw) for by in STRATEGIES for draw in range(DRAWS if by == "random" else 1)]


def cells(seeds=None):
    """All runs, in the order in which they are made."""
    return [cell for seed in SEEDS[:seeds or REPEATS] for cell in (
        ActiveRun(seed, "start", 0, 0),
        *(ActiveRun(seed, *way, number) for way in ways() for number in range(1, ROUNDS + 1)))]


def there(results=RESULTS):
    """{cell: (its labelled patients, Dice in percent)} of the runs that are kept."""
    rows = [row for folder in results for row in Table(Path(folder) / FILE).rows()]
    try:
        return {ActiveRun(int(row["seed"]), row["by"], int(row["draw"]), int(row["round"])):
                (row["patients"].split(), float(row["dice"])) for row in rows}
    except (KeyError, ValueError) as error:
        raise InputError(f"{FILE} in {' or '.join(map(str, results))} is none that `reproduce.py run {NAME}` wrote "
                         f"({error}): restore it from a copy, or remove it") from error


def missing_hours(results=RESULTS, seeds=None):
    """Cells that are not there, and the hours of training that they take; NaN where nothing says how long a step is."""
    absent = [cell for cell in cells(seeds) if cell not in there(results)]
    time, _ = hours(Run(Experiment("ACDC", "cml_plus", START), "mini", SEEDS[0]), results)
    return absent, len(absent) * time


# ---- run ---------------------------------------------------------------------------------------------------------


def make_missing(results, model=MODEL, data_dir=None, device="auto", seeds=None):
    """Make the runs that are missing, one after the other; each one's row is kept as soon as it is tested.

    results: the folder to write to; model, data_dir: folders with one folder per data set, of runs and of scans.
    """
    home = Path(model) / "ACDC" / NAME
    scans = Path(data_dir) / "ACDC" if data_dir else DATASETS["ACDC"].presets["mini"].data_dir
    check_scans(scans, "ACDC")
    slices = read_lists(scans, "ACDC", ACDC.lists)["train"]
    everybody = list(dict.fromkeys(map(ACDC.patient_of, slices)))
    make_folder(results)
    with locked(home, "run, or --out"):
        for cell in cells(seeds):
            kept = there([results])
            if cell in kept:
                continue
            patients = everybody[:START]
            if before := earlier(cell):
                patients = kept[before][0]
                if (data := home / before.folder / "data").is_dir():
                    link_scans(data, scans)
                patients = patients + more_patients(cell, home / before.folder / "run", everybody, patients, device)
            run = trained(cell, home / cell.folder, scans, slices, patients, device)
            dice = 100 * float(np.mean(list(case_dice(Kept(run).tested("val", "last")).values())))
            table_file = Table(Path(results) / FILE)
            table_file.append({"seed": cell.seed, "by": cell.by, "draw": cell.draw, "round": cell.number,
                               "patients": " ".join(patients), "dice": f"{dice:.4f}"})
            table_file.close()
            print(f"{cell.folder}: {len(patients)} patients, Dice {dice:.2f} %", flush=True)


def earlier(cell):
    """The run whose network a cell's patients are chosen with; None of the first one."""
    if cell.by == "start":
        return None
    return cell._replace(number=cell.number - 1) if cell.number > 1 else ActiveRun(cell.seed, "start", 0, 0)


def trained(cell, folder, scans, slices, patients, device):
    """The run of a cell, trained and tested where it is not: on a list whose first patients are these."""
    data, run = folder / "data", folder / "run"
    make_folder(data)
    order = {patient: place for place, patient in enumerate(patients)}
    ordered = sorted(slices, key=lambda name: order.get(ACDC.patient_of(name), len(order)))
    write_text(data / ACDC.lists["train"], "".join(f"{name}\n" for name in ordered))
    link_scans(data, scans)
    modules, where = DATASETS["ACDC"], ["--data-dir", str(data), "--device", device]
    if not is_finished(run):
        modules.train.main.__wrapped__([*TRAIN_OPTIONS, "--labeled", str(len(patients)), "--seed", str(cell.seed),
                                        "--out", str(run), *where])
    if not (run / "test_val_last.csv").exists():
        modules.test.main.__wrapped__(["--run", str(run), "--split", "val", *where])
    return run


def link_scans(data, scans):
    """Link in a cell's data folder to what is in the folder of scans, but its train list; anew where that moved."""
    for path in scans.iterdir():
        link = data / path.name
        if path.name != ACDC.lists["train"] and not (link.is_symlink() and link.resolve() == path.resolve()):
            if link.is_symlink():
                link.unlink()
            os.symlink(path.resolve(), link)


# ---- choosing ----------------------------------------------------------------------------------------------------


def more_patients(cell, run, everybody, labelled, device):
    """STEP patients to label next, of those that have no label."""
    others = [patient for patient in everybody if patient not in labelled]
    if cell.by == "random":
        order = np.random.default_rng([cell.seed, cell.draw, cell.number]).permutation(len(others))
        return [others[place] for place in order[:STEP]]
    one = load_run(run, device=device)
    ranked = by_look(one)
    if cell.by == "look":
        return ranked[:STEP]

    def bottlenecks(patients):
        volumes = volumes_of(one.data, patients)
        return [np.mean([bottleneck(one.method, image, one.recipe) for _, image in volumes[patient]], 0)
                for patient in patients]
    return half_spread(labelled, ranked, STEP, bottlenecks)


def volumes_of(data, patients=None):
    """{patient: [(volume, its slices in one (1, D, H, W)), ...]} of those without a label, or of these; no label is
    opened.
    """
    import torch
    split, found = data.split(), {}
    names = split.unlabelled if patients is None else [
        name for name in (*split.labelled, *split.unlabelled) if data.patient_of(name) in patients]
    for scan in sorted(data.train_scans(names, labelled=False), key=lambda scan: (len(scan.name), scan.name)):
        found.setdefault(data.patient_of(scan.name), {}).setdefault(data.volume_of(scan.name), []).append(scan.image)
    return {patient: [(name, torch.stack(slices, 1)) for name, slices in volumes.items()]
            for patient, volumes in found.items()}


def by_look(one):
    """Patients without a label, the one whose volume has the highest score of trust.py in front."""
    from evaluation.evidence import judged
    from evaluation.trust import read_training_cases
    training, scores = read_training_cases(one.run, one.recipe), {}
    for patient, volumes in volumes_of(one.data).items():
        for name, image in volumes:
            geometry = None
            with contextlib.suppress(InputError):       # slices without their volume
                geometry = read_geometry(one.data.path_of(name))
            rows = judged(one, image, training, geometry)[-1]
            scores[patient] = max(scores.get(patient, 0), rows[0]["score"])
    return sorted(scores, key=lambda patient: (-scores[patient], patient))


# ---- table -------------------------------------------------------------------------------------------------------


def rounds_table(results=RESULTS):
    """Markdown: Dice after each round, mean and deviation over the seeds whose draws are all there; "" without runs."""
    kept = there(results)
    if not kept:
        return ""
    lines = []
    for by in STRATEGIES:
        line = []
        for number in range(ROUNDS + 1):
            means = []
            for seed in SEEDS[:REPEATS]:
                wanted = [ActiveRun(seed, by, draw, number) if number else ActiveRun(seed, "start", 0, 0)
                          for strategy, draw in ways() if strategy == by]
                if all(cell in kept for cell in wanted):
                    means.append(np.mean([kept[cell][1] for cell in wanted]))
            line.append("–" if not means else f"{np.mean(means):.2f}" + (
                f" ± {np.std(means, ddof=1):.2f}" if len(means) > 1 else "") + (
                f" ({len(means)} of {REPEATS} seeds)" if len(means) < REPEATS else ""))
        lines.append([f"{by}, mean of {DRAWS} draws" if by == "random" else by, *line])
    return tables.markdown(lines, [f"Dice (%), {START + STEP * number} patients" for number in range(ROUNDS + 1)])
