"""No data, no GPU: draw phantom scans, train the supervised baseline and CML on them, compare.

    python code/demo.py                     ACDC-like slices; two minutes on two cores
    python code/demo.py --dataset LA

Loaders, loops and tables are those of the real data sets. The networks are half as wide, and the scans are synthetic,
small and easier than real ones, so that the figures say nothing about patients. Ends with a table and
model/demo/demo.png. Started again, it goes on where it was.
"""
import contextlib
import io
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Literal, NamedTuple

from runtime.script import reported

from evaluation import measurements, tables
from runtime import job
from runtime.command_line import check_seed, parsed
from runtime.files import ROOT
from runtime.workers import end_with_parent
from training.datasets import DATASETS, DataSet

TITLES = {"supervised": "supervised", "cml": "CML"}


class Demo(NamedTuple):
    """A data set; how many phantoms of what size; what its mini recipe changes to."""

    dataset: DataSet
    phantoms: dict
    recipe: dict


SMALL_3D = dict(labeled=1, network="narrow_vnet", patch_size=(16, 16, 16), stride=(8, 8, 8), half_resolution=False,
                holdout_test=0, labeled_batch=4, unlabeled_batch=4, pre_steps=150, self_steps=250, lr=0.05,
                pre_schedule="constant", self_schedule="poly", eval_every=1_000)
DEMOS = {
    "ACDC": Demo(DATASETS["ACDC"], dict(train=24, val=1, test=6, size=32, zoom=2.2, clutter=0.25, noise=0.15),
                 dict(labeled=1, network="narrow_unet", patch_size=(32, 32), labeled_batch=8, unlabeled_batch=8,
                      pre_steps=250, self_steps=450, lr=0.05, self_schedule="poly", normalise="zscore",
                      eval_every=1_000)),
    "LA": Demo(DATASETS["LA"], dict(train=30, test=6, size=(24, 24, 20), zoom=1.3, clutter=0.4, noise=0.3), SMALL_3D),
    "BraTS": Demo(DATASETS["BraTS2019"], dict(train=30, val=1, test=6, size=(24, 24, 20), zoom=1.2, clutter=0.3,
                                              noise=0.3), SMALL_3D),
}


@dataclass(kw_only=True)
class Options:
    """Phantom scans, supervised against CML."""

    dataset: Literal["ACDC", "LA", "BraTS"] = "ACDC"    # whose phantoms, recipe and network
    seed: int = 1337                # of phantoms and training
    out: Path = ROOT / "model/demo"     # folder of phantoms, runs and demo.png


@reported
def main(args=None):
    options = parsed(Options, args, description=__doc__)
    check_seed(options.seed)
    from dataloaders.phantom import write_phantoms  # here: options are read without PyTorch and matplotlib
    demo = DEMOS[options.dataset]
    home = options.out / f"{options.dataset}_seed{options.seed}"
    data_dir = home / demo.dataset.data.dataset
    print(f"drawing phantoms: {data_dir}")
    write_phantoms(data_dir, demo.dataset.data.dataset, **demo.phantoms, seed=options.seed)
    with ProcessPoolExecutor(len(TITLES), get_context("spawn"), end_with_parent) as pool:
        runs = {method: pool.submit(run, demo, method, options.seed, data_dir, home / method) for method in TITLES}
        rows = {method: ended.result() for method, ended in runs.items()}
    ease = ", ".join(f"{name} {demo.phantoms[name]}" for name in ("zoom", "clutter", "noise") if name in demo.phantoms)
    print(f"\n{options.dataset} phantoms{ease and f' ({ease})'}, {demo.recipe['labeled']} labelled of "
          f"{demo.phantoms['train']}, {demo.phantoms['test']} test cases, mean ± std over cases\n")
    print(table(rows))
    draw(home, rows, demo, data_dir, options.out / "demo.png")
    print(f"\npicture: {options.out / 'demo.png'}; curves: {home}/<method>/curves.png")
    return rows


def run(demo, method, seed, data_dir, out):
    """Train a method and test it, in a process of its own with its share of the cores -> rows of its test.

    Of the two, CML is the one that takes longer: the progress on the screen is its.
    """
    import torch  # here: options are read without PyTorch

    from training.fit import train
    torch.set_num_threads(max(1, job.cpus() // len(TITLES)))
    recipe = replace(demo.dataset.presets["mini"], **demo.recipe, method=method, seed=seed, data_dir=data_dir, out=out,
                     workers=0)
    quiet = io.StringIO()
    with contextlib.redirect_stdout(quiet):
        with contextlib.nullcontext() if method == "cml" else contextlib.redirect_stderr(quiet):
            train(recipe, demo.dataset.data(recipe))
            return demo.dataset.test.main(["--run", str(out)])


def table(rows):
    """{method: rows of its test} -> Markdown: the baseline, then CML's subnets and their fusion."""
    lines = []
    for method, title in TITLES.items():
        for view in reversed(measurements.views_of(rows[method])):
            name = title if view == "network" else f"{title}, {view}"
            lines.append(tables.line(name, tables.statistics(rows[method], f"{view}_")))
    return tables.markdown(lines)


def draw(home, rows, demo, data_dir, path):
    """The test case of median gain in Dice: image, reference, supervised, CML's views."""
    from evaluation import plots, report
    from evaluation.inference import segment
    from training.trained import load_run
    gains = {}
    for cml, supervised in zip(rows["cml"], rows["supervised"], strict=True):
        gains[cml["case"]] = gains.get(cml["case"], 0) + cml["dice"] - supervised["dice"]
    name = sorted(gains, key=gains.get)[len(gains) // 2]
    recipe = replace(demo.dataset.presets["mini"], **demo.recipe, data_dir=data_dir)
    [scan] = demo.dataset.data(recipe).cases([name])
    maps = {}
    for method, title in TITLES.items():
        trained = load_run(home / method).method
        views = report.label_maps(segment(trained, scan.image, recipe), recipe.keep_largest)
        maps |= {title if view == "network" else f"{title}, {view}": labels for view, labels in views.items()}
    plots.overlay(path, scan.image[0].numpy(), scan.label.numpy(), maps, demo.dataset.data.depth_axis)


if __name__ == "__main__":
    main()
