"""Slices of scans and label maps as pictures in a page that is one file: PNGs with the slices below each other."""
import base64
import io
from pathlib import Path

import jinja2
import numpy as np
from PIL import Image

from evaluation import plots
from runtime.files import read_text

TEMPLATES = Path(__file__).parent / "templates"
LIMIT = 10_000_000      # bytes of pictures of cases, so that a page stays under 15 MB
MARGIN = 24             # voxels around what is marked that are shown
COLOURS = [tuple(int(255 * part) for part in colour) for colour in plots.COLOURS]      # of classes 1, 2, ...


def rendered(template, **context):
    """The text of a page; `style` is what all pages look like."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
                                     lstrip_blocks=True)
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}
    return environment.from_string(read_text(template)).render(context, style=read_text(TEMPLATES / "style.css"))


def box_around(marked, axes):
    """Slices of a mask (*S) around what is marked along some axes, with a margin; all of them where nothing is."""
    box = [slice(None)] * marked.ndim
    for axis in axes:
        places = np.flatnonzero(marked.any(axis=tuple(set(range(marked.ndim)) - {axis})))
        low, high = (places[0], places[-1]) if len(places) else (0, marked.shape[axis])
        box[axis] = slice(max(low - MARGIN, 0), high + MARGIN + 1)
    return tuple(box)


def greys(image):
    """An image of any range -> uint8, its lowest and highest hundredth cut."""
    return (255 * plots.stretched(image)).astype(np.uint8)


def image_sprite(stack):
    """Grey slices (D, H, W) -> what a page needs to show one."""
    return {"source": sprite(stack), "depth": stack.shape[0], "height": stack.shape[1], "width": stack.shape[2]}


def sprite(stack, colours=None):
    """(D, H, W) -> PNG, slices below each other: grey, or label maps in colours (red, green, blue, opacity) that begin
    anew where there are more classes, with a transparent background.
    """
    if colours is not None:
        stack = np.where(stack > 0, (stack - 1) % len(colours) + 1, 0)
    flat = Image.fromarray(np.ascontiguousarray(stack.reshape(-1, stack.shape[2]).astype(np.uint8)))
    file = io.BytesIO()
    if colours is None:
        flat.save(file, "png", optimize=True)
    else:
        flat = flat.convert("P")
        palette = [(0, 0, 0, 0), *colours]
        flat.putpalette([part for colour in palette for part in colour[:3]])
        flat.save(file, "png", optimize=True, transparency=bytes(colour[3] for colour in palette))
    return uri(file.getvalue())


def uri(png):
    return "data:image/png;base64," + base64.b64encode(png).decode()
