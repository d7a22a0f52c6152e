"""Overlays: every class of a slice is drawn, slices stand upright."""
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from nibabel.orientations import apply_orientation, axcodes2ornt, ornt_transform
from PIL import Image

from evaluation import plots


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """drawn(image, reference, predictions, depth_axis, axes) -> the figure's panels, row by row."""
    figures = []
    monkeypatch.setattr(plots, "save", lambda figure, path, **metadata: figures.append(figure))

    def draw(*arguments):
        plots.overlay(tmp_path / "x.png", *arguments)
        return figures[-1].axes
    return draw


def outline(panel):
    """Points of a panel's contours, rounded away from the middle of the voxels."""
    return np.concatenate([path.vertices for contour in panel.collections for path in contour.get_paths()] or [
        np.empty((0, 2))])


def test_a_slice_of_one_class_throughout_is_outlined(drawn):
    image, labels = np.zeros((4, 5, 3)), np.zeros((4, 5, 3), np.uint8)
    labels[..., 1] = 1
    image[0] = 1
    for panel in drawn(image, None, {"network": labels}, 2)[1:2]:
        points = outline(panel)
        assert (points.min(0), points.max(0)) == (pytest.approx((-0.5, -0.5)), pytest.approx((4.5, 3.5)))
        assert panel.get_xlim() == (-0.5, 4.5) and panel.get_ylim() == (3.5, -0.5)


@pytest.mark.parametrize("shape", [(1, 6, 2), (6, 1, 2), (1, 1, 2)])
def test_lines_of_voxels_have_outlines_too(drawn, shape):
    labels = np.ones(shape, np.uint8)
    assert len(outline(drawn(np.random.default_rng(0).random(shape), labels, {"a": labels, "b": labels}, 2)[1]))


def test_an_empty_map_has_no_outline_and_the_middle_is_shown(drawn):
    image = np.random.default_rng(0).random((4, 5, 7))
    panels = drawn(image, None, {"network": np.zeros((4, 5, 7), np.uint8)}, 2)
    assert panels[0].get_title() == "image, slice 3" and not len(outline(panels[1]))


def test_methods_of_one_view_and_of_several_are_drawn(drawn):
    image = np.random.default_rng(0).random((4, 5, 3))
    maps = {name: (image > level).astype(np.uint8) for name, level in (("one", 0.5), ("two", 0.6), ("three", 0.7))}
    for count in (1, 2, 3):
        views = dict(list(maps.items())[:count])
        titles = [panel.get_title() for panel in drawn(image, None, views, 2)]
        assert titles[1:count + 1] == list(views)


@pytest.mark.parametrize("axes", ["LPS", "RAS", "SLA", "AIR", "PSL"])
def test_slices_stand_upright_however_the_scan_is_stored(drawn, axes):
    """Seen as a radiologist does: the body's right on the picture's left, its front or head on top."""
    upright = np.zeros((5, 6, 7))           # to the left, the back, the head
    upright[0, 0, 6] = 1                    # the right front corner of the head
    turn = ornt_transform(axcodes2ornt("LPS"), axcodes2ornt(axes))
    stored = apply_orientation(upright, turn)
    labels = {"network": stored.astype(np.uint8)}
    for body_axis, (rows, columns), sides in ((2, (6, 5), "RL"), (1, (7, 5), "RL"), (0, (7, 6), "AP")):
        panels = drawn(stored, None, labels, int(turn[body_axis, 0]), axes)
        shown = panels[0].images[0].get_array()
        assert shown.shape == (rows, columns) and shown[0, 0] == 1 and shown.sum() == 1
        assert [text.get_text() for text in panels[0].texts] == list(sides)
        assert (outline(panels[1]) <= 0.5).all()        # about the first voxel of the first row


def test_what_has_no_orientation_is_drawn_as_it_is_stored_without_sides(drawn):
    image = np.random.default_rng(0).random((3, 4, 5))
    panels = drawn(image, None, {"network": np.zeros((3, 4, 5), np.uint8)}, 0)
    assert np.array_equal(panels[0].images[0].get_array(), image[1])
    assert not any(text.get_text() for text in panels[0].texts)


def test_the_picture_is_written_with_its_mark(tmp_path):
    image = np.random.default_rng(0).random((8, 9, 3))
    plots.overlay(tmp_path / "a.png", image, None, {"network": (image > 0.5).astype(np.uint8)}, 2, "LPS", "a mark")
    assert Image.open(tmp_path / "a.png").info["Comment"] == "a mark"


def test_the_classes_are_named_in_their_colours(monkeypatch, tmp_path):
    figures = []
    monkeypatch.setattr(plots, "save", lambda figure, path, **metadata: figures.append(figure))
    labels = np.arange(24, dtype=np.uint8).reshape(2, 3, 4) % 3
    plots.overlay(tmp_path / "x.png", labels.astype(float), None, {"network": labels}, 2, names=("left", "right"))
    [legend] = figures[0].legends
    assert [text.get_text() for text in legend.get_texts()] == ["left", "right"]
    assert [to_rgb(line.get_color()) for line in legend.get_lines()] == [tuple(colour) for colour in plots.COLOURS[:2]]
