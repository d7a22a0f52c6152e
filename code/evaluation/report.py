"""From a run folder to its table row: predict every test case, measure, write the CSV, print beside the paper."""
import csv
import io
import math
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from tqdm import tqdm

from dataloaders.lists import published_list
from evaluation import components, measurements, published, tables
from evaluation.saved_maps import PREDICTIONS, prediction_marks, save_prediction
from evaluation.windows import WEIGHTS, windows_of
from imaging.patients import Patients
from imaging.record import read_preprocessing
from runtime.command_line import parsed
from runtime.errors import DEBUG, InputError, counted
from runtime.files import check_writable, write_text
from runtime.locks import locked
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
    stride: tuple[int, ...] = ()    # voxels between windows; by default the recipe's
    weights: Literal[WEIGHTS] | None = None     # of a window's voxels; by default uniform, of own data gaussian
    save_predictions: bool = False  # also write label maps (NIfTI) and overlays (PNG) to RUN/predictions/
    tolerance: ClassVar[float | None] = None    # of the surface Dice, which the published sets are tested without
    force: bool = False             # replace predictions of other weights or scans, and the result of other cases


def label_maps(views, keep_largest):
    """{view: probabilities (C, *S)} -> {view: label map (*S) uint8}; keep_largest: as `components` takes it."""
    from evaluation.inference import likeliest  # here and below: options are read without PyTorch
    return {view: components.keep_largest(likeliest(probs), keep_largest) for view, probs in views.items()}


def measure(trained, names, options):
    """One row per case and class: metrics of the headline view, then of every view with its name in front, then how.

    Of several processes each measures its shard of the cases; all get all rows, in the list's order. Where predictions
    are saved, nobody else saves any there meanwhile.
    """
    if not options.save_predictions:
        return _measured(trained, names, options)
    with locked(options.run / PREDICTIONS, "--run") if Ranks().main else nullcontext():
        Ranks().wait()
        return _measured(trained, names, options, prediction_marks(trained, names, options))


def _measured(trained, names, options, marks=None):
    from evaluation.inference import segment
    from evaluation.metrics import class_metrics, volume_metrics
    ranks, cases, recipe, data = Ranks(), [], trained.recipe, trained.data
    windows, how = windows_of(recipe, options.stride, options.weights), settings(trained, names, options)
    patients = getattr(data, "patients", Patients())
    for name in tqdm(ranks.shard(names), "test", unit="case", disable=not ranks.main):
        [scan] = data.cases([name])
        ref = scan.label.numpy()
        maps = label_maps(segment(trained.method, scan.image, recipe, **windows), recipe.keep_largest)
        spacing = data.spacing(name) if options.spacing == "mm" else None
        metrics = {view: class_metrics(labels, ref, recipe.num_classes, spacing, options.tolerance)
                   for view, labels in maps.items()}
        headline, rows = next(iter(maps)), []
        whose = {"patient": patients.of(name)} if patients.cases else {}
        volumes = [{}] * recipe.num_classes if options.tolerance is None else volume_metrics(
            maps[headline], ref, recipe.num_classes, voxel_ml(data, name))
        for index in range(recipe.num_classes - 1):
            row = {"case": name, **whose, "class": index + 1, "name": recipe.classes[index],
                   **metrics[headline][index], **volumes[index]}
            for view in maps:
                row |= {f"{view}_{key}": value for key, value in metrics[view][index].items() if key != "class"}
            rows.append(row | how)
        cases.append(rows)
        if marks:
            save_prediction(options.run / PREDICTIONS, name, scan, maps, data, marks[name])
    return [row for rows in ranks.gather(cases) for row in rows]


def settings(trained, names, options):
    """How a test is made, the columns `measurements.SETTINGS`."""
    windows = window_words(windows_of(trained.recipe, options.stride, options.weights))
    weights = options.checkpoint + " so far" * is_open_ended(trained)
    values = (options.split, weights, options.spacing, windows,
              components.kept_classes(trained.recipe.keep_largest), measurements.check_sum(names),
              voxel_words(trained.recipe.data_dir))
    how = dict(zip(measurements.SETTINGS, values, strict=False))
    return how if options.tolerance is None else how | {"tolerance": f"{options.tolerance:g} {options.spacing}"}


def voxel_words(folder):
    """What the scans in a data folder were resampled to, "1x1x2.5 mm" along their prepared axes, or "voxels of their
    own"; "" of those without a record, as published.
    """
    record = read_preprocessing(folder)
    if record is None:
        return ""
    return f"{'x'.join(f'{side:g}' for side in record.spacing)} mm" if record.spacing else "voxels of their own"


def is_open_ended(trained):
    """Whether training is not finished, and may replace these weights."""
    return not (trained.run / "last.pt").exists()


def voxel_ml(data, name):
    """ml of a voxel of a prepared scan; NaN of files that do not hold the voxel size."""
    try:
        return math.prod(data.spacing(name)) / 1000
    except InputError:
        return math.nan


def window_words(windows):
    """What `windows_of` gives, as a result says it: "18x18x4 uniform", or "slices"."""
    return f"{'x'.join(map(str, windows['stride']))} {windows['weights']}" if windows else "slices"


# ---- the table ---------------------------------------------------------------------------------------------------


def write_rows(path, rows):
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows({key: f"{value:.6f}" if isinstance(value, float) else value for key, value in row.items()}
                     for row in rows)
    write_text(path, text.getvalue())


def write_result(path, rows, markdown, latex):
    """The CSV of a test, and its table as Markdown and LaTeX beside it."""
    write_rows(path, rows)
    write_text(path.with_suffix(".md"), markdown + "\n")
    write_text(path.with_suffix(".tex"), latex + "\n")
    print(f"\nwrote {path}, {path.with_suffix('.md').name}, {path.with_suffix('.tex').name}")


def test(dataset_class, load, description, args=None):
    """A test script's main: returns the rows it wrote, or of --compare the table's lines.

    load: `training.trained.load_run`.
    """
    return tested(parsed(ReportOptions, args, description=f"{description}\n{DEBUG}"), dataset_class, load)


def tested(options, dataset_class, load):
    """`test` by its options."""
    if options.compare:
        return compare(options, dataset_class)
    if options.run is None:
        raise InputError("--run is missing: give the folder that the train script wrote, or --compare RUN1 RUN2 ...")
    Ranks().say(f"{options.run}, {options.checkpoint}.pt: PyTorch is loading")
    trained = load(options.run, options.checkpoint, options.device, options.data_dir, dataset_class.dataset)
    recipe, data = trained.recipe, trained.data
    windows_of(recipe, options.stride, options.weights)     # refused before anything is read
    names = trained.names(options.split)
    if not names:
        raise InputError(f"--split {options.split}: this run has no such cases; choose --split "
                         f"{'val' if options.split == 'test' else 'test'}, or add a list to the data folder")
    ranks = Ranks()
    if ranks.main:
        check_result(result_path(options.run, options), names, options.force)
    ranks.wait()
    trained.check_cases(names)
    rows = measure(trained, names, options)
    if ranks.main:
        published_names = published_list(data.dataset, data.lists["test"])
        as_published = is_as_published(rows[0], recipe) and trained.has_papers_data()
        reference = paper_row(recipe, names, published_names) if as_published else None
        present(rows, trained, len(names), options, reference)
    ranks.wait()
    return rows


def check_result(path, names, force=False, columns=measurements.COLUMNS):
    """InputError, before the hour of measuring, where the result could not be kept or would replace other cases'.

    columns: that the result has, at least.
    """
    check_writable(path)
    if path.exists() and not force:
        try:
            there = {row["case"] for row in measurements.read_rows(path, columns)}
        except InputError as error:
            raise InputError(f"{error}, with --force, which replaces it, or move it away") from error
        if there and names and measurements.check_sum(there) != measurements.check_sum(names):
            raise InputError(f"{path}: is the result of {counted(len(there), 'other case')}, and these are "
                             f"{len(names)}; --force replaces it, or move it away")


def paper_row(recipe, names, published_names):
    """(text, values by METRICS) of the paper's row, or None.

    It stands beside the paper's recipe alone, whatever the seed and whatever the train script or the method's file was
    edited to, and beside the cases that it was made on.
    """
    paper, fields = published.row(recipe.dataset, recipe.method, recipe.labeled), recipe.fields()
    recipes = type(recipe)(method=recipe.method, labeled=recipe.labeled, seed=recipe.seed)
    if not paper or fields != recipes.fields() or not names or set(names) != set(published_names) or any(
            fields.get(name) != value for name, value in published.chosen(recipe.dataset, recipe.method).items()):
        return None
    return f"paper, {recipe.labeled} labelled", (paper[0], None, *paper[1:])


def is_as_published(how, recipe):
    """Whether a test with these `settings` measures as the paper does: in voxels, its windows, trained to the end."""
    return (how["unit"] == "voxel" and not how["weights"].startswith("pretrained")
            and how["windows"] == window_words(windows_of(recipe)))


def present(rows, trained, count, options, reference):
    """Print the table of `count` cases beside the paper's row, if there is one; write it and the rows."""
    path, recipe = result_path(options.run, options), trained.recipe
    cases = counted(count, f"{options.split} case")
    print(f"\n{options.run.name}: {options.checkpoint}.pt on {cases}{', mean ± std over cases' * (count > 1)}"
          f"{_warning(rows, trained, options)}\n")
    headings = [heading.replace("voxel", options.spacing) for heading in (*tables.HEADINGS, "empty")]
    lines = tables.run_lines(rows, recipe.classes, reference)
    text = tables.markdown(lines, headings)
    print(f"{text}\n\n{explained(rows)}")
    write_result(path, rows, text, tables.latex(lines, headings))


def explained(rows):
    """What the words of a run's table mean."""
    words = ["Bold: the view that counts, as the method is tested."]
    views = measurements.views_of(rows)
    if views[0] == "fused":
        words.append(f"fused: mean of the probabilities of {views[1]} and {views[2]}, the two subnets, which stand "
                     "below it.")
    if last := [view for view in views if view.startswith("last_")]:
        words.append(f"{last[0]}, ...: the same of the weights after the last step; tested is their average over the "
                     "steps.")
    words.append("empty: results with an undefined distance, since the prediction or the reference has no voxel of the "
                 "class; 95HD and ASD leave them out, and the `paper` row counts them as 0, as the authors' release.")
    return "\n".join([*words, *tables.left_out(rows)])


def compare(options, dataset_class):
    """Tested runs side by side; their CSV files are read, nothing is computed again."""
    paths = {run.name: result_path(run, options) for run in options.compare}
    runs = {name: measurements.read_rows(path) for name, path in paths.items()}
    if len(runs) < len(options.compare) or len(runs) < 2:
        raise InputError("--compare takes two or more run folders with different names")
    lines = tables.compare_lines(runs, dataset_class.patient_of)
    for name, path in paths.items():        # all alike, and not what the headings say
        out_of_fold = runs[name][0].get("list") == measurements.OUT_OF_FOLD       # as the folder of folds says
        measurements.check_named(path, runs[name], weights=options.checkpoint, unit=options.spacing,
                                 **{} if out_of_fold else {"list": options.split})
    headings = [heading.replace("voxel", options.spacing) for heading in tables.COMPARE_HEADINGS]
    print(f"{options.checkpoint}.pt on the {options.split} cases; Δ and p against {options.compare[0].name}\n")
    print(tables.markdown(lines, headings))
    return lines


def result_path(run, options):
    """RUN/test_<list>_<weights>.csv; another unit or other windows than the recipe's have a name of their own."""
    tags = [options.spacing] * (options.spacing != "voxel")
    tags += [f"stride{'x'.join(map(str, options.stride))}"] * bool(options.stride) + [options.weights or ""]
    return run / f"{'_'.join(['test', options.split, options.checkpoint, *filter(None, tags)])}.csv"


def _warning(rows, trained, options):
    """Say when the weights were chosen on the very cases they are tested on or may change, or the paper's protocol is
    another one.
    """
    preset, open_ended = trained.recipe.preset, is_open_ended(trained)
    return chosen_here(trained, {row["case"] for row in rows}, options) + (
        f"; TRAINING IS NOT FINISHED and may replace {options.checkpoint}.pt: test again after it" * open_ended) + (
        "" if preset == "paper" else f"; the {preset} protocol is not comparable with the paper's")


def chosen_here(trained, names, options):
    """Words, "" where validation on none of these cases chose the weights, or those that self-training started from."""
    recipe, chosen = trained.recipe, f"CHOSEN ON THESE {options.split.upper()} CASES"
    if trained.chose(names, options.split):
        if options.checkpoint != "last":
            return f"; {chosen}"
        if any(stage.name == "pre" for stage in trained.method.stages(recipe.pre_steps, recipe.self_steps)):
            return f"; THE WEIGHTS THAT SELF-TRAINING STARTED FROM WERE {chosen}"
    return ""
