"""Segment scans with a trained run: NIfTI or NRRD in, NIfTI label maps out, on each scan's own grid.

    python code/predict.py --run model/LA/cml_8_seed1337 --input scan.nrrd --output segmentations
    python code/predict.py --run model/mine/cml_8_seed1337 --input scans/ --output segmentations --overlay

Each scan is preprocessed as the run's training data were, segmented by both subnets, and put back: shape, affine and
orientation of the output are the input's. A folder is taken file by file; with several channels, case by case
(<case>_flair.nii.gz, <case>_t1.nii.gz, ...). Each output knows the weights and the scan that it was made with: the same
again is skipped, anything else is left alone without --force. Unreadable scans are skipped and reported at the end
(exit code 2).
"""
import json
import re
import sys
import zlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from runtime.script import reported

import numpy as np
import torch
from tqdm import tqdm

from evaluation import plots
from evaluation.components import largest_component
from evaluation.inference import segment
from imaging.cases import attempt, channel_files, one_case_each, report_bad
from imaging.preprocess import PUBLISHED, apply, read_preprocessing, restore, restore_labels
from imaging.scan_files import SUFFIXES, case_name, is_scan, mark_of, read_scan_file, save_on_grid, tell_notes
from methods import registry
from runtime.command_line import parsed
from runtime.errors import DEBUG, InputError
from runtime.files import RESTORE, make_folder
from runtime.memory import check_fits
from runtime.ranks import Ranks
from training import datasets
from training.trained import load_run

NUMBER = re.compile(r"_(\d{4})$")                       # nnU-Net's mark of a channel
VIEWS = 6           # of probabilities in memory at once: three, before and after they are put back on the scan's grid
MARKS = "_flair", "_t1", "_t1ce", "_t2", "_seg"         # those of BraTS


@dataclass(kw_only=True)
class Options:
    """Segment scans with a trained run."""

    run: Path                       # folder that a train script wrote
    input: Path                     # a scan (.nii, .nii.gz, .nrrd), or a folder of scans
    output: Path                    # folder for <case>.nii.gz and what is asked for below
    checkpoint: Literal["last", "best", "pretrained"] = "last"
    device: str = "auto"            # auto | cpu | cuda | cuda:1 ...
    probabilities: bool = False     # also <case>_probabilities.nii.gz, float32 (X, Y, Z, classes)
    disagreement: bool = False      # also <case>_disagreement.nii.gz: how far the subnets are apart, 0 to 1
    overlay: bool = False           # also <case>.png: image, both subnets, fused
    keep_header: bool = False       # take over descriptions, names and extensions of the scan's header, too
    force: bool = False             # overwrite what another run, or another program, wrote there


def cases_to_segment(path, modalities):
    """A scan file or a folder of them -> ({case: its files, one a modality}, {case: what is wrong with it}).

    File names end in a modality where any of them does; what does not is then left aside.
    """
    if not path.exists():
        raise InputError(f"--input {path} does not exist: give a scan ({', '.join(SUFFIXES)}) or a folder of scans")
    files = [file for file in (sorted(path.iterdir()) if path.is_dir() else [path]) if is_scan(file)]
    end = f"_{modalities[0]}"
    marked = [file for file in files if case_name(file).endswith(end)]
    if marked or len(modalities) > 1:
        firsts, bad = one_case_each((case_name(file).removesuffix(end), file) for file in marked)
    else:
        firsts, bad = one_case_each((case_name(file), file) for file in files)
        bad |= other_channels(firsts, modalities[0])
    cases = {}
    for name in firsts.keys() - bad.keys():
        try:
            cases[name] = channel_files(name, firsts[name], modalities) if marked else (firsts[name],)
        except InputError as error:
            bad[name] = str(error)
    if not cases and not bad:
        expected = f"*{end} and its modalities {', '.join(modalities)}" if len(modalities) > 1 else "*"
        raise InputError(f"--input {path} has no scan: expected {expected} with {', '.join(SUFFIXES)}")
    return dict(sorted(cases.items())), bad


def other_channels(files, modality):
    """{name: file} without the mark of `modality` -> {name: one line} of those that carry another one's."""
    numbers = {}
    for name in files:
        if match := NUMBER.search(name):
            numbers.setdefault(name[:match.start()], []).append(name)
    if NUMBER.search(f"_{modality}"):
        wrong = sum(numbers.values(), [])
    else:
        wrong = [name for several in numbers.values() if len(several) > 1 for name in several]
    if f"_{modality}" in MARKS:
        wrong += [name for name in files if name.lower().endswith(MARKS)]
    return {name: f"{files[name]}: is another channel by its name, and the network was trained on {modality!r} alone; "
                  "leave it out, or rename it if it is that one" for name in wrong}


def outputs(name, options):
    """{what: file} that a case gets, the label map last: with it, the case is finished."""
    kinds = {"probabilities": "_probabilities.nii.gz", "disagreement": "_disagreement.nii.gz", "overlay": ".png"}
    files = {kind: options.output / f"{name}{end}" for kind, end in kinds.items() if getattr(options, kind)}
    return files | {"labels": options.output / f"{name}.nii.gz"}


def check_outputs(cases, options):
    """InputError where an output would take the place of an input, or of another case's output."""
    here = options.output.resolve()
    if options.input.is_dir() and here == options.input.resolve():
        raise InputError(f"--output {options.output}: is the folder of the scans, which would be overwritten or taken "
                         "for scans the next time; name another one")
    inputs = {place for paths in cases.values() for path in paths
              for place in (path.resolve(), path.parent.resolve() / path.name)}
    taken = {}
    for name in cases:
        for path in outputs(name, options).values():
            if here / path.name in inputs:
                raise InputError(f"--output {options.output}: {path.name} is there, and is a scan to segment; name "
                                 "another folder")
            if path in taken:
                raise InputError(f"{path}: the cases {taken[path]} and {name} would both be written there; rename one "
                                 "of their files")
            taken[path] = name


def checksum(paths, start=0):
    """CRC-32 of the files' bytes, one after the other."""
    for path in paths:
        start = zlib.crc32(path.read_bytes(), start)
    return start


def is_there(name, mark, options):
    """Whether all outputs of a case were made with this mark; InputError where one was made with another."""
    there = [path for path in outputs(name, options).values() if path.exists()]
    for path in there:
        if mark not in path.read_bytes().decode("latin-1") if path.suffix == ".png" else mark_of(path) != mark:
            raise InputError(f"{path}: was made by another run, from another scan or by something else; --force "
                             "overwrites it, another --output keeps it")
    return len(there) == len(outputs(name, options))


def segment_case(method, recipe, preprocessing, paths):
    """Files of one case -> the first scan, {view: label map}, {view: probabilities (C, *N)}, on the scan's grid."""
    scans = [read_scan_file(path, preprocessing.geometry) for path in paths]
    image, _, geometry = apply(scans, preprocessing)
    image = image[None] if image.ndim == 3 else image
    voxels = max(image[0].size, scans[0].array.size)
    check_fits(f"{paths[0]}: its {voxels} voxels need, segmented,", voxels * recipe.num_classes * VIEWS * 4,
               "crop or resample the scan, or use a machine with more memory")
    views = segment(method, torch.from_numpy(image), recipe)
    if not all(probs.isfinite().all() for probs in views.values()):
        raise InputError(f"{paths[0]}: the network's probabilities are not numbers: its weights or this scan's values "
                         "are far from any in training; look at log.csv of the run, and at the scan")
    post_process = [largest_component] if recipe.keep_largest else []
    maps = {view: restore_labels((share.float().cpu().numpy() for share in probs), geometry, *post_process)
            for view, probs in views.items()}
    return scans[0], maps, {view: restore(probs.float().cpu().numpy(), geometry) for view, probs in views.items()}


def write_case(name, mark, pair, scan, maps, probabilities, options):
    """The fused label map and what else was asked for; pair: the views whose disagreement is shown."""
    headline = next(iter(maps))
    for what, path in outputs(name, options).items():
        if what == "overlay":
            plots.overlay(path, scan.array, None, maps, int(np.argmax(scan.spacing)), mark)
            continue
        if what == "probabilities":
            array = np.moveaxis(probabilities[headline], 0, -1)
        elif what == "disagreement":
            first, second = (probabilities[view] for view in pair)
            array = np.abs(first - second).sum(0) / 2
        else:
            array = maps[headline]
        save_on_grid(path, array, scan, mark, options.keep_header)


def predict_case(name, paths, weights, method, recipe, preprocessing, options):
    """Notes on the scan's header (path, {kind: sentence}); None where all that is asked for is there."""
    for path in paths:
        if not path.is_file():
            raise InputError(f"{path}: is no regular file; expected a scan ({', '.join(SUFFIXES)})")
    mark = f"{weights:08x}{checksum(paths):08x}"
    if not options.force and is_there(name, mark, options):
        return None
    scan, maps, probabilities = segment_case(method, recipe, preprocessing, paths)
    write_case(name, mark, method.pair, scan, maps, probabilities, options)
    return scan.path, scan.notes


@reported
def main(args=None):
    options = parsed(Options, args, description=f"{__doc__}\n{DEBUG}")
    dataset = datasets.of_run(options.run)
    preprocessing = read_preprocessing(options.run) or PUBLISHED[dataset.data.dataset]
    trained = load_run(options.run, options.checkpoint, options.device)
    recipe, method = trained.recipe, trained.method
    if len(preprocessing.modalities) != recipe.in_channels:
        raise InputError(f"{options.run}: its preprocessing.json names {len(preprocessing.modalities)} channels, and "
                         f"the network takes {recipe.in_channels}: the record does not belong to it; {RESTORE}")
    if options.disagreement and method.pair is None:
        paired = ", ".join(name for name, one in registry.METHODS.items() if one.pair)
        raise InputError(f"--disagreement needs two views to compare, as {paired} have; this run's method is "
                         f"{recipe.method}")
    cases, bad = cases_to_segment(options.input, preprocessing.modalities)
    check_outputs(cases, options)
    make_folder(options.output)
    ranks = Ranks()
    taken = {path.name for paths in cases.values() for path in paths} if options.input.is_dir() else set()
    aside = [path for path in options.input.glob("*") if is_scan(path) and path.name not in taken]
    ranks.say(f"{len(cases)} scans; {options.checkpoint}.pt of {options.run}; preprocessing: {preprocessing.normalise}"
              f"{', whole scan' if preprocessing.crop in ('none', 'label') else f', crop to the {preprocessing.crop}'}"
              + (f"; {len(aside)} files left aside, which are not {' '.join(preprocessing.modalities)} of a case"
                 if aside else ""))
    what = json.dumps([recipe.fields(), preprocessing.to_dict()], sort_keys=True, default=str)
    weights = checksum([options.run / f"{options.checkpoint}.pt"], zlib.crc32(what.encode()))
    results = [attempt(partial(predict_case, name, cases[name], weights, method, recipe, preprocessing, options),
                       "crop or resample the scan, or use a machine with more memory")
               for name in tqdm(ranks.shard(list(cases)), "predict", unit="scan", disable=None if ranks.main else True)]
    results = dict(zip(cases, ranks.gather(results), strict=True))
    bad |= {name: result for name, result in results.items() if isinstance(result, str)}
    done = [result for name, result in results.items() if name not in bad]
    ranks.say(f"{len(done) - done.count(None)} segmented, {done.count(None)} skipped (there already, the same), "
              f"{len(bad)} bad -> {options.output}")
    if ranks.main:
        tell_notes(notes for notes in done if notes is not None)
        report_bad(bad)
    ranks.wait()
    return 2 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
