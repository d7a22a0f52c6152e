"""From a run folder to its table row: predict every test case, measure, write the CSV, print beside the paper."""
import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import nibabel
import numpy as np
from tqdm import tqdm

from dataloaders.scans import published_list
from evaluation import plots, published, tables
from evaluation.components import keep_largest as reduced
from evaluation.inference import likeliest, segment
from evaluation.metrics import class_metrics
from runtime.command_line import parsed
from runtime.errors import DEBUG, InputError
from runtime.files import inside, write_aside, write_text
from runtime.ranks import Ranks


@dataclass(kw_only=True)
class ReportOptions:
    """Test a run: its row, per class and per subnet, beside the paper's."""

    run: Path | None = None         # folder that the train script wrote
    compare: tuple[Path, ...] = ()  # instead: tested runs side by side, the first one as baseline
    checkpoint: Literal["last", "best", "pretrained"] = "last"  # best: chosen on the validation cases
    split: Literal["test", "val"] = "test"      # which list is tested
    data_dir: Path | None = None    # folder with the scans; by default the one of the run
    device: str = "auto"            # auto | cpu | cuda | cuda:1 ...
    spacing: Literal["voxel", "mm"] = "voxel"   # unit of the distances; mm needs data made by a prepare script
    save_predictions: bool = False  # also write label maps (NIfTI) and overlays (PNG) to RUN/predictions/


def label_maps(views, keep_largest):
    """{view: probabilities (C, *S)} -> {view: label map (*S) uint8}; keep_largest: as `components` takes it."""
    return {view: reduced(likeliest(probs), keep_largest) for view, probs in views.items()}


def measure(method, recipe, data, names, options):
    """One row a case and class: metrics of the headline view, then of every view with its name in front.

    Of several processes each measures its shard of the cases; all get all rows, in the list's order.
    """
    ranks, cases = Ranks(), []
    for name in tqdm(ranks.shard(names), "test", unit="case", disable=not ranks.main):
        [scan] = data.cases([name])
        ref = scan.label.numpy()
        maps = label_maps(segment(method, scan.image, recipe), recipe.keep_largest)
        spacing = data.spacing(name) if options.spacing == "mm" else None
        metrics = {view: class_metrics(labels, ref, recipe.num_classes, spacing) for view, labels in maps.items()}
        headline, rows = next(iter(maps)), []
        for index in range(recipe.num_classes - 1):
            row = {"case": name, **metrics[headline][index]}
            for view in maps:
                row |= {f"{view}_{key}": value for key, value in metrics[view][index].items() if key != "class"}
            rows.append(row)
        cases.append(rows)
        if options.save_predictions:
            save_prediction(options.run / "predictions", name, scan.image[0].numpy(), ref, maps, data.depth_axis)
    return [row for rows in ranks.gather(cases) for row in rows]


def save_prediction(folder, name, image, ref, maps, depth_axis):
    """NIfTI label maps of every view, on the prepared scan's grid, and an overlay in Figure 4's layout."""
    for view, labels in maps.items():
        nifti = nibabel.Nifti1Image(labels, np.eye(4))
        path = inside(folder.parent, folder / f"{name}_{view}.nii")
        write_aside(path, lambda file, nifti=nifti: file.write(nifti.to_bytes()))
    plots.overlay(folder / f"{name}.png", image, ref, maps, depth_axis)


def write_rows(path, rows):
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows({key: f"{value:.6f}" if isinstance(value, float) else value for key, value in row.items()}
                     for row in rows)
    write_text(path, text.getvalue())


def test(dataset_class, load, description, args=None):
    """A test script's main: returns the rows it wrote, or of --compare the table's lines.

    load: `training.trained.load_run`.
    """
    options = parsed(ReportOptions, args, description=f"{description}\n{DEBUG}")
    if options.compare:
        return compare(options, dataset_class)
    if options.run is None:
        raise InputError("--run is missing: give the folder that the train script wrote, or --compare RUN1 RUN2 ...")
    trained = load(options.run, options.checkpoint, options.device, options.data_dir, dataset_class.dataset)
    recipe, data = trained.recipe, trained.data
    names = getattr(data.split(), options.split)
    if not names:
        raise InputError(f"--split {options.split}: this run has no such cases; choose --split "
                         f"{'val' if options.split == 'test' else 'test'}, or add a list to the data folder")
    if unlabelled := trained.check_unseen(names):
        Ranks().say(f"{len(unlabelled)} of the {len(names)} cases were unlabelled scans of training, {unlabelled[0]} "
                    "the first: the networks saw them without their labels")
    rows = measure(trained.method, recipe, data, names, options)
    if Ranks().main:
        reference = paper_row(recipe, names, published_list(data.dataset, data.lists["test"]))
        present(rows, recipe, len(names), options, reference)
    Ranks().wait()
    return rows


def paper_row(recipe, names, published_names):
    """(text, values by METRICS) of the paper's row, or None.

    It stands beside the paper's recipe alone, whatever the seed, and beside the cases that it was made on.
    """
    paper = published.row(recipe.dataset, recipe.method, recipe.labeled)
    recipes = type(recipe)(method=recipe.method, labeled=recipe.labeled, seed=recipe.seed)
    if not paper or recipe.fields() != recipes.fields() or not names or set(names) != set(published_names):
        return None
    return f"paper, {recipe.labeled} labelled", (paper[0], None, *paper[1:])


def present(rows, recipe, count, options, reference):
    """Write the rows of `count` cases, print their table beside the paper's row, if there is one."""
    path = result_path(options.run, options)
    write_rows(path, rows)
    print(f"\n{options.run.name}: {options.checkpoint}.pt on {count} {options.split} cases, mean ± std over "
          f"cases{_warning(options, recipe)}\n")
    headings = [heading.replace("voxel", options.spacing) for heading in (*tables.HEADINGS, "empty")]
    show(tables.run_lines(rows, recipe.classes, reference), headings, path)


def compare(options, dataset_class):
    """Tested runs side by side; their CSV files are read, nothing is computed again."""
    runs = {run.name: tables.read_rows(result_path(run, options)) for run in options.compare}
    if len(runs) < len(options.compare) or len(runs) < 2:
        raise InputError("--compare takes two or more run folders with different names")
    lines = tables.compare_lines(runs, dataset_class.patient_of)
    print(f"{options.checkpoint}.pt on the {options.split} cases; Δ and p against {options.compare[0].name}\n")
    print(tables.markdown(lines, tables.COMPARE_HEADINGS))
    return lines


def result_path(run, options):
    return run / f"test_{options.split}_{options.checkpoint}.csv"


def show(lines, headings, path):
    """Print a table; write it beside `path` as Markdown and LaTeX."""
    text = tables.markdown(lines, headings)
    print(text)
    write_text(path.with_suffix(".md"), text + "\n")
    write_text(path.with_suffix(".tex"), tables.latex(lines, headings) + "\n")
    print(f"\nwrote {path}, {path.with_suffix('.md').name}, {path.with_suffix('.tex').name}")


def _warning(options, recipe):
    """Say when a checkpoint was chosen on the very cases it is tested on, or the paper's protocol is another one."""
    words = "" if recipe.preset == "paper" else f"; the {recipe.preset} protocol is not comparable with the paper's"
    if options.checkpoint in ("best", "pretrained") and recipe.select_on == options.split:
        words = f"; CHOSEN ON THESE {options.split.upper()} CASES{words}"
    return words
