"""Statistics and the printed tables."""
import csv
import json
import math
from dataclasses import make_dataclass, replace
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
import torch

import train_ACDC
import train_BraTS
import train_LA
from dataloaders.lists import published_list
from evaluation import measurements, report, saved_maps, tables
from methods import registry
from reproduction.results import Kept
from runtime.csv_table import Table
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
    assert tables.statistics(rows)["dice"] == pytest.approx((50, NAN), nan_ok=True)
    stats = tables.statistics(rows, "subnet0_")
    assert stats["dice"] == pytest.approx((90, NAN), nan_ok=True) and stats["empty"] == 1
    assert all(math.isnan(value) for value in (*stats["hd95"], *stats["asd"]))


def with_views(rows):
    return [r | {f"{view}_{key}": r[key] - 0.05 * i for i, view in enumerate(("fused", "subnet0", "subnet1"))
                 for key in measurements.METRICS} for r in rows]


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


def test_means_over_different_classes_are_not_compared():
    """Of labels that were merged for one of the runs."""
    merged, parts = rows_of(BASELINE), [row | {"class": label} for row in rows_of(BASELINE) for label in (1, 2)]
    with pytest.raises(InputError, match="base and ours have different classes, 1 and 1, 2,"):
        tables.compare_lines({"base": merged, "ours": parts})


def test_written_rows_come_back_as_numbers(tmp_path):
    report.write_rows(tmp_path / "t.csv", ROWS)
    (tmp_path / "t.csv").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "t.csv").read_bytes())     # by a spreadsheet
    back = measurements.read_rows(tmp_path / "t.csv")
    assert [(row["case"], row["class"]) for row in back] == [(row["case"], row["class"]) for row in ROWS]
    for key in measurements.METRICS:
        np.testing.assert_allclose([row[key] for row in back], [row[key] for row in ROWS])


@pytest.mark.parametrize(("sign", "words"), [(";", "semicolons"), ("\t", "tabs")])
@pytest.mark.parametrize("read", [measurements.read_rows, lambda path: Table(path).rows()],
                         ids=["test", "other tables"])
def test_other_separators_of_spreadsheets_are_said(tmp_path, read, sign, words):
    path = tmp_path / "t.csv"
    report.write_rows(path, ROWS)
    text = path.read_text(encoding="utf-8").replace(",", sign).replace(".", ",")
    path.write_text(text, encoding="utf-8-sig")
    with pytest.raises(InputError, match=f"^{path}.*has {words} between its cells, expected commas"):
        read(path)


@pytest.mark.parametrize(("views", "words"), [
    (("network",), ()), (("fused", "subnet0", "subnet1"), ("fused: mean of the probabilities of subnet0 and subnet1",)),
    (("fused", "network_a", "network_b"), ("fused: mean of the probabilities of network_a and network_b",)),
    (("fused", "subnet0", "subnet1", "last_fused", "last_subnet0", "last_subnet1"), ("subnet1", "last_fused, ...: "))])
def test_every_view_of_a_table_is_explained(views, words):
    """Of the method that own data are trained with, too."""
    text = report.explained([{"case": "a", "class": 1} | {f"{view}_{key}": 0 for view in views
                                                          for key in ("dice", "empty_pred", "empty_ref")}])
    assert all(word in text for word in words) and ("fused" in text) == (len(views) > 1)
    assert ("last_" in text) == (len(views) > 3)


@pytest.mark.parametrize(("content", "words"), [
    (None, "does not exist: test that run first"), ("case,dice\na,high\n", "is not a test script's CSV"),
    ("case,dice\na\n", "is not a test script's CSV")])
def test_a_table_that_is_not_there_or_foreign_is_refused(tmp_path, content, words):
    if content:
        (tmp_path / "t.csv").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=rf"t\.csv {words}"):
        measurements.read_rows(tmp_path / "t.csv")


@pytest.mark.parametrize(("change", "words"), [
    (lambda rows: rows[:-1], "5 rows of 3 cases and 2 classes: some are missing or twice"),
    (lambda rows: rows[:-2], "cases are missing"),
    (lambda rows: [*rows, rows[0]], "7 rows of 3 cases and 2 classes"),
    (lambda rows: [*rows[:-1], rows[-1] | {"data": "0"}], "cases are missing"),
    *((lambda rows, cell=cell: [rows[0] | cell, *rows[1:]], "case0 has values that no metric has")
      for cell in ({"dice": NAN}, {"dice": 50.0}, {"jaccard": float("inf")}, {"hd95": -1.0}, {"asd": -0.1},
                   {"asd": float("inf")}, {"fused_dice": 50.0}, {"subnet0_hd95": -1.0}, {"surface_dice": 1.1})),
    *((lambda rows, cell=cell: [rows[0] | cell, *rows[1:]], f"case0: {next(iter(cell)).split('_')[-1]} and fused_")
      for cell in ({"dice": 0.6}, {"fused_dice": 0.6}, {"fused_hd95": 2.0}, {"asd": NAN}))])
def test_a_table_with_rows_missing_or_twice_is_refused(tmp_path, change, words):
    """As a copy that was interrupted, an editor or a spreadsheet's filter leaves it."""
    cases = [f"case{index}" for index in range(3)]
    values = {"dice": 0.5, "jaccard": 1 / 3, "hd95": NAN, "asd": 1.0}
    rows = [{"case": case, "class": label, **values, "surface_dice": NAN,
             **{f"{view}_{name}": value for view in ("fused", "subnet0") for name, value in values.items()},
             "data": measurements.check_sum(cases)} for case in cases for label in (1, 2)]
    report.write_rows(tmp_path / "whole.csv", rows)
    report.write_rows(tmp_path / "t.csv", change(rows))
    assert len(measurements.read_rows(tmp_path / "whole.csv")) == 6
    with pytest.raises(InputError, match=rf"t\.csv is not a test script's CSV \({words}"):
        measurements.read_rows(tmp_path / "t.csv")


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


@pytest.mark.parametrize(("script", "edited"), [
    (train_LA, {"lambda_dis": 0.5}), (train_LA, {"self_schedule": "poly"}), (train_ACDC, {"patch_size": (224, 224)}),
    (train_ACDC, {"lr": 0.02}), (train_BraTS, {"pre_steps": 5_000}), (train_BraTS, {"stride": (32, 32, 32)}),
    (train_LA, {"half_resolution": True}), (train_LA, {"drop_every": 5_000}), (train_BraTS, {"in_channels": 4}),
    (train_ACDC, {"num_classes": 5}), (train_ACDC, {"augment": "strong"})])
def test_the_papers_row_stands_beside_no_script_that_was_edited(script, edited):
    """The way in which hyperparameters are changed: at its top."""
    recipe = type(script.PRESETS["paper"])
    listed = published_list(recipe.dataset, f"test.{'txt' if script is train_BraTS else 'list'}")
    assert report.paper_row(recipe(), listed, listed)
    other = make_dataclass("Edited", [(name, object, value) for name, value in edited.items()], bases=(recipe,),
                           kw_only=True)
    assert report.paper_row(other(), listed, listed) is None


@pytest.mark.parametrize(("method", "edited"), [
    ("ua_mt", {"consistency": 0.2}), ("sassnet", {"distance": 0.5}), ("mc_net", {"decoders": 3}),
    ("supervised", {"supervised": "ce_dsq_fg"})])
def test_the_papers_row_stands_beside_no_methods_file_that_was_edited(monkeypatch, method, edited):
    """Whose defaults are then the edited values."""
    listed, recipe = published_list("LA", "test.list"), train_LA.LARecipe(method=method)
    kind = registry.method_class(method)
    hyper = kind.defaults("LA")
    assert report.paper_row(recipe, listed, listed)
    monkeypatch.setattr(kind, "defaults", lambda *_: replace(hyper, **edited))
    assert report.paper_row(recipe, listed, listed) is None


def test_the_released_network_is_not_the_papers():
    listed = published_list("ACDC", "test.list")
    recipe = train_ACDC.PRESETS["paper"]
    assert report.paper_row(recipe, listed, listed) == ("paper, 7 labelled", (89.42, None, 1.42, 0.52))
    assert report.paper_row(replace(recipe, network="released"), listed, listed) is None
    own = replace(recipe, method="mcf")
    assert report.paper_row(replace(own, hyper=own.complete().hyper), listed, listed)
    hyper = replace(own.complete().hyper, consistency=0.2)
    assert report.paper_row(replace(own, hyper=hyper), listed, listed) is None


# ---- classes that nobody has, and single cases -------------------------------------------------------------------


def flagged(case, label, dice, empty, view=0):
    """A row whose class the prediction, the reference and another view's prediction have, or lack."""
    pred, ref = empty, empty
    return row(case, label, dice, dice, NAN if empty else 1.0, NAN if empty else 1.0) | {
        "empty_pred": pred, "empty_ref": ref, "other_empty_pred": view, "other_empty_ref": ref}


def test_a_class_that_nobody_has_is_left_out_of_every_mean():
    """Binary data trained with four classes: the one that is real has 97.25 %, the others 100 % of nothing."""
    rows = [flagged(case, label, 0.9725 if label == 1 else 1.0, int(label > 1), int(label > 1))
            for case in ("a", "b") for label in (1, 2, 3)]
    assert tables.absent_classes(rows) == {2, 3}
    stats = tables.statistics(rows)
    assert stats["dice"] == pytest.approx((97.25, 0)) and stats["empty"] == 0
    lines = tables.run_lines([r | {f"fused_{key}": r[key] for key in (*measurements.METRICS, "empty_pred", "empty_ref")}
                              for r in rows], ["heart", "x", "y"])
    assert lines[0][1] == "97.25 ± 0.00" and lines[2][0] == "fused, x, which nobody has" and lines[2][1] == "–"
    points, p = tables.paired(rows, [r | {"dice": r["dice"] - 0.1 * (r["class"] == 1)} for r in rows])
    assert points == pytest.approx(10)


def test_a_class_that_one_run_or_view_predicts_counts_in_all_that_it_is_compared_with():
    none = [flagged(case, label, 0.9 if label == 1 else 1.0, int(label == 2), int(label == 2))
            for case in ("a", "b") for label in (1, 2)]
    seen = [r | ({"dice": 0.0, "empty_pred": 0} if r["class"] == 2 and r["case"] == "a" else {}) for r in none]
    first, second = tables.compare_lines({"none": none, "seen": seen})
    assert first[1].split()[0] == "95.00" and second[1].split()[0] == "70.00" and second[-2] == "-25.00"
    of_view = [r | ({"other_empty_pred": 0} if r["class"] == 2 and r["case"] == "b" else {}) for r in none]
    assert tables.absent_classes(of_view) == set() and tables.statistics(of_view)["dice"][0] == pytest.approx(95)


def test_methods_with_other_views_are_compared_where_a_case_lacks_a_class():
    one = [flagged(case, label, 0.9, int(case == "a" and label == 2), int(case == "a")) for case in "abc"
           for label in (1, 2, 3)]
    other = [{key.replace("other_", "network_"): value for key, value in r.items()} | {"dice": 0.8} for r in one]
    for pair in ({"one": one, "other": other}, {"other": other, "one": one}):
        assert [line[-2] for line in tables.compare_lines(pair)] == ["–", "-10.00" if "one" in [*pair][0] else "+10.00"]
    assert tables.absent_classes([*one, *({k: v for k, v in r.items() if "empty" not in k} for r in other)]) == set()


def test_rows_of_earlier_versions_without_flags_count_in_full():
    assert tables.absent_classes(ROWS) == set() and tables.absent_classes([]) == set()


def test_a_single_case_has_no_deviation():
    lines = tables.run_lines(with_views([r for r in ROWS if r["case"] == "b"]), ["RV", "MYO"])
    assert lines[0][1] == "60.00" and not any("±" in cell for line in lines for cell in line)
    [_, dice, _, hd95, *_] = tables.line("a distance in one of three cases", tables.statistics(
        [r | {"hd95": NAN} if r["case"] != "b" else r for r in ROWS]))
    assert dice == "35.00 ± 18.71" and hd95 == "6.00"


# ---- how a result was made ---------------------------------------------------------------------------------------


HOW = {"list": "test", "weights": "last", "unit": "voxel", "windows": "18x18x4 uniform", "largest_component": "each",
       "voxels": "1x1x1 mm"}


def with_how(values=BASELINE, **changes):
    return [r | HOW | {"data": measurements.check_sum(values)} | changes for r in rows_of(values)]


@pytest.mark.parametrize(("change", "words"), [
    ({"unit": "mm"}, "base and ours were not measured alike: unit of distances voxel and mm"),
    ({"windows": "56x56x40 gaussian"}, "windows 18x18x4 uniform and 56x56x40 gaussian"),
    ({"largest_component": "none"}, "largest component each and none"),
    ({"voxels": "2x2x2 mm"}, "scans resampled to 1x1x1 mm and 2x2x2 mm"),
    ({"list": "val"}, "list of cases test and val"), ({"weights": "best"}, "weights last and best")])
def test_what_was_not_measured_alike_does_not_stand_in_one_table(change, words):
    assert len(tables.compare_lines({"base": with_how(), "ours": with_how()})) == 2
    for compared in (tables.compare_lines, measurements.check_alike):
        with pytest.raises(InputError, match=words):
            compared({"base": with_how(), "ours": with_how(**change)})
    with pytest.raises(InputError, match="not measured alike"):
        tables.paired(with_how(**change), with_how())
    with pytest.raises(InputError, match="not measured alike"):     # seeds of one row of a table
        tables.paired([*with_how(), *with_how(**change)], with_how())


def test_cases_are_told_apart_by_their_names_whatever_their_order():
    check_sum = measurements.check_sum
    assert check_sum(["b", "a", "a"]) == check_sum(["a", "b"]) != check_sum(["a", "c"])
    with pytest.raises(InputError, match="base and ours were tested on different cases"):
        measurements.check_alike({"base": with_how(), "ours": with_how({**BASELINE, "f": 0.1})})


def test_results_of_earlier_versions_are_read_as_they_were_made(tmp_path):
    """In voxels; windows and post-processing by config.json; without it, they fit anything."""
    path = tmp_path / "test_val_best.csv"
    report.write_rows(path, rows_of(BASELINE))
    known = {"list": "val", "weights": "best", "unit": "voxel", "data": measurements.check_sum(BASELINE)}
    assert all(known.items() <= r.items() and "windows" not in r for r in measurements.read_rows(path))
    measurements.check_alike({"old": measurements.read_rows(path), "new": with_how(list="val", weights="best")})
    for recipe, words in (({"stride": [18, 18, 4], "keep_largest": True}, ("18x18x4 uniform", "each")),
                          ({"keep_largest": False}, ("slices", "none"))):
        (tmp_path / "config.json").write_text(json.dumps({"recipe": recipe}), encoding="utf-8")
        first, *_ = measurements.read_rows(path)
        assert (first["windows"], first["largest_component"]) == words
    report.write_rows(path, with_how(unit="mm"))
    assert {r["unit"] for r in measurements.read_rows(path)} == {"mm"}      # what the file says counts


def test_a_result_that_is_damaged_is_replaced_by_force(tmp_path):
    path = tmp_path / "test_test_last.csv"
    path.write_text("case;dice\na;0,5\n", encoding="utf-8")
    with pytest.raises(InputError, match="test that run again, with --force, which replaces it"):
        report.check_result(path, ["a"])
    report.check_result(path, ["a"], force=True)


def test_names_of_classes_break_no_table():
    assert tables.markdown([["myo|lv", "1"]], ("a",)).splitlines()[-1] == r"| myo\|lv | 1 |"
    assert tables.latex([["R&D #1 $", "1 ± 2"]], ("a",)).splitlines()[4] == r"R\&D \#1 \$ & 1 $\pm$ 2 \\"
    assert tables.latex([[r"a\b{c}~^", "Δ"]], ("a",)).splitlines()[4] == (
        r"a\textbackslash{}b\{c\}\textasciitilde{}\textasciicircum{} & $\Delta$ \\")


@pytest.mark.parametrize("change", ({"unit": "mm"}, {"weights": "best"}, {"list": "val"}))
def test_a_result_is_what_its_name_says(tmp_path, change):
    """Such as a table in mm that was given the name of the one in voxels."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        report.write_rows(tmp_path / name / "test_test_last.csv", with_how(**change))
    assert Kept(tmp_path / "one").tested("test", "best") == []
    with pytest.raises(InputError, match=f"test_test_last.csv: .*: {next(iter(change.values()))}, where its name"):
        Kept(tmp_path / "one").tested("test", "last")
    options = report.ReportOptions(compare=(tmp_path / "one", tmp_path / "two"))
    with pytest.raises(InputError, match="where its name says"):
        report.compare(options, SimpleNamespace(patient_of=str))


@pytest.mark.parametrize("change", ({"windows": "56x56x40 uniform"}, {"largest_component": "none"}))
def test_a_kept_result_is_measured_as_its_run_says(tmp_path, change):
    """And not through other windows, in a file that was given the name of the usual ones."""
    (tmp_path / "config.json").write_text(json.dumps({"recipe": {"stride": [18, 18, 4], "keep_largest": True}}),
                                          encoding="utf-8")
    usual = {"windows": "18x18x4 uniform", "largest_component": "each"}
    for how in (usual, usual | change):
        report.write_rows(tmp_path / "test_test_last.csv", with_how(**how))
        if how == usual:
            assert Kept(tmp_path).tested("test", "last")
    with pytest.raises(InputError, match=f": {next(iter(change.values()))}, where the run's config.json says"):
        Kept(tmp_path).tested("test", "last")


def test_saved_maps_are_those_of_the_case_with_the_longest_name(tmp_path):
    """p1_2_fused.nii is of p1_2, and not of p1."""
    (tmp_path / "last.pt").write_bytes(b"weights")
    scans = {name: SimpleNamespace(content=(name, 1)) for name in ("p1", "p1_2")}
    trained = SimpleNamespace(run=tmp_path, recipe=SimpleNamespace(stride=None),
                              data=SimpleNamespace(cases=lambda names: [scans[name] for name in names]))
    options = report.ReportOptions(run=tmp_path)
    marks = saved_maps.prediction_marks(trained, scans, options)
    (tmp_path / "predictions").mkdir()
    for name in ("p1", "p1_2"):
        nifti = nibabel.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4))
        nifti.header["intent_name"] = marks[name]
        nibabel.save(nifti, tmp_path / "predictions" / f"{name}_fused.nii")
    assert saved_maps.prediction_marks(trained, scans, options) == marks
    (tmp_path / "last.pt").write_bytes(b"other")
    with pytest.raises(InputError, match="was made with other weights"):
        saved_maps.prediction_marks(trained, scans, options)
