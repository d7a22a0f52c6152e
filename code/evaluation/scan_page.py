"""report.html beside predictions.csv: the segmented scans on one page, the one to look at first in front."""
import math

import numpy as np

from evaluation.plots import upright, upright_sides
from evaluation.sprites import COLOURS, LIMIT, TEMPLATES, box_around, greys, image_sprite, rendered, sprite
from evaluation.trust import flags_of
from runtime.files import write_text

PAGE_SLICES = 40    # of a scan, at most
EDGE = 320          # pixels of a slice's side, at most
OPAQUE = [(*colour, 255) for colour in COLOURS]


def write(path, scans, predictions):
    """scans: {case: function that reads it -> image and label map (*N) of classes, mm of a voxel, the axis that slices
    are cut along, where the axes point ("RAS") or None}; predictions: {case: rows of predictions.csv}, ranked.

    Pictures of the first cases, up to LIMIT bytes; the others have their rows alone.
    """
    cases, size = [], 0
    for case, rows in predictions.items():
        if case not in scans:
            continue
        entry = {"name": case, "look": rows[0]["look"], "estimated": rows[0].get("estimated_dice", ""), "rows": [
            {key: row[key] for key in ("name", "voxels", "ml", "components", "agreement", "entropy")} for row in rows],
            "flags": flags_of(rows)}
        picture = {} if size > LIMIT else pictured(*scans[case]())
        size += sum(len(picture[key]["source"] if key == "image" else picture[key]) for key in ("image", "contours")
                    if key in picture)
        cases.append(entry | (picture if size <= LIMIT else {}))
    write_text(path, rendered(TEMPLATES / "scans.html", cases=cases))


def pictured(image, labels, spacing, depth_axis, axes):
    """Upright slices of a scan around its label map, and the outlines of its classes."""
    image, labels = (upright(array, depth_axis, axes) for array in (image, labels))
    sides = upright_sides(spacing, depth_axis, axes)
    marked = labels > 0
    image, labels, marked = (array[box_around(marked, (1, 2))] for array in (image, labels, marked))
    there = np.flatnonzero(marked.any((1, 2)))
    first, last = (max(there[0] - 2, 0), min(there[-1] + 2, len(image) - 1)) if len(there) else (0, len(image) - 1)
    chosen = np.unique(np.linspace(first, last, PAGE_SLICES).round().astype(int))
    step = math.ceil(max(image.shape[1:]) / EDGE)
    image, labels = (array[chosen, ::step, ::step] for array in (image, labels))
    return {"image": image_sprite(greys(image)), "contours": sprite(outlines(labels), OPAQUE),
            "slices": chosen.tolist(), "ratio": image.shape[2] * sides[1] / (image.shape[1] * sides[0])}


def outlines(labels):
    """Slices (D, H, W) of a label map, 0 where the four neighbours in the slice are of the same class."""
    padded = np.pad(labels, ((0, 0), (1, 1), (1, 1)))
    inside = np.all([padded[:, 1 + down:padded.shape[1] - 1 + down, 1 + right:padded.shape[2] - 1 + right] == labels
                     for down, right in ((0, 1), (0, -1), (1, 0), (-1, 0))], axis=0)
    return np.where(inside, 0, labels)
