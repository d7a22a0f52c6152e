"""Figures 2, 4, 5 and 6 from runs: PNG and PDF, one colour per method everywhere, readable without colour."""

import numpy as np
from matplotlib.colors import LightSource
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator
from mpl_toolkits.mplot3d.art3d import Poly3DCollection
from scipy.ndimage import gaussian_filter
from skimage.measure import marching_cubes

from evaluation import plots, published
from evaluation.tables import views_of_validation
from reproduction import passes
from reproduction.columns import lines_of, means
from reproduction.experiments import APPEARANCE, FIGURE4, PLACES, SEEDS, STEPS, SYMBOLS, Experiment, fraction
from reproduction.results import RESULTS
from reproduction.runs import MODEL, Run, has_preset
from reproduction.segmentations import has_weights, ranked, segmented
from runtime.errors import InputError, counted
from runtime.files import make_folder
from training.recipe import read_config

STYLES = "-", "--", ":", "-."           # of views: the headline, then the others
SET_STYLES = {"LA": ("#0072b2", "o"), "ACDC": ("#d55e00", "s"), "BraTS2019": ("#009e73", "^")}     # colour, marker
WIDTH = 3.4                             # inches of a panel
BAR = 0.65                              # inches that a bar needs, for its label


def panels(number, widths=None, **share):
    widths = widths or [WIDTH] * number
    figure = Figure(figsize=(sum(widths), 3), layout="constrained")
    return figure, figure.subplots(1, number, squeeze=False, width_ratios=widths, **share)[0]


def training(lines):
    """Figure 2: Dice of each view on the watched cases during self-training, one panel per method. {title: Line}."""
    lines = {title: line for title, line in lines.items() if first_val(line)}
    if not lines:
        return None
    figure, axes = panels(len(lines), sharex=True, sharey=True)
    for panel, (title, line) in zip(axes, lines.items(), strict=True):
        rows = [row for row in first_val(line) if row["stage"] == "self"]
        for place, view in enumerate(views_of_validation(rows[0]) if rows else ()):
            colour = APPEARANCE[line.row.experiment.method][1] if not place else f"{0.2 + 0.2 * place}"
            panel.plot([row["step"] for row in rows], [100 * row[view] for row in rows], STYLES[place],
                       label=view, color=colour, linewidth=1.2 if place else 2)
        panel.set(title=title, xlabel="step of self-training")
        panel.grid(alpha=0.3)
        panel.legend(fontsize=8, loc="lower right")
    axes[0].set_ylabel("Dice (%)")
    return figure


def first_val(line):
    """val.csv of the lowest seed that is there."""
    return line.runs[min(line.runs)].validations if line.runs else []


def bars(groups):
    """Figure 6: {panel: {title: Line}} -> Dice of each method, deviation over seeds and each seed's point."""
    groups = {name: {title: line for title, line in lines.items() if line.runs} for name, lines in groups.items()}
    groups = {name: lines for name, lines in groups.items() if lines}
    if not groups:
        return None
    figure, axes = panels(len(groups), widths=[max(WIDTH, BAR * len(lines)) for lines in groups.values()])
    for panel, (name, lines) in zip(axes, groups.items(), strict=True):
        for place, line in enumerate(lines.values()):
            dice = means(line)
            panel.bar(place, np.mean(dice), yerr=np.std(dice, ddof=1) if len(dice) > 1 else None, capsize=4,
                      color=APPEARANCE[line.row.experiment.method][1], edgecolor="black", linewidth=0.6)
            panel.plot([place] * len(dice), dice, "k.", markersize=4)
            panel.annotate(f"{np.mean(dice):.1f}", (place, 0), (0, 5), textcoords="offset points", ha="center",
                           color="black", fontsize=9, bbox={"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none"})
        panel.set(title=name, ylabel="Dice (%)", xticks=range(len(lines)), xlim=(-0.6, len(lines) - 0.4), ylim=(0, 100))
        panel.set_xticklabels([APPEARANCE[line.row.experiment.method][0].replace(" ", "\n") for line in lines.values()],
                              fontsize=8)
        panel.set_axisbelow(True)
        panel.grid(axis="y", alpha=0.3)
    return figure


def sensitivity(lines):
    """Figure 5: Dice over λ1, λ2 and β, one line per data set, the chosen value ringed. {title: Line}."""
    found = {line.row.experiment: line for line in lines.values() if line.runs}
    settings = dict.fromkeys((e.dataset, e.labeled) for e in found)
    curves = {}
    for name, values in published.FIGURE5.items():
        for dataset, labeled in settings:
            points = []
            for value in values:
                changes = () if published.CHOSEN[dataset][name] == value else ((name, value),)
                if line := found.get(Experiment(dataset, "cml", labeled, changes)):
                    points.append((values.index(value), means(line), not changes))
            if len(points) > 1:
                curves.setdefault(name, {})[dataset] = points
    if not curves:
        return None
    figure, axes = panels(len(curves), sharey=True)
    for panel, (name, sets) in zip(axes, curves.items(), strict=True):
        for dataset, points in sets.items():
            colour, marker = SET_STYLES[dataset]
            places, dice = [point[0] for point in points], [np.mean(point[1]) for point in points]
            spread = [np.std(point[1], ddof=1) if len(point[1]) > 1 else 0 for point in points]
            panel.errorbar(places, dice, yerr=spread, color=colour, marker=marker, label=dataset, capsize=3)
            for place, values, chosen in points:
                if chosen:
                    panel.plot(place, np.mean(values), "o", markersize=14, fillstyle="none", color=colour)
        panel.set(title=SYMBOLS[name], xlim=(-0.4, 3.4))
        panel.xaxis.set_major_locator(FixedLocator(range(4)))
        panel.xaxis.set_minor_locator(NullLocator())
        panel.xaxis.set_major_formatter(FixedFormatter(
            [fraction(value) if name == "beta" else f"{value:g}" for value in published.FIGURE5[name]]))
        panel.grid(alpha=0.3)
        panel.legend(fontsize=8)
    axes[0].set_ylabel("Dice (%)")
    return figure


def costs(lines, preset):
    """Dice on the watched cases during self-training against what it cost: mean over seeds, and their range."""
    lines = {title: line for title, line in lines.items() if first_val(line)}
    if not lines:
        return None
    figure, axes = panels(3, sharey=True)
    for place, (title, line) in enumerate(lines.items()):
        seeds = [[point for point in passes.curve(Run(line.row.experiment, preset, seed), found) if point.self_step > 0]
                 for seed, found in line.runs.items()]
        seeds = [{point.self_step: point for point in seed} for seed in seeds]
        points = [[seed[step] for seed in seeds] for step in seeds[0] if all(step in seed for seed in seeds)]
        dice = np.array([[point.dice for point in seed] for seed in points])
        colour = APPEARANCE[line.row.experiment.method][1]
        for panel, key in zip(axes, ("step", "images", "learned"), strict=True):
            amounts = [getattr(first, key) for first, *_ in points]
            panel.plot(amounts, dice.mean(1), color=colour, label=title, linewidth=1.6, linestyle=STYLES[place % 4])
            panel.fill_between(amounts, dice.min(1), dice.max(1), color=colour, alpha=0.2, linewidth=0)
    for panel, label in zip(axes, ("step", "images through each network", "images in the losses"), strict=True):
        panel.set(xlabel=label)
        panel.grid(alpha=0.3)
    axes[0].set_ylabel("Dice (%)")
    axes[-1].legend(fontsize=8, loc="lower right")
    return figure


# ---- Figure 4 ----------------------------------------------------------------------------------------------------


def segmentations(columns, device="auto", data_dir=None, cases=()):
    """Figure 4: {data set: {title: run folder}} -> a case each, methods in columns beside the reference.

    A row of slices with contours and, of volumes with one class, a row of surfaces. The case is one of `cases`, or the
    one of median Dice of the last run.
    """
    rows, listed = [], {dataset: list(ranked(list(runs.values())[-1])[1]) for dataset, runs in columns.items()}
    if unknown := [case for case in cases if not any(case in names for names in listed.values())]:
        raise InputError(f"--cases {unknown[0]}: no data set has it in the test of its last run; choose of "
                         f"{', '.join(sum(listed.values(), [])[:5])}, ...")
    for dataset, runs in columns.items():
        names = listed[dataset]
        name = next((case for case in cases if case in names), names[len(names) // 2])
        shown = {title: next(segmented(folder, [name], device, data_dir)) for title, folder in runs.items()}
        rows.append((dataset, shown, False))
        if next(iter(shown.values())).depth_axis and next(iter(shown.values())).reference.max() == 1:
            rows.append((dataset, shown, True))
    width = 1 + max(len(shown) for _, shown, _ in rows)
    figure = Figure(figsize=(2.4 * width, 2.6 * len(rows)), layout="constrained")
    for line, (dataset, shown, surfaces) in enumerate(rows):
        case = next(iter(shown.values()))
        maps = {"reference": case.reference, **{title: next(iter(one.views.values())) for title, one in shown.items()}}
        for place, (title, labels) in enumerate(maps.items()):
            axes = figure.add_subplot(len(rows), width, line * width + place + 1,
                                      projection="3d" if surfaces else None)
            if surfaces:
                _surface(axes, labels == 1, case.reference == 1)
            else:
                _slice(axes, case, labels)
            axes.set_title(f"{dataset}: {title}" if not place else title, fontsize=9)
    return figure


def _slice(axes, case, labels):
    """The upright slice with most reference: the prediction filled, the reference as a white outline."""
    image, labels, reference = (plots.upright(array, case.depth_axis, case.axes)
                                for array in (case.image, labels, case.reference))
    index = int(np.count_nonzero(reference, axis=(1, 2)).argmax())
    reference = reference[index]
    axes.imshow(plots.coloured(image[index], labels[index]))
    plots.contours(axes, reference, ["white"])
    rows, cols = np.nonzero(reference)
    margin = 20
    if len(rows):
        axes.set(xlim=(max(cols.min() - margin, 0), min(cols.max() + margin, reference.shape[1] - 1)),
                 ylim=(min(rows.max() + margin, reference.shape[0] - 1), max(rows.min() - margin, 0)))
    axes.axis("off")


def _surface(axes, mask, reference):
    """The surface of a mask by marching cubes, from one side and at one scale for all: what lies far out is cut off."""
    box = [(places.min() - 10, places.max() + 10) for places in np.nonzero(reference)]
    if mask.any():
        smooth = gaussian_filter(np.pad(mask, 2).astype(np.float32), 1)         # or voxels' edges hide the shape
        corners, triangles, *_ = marching_cubes(smooth, min(0.5, 0.9 * smooth.max()), step_size=2,
                                                gradient_direction="ascent")
        near = np.all([(corners[:, axis] > low) & (corners[:, axis] < high) for axis, (low, high) in enumerate(box)], 0)
        axes.add_collection3d(Poly3DCollection(corners[triangles[near[triangles].all(1)]], shade=True, linewidth=0,
                                               antialiased=False, facecolors=tuple(plots.COLOURS[0]),
                                               lightsource=LightSource(azdeg=315, altdeg=60)))
    axes.set(**{f"{name}lim": limits for name, limits in zip("xyz", box, strict=True)})
    axes.set_box_aspect([high - low for low, high in box], zoom=1.3)
    axes.view_init(elev=35, azim=-60)
    axes.axis("off")


def weights_of(folders, preset=None):
    """{data set: {title: run folder}} of the given run folders, or of Figure 4's runs that have weights."""
    found = {}
    if folders:
        for folder in folders:
            config = read_config(folder)
            title = APPEARANCE.get(config["recipe"]["method"], (config["recipe"]["method"],))[0]
            runs = found.setdefault(config["dataset"], {})
            runs[title if title not in runs else folder.name] = folder
        return found
    for row in PLACES["figure4"].rows:
        if has_preset(row.experiment, preset):
            folder = MODEL / Run(row.experiment, preset, SEEDS[0]).name
            if has_weights(folder):
                found.setdefault(row.experiment.dataset, {})[row.title] = folder
    return {dataset: found[dataset] for dataset in FIGURE4 if dataset in found}


# ---- which is drawn ----------------------------------------------------------------------------------------------


def of_place(name, preset, results):
    """The matplotlib figure of figure2, figure5 or figure6 at a preset, or None without runs."""
    lines = lines_of(PLACES[name], preset, results)
    if name == "figure2":
        return training(lines)
    if name == "figure5":
        return sensitivity(lines)
    groups = {}
    for title, line in lines.items():
        groups.setdefault(line.row.experiment.dataset, {})[title] = line
    return bars(groups)


def draw(names=(), preset=None, output=MODEL / "figures", runs=(), cases=(), data_dir=None, device="auto",
         results=None):
    """As `reproduce.py figures` says."""
    make_folder(output)
    drawn = 0
    for name in names or ("figure2", "figure5", "figure6", "figure4"):     # the one that needs scans comes last
        for at in [preset] if preset else ("paper", "short", "mini"):
            if name == "figure4":
                columns = weights_of(runs, at)
                figure = segmentations(columns, device, data_dir, cases) if columns else None
            else:
                figure = of_place(name, at, (results,) if results else RESULTS)
            tag = "runs" if name == "figure4" and runs else at
            if figure:
                plots.save(figure, output / f"{name}_{tag}.png")
                plots.save(figure, output / f"{name}_{tag}.pdf")
                print(f"drew {output / f'{name}_{tag}.png'} and .pdf")
                drawn += 1
            if name == "figure4" and runs:
                break
    print(counted(drawn, "figure") if drawn else "no figure: its runs are not there yet; see `reproduce.py list`")


def own(name, results=RESULTS):
    """The matplotlib figure of a name in OURS, or None without runs."""
    return costs(_own_lines(name, results), PLACES[OURS[name]].preset)


def has_own(name, results=RESULTS):
    """Whether `own` has something to draw."""
    return any(map(first_val, _own_lines(name, results).values()))


def _own_lines(name, results):
    every = lines_of(PLACES[OURS[name]], results=results)
    return {title: every[title] for title in (APPEARANCE[method][0] for method in (*STEPS, "cml_plus"))}


OURS = {     # of our own protocols, for the documents and the page: name -> place, of which the methods towards CML
    "costs_ACDC": "short_acdc3",
    "costs_LA": "short_la8",
}


def pictures(docs, results=RESULTS):
    """Write those of OURS that have runs as PNG to `docs`; returns the paths."""
    make_folder(docs)
    found = {docs / f"{name}.png": figure for name in OURS if (figure := own(name, results))}
    for path, figure in found.items():
        plots.save(figure, path)
    return list(found)
