"""The README's evidence as named experiments: run what is missing, collect tables and pictures.

    python code/reproduce.py list                       what is there; the command behind each run that is not
    python code/reproduce.py run ACDC-cps LA-cml        train, test, measure, copy into model/mini_results
    python code/reproduce.py collect                    README's tables, docs/figure2_mini.png, docs/figure6_mini.png

Of single runs: `agreement RUN` measures how alike the two subnets are, `pseudo-labels RUN` how good their
pseudo-labels were, `publish RUN` copies what they wrote into model/mini_results.
"""
import functools
import json
import re
import shlex
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import tyro

import test_ACDC
import test_LA
import train_ACDC
import train_LA
from dataloaders.acdc import ACDC
from dataloaders.la import LA
from evaluation import agreement as subnets
from evaluation import plots, tables
from evaluation.report import write_rows
from runtime.errors import InputError, reported
from runtime.files import ROOT, write_text
from training.recipe import command_line, read_config

RESULTS = ROOT / "model/mini_results"
MARKERS = "<!-- python code/reproduce.py collect -->", "<!-- collected -->"
SEEDS = (1337, 1338, 1339)


class Protocol(NamedTuple):
    """How a data set's runs are started and tested."""

    data: type
    train: Any              # its scripts
    test: Any
    options: str            # of the train script, for every run
    split: str              # tested cases
    checkpoints: tuple      # tested weights


class Experiment(NamedTuple):
    """A method or setting."""

    title: str
    options: str
    seeds: tuple = SEEDS[:1]


class Table(NamedTuple):
    """Experiments of one data set side by side."""

    caption: str
    names: tuple
    baselines: tuple        # those of them that all are compared with
    seeds: tuple = SEEDS


PROTOCOLS = {
    "ACDC": Protocol(ACDC, train_ACDC, test_ACDC, "mini --labeled 7", "val", ("last", "best")),
    "LA": Protocol(LA, train_LA, test_LA, "mini --labeled 8 --monitor test", "test", ("last",)),
}
EXPERIMENTS = {         # <data set>-<name>
    "ACDC-supervised": Experiment("supervised", "--method supervised", SEEDS),
    "ACDC-mean_teacher": Experiment("mean teacher", "--method mean_teacher"),
    "ACDC-cps": Experiment("CPS", "--method cps", SEEDS),
    "ACDC-cfl": Experiment("CFL", "--method cfl"),
    "ACDC-cml": Experiment("CML", "--method cml", SEEDS),
    "ACDC-labelled": Experiment("labelled term", "--lambda-unsup 0 --lambda-dis 0"),
    "ACDC-discrepancy": Experiment("labelled and discrepancy term", "--lambda-unsup 0"),
    "ACDC-unlabelled": Experiment("labelled and unlabelled term", "--lambda-dis 0"),
    "ACDC-cml_batch": Experiment("CML, twice the batch", "--labeled-batch 12 --unlabeled-batch 12"),
    "ACDC-cml_long": Experiment("CML, twice the self-training", "--self-steps 2400"),
    "ACDC-released": Experiment("CML, the release's network and fusion", "--network released --fusion logits"),
    "LA-supervised": Experiment("supervised", "--method supervised"),
    "LA-cps": Experiment("CPS", "--method cps"),
    "LA-cfl": Experiment("CFL", "--method cfl"),
    "LA-cml": Experiment("CML", "--method cml"),
}
STEPS = "supervised", "cps", "cfl", "cml"       # towards CML, Section 4.6
TABLES = (
    Table("ACDC, 7 labelled patients, 20 validation volumes", ("ACDC-supervised", "ACDC-mean_teacher", "ACDC-cps",
          "ACDC-cfl", "ACDC-cml"), ("ACDC-supervised", "ACDC-cps")),
    Table("ACDC, terms of the objective (the paper's Table 4), two subnets, seed 1337", ("ACDC-labelled",
          "ACDC-discrepancy", "ACDC-unlabelled", "ACDC-cml"), ("ACDC-labelled",), SEEDS[:1]),
    Table("ACDC, as many images in CML's losses as in those of CPS, seed 1337", ("ACDC-cps", "ACDC-cml",
          "ACDC-cml_batch", "ACDC-cml_long"), ("ACDC-cps",), SEEDS[:1]),
    Table("LA, 8 labelled scans, 8 held-out scans", tuple(f"LA-{name}" for name in STEPS), ("LA-supervised", "LA-cps")),
)
AUTHORS = {"the authors' code": ("74.59", "9.94"),      # Dice (%), 95HD (voxel): best on validation, this protocol
           "the authors' code, two subnets put in": ("76.82", "4.88")}


# ---- runs --------------------------------------------------------------------------------------------------------


class Run(NamedTuple):
    """An experiment with one seed."""

    name: str
    seed: int

    @property
    def protocol(self):
        return PROTOCOLS[self.name.split("-")[0]]

    @property
    def options(self):
        """Of the train script."""
        return shlex.split(f"{self.protocol.options} {EXPERIMENTS[self.name].options} --seed {self.seed}")

    @property
    def command(self):
        return shlex.join(["python", f"code/{self.protocol.train.__name__}.py", *self.options])

    @property
    def folder(self):
        """Where the train script puts it."""
        return _folder(self.protocol.train, tuple(self.options))

    def kept(self, results, name=""):
        """Where its files are kept."""
        return results / self.protocol.data.dataset / self.folder.name / name

    def table(self, results, checkpoint):
        return self.kept(results, f"test_{self.protocol.split}_{checkpoint}.csv")

    def agreement(self, results):
        return self.kept(results, f"agreement_{self.protocol.split}_last.csv")

    def two_subnets(self, results):
        return "subnet0" in tables.views_of(tables.read_rows(self.table(results, "last")))

    def done(self, results):
        return all(self.table(results, checkpoint).exists() for checkpoint in self.protocol.checkpoints)


@functools.cache
def _folder(script, options):
    return command_line(script.PRESETS, script.__doc__, options).folder(script.PRESETS)


def runs_of(names=(), seeds=SEEDS):
    """Runs of the named experiments, or of all; InputError for an unknown name."""
    for name in names:
        if name not in EXPERIMENTS:
            raise InputError(f"experiment {name!r} is unknown: choose of {', '.join(EXPERIMENTS)}")
    return [Run(name, seed) for name in names or EXPERIMENTS for seed in EXPERIMENTS[name].seeds if seed in seeds]


def show(results: Path = RESULTS):
    """What is there, and the command behind each run that is not."""
    for run in runs_of():
        done = run.done(results)
        print(f"{'there  ' if done else 'missing'} {run.name:18} {run.kept(results) if done else run.command}")
        if done and run.two_subnets(results) and not run.agreement(results).exists():
            folder = str(run.folder).removeprefix(f"{ROOT}/")
            print(f"missing {run.name:18} python code/reproduce.py agreement {folder} --split {run.protocol.split} && "
                  f"python code/reproduce.py publish {folder}")
    print("\npython code/reproduce.py run NAME trains, tests and keeps the missing runs of an experiment")


def run(names: tyro.conf.Positional[tuple[str, ...]] = (), seeds: tuple[int, ...] = SEEDS, results: Path = RESULTS):
    """Train, test, measure and keep what is missing, one run after another; a run that was stopped goes on."""
    for run in runs_of(names, seeds):
        if run.done(results):
            print(f"{run.name}, seed {run.seed} is there: {run.kept(results)}")
            continue
        protocol = run.protocol
        protocol.train.main(run.options)
        for checkpoint in protocol.checkpoints:
            protocol.test.main(["--run", str(run.folder), "--split", protocol.split, "--checkpoint", checkpoint])
        publish((run.folder,), results)
        if run.two_subnets(results):
            agreement((run.folder,), protocol.split)
            publish((run.folder,), results)


def publish(runs: tyro.conf.Positional[tuple[Path, ...]], results: Path = RESULTS):
    """Copy the config.json and CSV files of runs to where results are kept, without the paths of this machine."""
    for run in runs:
        config = read_config(run)
        folder = results / config["dataset"] / run.name
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(config, indent=2).replace(f"{ROOT}/", "") + "\n"
        write_text(folder / "config.json", re.sub(r"(?<![^\s\"'=])/(?:[^\s\"'/]+/)*", "", text))
        for table in run.glob("*.csv"):
            write_text(folder / table.name, table.read_text())
        print(f"kept: {folder}")


def agreement(runs: tyro.conf.Positional[tuple[Path, ...]], split: Literal["test", "val"] = "test",
              checkpoint: Literal["last", "best", "pretrained"] = "last", data_dir: Path | None = None,
              device: str = "auto"):
    """RUN/agreement_<split>_<checkpoint>.csv: Dice between the subnets, cosine of their features, a row a case."""
    for run in runs:
        rows = subnets.agreement(run, split, checkpoint, device, data_dir)
        write_rows(run / f"agreement_{split}_{checkpoint}.csv", rows)
        dice, cosine = (np.mean([row[key] for row in rows]) for key in ("dice", "cosine"))
        print(f"{run.name}: Dice between the subnets {100 * dice:.2f} %, cosine of their features {cosine:.3f}")


def pseudo_labels(runs: tyro.conf.Positional[tuple[Path, ...]], data_dir: Path | None = None, device: str = "auto"):
    """RUN/pseudo_labels.csv from RUN/snapshots/*.pt: Dice of unlabelled slices' pseudo-labels, a row a step."""
    for run in runs:
        rows = subnets.pseudo_labels(run, device, data_dir)
        write_rows(run / "pseudo_labels.csv", rows)
        print(f"{run.name}: Dice of the fused pseudo-labels {100 * rows[0]['fused']:.2f} % at step {rows[0]['step']}, "
              f"{100 * rows[-1]['fused']:.2f} % at step {rows[-1]['step']}")


# ---- README ------------------------------------------------------------------------------------------------------


def tested(results, name, checkpoint="last", seeds=SEEDS):
    """{seed: rows} of the experiment's runs that are there."""
    return {run.seed: tables.read_rows(run.table(results, checkpoint)) for run in runs_of([name], seeds)
            if run.done(results)}


def means(runs, metric="dice", prefix=""):
    """Of each run of {seed: rows} the mean over cases, in percent or voxels."""
    return [tables.statistics(rows, prefix)[metric][0] for rows in runs.values()]


def against(runs, others, names):
    """'difference in Dice (p)' of two experiments over the seeds that both have, averaged patient by patient."""
    shared = [seed for seed in runs if seed in others]
    if not shared or names[0] == names[1]:
        return "–"
    rows, baseline = ([row for seed in shared for row in group[seed]] for group in (runs, others))
    points, p = tables.paired(rows, baseline, Run(names[0], 0).protocol.data.patient_of, names)
    return f"{points:+.2f} ({p:.2g})"


def table_lines(results, table):
    """(lines of the experiments that are there, headings)."""
    every = {name: tested(results, name, seeds=table.seeds) for name in table.names}
    chosen = "best" in Run(table.names[0], 0).protocol.checkpoints
    lines = []
    for name, runs in every.items():
        if not runs:
            continue
        rows = sum(runs.values(), [])
        views = [view for view in tables.views_of(rows) if view.startswith("subnet")]
        best = [means(tested(results, name, "best", table.seeds))] if chosen else []
        lines.append([EXPERIMENTS[name].title, str(len(runs)),
                      *(tables.over_runs(means(runs, metric)) for metric in tables.METRICS),
                      f"{tables.statistics(rows)['empty']} of {len(rows)}",
                      *([tables.over_runs(means(runs, prefix=f"{view}_")) for view in views] or ["–", "–"]),
                      *map(tables.over_runs, best),
                      *(against(runs, every[baseline], (name, baseline)) for baseline in table.baselines)])
    return lines, ["seeds", *tables.HEADINGS, "empty", "subnet 0: Dice", "subnet 1: Dice", *["`best`: Dice"] * chosen,
                   *(f"Δ to {EXPERIMENTS[baseline].title} (p)" for baseline in table.baselines)]


def released_lines(results):
    """The first seed beside what the authors' code gave."""
    lines = []
    for name in ("ACDC-cml", "ACDC-released"):
        runs = [tested(results, name, checkpoint, SEEDS[:1]) for checkpoint in ("best", "last")]
        if all(runs):
            lines.append([EXPERIMENTS[name].title,
                          *(tables.over_runs(means(run, metric)) for run in runs for metric in ("dice", "hd95"))])
    return [*lines, *([title, *values, "–", "–"] for title, values in AUTHORS.items())] if lines else []


def measured(path_of, columns):
    """{experiment: {seed: rows}} of the CSV files that are there, path_of(run)."""
    found = {name: {run.seed: tables.read_rows(path, columns) for run in runs_of([name])
                    if (path := path_of(run)).exists()} for name in EXPERIMENTS}
    return {name: runs for name, runs in found.items() if runs}


def agreement_lines(results):
    columns, lines = ("dice", "cosine"), []
    for name, runs in measured(lambda run: run.agreement(results), columns).items():
        dice, cosine = (np.array([np.mean([row[key] for row in rows]) for rows in runs.values()]) for key in columns)
        lines.append([f"{name.split('-')[0]}, {EXPERIMENTS[name].title}", str(len(runs)),
                      tables.over_runs(100 * dice), tables.over_runs(cosine, 3)])
    return lines


def pseudo_label_lines(results):
    columns = ("subnet0", "subnet1", "fused", "between")
    found = measured(lambda run: run.kept(results, "pseudo_labels.csv"), ("step", *columns))
    return [[f"{EXPERIMENTS[name].title}, seed {seed}", f"{row['step']:.0f}",
             *(f"{100 * row[key]:.2f}" for key in columns)]
            for name, runs in found.items() for seed, rows in runs.items() for row in rows]


def figure2(results):
    """{title: folder} of the first seed's runs that are there."""
    runs = [Run(f"ACDC-{name}", SEEDS[0]) for name in ("mean_teacher", "cps", "cml")]
    return {EXPERIMENTS[run.name].title: run.kept(results) for run in runs
            if run.done(results) and run.kept(results, "val.csv").exists()}


def figure6(results):
    """{data set: {title: Dice of each seed}} of the runs that are there."""
    groups = {dataset: {EXPERIMENTS[name].title: means(runs) for name in (f"{dataset}-{step}" for step in STEPS)
                        if (runs := tested(results, name))} for dataset in PROTOCOLS}
    return {dataset: methods for dataset, methods in groups.items() if methods}


def block(results=RESULTS):
    """README's tables and pictures of the runs that are there, and which are not."""
    parts = [(table.caption, *table_lines(results, table)) for table in TABLES]
    parts += [("ACDC, the release's network, seed 1337", released_lines(results),
               ["`best`: Dice (%) ↑", "`best`: 95HD (voxel) ↓", "`last`: Dice", "`last`: 95HD"]),
              ("Between the two subnets", agreement_lines(results), ["seeds", "Dice (%)", "cosine of features"]),
              ("ACDC, pseudo-labels over the steps", pseudo_label_lines(results),
               ["step", "subnet 0: Dice (%)", "subnet 1: Dice", "fused: Dice", "between the subnets: Dice"])]
    text = [f"{caption}:\n\n{tables.markdown(lines, headings)}" for caption, lines, headings in parts if lines]
    if figure2(results):
        text.append("![ACDC, Dice of each view on the validation volumes over the steps](docs/figure2_mini.png)")
    if figure6(results):
        text.append("![Dice of supervised, CPS, CFL and CML](docs/figure6_mini.png)")
    missing = [(name, [str(run.seed) for run in runs_of([name]) if not run.done(results)]) for name in EXPERIMENTS]
    missing = "; ".join(f"{name} {', '.join(seeds)}" for name, seeds in missing if seeds)
    return "\n\n".join(text + [f"Not run yet: {missing}."] * bool(missing))


def parts_of(readme):
    """README's text before, between and after the markers; InputError if they are not there."""
    found = re.fullmatch(f"(.*{re.escape(MARKERS[0])}\n)(.*?)(\n{re.escape(MARKERS[1])}.*)", readme.read_text(), re.S)
    if not found:
        raise InputError(f"{readme} lacks the lines {' and '.join(MARKERS)}: put them where the tables belong")
    return found.groups()


def collect(results: Path = RESULTS, readme: Path = ROOT / "README.md"):
    """Write tables between the markers in README.md, and pictures to docs/ beside it; nothing is computed again."""
    before, _, after = parts_of(readme)
    write_text(readme, before + block(results) + after)
    docs = readme.parent / "docs"
    docs.mkdir(exist_ok=True)
    if curves := figure2(results):
        plots.training_processes(docs / "figure2_mini.png", curves)
    if groups := figure6(results):
        plots.bars(docs / "figure6_mini.png", groups)
    print(block(results))


@reported
def main(args=None):
    tyro.extras.subcommand_cli_from_dict({
        "list": show, "run": run, "collect": collect, "agreement": agreement, "pseudo-labels": pseudo_labels,
        "publish": publish}, description=__doc__, args=args)


if __name__ == "__main__":
    main()
