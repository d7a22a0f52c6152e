"""Statistics and the printed tables."""
import csv
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import train_ACDC
import train_LA
from dataloaders.scans import published_list
from evaluation import report, tables
from runtime.errors import InputError

NAN = math.nan


def row(case, label, dice, jaccard, hd95, asd, prefix=""):
    values = {"dice": dice, "jaccard": jaccard, "hd95": hd95, "asd": asd}
    return {"case": case, "class": label, **{prefix + key: value for key, value in values.items()}}


ROWS = [
    row("b", 1, 0.8, 0.6, 4.0, 1.0), row("b", 2, 0.4, 0.2, 8.0, 3.0),
    row("a", 1, 0.6, 0.4, 2.0, 0.5), row("a", 2, 0.0, 0.0, NAN, NAN),
    row("c", 1, 0.1, 0.1, 6.0, 1.5), row("c", 2, 0.2, 0.1, 10.0, 5.0),
]


def test_means_run_over_the_defined_cases_of_each_class_then_over_classes():
    stats = tables.statistics(ROWS)
    dice = [0.8, 0.6, 0.1], [0.4, 0.0, 0.2]
    assert stats["dice"][0] == pytest.approx(100 * (sum(dice[0]) / 3 + sum(dice[1]) / 3) / 2)
    assert stats["jaccard"][0] == pytest.approx(100 * (1.1 / 3 + 0.3 / 3) / 2)
    assert stats["hd95"][0] == pytest.approx(((4 + 2 + 6) / 3 + (8 + 10) / 2) / 2)
    assert stats["asd"][0] == pytest.approx(((1 + 0.5 + 1.5) / 3 + (3 + 5) / 2) / 2)
    assert stats["empty"] == 1


def test_deviation_is_that_of_the_cases_own_means():
    stats = tables.statistics(ROWS)
    assert stats["dice"][1] == pytest.approx(100 * np.std([0.6, 0.3, 0.15]))
    assert stats["hd95"][1] == pytest.approx(np.std([6.0, 2.0, 8.0]))       # case a: its one defined class


def test_empty_predictions_may_count_as_zero_distance():
    stats = tables.statistics(ROWS, empty_as=0.0)
    assert stats["hd95"][0] == pytest.approx((12 / 3 + 18 / 3) / 2)
    assert stats["asd"][0] == pytest.approx((3 / 3 + 8 / 3) / 2)
    assert stats["dice"] == tables.statistics(ROWS)["dice"] and stats["empty"] == 1


def test_the_order_of_the_rows_does_not_matter():
    assert tables.statistics(ROWS[::-1]) == tables.statistics(ROWS)


def test_a_view_is_read_by_its_prefix():
    rows = [row("a", 1, 0.5, 0.3, 2.0, 1.0) | row("a", 1, 0.9, 0.8, NAN, NAN, "subnet0_")]
    assert tables.statistics(rows)["dice"] == pytest.approx((50, 0))
    stats = tables.statistics(rows, "subnet0_")
    assert stats["dice"] == pytest.approx((90, 0)) and stats["empty"] == 1
    assert all(math.isnan(value) for value in (*stats["hd95"], *stats["asd"]))


def with_views(rows):
    return [r | {f"{view}_{key}": r[key] - 0.05 * i for i, view in enumerate(("fused", "subnet0", "subnet1"))
                 for key in tables.METRICS} for r in rows]


def test_a_runs_table_shows_views_classes_the_release_convention_and_the_paper():
    lines = tables.run_lines(with_views(ROWS), ["RV", "MYO"], ("paper, 7 labelled", (89.42, None, 1.42, 0.52)))
    assert [line[0] for line in lines] == ["**fused**", "subnet0", "subnet1", "fused, RV", "fused, MYO",
                                           "fused, `paper` convention: empty is 0", "paper, 7 labelled"]
    assert {len(line) for line in lines} == {6}
    fused, subnet0, _, rv, myo, release, paper = (line[1:] for line in lines)
    assert fused == ["35.00 ± 18.71", "23.33 ± 12.47", "6.50 ± 2.49", "2.50 ± 1.12", "1"]
    assert subnet0[0] == "30.00 ± 18.71"
    assert rv[:3] == ["50.00 ± 29.44", "36.67 ± 20.55", "4.00 ± 1.63"]
    assert myo[2:] == ["9.00 ± 1.00", "4.00 ± 1.00", "1"]
    assert release[2] == "5.00 ± 2.94"
    assert paper == ["89.42", "–", "1.42", "0.52", ""]


def test_one_class_needs_no_row_of_its_own_and_no_paper_no_row():
    lines = tables.run_lines(with_views([r for r in ROWS if r["class"] == 1]), ["left atrium"])
    assert [line[0] for line in lines] == ["**fused**", "subnet0", "subnet1", "fused, `paper` convention: empty is 0"]


def test_markdown_and_latex_hold_every_cell():
    lines = [["**fused**", "35.00 ± 18.71", "–"], ["subnet_0", "1", "2"]]
    assert tables.markdown(lines, ("Dice (%) ↑", "95HD ↓")).splitlines() == [
        "|  | Dice (%) ↑ | 95HD ↓ |", "| --- | --- | --- |", "| **fused** | 35.00 ± 18.71 | – |",
        "| subnet_0 | 1 | 2 |"]
    assert tables.latex(lines, ("Dice (%) ↑", "95HD ↓")).splitlines() == [
        r"\begin{tabular}{lcc}", r"\toprule", r" & Dice (\%) $\uparrow$ & 95HD $\downarrow$ \\", r"\midrule",
        r"fused & 35.00 $\pm$ 18.71 & -- \\", r"subnet\_0 & 1 & 2 \\", r"\bottomrule", r"\end{tabular}"]


# ---- runs side by side -------------------------------------------------------------------------------------------


def rows_of(values):
    """Rows of one class; a Dice per case."""
    return [row(case, 1, dice, dice / 2, 1.0, 1.0) for case, dice in values.items()]


BASELINE = {"a": 0.5, "b": 0.6, "c": 0.7, "d": 0.4, "e": 0.3}


def test_methods_are_compared_by_a_paired_test_over_patients():
    """Five patients, all better: of 2^5 signs only two are as extreme, p = 2 / 32."""
    better = {case: dice + 0.01 * (i + 1) for i, (case, dice) in enumerate(BASELINE.items())}
    first, second = tables.compare_lines({"base": rows_of(BASELINE), "ours": rows_of(better)[::-1]})
    assert first[0] == "base" and first[-2:] == ["–", "–"]
    assert second[0] == "ours" and second[-2:] == ["+3.00", "0.0625"]
    assert first[1].startswith("50.00 ± ") and second[1].startswith("53.00 ± ")
    assert len(second) == len(tables.COMPARE_HEADINGS) + 1


def test_a_run_against_its_like_differs_by_nothing():
    _, second = tables.compare_lines({"base": rows_of(BASELINE), "again": rows_of(BASELINE)})
    assert second[-2:] == ["+0.00", "1"]


def test_scans_of_one_patient_count_once():
    frames = {f"{case}_frame{i}": dice + 0.1 * i for case, dice in BASELINE.items() for i in (1, 2)}
    better = {name: dice + (0.05 if name.endswith("1") else 0.01) for name, dice in frames.items()}
    lines = tables.compare_lines({"base": rows_of(frames), "ours": rows_of(better)}, lambda name: name.split("_")[0])
    assert lines[1][-2:] == ["+3.00", "0.0625"]


def test_runs_tested_on_different_cases_are_not_compared():
    with pytest.raises(InputError, match="base and ours were tested on different cases"):
        tables.compare_lines({"base": rows_of(BASELINE), "ours": rows_of(BASELINE)[1:]})


def test_written_rows_come_back_as_numbers(tmp_path):
    report.write_rows(tmp_path / "t.csv", ROWS)
    back = tables.read_rows(tmp_path / "t.csv")
    assert [(row["case"], row["class"]) for row in back] == [(row["case"], row["class"]) for row in ROWS]
    for key in tables.METRICS:
        np.testing.assert_allclose([row[key] for row in back], [row[key] for row in ROWS])


@pytest.mark.parametrize(("content", "words"), [
    (None, "does not exist: test that run first"), ("case,dice\na,high\n", "is not a test script's CSV"),
    ("case,dice\na\n", "is not a test script's CSV")])
def test_a_table_that_is_not_there_or_foreign_is_refused(tmp_path, content, words):
    if content:
        (tmp_path / "t.csv").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=rf"t\.csv {words}"):
        tables.read_rows(tmp_path / "t.csv")


# ---- rows and label maps --------------------------------------------------------------------------------------------


def test_rows_are_written_with_six_decimals_and_nan_as_such(tmp_path):
    report.write_rows(tmp_path / "t.csv", [{"case": "a", "class": 2, "dice": 2 / 3, "hd95": NAN, "empty_pred": 1}])
    with open(tmp_path / "t.csv", newline="", encoding="utf-8") as file:
        assert list(csv.DictReader(file)) == [
            {"case": "a", "class": "2", "dice": "0.666667", "hd95": "nan", "empty_pred": "1"}]


def test_label_maps_are_the_argmax_and_reduced_where_the_recipe_says_so():
    probs = torch.zeros(2, 1, 6)
    probs[1, 0], probs[0, 0] = torch.tensor([0.9, 0.1, 0.9, 0.9, 0.2, 0.4]), 0.5
    plain, reduced, one = (report.label_maps({"fused": probs}, keep)["fused"] for keep in (False, True, (1,)))
    assert np.array_equal(one, reduced)
    assert plain.tolist() == [[1, 0, 1, 1, 0, 0]] and reduced.tolist() == [[0, 0, 1, 1, 0, 0]]
    assert plain.dtype == reduced.dtype == np.uint8


# ---- the paper's row ---------------------------------------------------------------------------------------------


def test_the_papers_row_stands_beside_the_cases_it_was_made_on_alone():
    recipe, listed = train_LA.LARecipe(labeled=4), published_list("LA", "test.list")
    assert len(listed) == 20
    assert report.paper_row(recipe, listed[::-1], listed) == ("paper, 4 labelled", (87.63, None, 8.92, 2.23))
    for names in (listed[1:], [*listed, "mine"], ["a", "b"], []):
        assert report.paper_row(recipe, names, listed) is None
    assert report.paper_row(train_LA.LARecipe(labeled=5), listed, listed) is None
    assert report.paper_row(recipe, [], []) is None


@pytest.mark.parametrize("change", (
    {"lambda_dis": 0.0}, {"labeled_draw": 4}, {"protocol": "original"}, {"preset": "short", "self_steps": 2_400},
    {"fusion": "logits"}, {"beta": 0.5}, {"pre_steps": 2_001}, {"amp": True}, {"holdout_val": 2}, {"lr": 0.02},
    {"half_resolution": True}, {"select_on": "test"}, {"keep_largest": False}))
def test_the_papers_row_stands_beside_the_papers_recipe_alone(change):
    listed = published_list("LA", "test.list")
    recipe = train_LA.PRESETS["paper"]
    for same in ({}, {"seed": 7}, {"device": "cpu"}, {"workers": 3}, {"deterministic": True}):
        assert report.paper_row(replace(recipe, **same), listed, listed)
    assert report.paper_row(replace(recipe, **change), listed, listed) is None


def test_the_released_network_is_not_the_papers():
    listed = published_list("ACDC", "test.list")
    recipe = train_ACDC.PRESETS["paper"]
    assert report.paper_row(recipe, listed, listed) == ("paper, 7 labelled", (89.42, None, 1.42, 0.52))
    assert report.paper_row(replace(recipe, network="released"), listed, listed) is None
    own = replace(recipe, method="mcf")
    assert report.paper_row(replace(own, hyper=own.complete().hyper), listed, listed)
    hyper = replace(own.complete().hyper, consistency=0.2)
    assert report.paper_row(replace(own, hyper=hyper), listed, listed) is None
