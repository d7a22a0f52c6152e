"""Segment scans with a trained run: scans in, label maps in NIfTI, NRRD or DICOM out, on each scan's own grid.

    python code/predict.py --run model/LA/cml_8_seed1337 --input scan.nrrd --output segmentations
    python code/predict.py --run model/mine/cml_8_seed1337 --input scans/ --output segmentations --overlay
    python code/predict.py --run model/mine/cml_plus_8_seed1337_folds --input scans/ --output segmentations

Each scan is preprocessed as the run's training data were, segmented, and put back: shape, affine and orientation of the
output are the input's. With several runs (RUN1 RUN2 ..., or a folder of folds) the probabilities are averaged, one run
in memory at a time, and disagreement is that between all runs and their views. A folder is taken file by file, or
folder by folder where it holds no scan itself; with several channels, case by case (<case>_flair.nii.gz,
<case>_t1.nii.gz, ...). Label maps hold the values of the training set's label files, where its record knows them. Each
output carries check sums of the weights and the scan that it was made with: the same again is skipped, anything else is
left alone without --force. Unreadable scans are skipped and reported at the end (exit code 2). predictions.csv compares
every result with the labelled cases of training, the result to look at first in front; --report shows them on a page.
"""
import json
import sys
import zlib
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from runtime.script import reported

import numpy as np
from tqdm import tqdm

from dataloaders.own import Own
from evaluation import calibration, components, pooled, trust
from evaluation.predictions import Predictions
from evaluation.scan_maps import OBJECTS, Job, body_axes, depth_axis, outputs, predict_case
from evaluation.windows import WEIGHTS, Member, windows_of
from imaging import dicom_segmentations
from imaging.case_files import told
from imaging.cases import folder_of, in_shell
from imaging.dicom import Series
from imaging.new_scans import scans_to_segment
from imaging.preparation import SMALLER, attempt, report_bad
from imaging.record import PUBLISHED, written_values
from imaging.scan_files import checksum, parts, read_scan_file, read_scans, tell_notes
from methods import registry
from runtime.command_line import parsed
from runtime.errors import DEBUG, InputError, counted, one_line
from runtime.files import RESTORE, read_text
from runtime.locks import locked
from runtime.ranks import Ranks
from training import datasets
from training.recipe import load_recipe
from training.trained import load_run, preparation_of

REPORT, TITLE = "report.html", "<title>Segmented scans</title>"


@dataclass(kw_only=True)
class Options:
    """Segment scans with a trained run, or with the mean of several."""

    run: tuple[Path, ...]           # folders that a train script wrote; of folds, the folder that holds them
    input: Path                     # a scan, or a folder of scans or of one folder per case
    output: Path                    # folder for <case>.nii.gz and what is asked for below
    # of the label maps: by default nrrd for NRRD, MetaImage and DICOM scans, whose origin NIfTI would round, and nifti
    # for others; for DICOM scans also dicom-seg (DICOM SEG) or rtstruct (contours as RTSTRUCT), both of which carry the
    # patient module of the series
    format: Literal["nifti", "nrrd", "dicom-seg", "rtstruct"] | None = None
    codes: Path | None = None       # codes.json, for dicom-seg and rtstruct; by default the run's own, if it has one
    checkpoint: Literal["last", "best", "pretrained"] = "last"  # weights of the run
    device: str = "auto"            # auto | cpu | cuda | cuda:1 ...
    stride: tuple[int, ...] = ()    # voxels between windows; by default half the patch
    weights: Literal[WEIGHTS] | None = None     # of a window's voxels; by default gaussian, most in the middle
    # classes, by name or number, of which the largest component alone is kept; each: all; none; by default the recipe's
    keep_largest: tuple[str, ...] = ()
    probabilities: bool = False     # also <case>_probabilities.nii.gz, float32 (X, Y, Z, classes)
    disagreement: bool = False      # also <case>_disagreement.nii.gz: how far the subnets, or runs, are apart, 0 to 1
    overlay: bool = False           # also <case>.png: image, fused, both subnets
    report: bool = False            # also report.html: all scans with their contours, the one to look at first in front
    keep_header: bool = False       # take over descriptions, names and extensions of the scan's header, too
    force: bool = False             # overwrite what another run, or another program, wrote there


def check_outputs(cases, options):
    """InputError where an output would take the place of an input, or of another case's output."""
    here, scans = options.output.resolve(), folder_of(options.input)
    if scans.is_dir() and here == scans.resolve():
        raise InputError(f"--output {options.output}: is the folder of the scans, which would be overwritten or taken "
                         "for scans the next time; name another one")
    inputs = {place for paths in cases.values() for scan in paths for path in parts(scan) or [scan]
              for place in (path.resolve(), path.parent.resolve() / path.name)}
    taken = {}
    for name, paths in cases.items():
        for path in outputs(name, paths[0], options).values():
            if here / path.name in inputs:
                raise InputError(f"--output {options.output}: {path.name} is there, and is a scan to segment; name "
                                 "another folder")
            if path in taken:
                raise InputError(f"{path}: the cases {taken[path]} and {name} would both be written there; rename one "
                                 "of their files")
            taken[path] = name


def check_report(options):
    """InputError where --report cannot read its label maps, or would replace a page that predict.py did not write."""
    path = options.output / REPORT
    if options.report and options.format in OBJECTS:
        raise InputError(f"--report: reads the label maps again, which it does not from {options.format}; make it "
                         "with --format nrrd and another --output")
    if options.report and not options.force and path.exists() and TITLE not in read_text(path):
        raise InputError(f"{path}: was made by something else; --force overwrites it, another --output keeps it")


def write_report(job, cases):
    """OUTPUT/report.html of the cases {name: files}."""
    from evaluation import scan_page

    def read(name, paths):
        scan = read_scans(paths, job.preprocessing.geometry, len(job.preprocessing.modalities))[0]
        values = read_scan_file(outputs(name, paths[0], job.options)["labels"], job.preprocessing.geometry).array
        labels = np.zeros(values.shape, np.uint8)
        for label, value in enumerate(job.values):
            labels[values == value] = label
        return scan.array, labels, scan.spacing, depth_axis(scan), body_axes(scan)

    path = job.options.output / REPORT
    scan_page.write(path, {name: partial(read, name, paths) for name, paths in cases.items()}, job.predictions.cases)
    print(f"wrote {path}")


def runs_of(options):
    """The runs that are asked for, a folder of folds as its runs."""
    runs = [run for path in options.run for run in (pooled.fold_runs(path) if pooled.is_folds(path) else [path])]
    if not runs:
        raise InputError("--run is empty: give the folder that a train script wrote, or several")
    if len({run.resolve() for run in runs}) < len(runs):
        raise InputError(f"--run {' '.join(map(str, options.run))}: names a run twice")
    return runs


def check_together(runs, recipes, records, kept):
    """InputError unless the runs take the same scans, know the same classes and, where nothing is `kept` by the
    options, keep the largest component of the same ones.
    """
    for run, recipe, record in zip(runs, recipes, records, strict=True):
        for what, one, first in (("channels", recipe.in_channels, recipes[0].in_channels),
                                 ("classes", (recipe.num_classes, recipe.classes),
                                  (recipes[0].num_classes, recipes[0].classes)),
                                 ("preprocessing", record.to_dict(), records[0].to_dict())):
            if one != first:
                raise InputError(f"{run} and {runs[0]} have other {what}, so that their probabilities cannot be "
                                 "averaged; name runs on the same prepared data")
        own, first = (components.kept_classes(one.keep_largest) for one in (recipe, recipes[0]))
        if own != first and not kept:
            raise InputError(f"{run} and {runs[0]} keep the largest component of other classes ({own}, {first}): "
                             "choose them with --keep-largest")


def codes_of(run, classes, options):
    """Codes of the classes in DICOM, none for other formats; classes that have another name there are said."""
    if options.format == "dicom-seg":
        dicom_segmentations.writer()    # said before the work, where it is missing
    if options.format not in OBJECTS:
        return []
    own = run / "codes.json"
    codes = dicom_segmentations.read_codes(options.codes or (own if own.exists() else None), classes)
    for name, written in zip(classes, dicom_segmentations.in_dicom(classes), strict=True):
        if name != written:
            Ranks().say(f"{one_line(name)} is called {written} there: DICOM's names have at most "
                        f"{dicom_segmentations.LONGEST} characters and no backslash")
    return codes


def training_of(trained, crop, shown):
    """What results are compared with, trust.TrainingCases of all runs, or None; what cannot be compared is said."""
    training = trust.together([trust.read_training_cases(one.run, one.recipe) for one in trained])
    if training is None:
        Ranks().say(f"{shown} has no {trust.TRAINING}, as runs of earlier versions: predictions.csv compares nothing "
                    "with training")
        return None
    alike = len({(one.recipe.normalise, one.recipe.half_resolution) for one in trained}) == 1
    if crop != "label" and not alike:
        Ranks().say(f"{shown} were trained on other intensities each (--normalise, --half-resolution): predictions.csv "
                    "does not compare them")
    if crop == "label" or not alike:        # a new scan is not cropped, and has other intensities
        return replace(training, quantiles={})
    return training


@reported
def main(args=None):
    options = parsed(Options, args, description=f"{__doc__}\n{DEBUG}")
    code, (run, *_) = segment_scans(options), runs_of(options)
    if waits_for_labels(run):
        Ranks().say(f"next: python code/label_next.py --run {in_shell(options.run[0])} --output to_label")
    return code


def waits_for_labels(run):
    """Whether there are scans without a label, for label_next.py, where a run on own data has its scans."""
    dataset = datasets.of_run(run)
    if dataset.data is not Own:
        return False
    try:
        data = Own(load_recipe(run, dataset.recipe))
        names = data.listed("train")
        return len(data.labelled(names)) < len(names)
    except InputError:      # they are elsewhere
        return False


def segment_scans(options, cases=None):
    """Segment what the options name, or `cases`, {name: files}, below --input -> the exit code: 0, or 2 where a scan is
    bad.
    """
    runs = runs_of(options)
    run, *_ = runs
    if options.codes and options.format not in OBJECTS:
        raise InputError(f"--codes {options.codes}: is for --format {' or '.join(OBJECTS)}; leave it out")
    said = [preparation_of(one) for one in runs]
    records = [how or PUBLISHED[datasets.of_run(one).data.dataset] for one, how in zip(runs, said, strict=True)]
    preprocessing = records[0]
    shown = f"{run}" + f" and {counted(len(runs) - 1, 'other run')}" * (len(runs) > 1)
    Ranks().say(f"{shown}, {options.checkpoint}.pt: PyTorch is loading")
    trained = [load_run(one, options.checkpoint, options.device) for one in runs]
    check_together(runs, [one.recipe for one in trained], records, options.keep_largest)
    recipe, method = trained[0].recipe, trained[0].method
    if len(preprocessing.modalities) != recipe.in_channels:
        raise InputError(f"{run}: its preprocessing.json names {len(preprocessing.modalities)} channels, and "
                         f"the network takes {recipe.in_channels}: the record does not belong to it; {RESTORE}")
    if options.disagreement and method.pair is None and len(runs) == 1:
        raise InputError(f"--disagreement needs two views to compare, as {', '.join(registry.paired())} have; this "
                         f"run's method is {recipe.method}")
    values = written_values(said[0], recipe.num_classes)
    windows, *others = [windows_of(one.recipe, options.stride, options.weights, fast=True) for one in trained]
    kept = components.asked_for(options.keep_largest, recipe.keep_largest, recipe.classes)
    names = trained[0].content.names if trained[0].content else ()
    cases, bad, aside = (cases, {}, []) if cases else scans_to_segment(options.input, preprocessing.modalities,
                                                                       names=names)
    codes = codes_of(run, recipe.classes, options)
    if options.format in OBJECTS:
        bad |= {name: f"{paths[0]}: is no DICOM series, which --format {options.format} refers to; --format nifti "
                      "or nrrd writes its label map"
                for name, paths in cases.items() if not isinstance(paths[0], Series)}
        cases = {name: paths for name, paths in cases.items() if name not in bad}
    check_outputs(cases, options)
    check_report(options)
    ranks = Ranks()
    crop = "whole scan" if preprocessing.crop in ("none", "label") else f"crop to the {preprocessing.crop}"
    ranks.say(f"{counted(len(cases), 'scan')}; {options.checkpoint}.pt of {shown}; preprocessing: "
              f"{preprocessing.normalise}, {crop}"
              + (f"; {counted(len(aside), 'file')} left aside: {told(aside)}" if aside else ""))
    training = training_of(trained, preprocessing.crop, shown)
    weights = 0
    for one, own in zip(trained, (windows, *others), strict=True):
        what = [one.recipe.fields(), preprocessing.to_dict(), own, kept, *codes]
        what = json.dumps(what, sort_keys=True, default=str)
        weights = checksum(one.run / f"{options.checkpoint}.pt", zlib.crc32(what.encode(), weights))
    folds = {one.resolve().parent for one in runs}
    known = calibration.read_calibration(runs, options.checkpoint) if len(folds) == 1 else None
    pair = (method.pair or ()) if (options.overlay or options.disagreement) and not others else ()
    with locked(options.output, "--output") if ranks.main else nullcontext():
        ranks.wait()        # nobody reads or writes before the folder is ours
        job = Job(method, recipe, preprocessing, options, windows, kept, pair, values, weights, training,
                  Predictions(options.output, ranks.rank, options.force), codes,
                  tuple(Member(one.method, one.recipe, own) for one, own in zip(trained[1:], others, strict=True)),
                  tuple(one.content.finder() for one in trained if one.content))
        results = [attempt(partial(predict_case, job, name, cases[name]), SMALLER)
                   for name in tqdm(ranks.shard(list(cases)), "predict", unit="scan",
                                    disable=None if ranks.main else True)]
        results = dict(zip(cases, ranks.gather(results), strict=True))
        if ranks.main:
            job.predictions.finish(known, f"{weights:08x}")
    bad |= {name: result for name, result in results.items() if isinstance(result, str)}
    done = [result for name, result in results.items() if name not in bad]
    ranks.say(f"{len(done) - done.count(None)} segmented, {done.count(None)} skipped (there already, the same), "
              f"{len(bad)} bad -> {options.output}")
    if ranks.main:
        tell_notes(notes for notes in done if notes is not None)
        report_bad(bad)
        print(*(f"{line}\n" for line in job.predictions.told(cases.keys() - bad.keys())), sep="", end="")
        if options.report:
            write_report(job, {name: paths for name, paths in cases.items() if name not in bad})
    ranks.wait()
    return 2 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
