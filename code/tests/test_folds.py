"""Cross-validation of own data: folds that never move, runs that go on, the pooled table, ensembles and the budget."""
import csv
import itertools
import json
import re
import shutil
from dataclasses import replace
from types import SimpleNamespace

import h5py
import nibabel as nib
import nrrd
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy import ndimage

import label_next
import predict
import prepare_folder
import reproduce
import test_own as testing_own
import train_own
from dataloaders.folds import divided, fold_number, write_folds
from evaluation import measurements, pooled, report, windows
from evaluation.evidence import examined_together
from imaging.plan import read_plan
from imaging.record import RECORD
from method import Method
from runtime.device import Device
from runtime.errors import InputError
from runtime.files import save_tensors
from training import budget, cross_validation, fit, hours, run_folder
from training.checkpoints import place_of
from training.run_folder import read_content
from training.trained import Trained

pytestmark = pytest.mark.usefixtures("shallow", "no_curves")
TINY = ["--patch-size", "32", "32", "--labeled-batch", "2", "--unlabeled-batch", "2", "--pre-steps", "1",
        "--self-steps", "1", "--workers", "0", "--device", "cpu"]
SHAPE, SIDES = (34, 32, 4), (1, 1, 6)


def write_case(home, number, labelled):
    """A stack of slices with two organs, one of them on each side."""
    rng, label = np.random.default_rng(number), np.zeros(SHAPE, np.uint8)
    label[6:14, 8:20, 1:-1], label[20:30, 8:20, 1:-1] = 1, 2
    image = 300 + 200 * (label > 0) + ndimage.gaussian_filter(rng.normal(0, 60, SHAPE), 1)
    for folder, array in (("scans", image.astype(np.int16)), ("masks", label))[:2 if labelled else 1]:
        (home / folder).mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(array, np.diag([*SIDES, 1.0])), home / folder / f"c{number}.nii.gz")


def prepare(home, *more):
    return prepare_folder.main(["--images", str(home / "scans"), "--labels", str(home / "masks"), "--output",
                                str(home / "data"), "--workers", "1", "--class-names", "left", "right", *more])


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """Six labelled cases, one of them held out, and one without a label."""
    home = tmp_path_factory.mktemp("own")
    for number in range(7):
        write_case(home, number, number < 6)
    assert prepare(home, "--holdout", "1") == 0
    return home


@pytest.fixture
def mine(scans, tmp_path):
    """A copy of them, to be changed."""
    return shutil.copytree(scans, tmp_path / "mine")


def trained(home, out, *more):
    return train_own.main(["mini", "--data-dir", str(home / "data"), *TINY, "--out", str(out), *more])


def test_no_case_moves_and_new_ones_join_the_smallest_fold(tmp_path):
    first = [f"c{number}" for number in range(5)]
    numbers = divided(tmp_path, first, 3)
    write_folds(tmp_path, numbers, 3)
    assert [list(numbers.values()).count(number) for number in (1, 2, 3)] == [2, 2, 1]
    later = ["b0", *first[::-1], "b1"]      # in front of the list, and the others in another order
    grown = divided(tmp_path, later, 3)
    assert {name: grown[name] for name in first} == numbers and grown["b0"] == 3
    write_folds(tmp_path, grown, 3)
    without = divided(tmp_path, ["b0", "b1", "c4"], 3)      # cases that are gone keep their place
    write_folds(tmp_path, without, 3)
    assert divided(tmp_path, later, 3) == grown


@pytest.mark.parametrize(("count", "words"), [(4, "divides the cases into 3 folds, not 4; choose --folds 3"),
                                              (9, "has 6 labelled cases to train on, and each fold needs one")])
def test_other_folds_are_refused(tmp_path, count, words):
    names = [f"c{number}" for number in range(6)]
    write_folds(tmp_path, divided(tmp_path, names, 3), 3)
    with pytest.raises(InputError, match=words):
        divided(tmp_path, names, count)


@pytest.mark.parametrize("text", ["0/4", "5/4", "2", "1/1", "a/b", "-1/4", "1/4/2"])
def test_a_fold_is_one_of_several(text):
    with pytest.raises(InputError, match=f"--fold {text}: expected"):
        fold_number(text)


@pytest.mark.parametrize("content", ['{"folds": 2, "cases": {"c0": 3}}', '{"folds": 2}', "[1]",
                                     '{"folds": 2, "cases": {"c0": "1"}}'])
def test_a_damaged_record_is_one_line(tmp_path, content):
    (tmp_path / "folds.json").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=r"folds\.json: .*the cases are then divided anew"):
        divided(tmp_path, ["c0", "c1"], 2)


def test_one_scan_under_two_names_is_not_trained_on_in_one_fold_and_tested_in_another(mine, tmp_path, capsys):
    for folder in ("scans", "masks"):
        shutil.copy(mine / folder / "c0.nii.gz", mine / folder / "c8.nii.gz")
    assert prepare(mine) == 0 and "c0, c8: one scan under 2 names" in capsys.readouterr().out
    for more in (["--folds", "2"], ["--fold", "1/2"]):
        with pytest.raises(SystemExit, match="2"):
            trained(mine, tmp_path / "folds", *more)
        assert "has the voxels of c0, and is in fold 2, c0 in 1" in capsys.readouterr().err
    assert not (tmp_path / "folds").exists() and not (mine / "data" / "folds.json").exists()


def test_a_held_out_case_under_another_name_is_not_trained_on(mine, tmp_path, capsys):
    def refused(call, *args):
        with pytest.raises(SystemExit, match="2"):
            call(mine, *args)
        return capsys.readouterr().err
    for folder in ("scans", "masks"):
        (mine / folder / "c5.nii.gz").rename(mine / folder / "case5.nii.gz")
    lists = {name: (mine / "data" / name).read_bytes() for name in ("train.list", "test.list")}
    error = refused(prepare)
    assert "case5: is the held-out case c5 under a new name" in error and "case5 instead of c5 into test.l" in error
    assert lists == {name: (mine / "data" / name).read_bytes() for name in lists}
    (mine / "data" / "train.list").write_text("c0\nc1\ncase5\nc6\n", encoding="utf-8")
    assert "test case c5: has the voxels of the labelled case case5" in refused(trained, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    (mine / "data" / "train.list").write_bytes(lists["train.list"])
    (mine / "data" / "test.list").write_text("case5\n", encoding="utf-8")
    assert prepare(mine) == 0 and (mine / "data" / "train.list").read_bytes() == lists["train.list"]


@pytest.mark.parametrize("case", ["c0", "c6"])
def test_cases_of_two_preparations_are_not_trained_on_together(mine, tmp_path, capsys, case):
    with h5py.File(mine / "data" / case / "mri_norm2.h5", "r+") as file:
        made = json.loads(file.attrs["preprocessing"])
        file.attrs["preprocessing"] = json.dumps(made | {"labels": {"0": 0, "1": 2, "2": 1}})
    with pytest.raises(SystemExit, match="2"):
        trained(mine, tmp_path / "run")
    assert re.search(rf"{case}/mri_norm2.h5: was prepared in another way than preprocessing.json says \(labels was "
                     ".*prepare the folder again", capsys.readouterr().err)
    assert not (tmp_path / "run").exists()


def test_folds_are_trained_one_after_the_other_and_go_on_after_a_kill(mine, tmp_path, monkeypatch, capsys, runs):
    home, train, killed = tmp_path / "folds", fit.Fit.run, []

    def dies(self):
        if self.folder.path.name == "fold2" and not killed:
            killed.append(True)
            raise KeyboardInterrupt
        return train(self)
    monkeypatch.setattr(fit.Fit, "run", dies)
    with pytest.raises(SystemExit, match="130"):
        trained(mine, home, "--folds", "2")
    assert (home / "fold1" / "last.pt").exists() and not (home / "fold2" / "last.pt").exists()
    before = (home / "fold1" / "last.pt").stat().st_mtime_ns
    assert trained(mine, home, "--folds", "2") == home
    told = capsys.readouterr().out
    assert "2 runs, 1 of them finished; the others take about" in told and f"test_own.py --run {home}" in told
    assert (home / "fold1" / "last.pt").stat().st_mtime_ns == before
    numbers = json.loads((mine / "data" / "folds.json").read_text(encoding="utf-8"))["cases"]
    assert sorted(numbers) == ["c0", "c1", "c2", "c3", "c4"]        # c5 is held out
    for number in (1, 2):
        roles = read_content(home / f"fold{number}").cases
        assert sorted(roles["labelled"]) == [name for name, fold in numbers.items() if fold != number]
        assert list(roles["unlabelled"]) == ["c6"]
    assert trained(mine, tmp_path / "one", "--fold", "2/2") == tmp_path / "one" / "fold2"       # on another machine
    runs.assert_same(home / "fold2", tmp_path / "one" / "fold2")


def test_hours_hold_for_the_slowest_method_and_are_told(mine, tmp_path, monkeypatch, capsys):
    """Supervised steps take a second, CML+'s two: in 80 seconds both take as many as CML+ has time for, 35 of 100."""
    done = []
    for module in (cross_validation, hours):
        monkeypatch.setattr(module, "stage_seconds", lambda recipe, _: [
            (recipe.pre_steps + recipe.self_steps, 1 + (recipe.method == "cml_plus"))])
    monkeypatch.setattr(cross_validation, "train", lambda recipe, _: done.append(
        (recipe.method, recipe.pre_steps, recipe.self_steps)))
    monkeypatch.setattr(budget, "results_of", lambda *_: [])
    monkeypatch.setattr(budget, "present_budget", lambda *_: None)
    options = ["--folds", "2", "--pre-steps", "20", "--self-steps", "80"]
    trained(mine, tmp_path / "budget", *options, "--budget", "2", "--hours", "0.0222")
    assert done == [(method, 7, 28) for method in ("supervised", "cml_plus") for _ in range(2)]
    assert "the others take about 3.5 minutes" in capsys.readouterr().out
    trained(mine, tmp_path / "folds", *options, "--hours", "10")
    assert done[4:] == [("cml_plus", 20, 80)] * 2 and "about 6.7 minutes" in capsys.readouterr().out    # not 20 hours


def test_the_hours_of_folds_that_go_on_leave_out_the_steps_that_are_taken(tmp_path):
    stages = [(20, 1.0), (80, 2.0)]
    left = [cross_validation.seconds_left(stages, *place) for place in ((0, 0), (0, 5), (1, 0), (1, 30), (2, 0))]
    assert left == [180, 175, 160, 100, 0]
    for content, place in (({"stage": 1, "step": 30}, (1, 30)), ({"method": {}}, (0, 0))):
        save_tensors(tmp_path / "checkpoint.pt", content)
        assert place_of(tmp_path) == place
    assert place_of(tmp_path / "none") == (0, 0)


def test_folds_on_several_machines_take_as_many_steps_as_each_has_time_for():
    recipes = {"fold1": replace(train_own.PRESETS["mini"], hours=2.0, fold="1/2", pre_steps=90, self_steps=360)}
    recipes["fold2"] = replace(recipes["fold1"], fold="2/2", pre_steps=100, self_steps=400)
    pooled.check_same_recipe(recipes)
    for other in (None, 3.0):
        with pytest.raises(InputError, match=r"fold2 and fold1 are runs of different recipes \(pre_steps, self_steps"):
            pooled.check_same_recipe(recipes | {"fold2": replace(recipes["fold2"], hours=other)})


def test_a_case_labelled_later_joins_a_fold(mine, tmp_path, monkeypatch):
    monkeypatch.setattr(cross_validation, "train_in_turn", lambda recipes: None)
    trained(mine, tmp_path / "folds", "--folds", "2")
    before = json.loads((mine / "data" / "folds.json").read_text(encoding="utf-8"))["cases"]
    write_case(mine, 6, True)
    assert prepare(mine) == 0
    trained(mine, tmp_path / "more", "--fold", "1/2")
    after = json.loads((mine / "data" / "folds.json").read_text(encoding="utf-8"))["cases"]
    assert after == before | {"c6": 2} and "c5" not in after


def test_a_second_round_starts_each_fold_from_the_one_that_did_not_see_its_cases(mine, tmp_path, monkeypatch):
    begun = []
    monkeypatch.setattr(cross_validation, "train_in_turn", begun.extend)
    for number in (1, 2):
        (tmp_path / "first" / f"fold{number}").mkdir(parents=True)
        (tmp_path / "first" / f"fold{number}" / "config.json").touch()
    trained(mine, tmp_path / "second", "--folds", "2", "--init-from", str(tmp_path / "first"))
    assert [recipe.init_from for recipe in begun] == [tmp_path / "first" / f"fold{number}" for number in (1, 2)]


def test_first_weights_of_other_channels_or_classes_are_refused_and_another_preparation_is_said(mine, tmp_path, capsys):
    for path in (mine / "scans").iterdir():
        case = path.name.removesuffix(".nii.gz")
        shutil.copy(path, path.with_name(f"{case}_T1.nii.gz"))
        image = np.asarray(nib.load(path).dataobj)
        nib.save(nib.Nifti1Image(1000 - image, np.diag([*SIDES, 1.0])), path.with_name(f"{case}_FLAIR.nii.gz"))
        path.unlink()

    def second(*more, channels=("T1", "FLAIR"), names=("left", "right"), start=()):
        shutil.rmtree(mine / "data")
        prepare_folder.main(["--images", str(mine / "scans"), "--labels", str(mine / "masks"), "--output",
                             str(mine / "data"), "--workers", "1", "--channels", *channels, "--class-names", *names,
                             *more])
        return trained(mine, tmp_path / ("-".join([*more, "run"])), *start)
    start = ["--init-from", str(second())]
    for changes, words in (({"channels": ("FLAIR", "T1")}, "its channels are T1 FLAIR, these FLAIR T1: .*--channels"),
                           ({"names": ("right", "left")}, "its classes are left right, these right left: .*--label")):
        with pytest.raises(SystemExit, match="2"):
            second("--label-map", "1:2", "2:1", start=start, **changes)
        assert re.search(words, capsys.readouterr().err)
    second("--normalise", "minmax", "--label-map", "1:2", "2:1", start=start)
    words = "than these; preprocessing: normalise was zscore, is minmax; preprocessing: labels was {'0': 0, '1': 1, '2'"
    assert words in capsys.readouterr().out


def test_a_run_that_is_repeated_on_other_data_has_their_classes(mine, tmp_path, monkeypatch):
    monkeypatch.setattr(cross_validation, "start", lambda recipe: recipe)
    shutil.copytree(mine / "data", tmp_path / "moved")
    first = trained(mine, tmp_path / "run", "--flips", "1", "--keep-largest", "1")
    run_folder.RunFolder(first.out, first.complete()).open(Device("cpu"))
    shutil.rmtree(mine / "data")
    prepare_folder.main(["--images", str(mine / "scans"), "--labels", str(mine / "masks"), "--output",
                         str(mine / "data"), "--workers", "1", "--class-names", "LV", "RV"])
    again, other = (train_own.main(["--from-config", str(first.out), "--data-dir", str(folder), "--out", str(folder)])
                    for folder in (tmp_path / "moved", shutil.move(mine / "data", tmp_path / "hearts")))
    assert (again.class_names, again.flips, again.keep_largest) == (("left", "right"), (1,), (1,))
    plan, _ = read_plan(tmp_path / "hearts" / "plan.json")
    assert other.class_names == ("LV", "RV") and (other.flips, other.keep_largest) == (plan.flips, plan.keep_largest)
    assert (other.pre_steps, other.patch_size) == (first.pre_steps, first.patch_size)


@pytest.mark.parametrize(("more", "words"), [
    (["--folds", "1"], "--folds 1: must be 2 or more"), (["--folds", "9"], "choose fewer folds"),
    (["--folds", "2", "--fold", "1/2"], "--fold 1/2: is one run; leave it out, or --folds"),
    (["--fold", "3/2"], "--fold 3/2: expected the number of a fold"),
    (["--folds", "2", "--labeled", "4"], "--labeled 4: without the cases of fold 1/2, 2 labelled ones are left"),
    (["--budget", "4", "2"], "--budget 4 2: expected rising numbers")])
def test_what_cannot_be_divided_is_refused_before_anything_is_trained(mine, tmp_path, capsys, more, words):
    with pytest.raises(SystemExit, match="2"):
        trained(mine, tmp_path / "folds", *more)
    error = capsys.readouterr().err
    assert words in error and error.startswith("error: ") and error.count("\n") == 1
    assert not (tmp_path / "folds").exists()


@pytest.mark.parametrize("more", [["--folds", "2"], ["--fold", "1/2"], ["--budget", "2"]])
def test_folds_are_not_trained_in_the_folder_of_a_single_run(mine, tmp_path, capsys, more):
    home = tmp_path / ("run/supervised_2" if more[0] == "--budget" else "run")
    home.mkdir(parents=True)
    (home / "config.json").touch()
    with pytest.raises(SystemExit, match="2"):
        trained(mine, tmp_path / "run", *more)
    assert f"{home}: is the folder of a single run" in capsys.readouterr().err
    assert not (mine / "data" / "folds.json").exists()


# ---- how good is it ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folds(scans, tmp_path_factory):
    """Two folds, trained; narrow networks are the test's, as everywhere."""
    home = tmp_path_factory.mktemp("folds") / "tiny_folds"
    return lambda: home if home.exists() else trained(scans, home, "--folds", "2")


def test_the_pooled_table_has_every_labelled_case_once_by_the_fold_that_never_saw_it(scans, folds, tmp_path, capsys):
    home = shutil.copytree(folds(), tmp_path / "tiny_folds")
    rows = testing_own.main(["--run", str(home), "--device", "cpu", "--tolerance", "1.5"])
    told = capsys.readouterr().out
    numbers = json.loads((scans / "data" / "folds.json").read_text(encoding="utf-8"))["cases"]
    assert {(row["case"], row["fold"]) for row in rows} == {(name, f"fold{fold}") for name, fold in numbers.items()}
    with (home / "test_test_last_mm.csv").open(newline="", encoding="utf-8") as file:
        written = list(csv.DictReader(file))
    assert len(written) == 2 * 5
    assert {*measurements.SETTINGS} <= written[0].keys()
    [how] = {tuple(row[key] for key in ("list", "weights", "unit", "data", "tolerance")) for row in written}
    assert how == ("out-of-fold", "last", "mm", measurements.check_sum(numbers), "1.5 mm")
    assert {(row["class"], row["name"]) for row in written} == {("1", "left"), ("2", "right")}
    means = [np.mean([float(row["dice"]) for row in written if row["case"] == case])
             for case in dict.fromkeys(row["case"] for row in written)]
    assert means == sorted(means) and "Worst cases first" in told and "out-of-fold cases of 2 folds" in told
    for row in written:
        assert float(row["error_ml"]) == pytest.approx(float(row["ml"]) - float(row["reference_ml"]), abs=2e-6)
        assert float(row["reference_ml"]) == pytest.approx(8 * 12 * 2 * 6 / 1000 * (1.25 if row["class"] == "2" else 1))
    assert measurements.read_rows(home / "test_test_last_mm.csv")[0]["dice"] == pytest.approx(rows[0]["dice"], abs=1e-6)


def test_folds_that_do_not_belong_together_are_refused(folds, tmp_path, capsys):
    home = shutil.copytree(folds(), tmp_path / "tiny_folds")
    capsys.readouterr()

    def refused():
        with pytest.raises(SystemExit, match="2"):
            testing_own.main(["--run", str(home), "--device", "cpu"])
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1
        return error
    path = home / "fold2" / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    for text, words in (
            (json.dumps(config | {"recipe": config["recipe"] | {"lr": 0.5}}),
             "fold2 and fold1 are runs of different recipes (lr)"),
            (json.dumps(config | {"recipe": config["recipe"] | {"fold": "1/2"}}), "are the same fold, 1/2"),
            (json.dumps(config | {"recipe": config["recipe"] | {"fold": "3/2"}}), "is no run of a fold"),
            ('{"dataset": "own"}', f"{path}: has no recipe: restore"), ('{"recipe": []}', "has no recipe"),
            ("{", f"{path}: cannot be read")):
        path.write_text(text, encoding="utf-8")
        assert words in refused()
    with pytest.raises(SystemExit, match="2"):
        testing_own.main(["--run", str(home), "--split", "val"])
    assert "--split val: of folds, the cases of each fold are tested: leave --split out" in capsys.readouterr().err
    path.write_text(json.dumps(config), encoding="utf-8")
    (home / "fold2" / "last.pt").unlink()
    assert "fold 2 of 2 is not trained to its end" in refused()


def test_cases_of_another_data_folder_are_of_no_fold(scans, folds, tmp_path, capsys):
    home, other = shutil.copytree(folds(), tmp_path / "tiny_folds"), tmp_path / "other"
    shutil.copytree(scans / "data", other, ignore=shutil.ignore_patterns("folds.json"))
    for lists in (("train.list", "test.list"), ("test.list",)):
        (other / "train.list").unlink() if len(lists) == 1 else None
        for call in (lambda *more: testing_own.main(["--run", str(home), *more]),
                     lambda *more: reproduce.main(["trust", str(home), *more])):
            with pytest.raises(SystemExit, match="2"):
                call("--device", "cpu", "--data-dir", str(other))
            assert "has no folds.json, so none of its cases is out of any fold" in capsys.readouterr().err
            with pytest.raises(SystemExit, match="2"):
                call("--device", "cpu", "--data-dir", str(tmp_path / "gone"))
            assert "gone: is no longer there; --data-dir names the folder where" in capsys.readouterr().err
        rows = testing_own.main(["--run", str(home / "fold1"), "--data-dir", str(other), "--device", "cpu", "--force"])
        assert {row["case"] for row in rows} == {"c5"}      # its test.list
    record = json.loads((other / RECORD).read_text(encoding="utf-8"))
    (other / RECORD).write_text(json.dumps(record | {"class_names": ["right", "left"]}), encoding="utf-8")
    for call in (lambda: testing_own.main(["--run", str(home / "fold1"), "--data-dir", str(other), "--force"]),
                 lambda: label_next.main(["--run", str(home / "fold1"), "--data-dir", str(other), "--output",
                                          str(tmp_path / "to_label")])):
        with pytest.raises(SystemExit, match="2"):
            call()
        assert "other: its classes are right left, those of" in capsys.readouterr().err
    assert not (home / "calibration.json").exists() and not (home / "test_test_last_mm.csv").exists()


def test_folds_are_tested_after_a_labelled_case_was_taken_out(scans, folds, tmp_path):
    home, fewer = shutil.copytree(folds(), tmp_path / "tiny_folds"), shutil.copytree(scans / "data", tmp_path / "fewer")
    fold_of = json.loads((fewer / "folds.json").read_text(encoding="utf-8"))["cases"]
    gone = next(name for name, fold in fold_of.items() if fold == 2)
    names = (fewer / "train.list").read_text(encoding="utf-8").split()
    (fewer / "train.list").write_text("\n".join(name for name in names if name != gone), encoding="utf-8")
    rows = testing_own.main(["--run", str(home), "--data-dir", str(fewer), "--device", "cpu"])
    assert {row["case"] for row in rows} == fold_of.keys() - {gone}


def test_results_of_folds_are_compared_in_mm_and_not_replaced_by_those_of_other_cases(folds, tmp_path, capsys):
    homes = [shutil.copytree(folds(), tmp_path / name) for name in ("one_folds", "other_folds")]
    rows = [{"case": case, "fold": "fold1", "class": 1, "name": "left", "dice": 0.8, "jaccard": 0.7, "hd95": 2.0,
             "asd": 1.0, "list": "out-of-fold", "weights": "last", "unit": "mm"} for case in ("c0", "c9")]
    for home in homes:
        report.write_rows(home / "test_test_last_mm.csv", rows)
    lines = testing_own.main(["--compare", *map(str, homes)])
    assert [line[1] for line in lines] == ["80.00 ± 0.00"] * 2 and "95HD (mm)" in capsys.readouterr().out
    for home, ml in zip(homes, (1.5, 2.0), strict=True):        # a label was corrected in between
        report.write_rows(home / "test_test_last_mm.csv", [row | {"reference_ml": ml} for row in rows])
    with pytest.raises(SystemExit, match="2"):
        testing_own.main(["--compare", *map(str, homes)])
    assert "were tested with different labels of c0, 1.5 and 2 ml of class 1: test both on" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        testing_own.main(["--run", str(homes[0]), "--device", "cpu"])
    assert "is the result of 2 other cases, and these are 5; --force replaces it" in capsys.readouterr().err


@pytest.mark.parametrize(("checkpoint", "words"), [
    ("best", "of 2 folds; CHOSEN ON THESE TEST CASES"),
    ("last", "of 2 folds; THE WEIGHTS THAT SELF-TRAINING STARTED FROM WERE CHOSEN ON THESE TEST CASES")])
def test_folds_whose_cases_chose_their_weights_say_so(folds, tmp_path, monkeypatch, capsys, checkpoint, words):
    home = shutil.copytree(folds(), tmp_path / "tiny_folds")
    for number in (1, 2):
        shutil.copy(home / f"fold{number}" / "last.pt", home / f"fold{number}" / "best.pt")
    monkeypatch.setattr(Trained, "chose", lambda self, names, split: self.run.name == "fold2")
    rows = [{"case": "c0", "class": 1, "name": "left", "dice": 0.8, "jaccard": 0.7, "hd95": 2.0, "asd": 1.0,
             "unit": "mm", "surface_dice": 1.0, "error_ml": 0.0, "tolerance": "2 mm"}]
    monkeypatch.setattr(report, "measure", lambda *_: rows)
    testing_own.main(["--run", str(home), "--device", "cpu", "--checkpoint", checkpoint])
    assert words in capsys.readouterr().out


def test_the_interval_of_the_mean_dice():
    rng = np.random.default_rng(5)
    values = rng.uniform(0.6, 0.9, 20)
    found = pooled.dice_interval(values)
    means = 100 * np.array([rng.choice(values, 20).mean() for _ in range(20_000)])
    assert found.mean == pytest.approx(100 * values.mean())
    assert [found.low, found.high] == pytest.approx(np.percentile(means, [2.5, 97.5]), abs=0.15)
    assert pooled.dice_interval(values) == found                            # seeded
    assert str(pooled.dice_interval([0.5])) == "50.00"
    assert str(pooled.dice_interval([0.5] * 3)) == "50.00 [50.00, 50.00]"


def test_dice_against_labels_of_supervised_and_the_method(mine, tmp_path, monkeypatch, capsys):
    home = tmp_path / "budget"
    assert trained(mine, home, "--folds", "2", "--budget", "2") == home
    told = capsys.readouterr().out
    assert told.index("4 runs, 0 of them finished; the others take about") < told.index("run 1 of 4")
    with (home / "budget.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["method"], row["labels"], row["cases"]) for row in rows] == [("supervised", "2", "5"),
                                                                               ("cml_plus", "2", "5")]
    for row in rows:
        pooled_rows = measurements.read_rows(home / f"{row['method']}_2" / "test_test_last_mm.csv")
        assert float(row["dice"]) == pytest.approx(100 * np.mean([one["dice"] for one in pooled_rows]), abs=1e-3)
    assert "2 labels |" in (home / "budget.md").read_text(encoding="utf-8")
    assert (home / "budget.png").read_bytes().startswith(b"\x89PNG")
    first, second = (read_content(home / f"{method}_2" / "fold1").cases for method in ("supervised", "cml_plus"))
    assert first["labelled"] == second["labelled"] and not first["unlabelled"] and second["unlabelled"]
    monkeypatch.setattr(fit.Fit, "run", None)       # nothing is trained ...
    monkeypatch.setattr(report, "measure", None)    # ... or tested again
    trained(mine, home, "--folds", "2", "--budget", "2")
    assert "4 runs, 4 of them finished\n" in capsys.readouterr().out


def test_all_cells_of_a_budget_are_over_the_same_classes(tmp_path):
    """Nobody has class 2, and one method finds it where it is not."""
    def rows(*second):
        return [{"case": case, "class": label, "dice": dice, "empty_pred": float(empty), "empty_ref": label - 1.0}
                for case, other in zip("ab", second, strict=True)
                for label, dice, empty in ((1, 0.8, 0), (2, other, other))]
    results = {("supervised", 2): rows(1, 1), ("cml_plus", 2): rows(1, 0)}
    budget.present_budget(results, train_own.OwnRecipe(budget=(2,), folds=2, out=tmp_path))
    assert "2 labels | 90.00 [90.00, 90.00] | 65.00 [40.00, 90.00] | -25.00" in (tmp_path / "budget.md").read_text(
        encoding="utf-8")


# ---- anybody's label maps ------------------------------------------------------------------------------------------


def box(shape, *sides):
    """A label map with class 7 in a box."""
    labels = np.zeros(shape, np.uint8)
    labels[tuple(slice(*side) for side in sides)] = 7
    return labels


@pytest.fixture
def maps(tmp_path):
    """Predictions of another program in other formats, one of them on another grid; one reference has none."""
    affine, whole = np.diag([1.0, 1, 2, 1]), box((12, 10, 6), (2, 8), (2, 8), (1, 5))
    for folder in ("masks", "maps", "other"):
        (tmp_path / folder).mkdir()
    for name in ("a", "b", "c", "d"):
        nib.save(nib.Nifti1Image(whole, affine), tmp_path / f"masks/{name}_seg.nii.gz")
    sitk.WriteImage(as_sitk(whole), str(tmp_path / "maps/a.mha"))
    sitk.WriteImage(as_sitk(box((12, 10, 6), (4, 8), (2, 8), (1, 5))), str(tmp_path / "maps/b.nrrd"))
    nib.save(nib.Nifti1Image(whole, np.diag([1.0, 1, 3, 1])), tmp_path / "maps/c.nii.gz")
    for name in ("maps/x", "other/x"):
        nib.save(nib.Nifti1Image(whole, affine), tmp_path / f"{name}.nii.gz")
    return tmp_path


def as_sitk(labels):
    """The same grid as nibabel's diag(1, 1, 2), in ITK's axes."""
    image = sitk.GetImageFromArray(labels.transpose(2, 1, 0))
    image.SetSpacing((1, 1, 2))
    image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    return image


def test_maps_of_any_program_are_scored_by_name_on_one_grid(maps, capsys):
    with pytest.raises(SystemExit, match="2"):      # c is on another grid
        testing_own.main(["--predictions", str(maps / "maps"), "--labels", str(maps / "masks"), "--class-names", "box"])
    told = capsys.readouterr()
    assert "1 reference without a prediction, which stay out: d_seg" in told.out
    assert "1 prediction without a reference, which stay out: x" in told.out
    assert "bad case c_seg: " in told.err and "expected the same grid" in told.err
    with (maps / "maps_scores.csv").open(newline="", encoding="utf-8") as file:
        rows = {row["case"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["b_seg", "a_seg"]         # the worst first
    assert float(rows["a_seg"]["dice"]) == float(rows["a_seg"]["surface_dice"]) == 1
    assert float(rows["b_seg"]["dice"]) == pytest.approx(0.8) and rows["b_seg"]["unit"] == "mm"
    assert float(rows["b_seg"]["error_ml"]) == pytest.approx(-2 * 6 * 4 * 2 / 1000)
    assert rows["b_seg"]["class"] == "7" and rows["b_seg"]["name"] == "box"


def test_values_that_one_folder_alone_has_are_told(maps, capsys):
    """255 in the references of a challenge is 1 in the maps of some programs: two classes, and no Dice."""
    for path, value in ((maps / "masks/a_seg.nii.gz", 255), (maps / "other/a.nii.gz", 1)):
        nib.save(nib.Nifti1Image(np.minimum(box((12, 10, 6), (2, 8), (2, 8), (1, 5)), 1) * np.uint8(value), np.eye(4)),
                 path)
    rows = testing_own.main(["--predictions", str(maps / "other"), "--labels", str(maps / "masks")])
    assert [(row["class"], row["dice"]) for row in rows] == [(1, 0), (255, 0)]
    assert ("no prediction has the value 255; no reference has the value 1: each value is measured as a class of its "
            "own\n") in capsys.readouterr().out
    rows = testing_own.main(["--predictions", str(maps / "other"), "--labels", str(maps / "masks"), "--label-map",
                             "1:255"])
    assert [(row["class"], row["dice"]) for row in rows] == [(255, 1)] and "of its own" not in capsys.readouterr().out
    shutil.copy(maps / "masks/a_seg.nii.gz", maps / "other/a.nii.gz")
    testing_own.main(["--predictions", str(maps / "other"), "--labels", str(maps / "masks")])
    assert "of its own" not in capsys.readouterr().out


@pytest.mark.parametrize(("geometry", "thickness"), [("itk", 10), ("sform", 1)])
def test_maps_whose_headers_disagree_are_measured_as_asked(tmp_path, capsys, geometry, thickness):
    """As ACDC's own: 1 x 1 x 1 mm in the sform, 2 x 2 x 10 mm in qform and pixdim."""
    labels = np.minimum(box((12, 10, 6), (2, 8), (2, 8), (1, 5)), 1)
    for folder, values in (("masks", labels), ("maps", np.roll(labels, 1, axis=2))):
        image = nib.Nifti1Image(values, np.eye(4))
        image.set_qform(np.diag([2.0, 2, 10, 1]), 1)
        image.set_sform(np.eye(4), 1, update_affine=False)
        image.header.set_zooms((2, 2, 10))
        (tmp_path / folder).mkdir()
        nib.save(image, tmp_path / folder / "a.nii.gz")
    row, = testing_own.main(["--predictions", str(tmp_path / "maps"), "--labels", str(tmp_path / "masks"), "--spacing",
                             "mm", "--geometry", geometry])
    assert row["hd95"] == thickness
    assert "the sform says 1 x 1 x 1 mm and pixdim 2 x 2 x 10 mm" in capsys.readouterr().out


@pytest.mark.parametrize("end", [".md", ".tex", ""])
def test_scores_are_written_under_a_name_of_their_own(maps, capsys, end):
    with pytest.raises(SystemExit, match="2"):
        testing_own.main(["--predictions", str(maps / "maps"), "--labels", str(maps / "masks"), "--output",
                          str(maps / f"scores{end}")])
    assert f"scores{end}: expected a name that ends in .csv" in capsys.readouterr().err
    assert not list(maps.glob("scores*"))


def test_maps_in_folders_of_their_own_are_reported_by_their_cases(maps, capsys):
    for name in "abx":
        target = maps / "each" / f"patient{name}" / "segmentation.nii.gz"
        target.parent.mkdir(parents=True)
        shutil.copy(maps / "maps/x.nii.gz", target)
    for name in "ab":
        (maps / "masks" / f"{name}_seg.nii.gz").rename(maps / "masks" / f"patient{name}_seg.nii.gz")
    rows = testing_own.main(["--predictions", str(maps / "each"), "--labels", str(maps / "masks")])
    told = capsys.readouterr().out
    assert [row["case"] for row in rows] == ["patienta_seg", "patientb_seg"]
    assert "2 references without a prediction, which stay out: c_seg, d_seg" in told
    assert "1 prediction without a reference, which stay out: patientx\n" in told


@pytest.mark.parametrize(("scan", "mask"), [("{0}.nii.gz", "{0}_seg.nii.gz"), ("{0}/{0}.nii.gz", "{0}/{0}_gt.nii.gz"),
                                            ("{0}/lgemri.nii.gz", "{0}/laendo.nii.gz")])
def test_scans_beside_label_maps_are_no_label_maps(maps, capsys, scan, mask):
    """As challenges have them; few of a scan's values look like classes, too. Of x there is no label map."""
    for name in "abx":
        for form, source in ((scan, maps / "maps/x.nii.gz"), (mask, maps / f"masks/{name}_seg.nii.gz")):
            if not source.exists():
                continue
            target = maps / "both" / form.format(name)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
    rows = testing_own.main(["--predictions", str(maps / "maps"), "--labels", str(maps / "both")])
    assert [round(row["dice"], 6) for row in rows] == [0.8, 1] and {row["class"] for row in rows} == {7}
    assert "3 scans beside label maps, which stay out: 3 .nii.gz such as" in capsys.readouterr().out
    rows = testing_own.main(["--predictions", str(maps / "both"), "--labels", str(maps / "masks")])
    assert [row["dice"] for row in rows] == [1, 1] and {row["class"] for row in rows} == {7}


def test_segments_are_scored_by_their_names_and_unplaced_maps_voxel_by_voxel(tmp_path, capsys):
    for folder in ("masks", "maps"):
        (tmp_path / folder).mkdir()
    labels, affine = np.minimum(box((12, 10, 6), (2, 8), (2, 8), (1, 5)), 1), np.diag([-1.0, -1, 2, 1])
    labels[9:11, 3:8, 1:4] = 2
    nib.save(nib.Nifti1Image(labels, affine), tmp_path / "masks/a.nii.gz")
    nib.save(nib.Nifti1Image(labels, np.eye(4)), tmp_path / "maps/b.nii.gz")       # as a program that drops headers
    nib.save(nib.Nifti1Image(labels, affine), tmp_path / "masks/b.nii.gz")
    header = {"space": "left-posterior-superior", "space directions": np.diag([1, 1, 2]), "space origin": [0, 0, 0]}
    for number, name in enumerate(("right", "left")):       # the other way round than in the label maps
        header |= {f"Segment{number}_Name": name, f"Segment{number}_LabelValue": str(number + 1),
                   f"Segment{number}_Layer": "0"}
    nrrd.write(str(tmp_path / "maps/a.seg.nrrd"), np.choose(labels, [0, 2, 1]).astype(np.uint8), header)
    options = ["--predictions", str(tmp_path / "maps"), "--labels", str(tmp_path / "masks")]
    for more, words in (((), "name the classes in the order of the values"),
                        (("--class-names", "left", "right"), "use --same-voxels")):
        with pytest.raises(SystemExit, match="2"):
            testing_own.main([*options, *more])
        assert words in capsys.readouterr().err
    rows = testing_own.main([*options, "--class-names", "left", "right", "--same-voxels"])
    assert [(row["case"], row["name"], row["dice"]) for row in rows] == [
        (case, name, 1) for case in "ab" for name in ("left", "right")]


@pytest.mark.parametrize(("more", "words"), [
    (["--predictions", "{}/maps"], "--predictions and --labels belong together"),
    (["--predictions", "{}/maps", "--labels", "{}/nowhere"], "there is no such folder"),
    (["--predictions", "{}/maps", "--labels", "{}/masks", "--class-names", "a", "b"], "2 names for the values 7"),
    (["--predictions", "{}/maps", "--labels", "{}/masks", "--label-map", "5:7"], "no prediction has the value 5; they "
                                                                                 "have 0, 7"),
    (["--run", "{}", "--geometry", "sform"], "--geometry: belongs to --predictions and --labels"),
    (["--predictions", "{}/maps", "--labels", "{}/masks", "--tolerance", "-1"], "--tolerance -1: must be 0 or more"),
    (["--predictions", "{}/other", "--labels", "{}/masks"], "no label map there has the name")])
def test_what_cannot_be_scored_is_one_line(maps, capsys, more, words):
    (maps / "maps" / "c.nii.gz").unlink()
    with pytest.raises(SystemExit, match="2"):
        testing_own.main([word.format(maps) for word in more])
    error = capsys.readouterr().err
    assert words in error and error.startswith("error: ") and error.count("\n") == 1


# ---- several runs together -----------------------------------------------------------------------------------------


def predicted(runs, scan, out, *more):
    """{what: array} that predict.py writes of a scan, and its predictions.csv."""
    assert predict.main(["--run", *map(str, runs), "--input", str(scan), "--output", str(out), "--device", "cpu",
                         "--keep-largest", "none", "--probabilities", "--disagreement", *more]) == 0
    with (out / "predictions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {path.name.removesuffix(".nii.gz").removeprefix("c6"): np.asarray(nib.load(path).dataobj)
            for path in out.glob("*.nii.gz")}, rows


def test_the_folds_together_give_the_mean_of_their_probabilities(scans, folds, tmp_path, capsys):
    scan, home = scans / "scans" / "c6.nii.gz", folds()
    alone = [predicted([home / f"fold{number}"], scan, tmp_path / str(number))[0] for number in (1, 2)]
    together, rows = predicted([home], scan, tmp_path / "both", "--overlay")
    mean = np.mean([one["_probabilities"] for one in alone], 0)
    assert np.allclose(together["_probabilities"], mean, atol=1e-5)
    assert np.array_equal(together[""], together["_probabilities"].argmax(-1))
    assert 0 <= together["_disagreement"].min() and together["_disagreement"].max() <= 1
    assert {row["name"] for row in rows} == {"left", "right"}
    assert all(0 <= float(row["agreement"]) <= 1 for row in rows)
    listed, _ = predicted([home / "fold1", home / "fold2"], scan, tmp_path / "both")
    assert "0 segmented, 1 skipped" in capsys.readouterr().out and listed.keys() == together.keys()


def test_the_disagreement_is_that_of_all_pairs_of_runs_and_views():
    class Fixed(Method):
        """Two views whose probabilities are given."""

        pair = "one", "other"

        def __init__(self, *shares):
            super().__init__(torch.nn.Conv2d(1, 1, 1))
            self.shares = shares

        def predict(self, x):
            views = {name: torch.stack([torch.full(x[:, 0].shape, 1 - share), torch.full(x[:, 0].shape, share)], 1)
                     for name, share in zip(self.pair, self.shares, strict=True)}
            return {"fused": (views["one"] + views["other"]) / 2} | views

    recipe = SimpleNamespace(patch_size=(16, 16), stride=None, normalise="stored", half_resolution=False, num_classes=2)
    shares = [(0.9, 0.8), (0.7, 0.1)]
    members = [windows.Member(Fixed(*pair), recipe, {}) for pair in shares]
    views, evidence = examined_together(members, torch.zeros(1, 2, 16, 16), apart=True)
    assert torch.allclose(views["mean"][1], torch.tensor(np.mean(shares), dtype=torch.float32))
    pairs = list(itertools.combinations(np.ravel(shares), 2))
    expected = np.sqrt(np.mean([(one - other) ** 2 for one, other in pairs]))
    apart = views["disagreement"]
    assert apart.shape == (2, 16, 16) and torch.allclose(apart, torch.tensor(expected).float())
    assert evidence.agreement == [pytest.approx(3 / 6)]         # three of four see the class, everywhere


def test_runs_that_cannot_be_averaged_are_refused(folds, tmp_path, capsys):
    home = shutil.copytree(folds(), tmp_path / "tiny_folds")
    capsys.readouterr()

    def refused(*runs):
        with pytest.raises(SystemExit, match="2"):
            predict.main(["--run", *map(str, runs), "--input", str(tmp_path), "--output", str(tmp_path / "out")])
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1
        return error
    assert "names a run twice" in refused(home, home / "fold1")
    path = home / "fold2" / "preprocessing.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(record | {"normalise": "minmax"}), encoding="utf-8")
    assert "fold2 and " in (error := refused(home)) and "have other preprocessing" in error


def test_the_order_of_runs_that_differ_changes_nothing(scans, folds, tmp_path, capsys):
    one, scan = folds() / "fold1", scans / "scans" / "c6.nii.gz"
    other = trained(scans, tmp_path / "other", "--normalise", "zscore", "--keep-largest", "2")
    capsys.readouterr()
    results = []
    for runs in ([one, other], [other, one]):
        files, rows = predicted(runs, scan, tmp_path / f"{len(results)}")
        assert "on other intensities each" in capsys.readouterr().out and not any(row["intensities"] for row in rows)
        results.append((files, [row | {"made_from": ""} for row in rows]))
        with pytest.raises(SystemExit, match="2"):
            predict.main(["--run", *map(str, runs), "--input", str(scan), "--output", str(tmp_path / "out")])
        assert re.search("keep the largest component of other classes .*--keep-largest", capsys.readouterr().err)
    (files, rows), (turned, others) = results
    assert rows == others and files.keys() == turned.keys()
    assert all(np.array_equal(files[what], turned[what]) for what in ("", "_probabilities"))
    assert np.allclose(files["_disagreement"], turned["_disagreement"], atol=1e-4)      # sums of four views
