"""Segment scans with a trained run: NIfTI or NRRD in, NIfTI label maps out, on each scan's own grid.

    python code/predict.py --run model/LA/cml_8_seed1337 --input scan.nrrd --output segmentations
    python code/predict.py --run model/mine/cml_8_seed1337 --input scans/ --output segmentations --overlay

Each scan is preprocessed as the run's training data were, segmented by both subnets, and put back: shape, affine and
orientation of the output are the input's. A folder is taken file by file; with several modalities, case by case
(<case>_flair.nii.gz, <case>_t1.nii.gz, ...). Unreadable scans are skipped and reported at the end (exit code 2).
"""
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro
from tqdm import tqdm

from evaluation import plots
from evaluation.inference import segment
from evaluation.report import label_maps, load_run
from imaging.cases import one_case_each
from imaging.preprocess import PUBLISHED, apply, read_preprocessing, restore
from imaging.scan_files import SUFFIXES, case_name, read_scan
from imaging.scan_files import save_on_grid as save
from methods import registry
from prepare_BraTS import case_files
from runtime.errors import DEBUG, InputError, reported
from runtime.files import make_folder
from runtime.ranks import Ranks
from training import datasets


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
    force: bool = False             # overwrite predictions that are there already


def find_cases(path, modalities):
    """A scan file or a folder of them -> ({case: its files, one a modality}, {case: what is wrong with it})."""
    if not path.exists():
        raise InputError(f"--input {path} does not exist: give a scan ({', '.join(SUFFIXES)}) or a folder of scans")
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    files = [file for file in files if file.name.endswith(SUFFIXES) and not file.name.startswith(".")]
    marked = [file for file in files if case_name(file).endswith(f"_{modalities[0]}")]
    if marked or len(modalities) > 1:
        firsts, bad = one_case_each((case_name(file).removesuffix(f"_{modalities[0]}"), file) for file in marked)
    else:
        firsts, bad = one_case_each((case_name(file), file) for file in files)
    cases = {}
    for name, first in firsts.items():
        try:
            cases[name] = case_files(name, first, modalities).images if len(modalities) > 1 else (first,)
        except InputError as error:
            bad[name] = str(error)
    if not cases and not bad:
        expected = f"*_{modalities[0]} and its modalities {', '.join(modalities)}" if len(modalities) > 1 else "*"
        raise InputError(f"--input {path} has no scan: expected {expected} with {', '.join(SUFFIXES)}")
    return cases, bad


def segment_case(method, recipe, preprocessing, paths):
    """Files of one case -> the first scan, {view: label map}, {view: probabilities (C, *N)}, on the scan's grid."""
    scans = [read_scan(path) for path in paths]
    image, _, geometry = apply(scans, preprocessing)
    image = image[None] if image.ndim == 3 else image
    if len(image) != recipe.in_channels:
        raise InputError(f"{paths[0]}: {len(image)} channels, the network takes {recipe.in_channels}: the run's "
                         "preprocessing.json does not belong to it")
    views = segment(method, torch.from_numpy(image), recipe)
    maps = {view: restore(labels, geometry) for view, labels in label_maps(views, recipe.keep_largest).items()}
    return scans[0], maps, {view: restore(probs.float().numpy(), geometry) for view, probs in views.items()}


def write_case(name, scan, maps, probabilities, options, pair):
    """The headline's label map and what else was asked for; pair: names of the two views that disagreement compares."""
    headline = next(iter(maps))
    if options.probabilities:
        save(options.output / f"{name}_probabilities.nii.gz", np.moveaxis(probabilities[headline], 0, -1), scan)
    if options.disagreement:
        first, second = (probabilities[view] for view in pair)
        save(options.output / f"{name}_disagreement.nii.gz", np.abs(first - second).sum(0) / 2, scan)
    if options.overlay:
        plots.overlay(options.output / f"{name}.png", scan.array, None, maps, int(np.argmax(scan.spacing)))
    save(options.output / f"{name}.nii.gz", maps[headline], scan)      # last: a case with this file is finished


@reported
def main(args=None):
    options = tyro.cli(Options, args=args, description=f"{__doc__}\n{DEBUG}")
    dataset = datasets.of_run(options.run)
    preprocessing = read_preprocessing(options.run) or PUBLISHED[dataset.data.dataset]
    recipe, method = load_run(options.run, dataset.recipe, options.checkpoint, options.device)
    if options.disagreement and method.pair is None:
        paired = ", ".join(name for name, one in registry.METHODS.items() if one.pair)
        raise InputError(f"--disagreement needs two views to compare, as {paired} have; this run's method is "
                         f"{recipe.method}")
    cases, bad = find_cases(options.input, preprocessing.modalities)
    make_folder(options.output)
    ranks = Ranks()
    ranks.say(f"{len(cases)} scans; {options.checkpoint}.pt of {options.run}; preprocessing: {preprocessing.normalise}"
              f"{', whole scan' if preprocessing.crop in ('none', 'label') else f', crop to the {preprocessing.crop}'}")
    missing = [name for name in cases if options.force or not (options.output / f"{name}.nii.gz").exists()]
    ranks.wait()        # all have looked before one writes
    reasons = []
    for name in tqdm(ranks.shard(missing), "predict", unit="scan", disable=None if ranks.main else True):
        try:
            write_case(name, *segment_case(method, recipe, preprocessing, cases[name]), options, method.pair)
            reasons.append(None)
        except InputError as error:
            reasons.append(str(error))
    failed = {name: reason for name, reason in zip(missing, ranks.gather(reasons), strict=True) if reason}
    bad |= failed
    ranks.say(f"{len(missing) - len(failed)} segmented, {len(cases) - len(missing)} skipped (there already; --force "
              f"overwrites), {len(bad)} bad -> {options.output}")
    if ranks.main:
        for name, reason in sorted(bad.items()):
            print(f"bad case {name}: {reason}", file=sys.stderr)
    ranks.wait()
    return 2 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
