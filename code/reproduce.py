"""The paper's experiment section from one command: Tables 1-4, Figures 2, 4, 5 and 6, and what was added to them.

    python code/reproduce.py list                           every experiment, and whether it is there
    python code/reproduce.py plan table2 --preset short     the commands that are missing, and their hours
    python code/reproduce.py run table2 --preset short      train, test, measure, keep; go on where it was stopped
    python code/reproduce.py collect                        the tables in README.md and docs/results.md
    python code/reproduce.py figures                        Figures 2, 4, 5 and 6 as PNG and PDF
    python code/reproduce.py report                         one page to look at everything, report.html

A name is a place in the paper (table1 ... table4, figure2, figure4, figure5, figure6), one of our own tables, or a run
as `list` names it. Of single runs: `agreement RUN` measures how alike the two subnets are, `pseudo-labels RUN` how good
their pseudo-labels were, `trust RUN` whether the cases that predict.py would show first are the bad ones, `publish RUN`
copies what they wrote to where results are kept.
"""
import shlex
import sys
import traceback
from pathlib import Path
from typing import Literal

from runtime.script import reported

import numpy as np
import tyro

from evaluation import published
from evaluation.report import check_result, write_rows
from reproduction import active, columns, document, runs
from reproduction.experiments import PLACES, SEEDS
from runtime.command_line import check_number, run_command
from runtime.errors import InputError, counted, one_line
from runtime.files import ROOT, check_writable, make_folder, write_text
from training.trained import load_run

Names = tyro.conf.Positional[tuple[str, ...]]
Pictures = tyro.conf.Positional[tuple[Literal["figure2", "figure4", "figure5", "figure6"], ...]]
Folders = tyro.conf.Positional[tuple[Path, ...]]
Preset = Literal["paper", "short", "mini"] | None


def _kept_in(results):
    """Folders that are read: the given one, or the repository's."""
    return (results,) if results else runs.RESULTS


def _known(names):
    """The names of places; InputError for any other."""
    for name in names:
        if name not in (*PLACES, active.NAME):
            raise InputError(f"{name!r} is unknown: choose of {', '.join((*PLACES, active.NAME))}")
    return names


def _named(folders):
    """The run folders; InputError where the command line has none."""
    if not folders:
        raise InputError("no run folder is named: give one or more that a train script wrote")
    return folders


def _runs_of(names, preset, seeds):
    """Runs of places and of single names; the active-learning table makes its own, one after the other."""
    others = tuple(name for name in names if name != active.NAME)
    return runs.runs_of(others, preset, seeds) if others or not names else []


def list_runs(names: Names = (), preset: Preset = None, results: Path | None = None):
    """What there is to run, place by place, which of it is there, and what the paper reports of it."""
    read, counts = _kept_in(results), []
    for name in _known(names or (*PLACES, active.NAME)):
        if name == active.NAME:
            kept = active.there(read)
            counts += ["there" if cell in kept else "missing" for cell in active.cells()]
            print(f"\n{name}: {active.CAPTION} (mini)\n  {len(kept)} of {len(active.cells())} runs are there")
            continue
        place = PLACES[name]
        print(f"\n{name}: {place.caption} ({place.at(preset)})")
        for row in place.rows:
            if not runs.has_preset(row.experiment, place.at(preset)):
                print(f"  no preset {'':20} {row.title}")
                continue
            paper = "" if not row.paper else "   paper: {:.2f} % Dice, {:.2f} 95HD, {:.2f} ASD".format(*row.paper)
            for run in runs.runs_of([name], preset):
                if run.experiment == row.experiment:
                    status = "there" if runs.kept(run, read) else "missing"
                    print(f"  {status:9} {run.name:50} {row.title}{paper}")
                    counts.append(status)
        if note := published.NOTES.get(name):
            print(f"  {note}")
    print(f"\n{counts.count('there')} of {len(counts)} are there; `plan NAME` shows the missing commands, `run NAME` "
          "runs them. A run that answers several places is trained once.")


def plan(names: Names = (), preset: Preset = None, seeds: int | None = None, slurm: bool = False,
         data_dir: Path | None = None, results: Path | None = None):
    """The commands of the runs that are not there, and the hours that they take; or a job array for SLURM.

    Hours are of training alone, as fast as runs that are there were on their machines.
    data_dir: folder with one folder of scans per data set.
    """
    check_number("--seeds", seeds, len(SEEDS))

    def where(folder):
        return f" --data-dir {shlex.quote(str(folder))}" if data_dir else ""
    read = _kept_in(results)
    todo = [run for run in _runs_of(names, preset, seeds) if not runs.kept(run, read)]
    if slurm:
        print(runs.slurm(todo, where(data_dir)) if todo else "# nothing is missing")
        return
    total, unknown = 0.0, 0
    for run in todo:
        hours, own = runs.hours(run, read)
        if np.isnan(hours):
            unknown += 1
        else:
            total += hours
        cost = "hours unknown" if np.isnan(hours) else f"{hours:.1f} h" + ("" if own else ", as other methods")
        print(f"{run.command}{where(data_dir and data_dir / run.dataset)}    # {cost}")
    if not names or active.NAME in names:
        absent, time = active.missing_hours(read, seeds)
        if absent:
            print(f"python code/reproduce.py run {active.NAME}{where(data_dir)}    # {counted(len(absent), 'run')}, "
                  + ("hours unknown" if np.isnan(time) else f"{time:.1f} h"))
    print(f"\n{counted(len(todo), 'run')}, {total:.1f} hours of training, estimated from finished runs"
          + (f", and {unknown} of unknown length" if unknown else ""))


def run(names: Names = (), preset: Preset = None, seeds: int | None = None, data_dir: Path | None = None,
        device: str = "auto", out: Path = runs.MODEL, results: Path | None = None):
    """Train, test, measure and keep what is missing, one run after another.

    What is finished is skipped, what was stopped goes on, a run that fails or that another process holds is reported
    at the end. data_dir, out: folders with one folder per data set (scans, run folders).
    """
    check_number("--seeds", seeds, len(SEEDS))
    read, failed = _kept_in(results), {}
    if active.NAME in names:
        try:
            active.make_missing(read[0], out, data_dir, device, seeds)
        except InputError as error:
            failed[active.NAME] = one_line(error)
    for each in _runs_of(names, preset, seeds):
        if found := runs.kept(each, read):
            print(f"{each.name} is there: {found.folder}")
        else:
            print(f"\n=== {each.name}\n{each.command}", flush=True)
            try:
                print(f"kept: {runs.carry_out(each, read[0], out, data_dir, device)}")
            except InputError as error:
                failed[each.name] = one_line(error)
            except Exception as error:      # whatever it was: the others go on
                traceback.print_exc()
                failed[each.name] = f"{type(error).__name__}: {one_line(error)[:200]}"
    for name, why in failed.items():
        print(f"not done: {name}: {why}", file=sys.stderr)
    if failed:
        raise InputError(f"{counted(len(failed), 'run')} not done, see above; the same command tries them again")


def collect(names: Names = (), preset: Preset = None, results: Path | None = None, root: Path = ROOT,
            output: Path = runs.MODEL / "tables"):
    """Write the marked tables of README.md and docs/results.md below `root`; nothing is computed again.

    With names, those tables alone, printed. All tables also as Markdown, LaTeX and CSV in `output`.
    """
    from reproduction import figures  # here: options are read without PyTorch and matplotlib
    read = _kept_in(results)
    make_folder(output)
    for name in names or PLACES:
        if name not in PLACES:
            raise InputError(f"{name!r} is unknown: choose of {', '.join(PLACES)}")
        at, texts = PLACES[name].at(preset), columns.texts(name, preset, read)
        for suffix, text in texts.items():
            write_text(output / f"{name}_{at}.{suffix}", text + "\n")
        if names:
            print(f"{PLACES[name].caption} ({at}):\n\n{texts['md']}\n")
    if not names:
        for path in (root / "README.md", root / "docs/results.md"):
            document.fill(path, read)
            print(f"wrote {path}")
        for path in figures.pictures(root / "docs", read):
            print(f"drew {path}")
    print(f"tables as Markdown, LaTeX and CSV: {output}")


def draw_figures(names: Pictures = (), preset: Preset = None, output: Path = runs.MODEL / "figures",
                 runs: tuple[Path, ...] = (), cases: tuple[str, ...] = (), data_dir: Path | None = None,
                 device: str = "auto", results: Path | None = None):
    """Figures as PNG and PDF in `output`, of every preset that has runs, or of one.

    Figure 4 needs weights: of the runs in model/, or of the run folders that `--runs` names, one per column. cases:
    those to draw, by default the one of median Dice; data_dir: folder with one folder of scans per data set.
    """
    from reproduction import figures
    figures.draw(names, preset, output, runs, cases, data_dir, device, results)


def write_page(output: Path = ROOT / "report.html", runs: tuple[Path, ...] = (), cases: int = 12,
               data_dir: Path | None = None, device: str = "auto", results: Path | None = None):
    """One self-contained page: sortable tables, curves, figures, and a browser of the cases of runs with weights.

    runs: run folders whose cases are shown, by default those in model/ that are tested; cases: how many of each, the
    worst first; data_dir: folder with one folder of scans per data set, by default where each run was trained.
    """
    check_number("--cases", cases)
    from reproduction import page
    page.write(output, runs, cases, data_dir, device, results)


def agreement(folders: Folders, split: Literal["test", "val"] = "test",
              checkpoint: Literal["last", "best", "pretrained"] = "last", data_dir: Path | None = None,
              device: str = "auto", force: bool = False):
    """RUN/agreement_<split>_<checkpoint>.csv: Dice between the subnets, cosine of their features, one row per case.

    force: replace the result of other cases.
    """
    from evaluation.agreement import agreement as measured
    for folder in _named(folders):
        trained, path = load_run(folder, checkpoint, device, data_dir), folder / f"agreement_{split}_{checkpoint}.csv"
        check_result(path, trained.names(split), force, ("case", "dice", "cosine"))
        rows = measured(trained, split)
        nothing = [row["case"] for row in rows if np.isnan(row["dice"])]
        dice = "undefined" if len(nothing) == len(rows) else f"{100 * np.nanmean([row['dice'] for row in rows]):.2f} %"
        print(f"{folder.name}: Dice between the subnets {dice}, cosine of their features "
              f"{np.mean([row['cosine'] for row in rows]):.3f}"
              + (f"; without {counted(len(nothing), 'case')} in which neither subnet finds anything, {nothing[0]} the "
                 "first" if nothing else ""))
        write_rows(path, rows)


def pseudo_labels(folders: Folders, data_dir: Path | None = None, device: str = "auto"):
    """RUN/pseudo_labels.csv from RUN/snapshots/*.pt: Dice of unlabelled slices' pseudo-labels, one row per step."""
    from evaluation import agreement as subnets
    for folder in _named(folders):
        paths = subnets.snapshots(folder)
        trained = load_run(folder, f"snapshots/{paths[0].stem}", device, data_dir)
        check_writable(folder / "pseudo_labels.csv")
        rows = subnets.pseudo_labels(trained, paths)
        print(f"{folder.name}: Dice of the fused pseudo-labels {100 * rows[0]['fused']:.2f} % at step "
              f"{rows[0]['step']}, {100 * rows[-1]['fused']:.2f} % at step {rows[-1]['step']}")
        write_rows(folder / "pseudo_labels.csv", rows)


def trust(folders: Folders, split: Literal["test", "val"] = "test",
          checkpoint: Literal["last", "best", "pretrained"] = "last", data_dir: Path | None = None,
          device: str = "auto", force: bool = False):
    """RUN/trust_<split>_<checkpoint>.csv: score, true Dice and entropy, one row per case; what the score is worth.

    Of a folder of folds (train_own.py --folds), the cases of all folds together; its calibration.json is written, with
    which predict.py estimates the Dice of new scans. force: replace the result of other cases.
    """
    from evaluation import calibration, pooled
    from evaluation.evidence import examined_cases
    for folder in _named(folders):
        folds = pooled.fold_runs(folder, split) if pooled.is_folds(folder) else []
        trained = {run.name: load_run(run, checkpoint, device, data_dir) for run in folds or [folder]}
        pooled.check_same_recipe({name: one.recipe for name, one in trained.items()})
        if folds:
            pooled.check_folds_there(next(iter(trained.values())).recipe.data_dir, folder)
        paths = {name: one.run / f"trust_{split}_{checkpoint}.csv" for name, one in trained.items()}
        for name, path in paths.items():
            check_result(path, trained[name].names(split), force, ("case", "dice", "score"))
        if folds:
            check_writable(folder / calibration.CALIBRATION)
        own = examined_cases(trained, split)
        rows = [row for some in own.values() for row in some]
        print(f"{folder.name}: " + "\n".join(calibration.told(rows)))
        for name, some in own.items():
            write_rows(paths[name], some)
        if folds:
            scores, dice = ([row[key] for row in rows] for key in ("score", "dice"))
            calibration.write_calibration(folds, scores, dice, checkpoint)
            print(f"wrote {folder / calibration.CALIBRATION}, by which predict.py estimates the Dice of new scans")


def publish(folders: Folders, results: Path = runs.RESULTS[0]):
    """Copy the config.json and CSV files of runs to where results are kept, without the paths of this machine."""
    for folder in _named(folders):
        print(f"kept: {runs.publish(folder, results)}")


@reported
def main(args=None):
    run_command({
        "list": list_runs, "plan": plan, "run": run, "collect": collect, "figures": draw_figures, "report": write_page,
        "agreement": agreement, "pseudo-labels": pseudo_labels, "trust": trust, "publish": publish}, args,
        description=__doc__)


if __name__ == "__main__":
    main()
