"""The page of segmented scans: upright slices, outlines, the scan to look at first in front."""
import base64
import io
import json
import re

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from evaluation import plots, scan_page, sprites


@pytest.mark.parametrize("axes", ["LPS", "RAS", "SLA", "PIR", "AIL", None])
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_slices_stand_upright_as_in_the_overlays(axes, depth):
    array, spacing = np.arange(60).reshape(3, 4, 5), (0.5, 2.0, 3.0)
    stack = plots.upright(array, depth, axes)
    turned, place = array, depth
    if axes:
        turn = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt(axes),
                                               nib.orientations.axcodes2ornt("LPS"))
        turned, place = nib.orientations.apply_orientation(array, turn), int(turn[depth, 0])
    for index, cut in enumerate(stack):
        expected = turned.take(index, place)        # axes point left, back and up: back or feet below
        assert np.array_equal(cut, expected if not axes else expected.T if place == 2 else expected.T[::-1])
    extents = dict(zip(array.shape, spacing, strict=True))
    assert plots.upright_sides(spacing, depth, axes) == [extents[n] for n in stack.shape[1:]]


def test_an_outline_is_where_a_neighbour_in_the_slice_is_of_another_class():
    labels = np.zeros((2, 7, 7), np.uint8)
    labels[0, 1:6, 1:6] = 1
    labels[0, 3:6, 3:6] = 2
    labels[1, 0:3, 0:3] = 3
    outlines = scan_page.outlines(labels)
    assert (outlines[labels != outlines] == 0).all() and outlines[0, 4, 4] == 0 and outlines[0, 2, 3] == 1
    assert np.count_nonzero(outlines[0] == 2) == 8 and np.count_nonzero(outlines[1]) == 8      # its edge counts


def rows(look, flags="", names=("atrium",)):
    return [{"look": look, "name": name, "voxels": "9", "ml": "1.5", "components": "1", "agreement": "",
             "entropy": "0.1", "flags": flags} for name in names]


def data_of(path):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>',
                                path.read_text(encoding="utf-8"), re.S)[1])


def test_the_page_has_the_scans_in_their_order_with_the_slices_that_matter(tmp_path, monkeypatch):
    image = np.random.default_rng(0).normal(size=(120, 100, 60)).astype(np.float32)
    labels = np.zeros(image.shape, np.uint8)
    labels[50:60, 40:60, 20:30] = 1

    def read(labels):
        return lambda: (image, labels, (1.0, 1.0, 2.0), 2, "LPS")
    scans = {"one<b>": read(labels), "two": read(0 * labels)}
    ranked = {"two": rows(1, "atrium 0 ml; odd"), "elsewhere": rows(2), "one<b>": rows(3)}
    scan_page.write(tmp_path / "report.html", scans, ranked)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "http" not in text and "one<b>" not in text and "elsewhere" not in text and "<title>Segmented scans" in text
    two, one = data_of(tmp_path / "report.html")
    assert [two["name"], one["name"]] == ["two", "one<b>"] and two["flags"] == ["atrium 0 ml", "odd"]
    assert one["slices"] == list(range(18, 32)) and len(two["slices"]) == scan_page.PAGE_SLICES and two["ratio"] == 1.2
    size = one["image"]["width"], one["image"]["height"] * one["image"]["depth"]
    for source in (one["image"]["source"], one["contours"]):
        assert Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))).size == size
    monkeypatch.setattr(scan_page, "LIMIT", 0)
    scan_page.write(tmp_path / "report.html", scans, ranked)
    two, one = data_of(tmp_path / "report.html")
    assert "image" not in two and "image" not in one and one["rows"][0]["ml"] == "1.5"


def test_a_large_scan_makes_a_small_picture():
    image = np.zeros((900, 700, 2 * scan_page.PAGE_SLICES), np.float32)
    picture = scan_page.pictured(image, (image + 1).astype(np.uint8), (0.5, 0.5, 1), 2, None)
    assert max(picture["image"]["height"], picture["image"]["width"]) <= scan_page.EDGE
    assert picture["image"]["depth"] == scan_page.PAGE_SLICES and picture["ratio"] == pytest.approx(7 / 9, abs=0.01)


def test_classes_beyond_the_colours_begin_anew():
    labels = np.arange(20, dtype=np.uint8).reshape(1, 4, 5)
    source = sprites.sprite(labels, scan_page.OPAQUE)
    picture = np.array(Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))).convert("RGBA")).reshape(-1, 4)
    count = len(scan_page.OPAQUE)
    assert picture[0, 3] == 0 and np.array_equal(picture[1 + count:], picture[1:20 - count])
    assert np.array_equal(picture[1:1 + count], scan_page.OPAQUE)
