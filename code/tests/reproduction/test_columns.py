"""Tables of runs, and the marked blocks of README.md and docs/results.md."""
import csv
import itertools
import re
import shutil

import numpy as np
import pytest
from scipy.stats import spearmanr

import reproduce
import train_ACDC
import train_LA
from evaluation.measurements import check_sum, read_rows
from evaluation.report import write_rows
from reproduction import columns, document, figures, passes, runs
from reproduction.experiments import APPEARANCE, PLACES
from runtime.csv_table import Table
from runtime.errors import InputError
from runtime.files import ROOT


def cells(name, results):
    """{row: {heading: cell}}; of headings that stand several times the first."""
    headings, rows = columns.table(PLACES[name], results=(results,))
    return {title: dict(zip(reversed(headings), reversed(texts), strict=True)) for title, texts, _ in rows}


def test_a_row_is_mean_and_deviation_over_seeds_and_is_paired_where_seeds_are_shared(results):
    table = cells("mini_acdc7", results)
    assert list(table) == [title for name, (title, _) in APPEARANCE.items() if name != "cml_plus"]
    supervised, cml = table["supervised"], table["CML"]
    assert supervised["seeds"] == "2" and cml["seeds"] == "3"
    assert supervised["Dice (%) ↑"] == "51.00 ± 1.41"       # 50 and 52
    assert cml["Dice (%) ↑"] == "66.00 ± 8.72"              # 62, 60 and 76
    assert cml["95HD (voxel) ↓"] == "5.00 ± 0.00" and cml["empty"] == "0 of 15"
    assert cml["subnet 0: Dice"] == "65.00 ± 8.72" and cml["subnet 1: Dice"] == "64.00 ± 8.72"
    assert supervised["subnet 0: Dice"] == supervised["Δ to supervised (p)"] == ""
    assert cml["`best`: Dice"] == "67.00 ± 8.72"
    # seeds 1337 and 1338: patient i gains 10 + i and 6 + i points; all five better, p = 2 / 32
    assert cml["Δ to supervised (p)"] == "+10.00 (0.062)" and cml["Δ to CPS (p)"] == ""


def test_the_last_validations_are_averaged(results):
    rows = "".join(f"self,{step},val,{dice},0\n" for step, dice in enumerate((0.9, 0.1, 0.2, 0.3, 0.4, 0.5)))
    for seed in (1337, 1338):
        (results / f"ACDC/cml_7_seed{seed}_mini/val.csv").write_text(
            "stage,step,split,fused,subnet0\n" + rows, encoding="utf-8")
    assert cells("mini_acdc7", results)["CML"]["last 5 validations: Dice"] == "30.00 ± 0.00"


def test_the_cases_that_were_watched_beside_the_validation_cases_count_in_no_column(results):
    rows = "".join(f"self,{step},{split},{dice},0\n" for step, dice in enumerate((0.9, 0.1, 0.2, 0.3, 0.4, 0.5))
                   for split, dice in (("val", dice), ("test", 0.7)))
    for seed in (1337, 1338):
        (results / f"ACDC/cml_7_seed{seed}_mini/val.csv").write_text(
            "stage,step,split,fused,subnet0\n" + rows, encoding="utf-8")
    assert cells("mini_acdc7", results)["CML"]["last 5 validations: Dice"] == "30.00 ± 0.00"


def test_seeds_of_one_curve_meet_at_the_same_steps(results, narrow):
    """One seed was validated twice as often."""
    for seed, steps in ((1337, (100, 200)), (1338, (50, 100, 150, 200))):
        (results / f"ACDC/cml_7_seed{seed}_mini/val.csv").write_text(
            "stage,step,split,fused\n" + "".join(f"self,{step},val,{step / 1000}\n" for step in steps),
            encoding="utf-8")
    (results / "ACDC/cml_7_seed1339_mini/config.json").unlink()
    lines = {"CML": columns.lines_of(PLACES["mini_acdc7"], results=(results,))["CML"]}
    [curve] = figures.costs(lines, "mini").axes[0].lines
    assert curve.get_ydata().tolist() == [10, 20]


@pytest.mark.parametrize("change", ["case", "voxels"])
def test_runs_that_were_tested_on_other_cases_share_no_table(results, write, change):
    """The folders are named; of one row, the way of testing counts, too."""
    folders = [write(results, "table2", "CML, 7", seed, lambda _: 0.3) for seed in (1337, 1338)]
    for folder, less in zip(folders, (0, 1), strict=True):
        table = next(folder.glob("test_*_last.csv"))
        other = {"voxels": "a" if change == "case" else f"{less}"}
        rows = [row | other | {"case": row["case"] + "x" * less * (change == "case")} for row in read_rows(table)]
        write_rows(table, [row | {"data": check_sum(row["case"] for row in rows)} for row in rows])
    with pytest.raises(InputError) as refused:
        columns.lines_of(PLACES["table2"], results=(results,))
    assert all(str(folder) in str(refused.value) for folder in folders)


def test_a_missing_cell_stays_empty(results):
    assert set(cells("mini_acdc7", results)["CFL"].values()) == {""}


def test_an_undefined_distance_is_counted_and_shown_as_such(results, write):
    write(results, "mini_acdc7", "CFL", 1337, lambda _: 0, hd95=float("nan"))
    cfl = cells("mini_acdc7", results)["CFL"]
    assert cfl["95HD (voxel) ↓"] == "–" and cfl["empty"] == "5 of 5"


def test_the_papers_tables_show_ours_the_papers_and_the_difference(results, write, monkeypatch, capsys):
    """Of the cases that the paper's numbers are of: five patients here. Beside others there are none of the paper's."""
    for seed, gain in ((1337, 0.2), (1338, 0.22)):
        write(results, "table2", "CML, 7", seed, lambda _, gain=gain: gain)
    _, rows = columns.table(PLACES["table2"], results=(results,))
    of_others = next(texts for title, texts, _ in rows if title == "CML, 7")
    assert of_others == ["2", "71.00 ± 1.41", "", "", "5.00 ± 0.00", "", "", "1.00 ± 0.00", "", ""]
    assert "was tested on other cases than the published test.list names" in capsys.readouterr().err
    monkeypatch.setattr(columns, "published_list", lambda *_: [f"patient{number}_frame01" for number in range(5)])
    headings, rows = columns.table(PLACES["table2"], results=(results,))
    assert headings == ["seeds", "Dice (%) ↑", "paper", "difference", "95HD (voxel) ↓", "paper", "difference",
                        "ASD (voxel) ↓", "paper", "difference"]
    table = {title: texts for title, texts, _ in rows}
    assert table["CML, 7"] == ["2", "71.00 ± 1.41", "89.42", "-18.42", "5.00 ± 0.00", "1.42", "+3.58", "1.00 ± 0.00",
                               "0.52", "+0.48"]
    assert table["MCF, 3"] == ["", "", "82.37", "", "", "5.74", "", "", "1.59", ""]


def test_a_small_preset_does_not_stand_beside_the_paper(results):
    headings, rows = columns.table(PLACES["table2"], "mini", (results,))
    assert "paper" not in headings and "difference" not in headings
    assert {title: texts for title, texts, _ in rows}["CML, 7"][1] == "66.00 ± 8.72"


def test_a_row_without_the_average_is_the_last_iterate_of_the_run_that_has_it(results, write):
    """Views in the order of the files: the average's, then the last iterate's, each 0.01 below the one before."""
    views = [f"{last}{view}" for last in ("", "last_") for view in ("fused", "subnet0", "subnet1")]
    write(results, "short_parts", "without both orders", 1337, lambda _: 0.2, views)
    write(results, "short_parts", "CML", 1337, lambda _: 0.1)
    table = cells("short_parts", results)
    averaged, last = table["without both orders"], table["perturbed alone"]
    assert averaged["Dice (%) ↑"] == averaged["validation: Dice"] == "70.00"
    assert last["Dice (%) ↑"] == last["validation: Dice"] == "67.00"
    assert averaged["Δ to CML (p)"] == averaged["validation: Δ to CML (p)"] == "+10.00 (0.062)"
    assert last["Δ to CML (p)"] == last["validation: Δ to CML (p)"] == "+7.00 (0.062)"
    assert set(table["averaged alone"].values()) == {""}
    [line] = [line for *_, line in columns.table(PLACES["short_parts"], results=(results,))[1]
              if line.row.title == "perturbed alone"]
    assert columns.means(line, view="subnet1") == pytest.approx([65.0])


def test_what_was_measured_between_the_subnets_is_a_column(results):
    for seed, dice, cosine in ((1337, 0.9, 0.25), (1338, 0.8, -0.25)):
        write_rows(results / f"ACDC/cml_7_seed{seed}_mini/agreement_val_last.csv", [
            {"case": "a", "dice": dice, "cosine": cosine}, {"case": "b", "dice": dice - 0.1, "cosine": cosine - 0.1},
            {"case": "both find nothing", "dice": np.nan, "cosine": cosine - 0.05}])
    cml = cells("mini_acdc7", results)["CML"]
    assert cml["Dice between subnets (%)"] == "80.00 ± 7.07"
    assert cml["cosine of features"] == "-0.050 ± 0.354"


def test_every_form_of_a_table_holds_the_same_cells(results, tmp_path):
    reproduce.main(["collect", "mini_acdc7", "--results", str(results), "--output", str(tmp_path / "tables")])
    with open(tmp_path / "tables/mini_acdc7_mini.csv", newline="", encoding="utf-8") as file:
        heading, *lines = list(csv.reader(file))
    [cml] = [line for line in lines if line[0] == "CML"]
    assert "66.00 ± 8.72" in cml and heading[1] == "seeds"
    markdown = (tmp_path / "tables/mini_acdc7_mini.md").read_text(encoding="utf-8")
    assert [line.split(" | ")[1] for line in markdown.splitlines()[2:]] == [line[1] for line in lines]
    assert r"66.00 $\pm$ 8.72" in (tmp_path / "tables/mini_acdc7_mini.tex").read_text(encoding="utf-8")


# ---- images ------------------------------------------------------------------------------------------------------


def test_images_of_a_step_are_counted_in_the_networks(narrow):
    """CPS: both batches, all in the losses. CML: half of each mixed, and the unlabelled batch for pseudo-labels."""
    passes._images.cache_clear()
    each = {row.title: runs.Run(row.experiment, "short", 1).recipe for row in PLACES["short_acdc3"].rows}
    assert passes.images_a_step(each["CPS"]) == {"pre": (6, 6), "self": (12, 12)}
    assert passes.images_a_step(each["CML"]) == {"pre": (3, 3), "self": (12, 6)}
    assert passes.images_a_step(each["supervised"]) == {"self": (6, 6)}
    passes._images.cache_clear()


def test_a_curve_counts_from_the_start_of_training(results, narrow):
    folder = results / "ACDC/cml_7_seed1337_mini"
    (folder / "val.csv").write_text("stage,step,split,fused,subnet0,subnet1\npre,400,val,0.1,0.2,0.3\n"
                                    "self,100,val,0.5,0.4,0.3\n", encoding="utf-8")
    run = next(run for run in runs.runs_of(["mini_acdc7"]) if run.experiment.method == "cml")
    assert passes.curve(run, runs.Kept(folder)) == [(400, 0, 1200, 1200, 10.0), (500, 100, 2400, 1800, 50.0)]


# ---- README.md and docs/results.md -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ("README.md", "docs/results.md"))
def test_a_document_shows_what_the_committed_files_say(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    assert document.BLOCK.search(text)
    assert document.filled(text, name) == text, "run python code/reproduce.py collect"


VALIDATION, HEADLINE = columns.VALIDATION, None
PLUS = "CML+ (ours)"
# words -> document, place, list, rows; numbers: Dice of each row, p of the first against each other one
CLAIMS = {
    "With 3 patients it is ahead on the test patients ({} and {} %, p {})":
        ("README.md", "short_acdc3", HEADLINE, "CML", "CPS"),
    "not on the validation patients ({} and {} %, p {})": ("README.md", "short_acdc3", VALIDATION, "CML", "CPS"),
    "not with 7 patients ({} and {} %, p {})": ("README.md", "short_acdc7", HEADLINE, "CML", "CPS"),
    "on LA with 8 scans it is behind ({} and {} %, p {})": ("README.md", "short_la8", HEADLINE, "CML", "CPS"),
    "is ahead of CPS and CML with 3 patients ({}, {} and {} %, p {} and {})":
        ("README.md", "short_acdc3", HEADLINE, "CML+ (ours)", "CPS", "CML"),
    "level with it with 7 patients ({} and {} %, p {})": ("README.md", "short_acdc7", HEADLINE, "CML+ (ours)", "CPS"),
    "CML is ahead of CPS on the test patients ({} and {} %, p {})":
        ("docs/results.md", "short_acdc3", HEADLINE, "CML", "CPS"),
    "and the validation patients do not confirm it ({} and {} %, p {})":
        ("docs/results.md", "short_acdc3", VALIDATION, "CML", "CPS"),
    "CPS has {} %, the labelled scans alone {} (p {})": ("docs/results.md", "short_la8", HEADLINE, "CPS", "supervised"),
    "CML is behind CPS ({} and {} %, p {})": ("docs/results.md", "short_la8", HEADLINE, "CML", "CPS"),
    "not above the labelled scans alone ({1} %, p {2})":
        ("docs/results.md", "short_la8", HEADLINE, "CML", "supervised"),
    "13 points more on the test patients ({1} and {0} %, p {2})":
        ("docs/results.md", "short_augment", HEADLINE, "supervised", "supervised, strong"),
    "more on the validation patients ({1} and {0} %, p {2}; means":
        ("docs/results.md", "short_augment", VALIDATION, "supervised", "supervised, strong"),
    "geometry alone ({1} %, p {2}; mean":
        ("docs/results.md", "short_augment", VALIDATION, "supervised", "supervised, geometry alone"),
    "intensities alone ({1} %, p {2}; 60.9 %)":
        ("docs/results.md", "short_augment", VALIDATION, "supervised", "supervised, intensities alone"),
    "bring most of the gain ({1} %, p {2})":
        ("docs/results.md", "short_augment", HEADLINE, "supervised", "supervised, intensities alone"),
    "worth as much there ({1} %, p {2})":
        ("docs/results.md", "short_augment", HEADLINE, "supervised", "supervised, z-scored scans"),
    "little on the validation patients ({1} %, p {2}; 58.2 %)":
        ("docs/results.md", "short_augment", VALIDATION, "supervised", "supervised, z-scored scans"),
    "geometry alone none ({1} %, p {2})":
        ("docs/results.md", "short_augment", HEADLINE, "supervised", "supervised, geometry alone"),
    "raise Dice neither on the test patients ({} and {} %, p {})":
        ("docs/results.md", "short_augment", HEADLINE, "supervised, strong, four heads", "supervised, strong"),
    "nor on the validation patients ({} and {} %, p {}; 67.8 %)":
        ("docs/results.md", "short_augment", VALIDATION, "supervised, strong, four heads", "supervised, strong"),
    "as good as CPS on both lists (test {} and {} %, p {};": ("docs/results.md", "short_draw1", HEADLINE, "CML", "CPS"),
    "; validation {} and {} %, p {}). CML+": ("docs/results.md", "short_draw1", VALIDATION, "CML", "CPS"),
    "ahead of CPS on the test patients ({} and {} %, p {}), not on":
        ("docs/results.md", "short_draw1", HEADLINE, PLUS, "CPS"),
    "not on the validation patients ({} and {} %, p {}), and is level":
        ("docs/results.md", "short_draw1", VALIDATION, PLUS, "CPS"),
    "not with 3 other patients ({} and {} %, p {})": ("README.md", "short_draw1", HEADLINE, "CML", "CPS"),
    "of CPS with 3 other patients ({} and {} %, p {})": ("README.md", "short_draw1", HEADLINE, PLUS, "CPS"),
    "Dice is the same ({} and {} %, p {})": ("docs/results.md", "short_terms", HEADLINE, "+ unlabelled", "all (CML)"),
}


@pytest.mark.parametrize("sentence", CLAIMS)
def test_sentences_say_what_the_committed_files_say(sentence):
    document, place, tested, title, *others = CLAIMS[sentence]
    lines = columns.lines_of(PLACES[place])
    if place == "short_terms":      # the sentence is about the seed that both have
        lines["all (CML)"] = lines["all (CML)"]._replace(runs={1337: lines["all (CML)"].runs[1337]})
    dice = [f"{np.mean(columns.means(lines[name], tested=tested)):.1f}" for name in (title, *others)]
    differences = [columns.against(name, tested=tested).cell(lines[title], lines) for name in others]
    text = " ".join((ROOT / document).read_text(encoding="utf-8").split())
    assert sentence.format(*dice, *(difference.split("(")[1].strip(")") for difference in differences)) in text


def by_patient(line):
    """{patient: Dice in percent, mean over seeds, scans and classes}."""
    dice = {}
    for run in line.runs.values():
        for row in line.cases(run):
            dice.setdefault(row["case"].split("_")[0], []).append(100 * row["dice"])
    return {patient: np.mean(values) for patient, values in dice.items()}


def test_what_is_said_without_numbers_holds():
    """Of ACDC with 3 labelled patients: who is far above the labelled ones alone, and where the lead of CML+ is."""
    lines = columns.lines_of(PLACES["short_acdc3"])
    gain = {title: np.mean(columns.means(line)) - np.mean(columns.means(lines["supervised"]))
            for title, line in lines.items()}
    assert gain.pop("supervised") == 0 > gain.pop("mean teacher") and min(gain.values()) > 27
    for other in ("CPS", "CML"):
        best, base = by_patient(lines["CML+ (ours)"]), by_patient(lines[other])
        lead = sorted((best[patient] - base[patient] for patient in best), reverse=True)
        assert len(lead) == 20 and sum(lead[:3]) > sum(lead) / 2
    for run, dice in (("supervised_3_seed1337_short", 54.2), ("supervised_3_seed1337_short_augmentstrong", 69.7),
                      ("supervised_3_seed1337_short_augmentgeometry", 63.2),
                      ("supervised_3_seed1337_short_augmentintensity", 60.9),
                      ("supervised_3_seed1337_short_normalisezscore", 58.2),
                      ("urpc_3_seed1337_short_augmentstrong_consistency0", 67.8)):
        rows = Table(ROOT / f"model/results/ACDC/{run}/val.csv").rows()
        assert round(np.mean([100 * float(row["network"]) for row in rows[-5:]]), 1) == dice
    other = columns.lines_of(PLACES["short_draw1"])
    assert round(np.mean(columns.means(other["supervised"])) - np.mean(columns.means(lines["supervised"]))) == 17
    assert [round(columns.means(line._replace(runs={1337: line.runs[1337]}))[0], 1)
            for line in (other["CML"], lines["CML"])] == 2 * [81.7]
    level = [columns.against("CML", tested=tested).cell(other[PLUS], other) for tested in (HEADLINE, VALIDATION)]
    assert [cell.split("(")[1] for cell in level] == ["0.67)", "0.23)"]
    for title, tested in itertools.product(("CPS", "CML", PLUS), (HEADLINE, VALIDATION)):
        gain, p = columns.against("supervised", tested=tested).cell(other[title], other).strip(")").split(" (")
        assert float(gain) > 13 and float(p) < 0.005
    terms = columns.lines_of(PLACES["short_terms"])
    assert "+20.73" in columns.against("labelled").cell(terms["+ unlabelled"], terms)
    cosines = {title: columns.agreement()[1].cell(line, lines) for title, line in lines.items()}
    assert cosines["CPS"].startswith("0.29") and cosines["CML"].startswith("-0.01") and cosines["CML+ (ours)"] == "–"


def test_what_strong_augmentation_does_to_the_gain_of_methods_holds():
    text = " ".join((ROOT / "docs/results.md").read_text(encoding="utf-8").split())
    lines, dice = columns.lines_of(PLACES["short_strong"], seeds=(1337,)), {}
    for title in ("supervised", "CPS", "CML", "BCP", PLUS):
        both = lines[title], lines[title]._replace(runs=lines[title].plain)
        dice[title] = np.array([[columns.means(line, tested=tested)[0] for line in both]
                                for tested in (VALIDATION, HEADLINE)])
    words = "CPS gains {:.1f} points instead of {:.1f} on the validation patients and {:.1f} instead of {:.1f} on"
    assert words.format(*(dice["CPS"] - dice["supervised"]).ravel()) in text
    for title in ("CML", "BCP", PLUS):
        assert "{} {:.1f} instead of {:.1f} and {:.1f} instead of {:.1f}".format(
            title.split()[0], *(dice[title] - dice["supervised"]).ravel()) in text
    table = {(title, tested): columns.augmented(tested=tested).cell(lines[title], lines)
             for title in ("CPS", "CML", "BCP", PLUS) for tested in (VALIDATION, HEADLINE)}
    significant = {key for key, cell in table.items() if float(cell.split("(")[1].strip(")")) < 0.05}
    assert significant == {(title, HEADLINE) for title in ("CML", "BCP", PLUS)}
    assert table["CML", HEADLINE].startswith("-6.79") and all(cell.startswith("-") for cell in table.values())
    behind = [word for tested in (VALIDATION, HEADLINE) for word in (
        f"{columns.means(lines['BCP'], tested=tested)[0]:.1f}",
        columns.against("CPS", tested=tested).cell(lines["BCP"], lines).split("(")[1].strip(")"))]
    assert "BCP is behind CPS ({} %, p {}, and {} %, p {})".format(*behind) in text
    for other, words in (("CML", "CPS and CML (validation {} and {} %, p {}; test {} and {} %, p {})"),
                         (PLUS, "CPS and CML+ ({} and {} %, p {}; {} and {} %, p {})")):
        level = [word for tested in (VALIDATION, HEADLINE) for word in (
            *(f"{columns.means(lines[title], tested=tested)[0]:.1f}" for title in ("CPS", other)),
            columns.against("CPS", tested=tested).cell(lines[other], lines).split("(")[1].strip(")"))]
        assert words.format(*level) in text and min(float(level[2]), float(level[5])) > 0.05
    assert all(max(dice, key=lambda title: dice[title][place][0]) == PLUS for place in (0, 1))
    rows = Table(ROOT / "model/results/ACDC/cml_plus_3_seed1337_short_augmentstrong/agreement_test_last.csv").rows()
    agreement, cosine = (np.mean([float(row[key]) for row in rows]) for key in ("dice", "cosine"))
    assert f"agree by {100 * agreement:.1f} %, and the cosine of their features is −{-cosine:.3f}" in text
    changes = [dice[title][1][place] for title in ("supervised", "CPS", "CML", PLUS, "BCP") for place in (1, 0)]
    words = ("goes from {:.1f} to {:.1f} %, CPS from {:.1f} to {:.1f}, CML from {:.1f} to {:.1f}, CML+ from {:.1f} to "
             "{:.1f} and BCP from {:.1f} to {:.1f} % (one seed)")
    assert words.format(*changes) in " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    paper = by_patient(lines["CML"]._replace(runs=lines["CML"].plain))
    lost = sorted(paper[patient] - dice for patient, dice in by_patient(lines["CML"]).items())
    assert [round(loss) for loss in lost[-3:]] == [27, 32, 33] and lost[-4] < 9 and len(lost) == 20


@pytest.mark.parametrize(("run", "split", "name"), [
    ("ACDC/supervised_3_seed1337_short_augmentstrong", "val", "supervised, validation"),
    ("ACDC/supervised_3_seed1337_short_augmentstrong", "test", "supervised, test"),
    ("ACDC/cml_3_seed1337_short_augmentstrong", "val", "CML, validation"),
    ("ACDC/cml_3_seed1337_short_augmentstrong", "test", "CML, test"),
    ("ACDC/supervised_3_seed1337_short_augmentgeometry", "val", "supervised, geometry alone, validation"),
    ("ACDC/supervised_3_seed1337_short_augmentgeometry", "test", "supervised, geometry alone, test"),
    ("ACDC/cps_3_seed1337_short_augmentstrong", "val", "CPS, validation"),
    ("ACDC/cps_3_seed1337_short_augmentstrong", "test", "CPS, test"),
    ("ACDC/cml_plus_3_seed1337_short_augmentstrong", "val", "CML+, validation"),
    ("ACDC/cml_plus_3_seed1337_short_augmentstrong", "test", "CML+, test"),
    ("ACDC/cps_3_seed1337_short_labeled_draw1", "val", "CPS, other patients, validation"),
    ("ACDC/cps_3_seed1337_short_labeled_draw1", "test", "CPS, other patients, test"),
    ("ACDC/cml_plus_3_seed1337_short_labeled_draw1", "val", "CML+, other patients, validation"),
    ("ACDC/cml_plus_3_seed1337_short_labeled_draw1", "test", "CML+, other patients, test"),
    ("LA/supervised_8_seed1337_short", "test", "supervised, LA"),
    ("LA/cps_8_seed1337_short", "test", "CPS, LA"),
    ("LA/cml_8_seed1337_short", "test", "CML, LA")])
def test_the_order_of_results_is_worth_what_is_said(run, split, name):
    rows = Table(ROOT / f"model/results/{run}/trust_{split}_last.csv").rows()
    dice, cells = np.array([100 * float(row["dice"]) for row in rows]), []
    for column in ("score", "entropy"):
        values = np.nan_to_num([float(row[column]) for row in rows])    # of an empty map, no entropy
        left = dice[np.argsort(-values)]
        means = [left[round(len(left) * tenth / 10):].mean() for tenth in (1, 2, 3)]
        cells.append("−{:.2f}: {:.1f}, {:.1f}, {:.1f}".format(-spearmanr(values, dice)[0], *means))
    line = f"| {name} | {dice.mean():.1f} | {' | '.join(cells)} |\n"
    assert line in (ROOT / "docs/own_data.md").read_text(encoding="utf-8")


def test_what_runs_on_the_earlier_labels_had_is_said():
    had = [np.mean([100 * float(row["dice"]) for row in Table(
        ROOT / f"model/results/earlier/LA/{method}_8_seed1337_short/test_test_last.csv").rows()])
        for method in ("supervised", "cps", "cfl", "cml", "cml_plus")]
    text = " ".join((ROOT / "docs/results.md").read_text(encoding="utf-8").split())
    assert "there supervised had {:.1f}, CPS {:.1f}, CFL {:.1f}, CML {:.1f} and CML+ {:.1f} %".format(*had) in text


def test_comparisons_are_counted():
    text = ("| a | +1.00 (0.04) | -2.50 (3.8e-06) |  |\nahead (79.9 %, p 0.011) and p 3e-06\n"
            "<!-- collect: comparisons -->\nThis page has 99 p values, p 0.05\n<!-- collected -->\n")
    assert "This page has 4 p values, none corrected" in document.filled(text, "x")
    assert document.filled(document.filled(text, "x"), "x") == document.filled(text, "x")


def test_rows_and_columns_that_nothing_fills_stay_out_of_a_document(results):
    text = document.table("mini_acdc7", (results,))
    assert [line.split(" | ")[0] for line in text.splitlines()[2:]] == ["| supervised", "| CML"]
    assert "Δ to supervised (p)" in text and "Δ to CPS" not in text and "subnet" not in text
    views = document.table("mini_acdc7", (results,), "views")
    assert "subnet 1: Dice" in views and "| supervised" not in views
    empty = "<!-- collect: table table3 -->\n<!-- collected -->"
    assert document.filled(empty, "x", (results,)) == document.filled(
        empty.replace("\n", "\nwhat stood here\n"), "x", (results,)) == empty


@pytest.mark.parametrize(("script", "name"), ((train_LA, "short_la8"), (train_ACDC, "short_acdc3"),
                                              (train_ACDC, "mini_acdc7")))
def test_the_head_of_a_train_script_says_what_the_committed_files_say(script, name):
    line = columns.lines_of(PLACES[name])["CML"]
    command = f"{script.__name__}.py {PLACES[name].preset} --labeled {line.row.experiment.labeled} "
    said = " ".join(script.__doc__.split()).split(command)[1].split("python code/")[0]
    if not line.runs:
        assert "not yet run" in said
        return
    count = {1: "(one run", 3: "(three runs"}[len(line.runs)]
    assert f"{columns.over_runs(columns.means(line), 1)} %".replace("±", "+-") in said and count in said


def test_the_documents_pictures_are_there_and_small():
    for folder, name in ((ROOT, "README.md"), (ROOT / "docs", "docs/results.md")):
        for picture in re.findall(r"!\[.*?\]\((.*?)\)", (ROOT / name).read_text(encoding="utf-8")):
            assert (folder / picture).stat().st_size < 500_000, picture


def test_a_changed_result_changes_the_text(tmp_path):
    kept = tmp_path / "results"
    shutil.copytree(ROOT / "model/mini_results/ACDC", kept / "ACDC")
    before = document.table("mini_acdc7", (kept,))
    path = kept / "ACDC/cml_7_seed1337_mini/test_val_last.csv"
    rows = read_rows(path)
    rows[0]["dice"] = rows[0]["fused_dice"] = rows[0]["dice"] + 0.1
    write_rows(path, rows)
    assert document.table("mini_acdc7", (kept,)) != before


def test_collect_writes_the_blocks_and_leaves_the_rest(results, tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "pictures", lambda docs, results: [])
    begin, end = "<!-- collect: {} -->\n", "<!-- collected -->\n"
    (tmp_path / "docs").mkdir()
    for path in (tmp_path / "README.md", tmp_path / "docs/results.md"):
        path.write_text("before\n" + begin.format("table mini_acdc7") + "old\n" + end + "between\n"
                        + begin.format("missing mini") + end + "after\n", encoding="utf-8")
    command = ["collect", "--results", str(results), "--root", str(tmp_path), "--output", str(tmp_path / "tables")]
    reproduce.main(command)
    once = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert once.startswith("before\n") and "between\n" in once and once.endswith("after\n") and "old" not in once
    assert "| 66.00 ± 8.72 |" in once and "Not run yet: 14 of 16 of `mini_acdc7`." in once
    reproduce.main(command)
    for name in ("README.md", "docs/results.md"):
        assert (tmp_path / name).read_text(encoding="utf-8") == once


def test_a_document_without_blocks_or_with_an_unknown_one_is_refused(tmp_path):
    path = tmp_path / "README.md"
    path.write_text("nothing\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"README\.md has no block .*: put one where a table belongs"):
        document.fill(path)
    path.write_text("<!-- collect: table cml -->\n<!-- collected -->", encoding="utf-8")
    with pytest.raises(InputError, match="the block `collect: table cml` is unknown; kinds are table, "):
        document.fill(path)
