"""plan.json: what prepare_folder.py saw of somebody's scans, and how to prepare and train on them, with reasons."""
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from runtime.errors import InputError, is_visible
from runtime.records import from_record, read_json

PLAN = "plan.json"
REPLAN = "correct it, or remove it, and prepare_folder.py writes it again"

MIXED = 1.1             # voxel sizes further apart than this factor are resampled                      [O]
COARSE = 3              # voxels so many times longer than wide make slices of a volume                 [as nnU-Net]
LOWEST_HU = -500        # a CT scan has air in it, or is padded with less                               [O]
BACKGROUND = 0.25       # share of a scan that one value fills where it is background                   [as nnU-Net]
OBLONG = 1.5            # an extent so many times the other one keeps quarter turns out                 [O]
WHOLE = 0.99            # share of a class in one component from which it counts as one                 [O]
VOXELS = 112 * 112 * 80     # of a patch at most, as on LA                                              [P]
PIXELS = 256 * 256          # ... of slices, as on ACDC                                                 [C]
ORIENTATIONS = {"none": "RAS", "x": "RAS", "y": "ARS", "z": "SRA"}      # of the prepared axes: slices along the first


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What follows from the scans. Axes are those of a patch; of slices, the two in the plane."""

    slices: Literal["none", "x", "y", "z"] = "none"     # the body's axis along which scans are taken slice by slice
    spacing: tuple[float, ...] | None = None            # mm along x, y, z to resample to; null: each scan's own
    normalise: Literal["ct", "zscore", "zscore_brain", "minmax"] = "zscore"     # zscore_brain: over the non-background
    windows: tuple[tuple[float, ...], ...] = ()     # of ct, a channel: lowest, highest, mean, deviation
    class_names: tuple[str, ...] = ()       # of the foreground classes
    patch_size: tuple[int, ...] = (112, 112, 80)        # voxels, multiples of 16
    flips: tuple[int, ...] = ()             # axes that may be mirrored
    quarter_turns: bool = False             # in the plane of the first two axes
    keep_largest: tuple[int, ...] = ()      # classes of which the largest component alone is kept at test
    components: tuple[int, ...] = ()        # ... and of pseudo-labels
    foreground: float = 0.5                 # share of labelled patches that hold foreground for certain

    @property
    def orientation(self) -> str:
        """Of the prepared axes."""
        return ORIENTATIONS[self.slices]

    @property
    def made(self) -> tuple:
        """How scans are prepared by it, as `Preprocessing.made` has it."""
        return self.orientation, self.prepared_spacing, self.normalise, self.windows * (self.normalise == "ct")

    @property
    def prepared_spacing(self) -> tuple[float, ...] | None:
        """mm along the prepared axes."""
        return self.spacing and tuple(self.spacing["RAS".index(side)] for side in self.orientation)


@dataclass(frozen=True)
class Choice:
    """A value of the plan, and why it is that."""

    value: Any
    reason: str = ""


PREPARED = "slices", "spacing", "normalise", "windows"      # lines that the prepared files depend on


def read_plan(path: Path) -> tuple[Plan, dict[str, str]]:
    """The plan in a file, and {line: its reason}; InputError for what is no plan."""
    values = read_json(path, REPLAN)
    lines = values.get("plan")
    if not isinstance(lines, dict) or not all(isinstance(line, dict) and "value" in line for line in lines.values()):
        raise InputError(f"{path}: is no plan, expected \"plan\" with a value and a reason for each line: {REPLAN}")
    plan = from_record(Plan, {name: line["value"] for name, line in lines.items()}, path, REPLAN)
    axes = 3 if plan.slices == "none" else 2
    if len(plan.patch_size) != axes or not all(side > 0 and side % 16 == 0 for side in plan.patch_size):
        raise InputError(f"{path}: patch_size is {list(plan.patch_size)}, expected {axes} multiples of 16 where slices "
                         f"is {plan.slices!r}: {REPLAN}")
    if plan.spacing is not None and len(plan.spacing) != 3:
        raise InputError(f"{path}: spacing is {list(plan.spacing)}, expected mm along x, y and z, of slices, too: "
                         f"{REPLAN}")
    if plan.normalise == "ct" and not plan.windows:
        raise InputError(f"{path}: windows is empty, expected lowest, highest, mean and deviation of each channel "
                         "where normalise is ct; write them there, or prepare_folder.py --normalise ct with another "
                         "--output measures them")
    if not set(plan.flips) <= set(range(axes)) or not 0 <= plan.foreground <= 1:
        raise InputError(f"{path}: flips {list(plan.flips)}, foreground {plan.foreground:g}: expected axes from 0 to "
                         f"{axes - 1}, and a share from 0 to 1: {REPLAN}")
    for name in ("class_names", "flips"):
        if len(set(values := getattr(plan, name))) < len(values):
            raise InputError(f"{path}: {name} {list(values)}: has one of them twice: {REPLAN}")
    if not all(map(is_visible, plan.class_names)):
        raise InputError(f"{path}: class_names {list(plan.class_names)}: expected letters that can be seen: {REPLAN}")
    return plan, {name: _reason(line) for name, line in lines.items()}


def _reason(line):
    """A line whose value is not the one that was planned has been edited."""
    if line["value"] != line.get("planned", line["value"]):
        return f"edited, {json.dumps(line['planned'])} was planned: {line.get('reason', '')}"
    return str(line.get("reason", ""))


def plan_text(seen: dict, lines: dict[str, Choice]) -> str:
    """What plan.json holds: a line of JSON per line of the plan; `planned` stays where `value` is edited."""
    rows = [f"  {json.dumps(name)}: {json.dumps({'value': line.value, 'planned': line.value, 'reason': line.reason})}"
            for name, line in lines.items()]
    text = ",\n".join(rows)
    return f'{{\n "seen": {json.dumps(seen)},\n "plan": {{\n{text}\n }}\n}}\n'


def shrunk(patch_size: tuple[int, ...], voxels: int) -> tuple[int, ...]:
    """A patch of multiples of 16 with at most so many voxels, in the proportions of `patch_size` as far as may be."""
    sides = list(patch_size)
    while math.prod(sides) > voxels and max(sides) > 16:
        axis = max((axis for axis, side in enumerate(sides) if side > 16),
                   key=lambda axis: sides[axis] / patch_size[axis])
        sides[axis] -= 16
    return tuple(sides)


# ---- from what was seen to the plan ----------------------------------------------------------------------------


def plan_preparation(scans: list[dict], says_ct: bool | None = None) -> dict[str, Choice]:
    """Lines of the plan by which scans are prepared, from what `survey.look_at_scan` gave.

    says_ct: what dataset.json says of the channels, if it says anything.
    """
    spacings = np.array([scan["spacing"] for scan in scans])
    shape = np.median([scan["shape"] for scan in scans], 0)
    spacing = _spacing(spacings)
    sides = np.median(spacings, 0) if spacing.value is None else np.array(spacing.value)
    return {"slices": _slices(sides, shape), "spacing": spacing, **_intensities(scans, says_ct)}


def _spacing(spacings):
    low, high, target = spacings.min(0), spacings.max(0), np.median(spacings, 0)
    ranges = ", ".join(f"{axis} {lo:.3g} to {hi:.3g}" for axis, lo, hi in zip("xyz", low, high, strict=True))
    if (high <= MIXED * low).all():
        return Choice(None, f"voxels are alike in size from scan to scan ({ranges} mm), so each scan keeps its own")
    axis = int(target.argmax())
    words = f"median of the scans, whose voxels differ in size ({ranges} mm)"
    if target[axis] >= COARSE * np.delete(target, axis).max():
        target[axis] = np.percentile(spacings[:, axis], 10)
        words += f"; along {'xyz'[axis]}, {COARSE} times coarser than the others, the 10th percentile"
    return Choice([round(float(side), 4) for side in target], words)


def _slices(sides, shape):
    axis, flat = int(sides.argmax()), np.flatnonzero(shape == 1)
    if len(flat):
        return Choice("xyz"[flat[0]], "scans are single images")
    others = np.delete(sides, axis).max()
    words = (f"voxels are {sides[axis]:.3g} mm along {'xyz'[axis]}, {sides[axis] / others:.1f} times the others' "
             f"{others:.3g}")
    if sides[axis] >= COARSE * others:
        return Choice("xyz"[axis], f"{words}: a 2D U-Net on slices, from {COARSE} times on")
    return Choice("none", f"{words}: a 3D V-Net on volumes, below {COARSE} times")


def _intensities(scans, says_ct):
    channels = list(zip(*(scan["channels"] for scan in scans), strict=True))
    pooled = [np.concatenate([seen["foreground"] for seen in channel]) for channel in channels]
    lowest = max(seen["lowest"] for channel in channels for seen in channel)
    ct = (lowest <= LOWEST_HU if says_ct is None else says_ct) and all(map(len, pooled))
    if ct:
        windows = []
        for values in pooled:
            low, high = np.percentile(values, (0.5, 99.5))
            values = values.clip(low, high)
            windows.append([round(float(number), 4) for number in (low, high, values.mean(), max(values.std(), 1e-3))])
        why = ("dataset.json says CT" if says_ct else
               f"values look like Hounsfield units: every scan goes down to {lowest:g} or lower")
        return {"normalise": Choice("ct", f"{why}; cut at the 0.5 and 99.5 percentiles of the labelled foreground, "
                                    "then z-score with its mean and deviation"),
                "windows": Choice(windows, "0.5 and 99.5 percentile, mean, deviation of the labelled foreground")}
    share = min(seen["background"] for channel in channels for seen in channel)
    line = Choice("zscore", "over the whole scan: the background is not one value")
    if share >= BACKGROUND:
        line = Choice("zscore_brain", f"over the non-background: one value is {100 * share:.0f} % of each scan or more")
    return {"normalise": line, "windows": Choice([], "for CT alone")}


def plan_training(plan: Plan, shapes: list, spacings: list, labels: dict[str, dict], names: Choice
                  ) -> dict[str, Choice]:
    """Lines of the plan by which a network is trained: shapes, spacings (mm) of the prepared cases along the prepared
    axes, and what `survey.look_at_label` gave of each labelled one.
    """
    first = 0 if plan.slices == "none" else 1
    shape, spacing = np.median(shapes, 0)[first:], np.median(spacings, 0)[first:]
    limit, unit = (PIXELS, "pixels") if first else (VOXELS, "voxels")
    patch = shrunk(tuple(16 * math.ceil(extent / 16) for extent in shape), limit)
    told = _told_apart(labels, first)
    free = [axis for axis in range(3 - first) if axis not in told]
    called = dict(enumerate(names.value, 1))
    mirrored = "; ".join(f"axis {axis}: it tells {called.get(one, one)} and {called.get(other, other)} apart"
                         for axis, (one, other) in told.items())
    extents, sides = sorted(shape[:2]), sorted(spacing[:2])
    oblong = extents[1] >= OBLONG * extents[0] or sides[1] >= OBLONG * sides[0]
    turns = not oblong and not set(told) & {0, 1}
    return {
        "class_names": names,
        "patch_size": Choice(list(patch), f"multiples of 16 as the median shape {' x '.join(f'{n:g}' for n in shape)}; "
                             f"at most {limit:,} {unit}"),
        "flips": Choice(free, f"not along {mirrored}" if told else "no axis tells two classes apart"),
        "quarter_turns": Choice(turns, f"not with {mirrored}" if set(told) & {0, 1} else
                              f"voxels or extents in the plane differ by {OBLONG} times or more" if oblong else
                              "the plane is as wide as it is high"),
        "keep_largest": _one_component(labels, "largest", "every labelled case"),
        "components": _one_component(labels, "in_slices", "every slice of the labelled cases" if first else
                                     "every labelled case"),
        "foreground": Choice(0.5, "small classes are met as often as large ones")}


def fixed_orders(labels: dict[str, dict], fewest: int = 1) -> list[tuple[int, int, int, int]]:
    """(class, other, axis, 1 or -1) of classes alike in shape that lie in one order along a prepared axis in every
    labelled case, `fewest` at least, 1 where the other one comes after; labels: as `plan_training` takes them.
    """
    orders, fixed = {}, []
    for seen in labels.values():
        for one, other, *axes in seen["pairs"]:
            orders.setdefault((one, other), []).append(axes)
    for (one, other), axes in orders.items():
        both = sum({one, other} <= set(seen["classes"]) for seen in labels.values())
        if len(axes) >= max(fewest, both // 2 + 1):
            fixed += [(one, other, axis, orders[0]) for axis, orders in enumerate(zip(*axes, strict=True))
                      if len(set(orders)) == 1 and orders[0]]
    return fixed


def _told_apart(labels, first):
    """{axis of the patch: classes of `fixed_orders` along it}."""
    told = {}
    for one, other, axis, _ in fixed_orders(labels):
        if axis >= first:
            told.setdefault(axis - first, (one, other))
    return told


def _one_component(labels, share, where):
    """The classes that are one component in every labelled case that has them."""
    least = {}
    for seen in labels.values():
        for label, found in seen["classes"].items():
            least[label] = min(least.get(label, 1), found[share])
    chosen = sorted(label for label, value in least.items() if value >= WHOLE)
    others = ", ".join(f"class {label}: {100 * value:.0f} %" for label, value in sorted(least.items()) if value < WHOLE)
    return Choice(chosen, f"classes of which one component has {100 * WHOLE:.0f} % in {where}"
                + (f"; not so {others} at the least" if others else ""))

