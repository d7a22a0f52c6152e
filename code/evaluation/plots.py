"""Pictures of runs: training curves, one step's input and targets, overlays of predictions."""
from pathlib import Path

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from runtime.files import Table, write_aside

# Of classes 1, 2, ...; told apart without red and green
COLOURS = np.array([to_rgb(name) for name in ("#e69f00", "#56b4e9", "#cc79a7", "#f0e442", "#0072b2", "#009e73",
                                              "#d55e00", "#999999")])
SMOOTHING = 50      # steps of the moving mean over a loss term


def save(figure, path, **metadata):
    """Figure -> PNG or PDF by the path's suffix, with entries of its metadata, written aside and renamed."""
    write_aside(path, lambda file: figure.savefig(file, format=Path(path).suffix[1:], dpi=120, bbox_inches="tight",
                                                  metadata=metadata))


def curves(run):
    """RUN/curves.png from RUN/log.csv and val.csv: loss terms, and Dice of each view over the steps (Figure 2)."""
    log, val = Table(run / "log.csv").rows(), Table(run / "val.csv").rows()
    if not log:
        return
    offset = _offset(log)
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


def _offset(log):
    """Steps of pre-training."""
    return sum(row["stage"] == "pre" for row in log)


def _steps(rows, offset):
    """Steps of rows of log.csv or val.csv since the start of training."""
    return [offset * (row["stage"] == "self") + int(row["step"]) for row in rows]


def _dice_curves(axes, rows, offset, prefix=""):
    """Dice (%) of each view in rows of val.csv; the headline thicker."""
    for place, view in enumerate(column for column in rows[0] if column not in ("stage", "step", "split")):
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


def coloured(grey, labels, alpha=0.45):
    """Grey image (H, W) of any range with classes (H, W) painted over it -> (H, W, 3) in [0, 1]."""
    low, high = np.percentile(grey, (1, 99))
    picture = np.repeat(np.clip((grey - low) / max(high - low, 1e-6), 0, 1)[..., None], 3, -1)
    painted = COLOURS[(labels - 1) % len(COLOURS)]
    return np.where(labels[..., None] > 0, (1 - alpha) * picture + alpha * painted, picture)


def overlay(path, image, reference, predictions, depth_axis, comment=""):
    """PNG in Figure 4's layout, one row per slice that matters: image, reference, every view, as contours.

    image, reference (or None), predictions {view: label map}: all (*S); depth_axis: the axis slices are cut along.
    The slices: with the most reference, and with the most error (without reference: most prediction, and where the
    first and the last view differ most).
    """
    first, *_, last = [reference, *predictions.values()] if reference is not None else predictions.values()
    headline = next(iter(predictions.values()))
    planes = tuple(axis for axis in range(image.ndim) if axis != depth_axis)
    area = np.count_nonzero(first if first is not None and first.any() else headline, axis=planes)
    error = np.count_nonzero(headline != (reference if reference is not None else last), axis=planes)
    middle = image.shape[depth_axis] // 2
    slices = dict.fromkeys(int(count.argmax()) if count.any() else middle for count in (area, error))
    maps = {"image": None, **({} if reference is None else {"reference": reference}), **predictions}
    figure = Figure(figsize=(2.6 * len(maps), 2.8 * len(slices)))
    grid = figure.subplots(len(slices), len(maps), squeeze=False)
    low, high = np.percentile(image, (1, 99))
    for index, row in zip(slices, grid, strict=True):
        for axes, (title, labels) in zip(row, maps.items(), strict=True):
            axes.imshow(image.take(index, depth_axis), cmap="gray", vmin=low, vmax=high)
            cut = None if labels is None else labels.take(index, depth_axis)
            if cut is None or min(cut.shape) < 2:       # a line of voxels has no contour
                cut = np.zeros((2, 2))
            for label in np.unique(cut[cut > 0]):
                axes.contour(cut == label, levels=[0.5], colors=[COLOURS[(label - 1) % len(COLOURS)]], linewidths=1.2)
            axes.set_title(f"{title}, slice {index}" if title == "image" else title, fontsize=9)
            axes.axis("off")
    save(figure, path, Comment=comment)


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
