"""No data, no GPU: draw phantom scans, train the supervised baseline and CML on them, compare.

    python code/demo.py                     ACDC-like slices; 2 to 9 minutes on two cores
    python code/demo.py --dataset LA

Loaders, loops and tables are those of the real data sets; only the scans are synthetic, so the figures say nothing
about patients. Ends with a table and model/demo/demo.png. Started again, it goes on where it was.
"""
import contextlib
import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

from runtime.script import reported

from evaluation import tables
from runtime.command_line import check_seed, parsed
from runtime.files import ROOT
from training.datasets import DATASETS, DataSet

METHODS = {"supervised": "supervised", "cml": "CML"}


class Demo(NamedTuple):
    """A data set; how many phantoms of what size; what its mini recipe changes to."""

    dataset: DataSet
    phantoms: dict
    recipe: dict


DEMOS = {
    "ACDC": Demo(DATASETS["ACDC"], dict(train=24, val=2, test=8, size=64),
                 dict(labeled=3, patch_size=(64, 64), labeled_batch=12, unlabeled_batch=12, pre_steps=250,
                      self_steps=450)),
    "LA": Demo(DATASETS["LA"], dict(train=20, test=8, size=(64, 64, 40)),
               dict(labeled=2, half_resolution=False, holdout_test=0, pre_steps=50, self_steps=120)),
    "BraTS": Demo(DATASETS["BraTS2019"], dict(train=20, val=2, test=8, size=56),
                  dict(labeled=2, half_resolution=False, pre_steps=50, self_steps=150)),
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
    from training.fit import train
    demo = DEMOS[options.dataset]
    home = options.out / f"{options.dataset}_seed{options.seed}"
    data_dir = home / demo.dataset.data.dataset
    print(f"drawing phantoms: {data_dir}")
    write_phantoms(data_dir, demo.dataset.data.dataset, **demo.phantoms, seed=options.seed)
    rows = {}
    for method in METHODS:
        recipe = replace(demo.dataset.presets["mini"], **demo.recipe, method=method, seed=options.seed,
                         data_dir=data_dir, out=home / method, workers=0)
        train(recipe, demo.dataset.data(recipe))
        with contextlib.redirect_stdout(io.StringIO()):
            rows[method] = demo.dataset.test.main(["--run", str(home / method)])
    print(f"\n{options.dataset} phantoms, {demo.recipe['labeled']} labelled of {demo.phantoms['train']}, "
          f"{demo.phantoms['test']} test cases, mean ± std over cases\n")
    print(table(rows))
    draw(home, rows, demo, data_dir, options.out / "demo.png")
    print(f"\npicture: {options.out / 'demo.png'}; curves: {home}/<method>/curves.png")
    return rows


def table(rows):
    """{method: rows of its test} -> Markdown: the baseline, then CML's subnets and their fusion."""
    lines = []
    for method, title in METHODS.items():
        for view in reversed(tables.views_of(rows[method])):
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
    for method, title in METHODS.items():
        trained = load_run(home / method).method
        views = report.label_maps(segment(trained, scan.image, recipe), recipe.keep_largest)
        maps |= {title if view == "network" else f"{title}, {view}": labels for view, labels in views.items()}
    plots.overlay(path, scan.image[0].numpy(), scan.label.numpy(), maps, demo.dataset.data.depth_axis)


if __name__ == "__main__":
    main()
