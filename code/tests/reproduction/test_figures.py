"""The figures hold the runs' numbers, with one colour a method."""
import numpy as np
import pytest
from matplotlib.colors import to_rgb

import reproduce
from reproduction import figures
from reproduction.columns import lines_of
from reproduction.experiments import APPEARANCE, PLACES
from runtime.errors import InputError

VAL = "stage,step,split,fused,subnet0,subnet1\npre,2,val,0.1,0.1,0.1\nself,1,val,0.5,0.4,0.3\nself,2,val,0.7,0.6,0.5\n"


def lines(name, results):
    return lines_of(PLACES[name], results=(results,))


def test_figure_2_has_each_view_over_the_steps_of_self_training(results):
    (results / "ACDC/cml_7_seed1337_mini/val.csv").write_text(VAL, encoding="utf-8")
    [panel] = figures.training(lines("mini_acdc7", results)).axes
    assert panel.get_title() == "CML"
    curves = {line.get_label(): line.get_xydata().tolist() for line in panel.lines}
    assert curves == {"fused": [[1, 50], [2, 70]], "subnet0": [[1, 40], [2, 60]], "subnet1": [[1, 30], [2, 50]]}
    assert to_rgb(panel.lines[0].get_color()) == to_rgb(APPEARANCE["cml"][1])
    assert len({line.get_linestyle() for line in panel.lines}) == 3     # told apart in print


def test_figure_6_has_means_deviations_and_each_seed(results):
    [panel] = figures.bars({"ACDC": lines("mini_acdc7", results), "LA": {}}).axes
    assert [label.get_text() for label in panel.get_xticklabels()] == ["supervised", "CML"]
    assert [bar.get_height() for bar in panel.patches] == pytest.approx([51, 66])
    assert [to_rgb(bar.get_facecolor()) for bar in panel.patches] == [to_rgb(APPEARANCE[method][1])
                                                                      for method in ("supervised", "cml")]
    points = [line.get_ydata().tolist() for line in panel.lines if line.get_marker() == "."]
    assert points == [pytest.approx([50, 52]), pytest.approx([62, 60, 76])]


def test_figure_5_marks_the_chosen_value(results, write):
    for title, gain in (("ACDC: β = 1/3", 0.0), ("ACDC: β = 1/2", 0.1), ("ACDC: β = 5/6", 0.05)):
        write(results, "figure5", title, 1337, lambda _, gain=gain: gain)
    [panel] = figures.sensitivity(lines("figure5", results)).axes       # λ1 and λ2 have the chosen value alone
    assert panel.get_title() == "β"
    curve, *rings = [line for line in panel.lines if len(line.get_xdata()) and line.get_marker() != "_"
                     and not str(line.get_label()).startswith("_nolegend")]
    drawn = [line.get_xydata().tolist() for line in panel.lines]
    assert any(np.allclose(points, [[0, 50], [1, 60], [3, 55]]) for points in drawn if len(points) == 3)
    assert any(np.allclose(points, [[1, 60]]) for points in drawn if len(points) == 1)


def test_figures_without_runs_say_so(tmp_path, capsys):
    reproduce.main(["figures", "figure2", "figure5", "figure6", "--results", str(tmp_path), "--output",
                    str(tmp_path / "out")])
    assert "no figure: its runs are not there yet" in capsys.readouterr().out


def test_figures_are_png_and_pdf(results, write, tmp_path):
    for method in ("CPS", "CML"):
        write(results, "figure6", f"ACDC: {method}", 1337, lambda _: 0.1)
    reproduce.main(["figures", "figure6", "--results", str(results), "--output", str(tmp_path / "out")])
    assert (tmp_path / "out/figure6_paper.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "out/figure6_paper.pdf").read_bytes().startswith(b"%PDF")


def test_the_methods_have_colours_of_their_own():
    assert len({colour for _, colour in APPEARANCE.values()}) == len(APPEARANCE)


@pytest.mark.parametrize("dataset", [pytest.param("LA", marks=pytest.mark.slow), "ACDC"])
def test_figure_4_shows_reference_and_runs_side_by_side(dataset, recipe, runs, shallow, no_curves, tmp_path):
    import test_ACDC
    import test_LA
    folders = {}
    for method in ("cps", "cml"):
        own = recipe(dataset, method=method, out=tmp_path / method, pre_steps=1, self_steps=1)
        runs.trained(own)
        {"LA": test_LA, "ACDC": test_ACDC}[dataset].main(["--run", str(own.out), "--device", "cpu"])
        folders[method] = own.out
    with pytest.raises(InputError, match="--cases nobody: no data set has it in the test of its last run; choose of "):
        figures.segmentations(figures.weights_of(folders.values()), "cpu", cases=("nobody",))
    drawn = figures.segmentations(figures.weights_of(folders.values()), "cpu")
    titles = [axes.get_title() for axes in drawn.axes]
    rows = [[f"{dataset}: reference", "CPS", "CML"]] * (2 if dataset == "LA" else 1)     # slices; surfaces of LA
    assert titles == sum(rows, [])
    assert sum(axes.name == "3d" for axes in drawn.axes) == (3 if dataset == "LA" else 0)
