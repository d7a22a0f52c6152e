"""Pictures of runs: training curves, one step's input and targets, overlays of predictions."""
from pathlib import Path

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from nibabel.orientations import apply_orientation, axcodes2ornt, ornt_transform

from evaluation.tables import views_of_validation
from imaging.cases import IGNORED
from runtime.csv_table import Table
from runtime.files import write_aside

# Of classes 1, 2, ...; told apart without red and green
COLOURS = np.array([to_rgb(name) for name in ("#e69f00", "#56b4e9", "#cc79a7", "#f0e442", "#0072b2", "#009e73",
                                              "#d55e00", "#999999")])
SMOOTHING = 50      # steps of the moving mean over a loss term
OPACITY = 0.45      # of classes painted over an image


def save(figure, path, **metadata):
    """Figure -> PNG or PDF by the path's suffix, with entries of its metadata, written aside and renamed."""
    write_aside(path, lambda file: figure.savefig(file, format=Path(path).suffix[1:], dpi=120, bbox_inches="tight",
                                                  metadata=metadata))


def curves(run):
    """RUN/curves.png from RUN/log.csv and val.csv: loss terms, and Dice of each view over the steps (Figure 2)."""
    log, val = Table(run / "log.csv").rows(), Table(run / "val.csv").rows()
    if not log:
        return
    offset = sum(row["stage"] == "pre" for row in log)      # steps of pre-training
    figure = Figure(figsize=(11, 4))
    losses, dice = figure.subplots(1, 2)
    skipped = {"stage", "step", "lr", "loss", "grad_norm", "seconds", "memory_gib", "empty_pseudo_labels"}
    for term in [column for column in log[-1] if column not in skipped]:
        rows = [row for row in log if row[term]]
        if not rows:        # a term of a stage that was cut off and starts again
            continue
        width = min(SMOOTHING, len(rows))
        values = np.convolve([float(row[term]) for row in rows], np.ones(width) / width, "valid")
        losses.plot(_steps(rows, offset)[width - 1:], values, label=term, linewidth=1)
    losses.set(xlabel="step", title=f"loss terms (mean of {SMOOTHING} steps)")
    losses.legend(fontsize=8)
    for split in dict.fromkeys(row["split"] for row in val):
        _dice_curves(dice, [row for row in val if row["split"] == split], offset, f"{split}: ")
    dice.set(xlabel="step", title="Dice (%)" if val else "Dice: no validation cases in this run")
    for axes in (losses, dice):
        axes.grid(alpha=0.3)
        if offset and offset < len(log):
            axes.axvline(offset, color="grey", linestyle=":", linewidth=1)
    if val:
        dice.legend(fontsize=8)
    save(figure, run / "curves.png")


def _steps(rows, offset):
    """Steps of rows of log.csv or val.csv since the start of training."""
    return [offset * (row["stage"] == "self") + int(row["step"]) for row in rows]


def _dice_curves(axes, rows, offset, prefix=""):
    """Dice (%) of each view in rows of val.csv; the headline thicker."""
    for place, view in enumerate(views_of_validation(rows[0])):
        axes.plot(_steps(rows, offset), [100 * float(row[view]) for row in rows], label=prefix + view,
                  linewidth=1 if place else 1.8)


def step_picture(picture):
    """The first scan of a `method.Picture`: image, target, views -> (H, W, 3) float in [0, 1]; volumes by their middle
    slice.
    """
    maps = {view: scores[:1].argmax(1) for view, scores in picture.views.items()}
    if picture.target is not None:
        maps = {"target": picture.target, **maps}
    grey = _middle(picture.image[0, 0].float().cpu().numpy())
    panels = [coloured(grey, np.zeros_like(grey, int))]
    panels += [coloured(grey, _middle(labels[0].cpu().numpy())) for labels in maps.values()]
    return np.concatenate(panels, 1)


def _middle(array):
    return array if array.ndim == 2 else array[..., array.shape[-1] // 2]


def stretched(image):
    """An image of any range -> the same in [0, 1], its lowest and highest hundredth cut."""
    low, high = np.percentile(image, (1, 99))
    return np.clip((image - low) / max(high - low, 1e-6), 0, 1)


def coloured(grey, labels):
    """Grey image (H, W) of any range with classes (H, W) painted over it -> (H, W, 3) in [0, 1]."""
    picture = np.repeat(stretched(grey)[..., None], 3, -1)
    painted = COLOURS[(labels - 1) % len(COLOURS)]
    return np.where(labels[..., None] % IGNORED > 0, (1 - OPACITY) * picture + OPACITY * painted, picture)


def overlay(path, image, reference, predictions, depth_axis, axes=None, comment="", names=()):
    """PNG in Figure 4's layout, one row per slice that matters: image, reference, every view, as contours.

    image, reference (or None), predictions {view: label map}: all (*S); depth_axis: the axis slices are cut along;
    axes: where the array's axes point, "LPS" say, by which slices stand upright with the body's sides at their edges,
    or None where nothing says so, and slices are drawn as they are stored; names: of the foreground classes.
    The slices: with the most reference, and with the most error (without reference: most prediction, and where the
    first and the last view differ most).
    """
    sides = ("", "")
    if axes:        # as a radiologist looks at them
        sides = ("A", "P") if axes[depth_axis] in "LR" else ("R", "L")
    shown = {} if reference is None else {"reference": reference}
    image, *turned = (upright(array, depth_axis, axes) for array in (image, *shown.values(), *predictions.values()))
    maps = {"image": None, **dict(zip([*shown, *predictions], turned, strict=True))}
    first, headline, last = turned[0], turned[len(shown)], turned[-1]
    labelled = first != IGNORED
    area = np.count_nonzero((first if first.any() else headline) * labelled, axis=(1, 2))
    error = np.count_nonzero((headline != (last if reference is None else first)) * labelled, axis=(1, 2))
    middle = len(image) // 2
    slices = dict.fromkeys(int(count.argmax()) if count.any() else middle for count in (area, error))
    figure = Figure(figsize=(2.6 * len(maps), 2.8 * len(slices)))
    grid = figure.subplots(len(slices), len(maps), squeeze=False)
    low, high = np.percentile(image, (1, 99))
    for index, row in zip(slices, grid, strict=True):
        for panel, (title, labels) in zip(row, maps.items(), strict=True):
            panel.imshow(image[index], cmap="gray", vmin=low, vmax=high)
            if labels is not None:
                contours(panel, labels[index])
            for place, side in zip((0.02, 0.98), sides, strict=True):
                panel.text(place, 0.5, side, color="white", fontsize=8, transform=panel.transAxes, va="center",
                           ha="left" if place < 0.5 else "right")
            panel.set_title(f"{title}, slice {index}" if title == "image" else title, fontsize=9)
            panel.axis("off")
    if names:
        lines = [Line2D([], [], color=COLOURS[place % len(COLOURS)], label=name) for place, name in enumerate(names)]
        figure.legend(handles=lines, loc="upper center", bbox_to_anchor=(0.5, 0.08), ncol=4, fontsize=8, frameon=False)
    save(figure, path, Comment=comment)


def upright(array, depth_axis, axes):
    """(*N) -> slices (D, rows, columns) as a radiologist sees them; as they are stored where nobody knows the axes."""
    if axes:
        turn = _turn(axes)
        array, depth_axis = apply_orientation(array, turn), int(turn[depth_axis, 0])
    stack = np.moveaxis(array, depth_axis, 0)
    if axes:
        stack = stack.swapaxes(1, 2)
    return stack[:, ::-1] if axes and depth_axis != 2 else stack


def upright_sides(spacing, depth_axis, axes):
    """mm of `upright`'s rows and columns."""
    order = [int(place) for place in np.argsort(_turn(axes)[:, 0])] if axes else [0, 1, 2]
    sides = [spacing[axis] for axis in order if axis != depth_axis]
    return sides[::-1] if axes else sides


def _turn(axes):
    return ornt_transform(axcodes2ornt(axes), axcodes2ornt("LPS"))


def contours(panel, labels, colours=COLOURS):
    """The outline of every class of a slice (rows, columns), along the slice's edge too."""
    rows, columns = (np.arange(-1, extent + 1) for extent in labels.shape)
    for label in np.unique(labels[labels % IGNORED > 0]):
        panel.contour(columns, rows, np.pad(labels == label, 1), levels=[0.5],
                      colors=[colours[(label - 1) % len(colours)]], linewidths=1.2)
    panel.set(xlim=(-0.5, labels.shape[1] - 0.5), ylim=(labels.shape[0] - 0.5, -0.5))


def fits(path, curves):
    """PNG of {title: [(size, cost), ...]}: points and the line fitted through them."""
    figure = Figure(figsize=(4.2 * len(curves), 3.4))
    for axes, (title, points) in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True):
        x, y = np.array(points).T
        slope, start = np.polyfit(x, y, 1)
        axes.plot(x, y, "o")
        axes.plot(x, start + slope * x, linewidth=1)
        axes.set(xlim=(0, None), ylim=(0, None))
        axes.set_title(title, fontsize=8)
        axes.grid(alpha=0.3)
    save(figure, path)


def against_labels(path, curves):
    """PNG of {method: {number of labels: Interval of the Dice}}: means with their intervals."""
    figure = Figure(figsize=(5, 3.6))
    axes = figure.subplots()
    ticks = sorted({labels for curve in curves.values() for labels in curve})
    for place, (method, curve) in enumerate(curves.items()):
        x = np.array([ticks.index(labels) for labels in curve]) + 0.06 * (place - (len(curves) - 1) / 2)
        mean, low, high = np.array(list(curve.values())).reshape(-1, 3).T
        axes.errorbar(x, mean, np.nan_to_num([mean - low, high - mean]), label=method, marker="o", capsize=3,
                      color=COLOURS[place])
    axes.set_xticks(range(len(ticks)), ticks)
    axes.set(xlabel="labelled scans", ylabel="Dice (%), out of fold")
    axes.legend()
    axes.grid(alpha=0.3)
    save(figure, path)
