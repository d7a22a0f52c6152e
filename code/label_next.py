"""Which scans to label next: scan and proposal side by side, to be corrected in 3D Slicer or ITK-SNAP.

    python code/label_next.py --run model/mine/cml_plus_8_seed1337 --output to_label        or the folder of folds
    python code/label_next.py --labeled 0 --images scans --output to_label      before any label exists
    python code/take_labels.py --input to_label --images scans --labels masks   when they are corrected

Of the run's cases without a label, --count are chosen: --by look, those whose results predict.py would look at first
(volume, components, border, intensities, agreement, entropy: predictions.csv in --output/proposals); --by spread, of
the half that look ranks first, those that differ most from what is labelled, and from each other, in the network's
bottleneck; --by random. One of every five is drawn at random whatever --by says, and kept for testing:
prepare_folder.py puts it into test.list, so that results do not rest on cases that were chosen for being hard. Without
a run, --labeled 0 chooses among the scans of a folder those that differ most in intensities, size and voxels.

Each chosen case gets a folder in --output with its scan and, as <case>_seg, what the network proposes. Correct that
file, or save a segmentation beside it; take_labels.py takes whatever differs from the proposal.
"""
import shlex
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from runtime.script import reported

from tqdm import tqdm

from dataloaders.own import Own
from evaluation import selection
from evaluation.pooled import fold_runs, is_folds
from evaluation.predictions import flags_of_cases
from evaluation.selection import TEST_EVERY
from imaging import labelling
from imaging.case_files import told
from imaging.cases import Case, existing_folder, listed, shown
from imaging.new_scans import scans_to_segment
from imaging.patients import Patients
from imaging.preparation import in_parallel, report_bad
from imaging.record import PLAIN, read_as
from imaging.scan_files import checksum, find_scan, read_scans, suffix
from runtime import job
from runtime.command_line import parsed
from runtime.errors import DEBUG, InputError, counted
from runtime.files import expanded
from runtime.locks import LOCK, locked
from training import datasets
from training.recipe import load_recipe


@dataclass(kw_only=True)
class Options:
    """Choose scans to label."""

    run: Path | None = None         # folder that train_own.py wrote; of folds, the folder that holds them
    output: Path                    # folder for the chosen scans and what is proposed for them
    count: int = 5                  # cases to label, those for testing among them
    by: Literal["look", "spread", "random"] | None = None   # by default look, and spread where there is no run
    labeled: Literal[0] | None = None   # 0: no label exists yet, choose among --images
    data_dir: Path | None = None    # the run's prepared data, where that folder has moved
    images: Path | None = None      # folder with the scans: with --labeled 0, or where they have moved
    channels: tuple[str, ...] = ()  # with --labeled 0, endings of the channels' file names, as in prepare_folder.py
    seed: int = 1337                # of what is drawn at random
    device: str = "auto"            # auto | cpu | cuda | cuda:1 ...
    workers: int = min(4, job.cpus())   # with --labeled 0, scans read at the same time


def check(options):
    """InputError for options that do not go together."""
    if options.count < 1:
        raise InputError(f"--count {options.count}: must be 1 or more")
    if (options.run is None) == (options.labeled is None):
        raise InputError("--run RUN chooses with a trained network, --labeled 0 --images FOLDER before any label "
                         "exists: give one of the two")
    if options.run is None and (options.images is None or options.by == "look"):
        raise InputError("--labeled 0: needs --images FOLDER, and without a network there is nothing to look at: --by "
                         "spread or --by random")
    if options.run and options.channels:
        raise InputError("--channels: the run knows its channels; leave the option out")
    if options.run is None and options.data_dir:
        raise InputError("--data-dir: belongs to --run; --images names the folder to choose from")
    if options.images is not None:
        check_outside(options.output, options.images)
    if options.output.exists() and not (options.output / labelling.ROUND).exists() and any(
            path.name != LOCK for path in options.output.iterdir()):
        raise InputError(f"--output {options.output}: exists, and label_next.py did not write it; name a new folder")
    if (options.output / labelling.ROUND).exists() and labelling.read_round(options.output).run != run_of(options):
        raise InputError(f"--output {options.output}: holds scans that another run chose; name a new folder for each "
                         "round")


def check_outside(output, images):
    """InputError where a round would lie in the folder of the scans."""
    if Path(images).resolve() in (here := output.resolve(), *here.parents):
        raise InputError(f"--output {output}: lies in --images {images}, where its copies would be taken for scans; "
                         "name another folder")


def run_of(options):
    return options.run and str(options.run.resolve())


@reported
def main(args=None):
    options = parsed(Options, args, description=f"{__doc__}\n{DEBUG}")
    options = replace(options, images=options.images and existing_folder(options.images))
    check(options)
    by = options.by or ("look" if options.run else "spread")
    with locked(options.output, "--output"):
        return (with_run if options.run else without_run)(options, by)


# ---- with a run --------------------------------------------------------------------------------------------------


def with_run(options, by):
    first, recipe = run_on_own_data(options)
    prepared = datasets.prepared_as(first, recipe.data_dir)
    sources, data = labelling.read_sources(recipe.data_dir), Own(recipe)
    record = new_round(options, prepared, sources, recipe.data_dir)
    labelled, others = labelled_and_others(data, sources, recipe.data_dir)
    waiting = [*listed(recipe.data_dir / labelling.TESTS), *labelling.tests_handed(options.output)]
    tests, pool = selection.drawn_for_testing(others, waiting, data.patients, labelled, options.count, options.seed)
    if not (tests or pool):
        raise InputError(f"--count {options.count}: all {counted(len(others), 'case')} without a label are kept for "
                         f"testing, and one of every {TEST_EVERY} chosen ones is: expected {TEST_EVERY} or more")
    labelling.add_tests(recipe.data_dir, tests)
    count = options.count - len(tests)
    pool = selection.shuffled(pool, options.seed + 1)[:count] if by == "random" else pool
    places = labelling.Places(options.images)
    scans = {name: labelling.scan_of(name, sources.cases[name], sources.channels, places) for name in [*pool, *tests]}
    record.begin(options.output)
    code = propose(options, scans, sources.channels)
    flags = flags_of_cases(options.output / labelling.PROPOSALS)
    looked = [name for name in flags if name in pool]
    if by == "spread":
        looked = spread(first, recipe.data_dir, options.device, labelled, looked, count)
    chosen = {name: False for name in looked[:count]} | dict.fromkeys(tests, True)
    print(f"{len(labelled)} labelled cases, {len(others)} without a label; {counted(len(chosen), 'case')} to label, "
          f"by {by}:")
    for name, test in chosen.items():
        print(f"  {name}: {'drawn at random, kept for testing' if test else flags[name] or 'no flags'}")
    print(told_tests(tests, options), end="", flush=True)
    hand_out(options, scans, sources.channels, chosen, record, Path(sources.labels))
    return code


def run_on_own_data(options):
    """The run, of folds the first one, and its recipe; InputError for a run on one of the published data sets."""
    first, *_ = fold_runs(options.run) if is_folds(options.run) else [options.run]
    dataset = datasets.of_run(first)
    if dataset.data is not Own:
        raise InputError(f"{options.run}: is a run on {dataset.data.dataset}, whose scans are not yours to label; "
                         "expected one of train_own.py")
    recipe = load_recipe(first, dataset.recipe)
    if options.data_dir:
        recipe = replace(recipe, data_dir=expanded(options.data_dir, "--data-dir"))
    return first, recipe


def new_round(options, prepared, sources, data_dir):
    """The Round of a data folder; InputError where --output lies in the folder of its scans."""
    record = labelling.Round(run_of(options), labelling.with_output(sources.command, data_dir),
                             read_as(prepared.labels, prepared.ignore), prepared.class_names, prepared.geometry,
                             "--same-voxels" in sources.command, len(prepared.modalities))
    if record.option("--images"):
        check_outside(options.output, record.option("--images"))
    return record


def labelled_and_others(data, sources, data_dir):
    """Names of the cases of train.list with a label, and of those without; InputError where there is none to label."""
    names = data.listed("train")
    labelled = data.labelled(names)
    others = [name for name in names if name not in set(labelled)]
    if not others:
        raise InputError(f"{data_dir}: all {len(names)} cases of train.list have a label; add scans, and prepare the "
                         "folder again")
    if unknown := [name for name in others if name not in sources.cases]:
        raise InputError(f"{data_dir / labelling.SOURCES}: does not say where the scans of {', '.join(unknown[:3])} "
                         "are; prepare the folder again")
    return labelled, others


def propose(options, scans, channels):
    """Label maps of scans, and predictions.csv, in the folder of proposals -> predict.py's exit code."""
    import predict  # here: options are read without what it needs
    with tempfile.TemporaryDirectory() as links:
        links, cases = Path(links), {}      # whatever they are called: a case may be case_0000, or p1_t2
        for name, files in scans.items():
            placed = labelling.placed_beside(name, files, channels, links,
                                             lambda file, link: link.symlink_to(file.resolve()))
            cases[name] = tuple(links / name / file for file in placed)
        return predict.segment_scans(predict.Options(run=(options.run,), input=links, device=options.device,
                                                     output=options.output / labelling.PROPOSALS), cases)


def spread(run, data_dir, device, labelled, looked, count):
    """`count` of the cases that differ most in their bottlenecks, of the half that look ranks first."""
    from training.trained import load_run
    trained = load_run(run, device=device, data_dir=data_dir)

    def bottlenecks(names):
        for name in tqdm(names, "spread", unit="scan", disable=None):
            [scan] = trained.data.train_scans([name], labelled=False)
            yield selection.bottleneck(trained.method, scan.image, trained.recipe)
    return selection.half_spread(labelled, looked, count, bottlenecks)


# ---- before any label --------------------------------------------------------------------------------------------


def without_run(options, by):
    cases, bad, aside = scans_to_segment(options.images, options.channels or PLAIN, trained=False)
    tests, pool = selection.drawn_for_testing(list(cases), labelling.tests_handed(options.output), Patients(), [],
                                              options.count, options.seed)
    if by == "random":
        ranked = selection.shuffled(pool, options.seed + 1)
    else:
        features = {}
        work = partial(seen, channels=len(options.channels) or 1)
        for case, result in in_parallel(work, [Case(name, cases[name]) for name in [*tests, *pool]],
                                        options.workers):
            if isinstance(result, str):
                bad[case.name] = result
            else:
                features[case.name] = result
        tests = [name for name in tests if name in features]
        names = sorted(features.keys() & set(pool))
        order = selection.farthest_first([features[name] for name in names], [], len(names))
        ranked = [names[place] for place in order]
    report_bad(bad)
    chosen = {name: False for name in ranked[:options.count - len(tests)]} | dict.fromkeys(tests, True)
    if not chosen:
        asked = f" by --channels {' '.join(options.channels)}, of {', '.join(list(cases)[:3])}" * bool(options.channels)
        raise InputError(f"--images {options.images}: no scan there can be read{asked}")
    print(f"{counted(len(cases), 'scan')}; {counted(len(chosen), 'case')} to label, by {by}: "
          + ", ".join(name + " (drawn at random, kept for testing)" * test for name, test in chosen.items())
          + (f"; {counted(len(aside), 'file')} left aside: {told(aside)}" if aside else ""))
    print(told_tests(tests, options), end="")
    command = ["--images", str(options.images.resolve())]
    command += ["--channels", *options.channels] if options.channels else []
    record = labelling.Round(command=tuple(command), channels=len(options.channels) or 1)
    record.begin(options.output)
    hand_out(options, cases, options.channels, chosen, record, Path("masks"))
    return 2 if bad else 0


def seen(case, channels):
    return selection.appearance(read_scans(case.images, "itk", channels))


# ---- both --------------------------------------------------------------------------------------------------------


def told_tests(tests, options):
    why = f"--count is less than {TEST_EVERY}" if options.count < TEST_EVERY else "all patients have a labelled case"
    return "" if tests else f"none of them is for testing, since {why}\n"


def hand_out(options, scans, channels, chosen, record, labels):
    """The chosen scans and what is proposed for them, side by side; then the record, and what to do next.

    scans: {case: its scan files}; chosen: {case: whether it is for testing}; record: the Round, whose file still has
    what was handed out before; labels: the folder that corrected labels go to.
    """
    handed = {}
    for name, test in chosen.items():
        copies = labelling.placed_beside(name, scans[name], channels, options.output, labelling.copied)
        proposal = find_scan(options.output / labelling.PROPOSALS / name)   # if there is none, predict.py has said why
        if proposal:
            labelling.copied(proposal, options.output / name / f"{name}_seg{suffix(proposal)}")
        handed[name] = labelling.Handed(labelling.source_files(scans[name]), tuple(copies),
                                        proposal and f"{labelling.PROPOSALS}/{proposal.name}", test,
                                        proposal and checksum(proposal))
    record = labelling.Round(**vars(record) | {"cases": labelling.read_round(options.output).cases})
    record.cases.update({name: asdict(case) for name, case in handed.items()})
    record.write(options.output)
    what = "correct <case>/<case>_seg" if record.labels else "draw each scan"
    print(f"{counted(len(handed), 'case')} -> {shown(options.output)}; {what} in 3D Slicer or ITK-SNAP, and save it "
          "beside the scan")
    images = options.images or record.option("--images")      # none where a dataset.json names the scans
    command = ["python", "code/take_labels.py", "--input", shown(options.output),
               *(["--images", shown(images)] if images else []), "--labels", shown(labels)]
    print(f"next: {shlex.join(map(str, command))}")


if __name__ == "__main__":
    sys.exit(main())
