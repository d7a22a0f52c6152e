"""Every train and test script end to end at tiny size, as its `main` and as a user starts it."""
import csv
import json
import os
import shutil
import subprocess
import sys

import h5py
import nibabel
import numpy as np
import pytest
from medpy.metric import binary as medpy
from skimage.measure import label as connected

import test_ACDC
import test_BraTS
import test_LA
import train_ACDC
import train_BraTS
import train_LA
from dataloaders.acdc import ACDC
from evaluation import report
from runtime.files import ROOT

TINY = ["--labeled-batch", "2", "--unlabeled-batch", "2", "--pre-steps", "2", "--self-steps", "3", "--eval-every", "3",
        "--workers", "0", "--device", "cpu"]
VOLUME = [*TINY, "--patch-size", "32", "32", "16", "--stride", "16", "16", "16"]
SLICES = [*TINY, "--patch-size", "32", "32"]
# data set: train script, its arguments, test script, classes by name
SCRIPTS = {
    "LA": (train_LA, ["--labeled", "4", *VOLUME], test_LA, []),
    "ACDC": (train_ACDC, ["mini", "--labeled", "3", *SLICES], test_ACDC, ["RV", "MYO", "LV"]),
    "BraTS2019": (train_BraTS, ["mini", "--labeled", "2", *VOLUME], test_BraTS, []),
}
every_set = pytest.mark.parametrize("dataset", SCRIPTS)


@pytest.fixture(scope="module")
def _runs():
    return {}


@pytest.fixture
def trained(phantoms, shallow, no_curves, _runs, tmp_path_factory):
    """trained(dataset, *more) -> folder of a run through the train script's main; tests that need the same share it."""
    def train(dataset, *more):
        if (dataset, more) not in _runs:
            run = tmp_path_factory.mktemp("runs") / "run"
            script, args, *_ = SCRIPTS[dataset]
            assert script.main([*args, "--data-dir", str(phantoms(dataset)), "--out", str(run), *more]) == run
            _runs[dataset, more] = run
        return _runs[dataset, more]
    return train


def table(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def reference(root, dataset, name):
    path = {"LA": f"2018LA_Seg_Training Set/{name}/mri_norm2.h5"}.get(dataset, f"data/{name}.h5")
    with h5py.File(root / path) as file:
        return file["label"][:]


@pytest.mark.parametrize("dataset", ["LA", "ACDC", pytest.param("BraTS2019", marks=pytest.mark.slow)])
def test_rows_are_the_metrics_of_the_saved_predictions(trained, phantoms, capsys, dataset):
    """Recomputed by hand: medpy on the NIfTI label maps and the labels of the files."""
    run = trained(dataset)
    _, _, script, classes = SCRIPTS[dataset]
    assert len(table(run / "log.csv")) == 5 and (run / "last.pt").exists()
    capsys.readouterr()
    rows = script.main(["--run", str(run), "--save-predictions", "--device", "cpu"])
    shown, written = capsys.readouterr().out, table(run / "test_test_last.csv")
    names = (phantoms(dataset) / ("test.txt" if dataset == "BraTS2019" else "test.list")).read_bytes().decode().split()
    assert [(row["case"], int(row["class"])) for row in written] == [
        (name, label) for name in names for label in range(1, max(len(classes), 1) + 1)]
    for row, kept in zip(written, rows, strict=True):
        ref = reference(phantoms(dataset), dataset, row["case"]) == int(row["class"])
        for prefix, view in (("", "fused"), ("fused_", "fused"), ("subnet0_", "subnet0"), ("subnet1_", "subnet1")):
            saved = nibabel.load(run / "predictions" / f"{row['case']}_{view}.nii")
            assert saved.get_data_dtype() == np.uint8
            pred = np.asarray(saved.dataobj) == int(row["class"])
            metrics = {"dice": medpy.dc, "jaccard": medpy.jc}
            if pred.any() and ref.any():
                metrics |= {"hd95": medpy.hd95, "asd": medpy.asd}
            for metric, measure in metrics.items():
                assert float(row[prefix + metric]) == pytest.approx(measure(pred, ref), abs=1e-6), (prefix, metric)
                assert kept[prefix + metric] == pytest.approx(float(row[prefix + metric]), abs=1e-6)
            for metric in {"hd95", "asd"} - metrics.keys():
                assert row[prefix + metric] == "nan"
            assert (row[f"{prefix}empty_pred"], row[f"{prefix}empty_ref"]) == tuple(
                str(int(not mask.any())) for mask in (pred, ref))
            if dataset == "LA":
                assert connected(pred, connectivity=3).max() <= 1       # the largest component alone
    pictures = {path.stem for path in (run / "predictions").glob("*.png")}
    assert pictures == set(names)
    for part in ("**fused**", "subnet0", "subnet1", "empty is 0", *(f"fused, {name}" for name in classes)):
        assert f"| {part} " in shown or part in shown
    assert f"on {len(names)} test cases" in shown and "test_test_last.csv" in shown
    assert "paper, " not in shown       # the paper was tested on other cases than these
    table_shown = [line for line in shown.splitlines() if line.startswith("|")]
    assert (run / "test_test_last.md").read_text(encoding="utf-8").splitlines() == table_shown
    assert (run / "test_test_last.tex").read_text(encoding="utf-8").count(r"\\") == len(table_shown) - 1


def test_checkpoints_and_splits_can_be_chosen_and_a_chosen_checkpoint_is_marked(trained, capsys):
    run = trained("ACDC")
    for checkpoint, split, marked in (("best", "val", True), ("pretrained", "val", True), ("last", "val", True),
                                      ("best", "test", False)):
        capsys.readouterr()
        rows = test_ACDC.main(["--run", str(run), "--checkpoint", checkpoint, "--split", split, "--device", "cpu"])
        shown = capsys.readouterr().out
        assert f"{checkpoint}.pt on {len(rows) // 3} {split} cases" in shown
        assert ("CHOSEN ON THESE VAL CASES" in shown) == marked
        assert "mini protocol is not comparable" in shown
        assert len(table(run / f"test_{split}_{checkpoint}.csv")) == len(rows) == 6


def test_weights_that_training_may_replace_are_said_to_be_such(trained, capsys):
    run = trained("ACDC")
    test_ACDC.main(["--run", str(run), "--checkpoint", "best", "--device", "cpu"])
    (run / "last.pt").rename(run / "later.pt")
    assert "NOT FINISHED" not in capsys.readouterr().out
    test_ACDC.main(["--run", str(run), "--checkpoint", "best", "--device", "cpu"])
    (run / "later.pt").rename(run / "last.pt")
    assert "TRAINING IS NOT FINISHED and may replace best.pt" in capsys.readouterr().out
    assert {row["weights"] for row in table(run / "test_test_best.csv")} == {"best so far"}
    with pytest.raises(SystemExit):
        test_ACDC.main(["--compare", str(run), str(shutil.copytree(run, run.with_name("twin"))),
                        "--checkpoint", "best"])
    assert "test_test_best.csv: weights: best so far, where its name says best" in capsys.readouterr().err


def test_best_on_the_validation_list_has_the_dice_that_chose_it(trained):
    run = trained("ACDC")
    rows = test_ACDC.main(["--run", str(run), "--checkpoint", "best", "--split", "val", "--device", "cpu"])
    chosen = max(float(row["fused"]) for row in table(run / "val.csv") if row["stage"] == "self")
    assert np.mean([row["dice"] for row in rows]) == pytest.approx(chosen, abs=1e-5)


def test_a_run_selected_on_test_cases_says_so(trained, capsys):
    run = trained("ACDC", "--select-on", "test")
    test_ACDC.main(["--run", str(run), "--checkpoint", "best", "--device", "cpu"])
    assert "CHOSEN ON THESE TEST CASES" in capsys.readouterr().out


def test_held_out_training_cases_can_be_tested(trained, phantoms):
    run = trained("LA", "--holdout-test", "1", "--labeled", "2", "--pre-steps", "1", "--self-steps", "1")
    rows = test_LA.main(["--run", str(run), "--device", "cpu"])
    assert [row["case"] for row in rows] == (phantoms("LA") / "train.list").read_text(encoding="utf-8").split()[-1:]


@pytest.mark.parametrize(("method", "views"), [("supervised", ["network"]), ("mean_teacher", ["student", "teacher"])])
def test_a_compared_method_is_tested_by_the_same_script(trained, capsys, method, views):
    run = trained("ACDC", "--method", method)
    row = test_ACDC.main(["--run", str(run), "--device", "cpu"])[0]
    assert [key.removesuffix("_dice") for key in row if key.endswith("_dice")] == views
    assert row["dice"] == row[f"{views[0]}_dice"] and f"**{views[0]}**" in capsys.readouterr().out


def test_the_released_network_trains_and_its_views_agree_at_test(trained):
    run = trained("ACDC", "--network", "released", "--fusion", "logits")
    for row in test_ACDC.main(["--run", str(run), "--device", "cpu"]):
        assert row["subnet0_dice"] == row["subnet1_dice"] == row["fused_dice"]


def test_scans_may_have_moved_since_training(trained, phantoms, tmp_path):
    run, moved = shutil.copytree(trained("LA"), tmp_path / "run"), tmp_path / "moved"
    rows = test_LA.main(["--run", str(run), "--device", "cpu"])
    shutil.copytree(phantoms("LA"), moved)
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    config["recipe"]["data_dir"] = str(tmp_path / "gone")
    (run / "config.json").write_text(json.dumps(config), encoding="utf-8")
    again = test_LA.main(["--run", str(run), "--device", "cpu", "--data-dir", str(moved)])
    assert repr(again) == repr(rows)


TEST_OPTIONS = ["--run", "--compare", "--checkpoint", "--split", "--data-dir", "--spacing", "--save-predictions",
                "--stride", "--weights", "--force"]
TRAIN_OPTIONS = ["--labeled", "--method", "--beta", "--lambda-unsup", "--lambda-dis", "--seed", "--out", "--data-dir"]


@pytest.mark.parametrize(("script", "options"), [
    (train_LA, TRAIN_OPTIONS), (train_ACDC, TRAIN_OPTIONS), (train_BraTS, TRAIN_OPTIONS),
    (test_LA, TEST_OPTIONS), (test_ACDC, TEST_OPTIONS), (test_BraTS, TEST_OPTIONS)])
def test_help_says_what_a_script_does_and_names_its_options(script, options, capsys):
    with pytest.raises(SystemExit) as stopped:
        script.main(["--help"])
    text = capsys.readouterr().out
    assert stopped.value.code == 0 and [option for option in options if option not in text] == []
    assert script.__doc__.splitlines()[0][:40] in " ".join(text.split())


def test_tested_runs_are_compared(trained, capsys):
    one, other = trained("ACDC"), trained("ACDC", "--method", "supervised")
    for run in (one, other):
        test_ACDC.main(["--run", str(run), "--split", "val", "--device", "cpu"])
    with pytest.raises(SystemExit):
        test_ACDC.main(["--compare", str(one), str(other), "--split", "val"])       # both are called "run"
    capsys.readouterr()
    named = [folder.with_name(name) for folder, name in ((one, "cml"), (other, "supervised"))]
    for folder, link in zip((one, other), named, strict=True):
        link.symlink_to(folder, target_is_directory=True)
    first, second = test_ACDC.main(["--compare", *map(str, named), "--split", "val"])
    shown = capsys.readouterr().out
    assert first[0] == "cml" and second[0] == "supervised" and "| cml |" in shown and "against cml" in shown
    difference = np.mean([float(row["dice"]) for row in table(other / "test_val_last.csv")]) - np.mean(
        [float(row["dice"]) for row in table(one / "test_val_last.csv")])
    assert float(second[-2]) == pytest.approx(100 * difference, abs=0.006)


# ---- as a user starts them ---------------------------------------------------------------------------------------


def start(command, cwd):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
    return subprocess.run([sys.executable, *command], cwd=cwd, capture_output=True, encoding="utf-8", env=environment,
                          timeout=300)


@pytest.mark.slow
def test_scripts_train_and_test_from_the_root_and_from_code(phantoms, tmp_path):
    """At full width; paths are relative to the working directory."""
    short = ["mini", "--labeled", "2", "--labeled-batch", "2", "--unlabeled-batch", "2", "--patch-size", "32", "32",
             "--pre-steps", "1", "--self-steps", "1", "--device", "cpu"]
    run = tmp_path / "run"
    paths = ["--data-dir", os.path.relpath(phantoms("ACDC"), ROOT), "--out", os.path.relpath(run, ROOT)]
    done = start(["code/train_ACDC.py", *short, *paths], ROOT)
    assert done.returncode == 0 and "finished: " in done.stdout, done.stderr
    assert [row["stage"] for row in table(run / "log.csv")] == ["pre", "self"]
    done = start(["test_ACDC.py", "--run", os.path.relpath(run, ROOT / "code")], ROOT / "code")
    assert done.returncode == 0 and "**fused**" in done.stdout, done.stderr
    shutil.rmtree(run)      # full width is not small


# ---- what a result carries -------------------------------------------------------------------------------------------


@pytest.fixture
def own_run(trained, tmp_path):
    """A copy of a run, to be tested in more than one way."""
    return lambda dataset: shutil.copytree(trained(dataset), tmp_path / "copy", ignore=shutil.ignore_patterns("test_*"))


def with_spacing(folder, tmp_path):
    """A copy of phantoms whose files know their spacing."""
    data = shutil.copytree(folder, tmp_path / "spaced")
    for path in data.rglob("*.h5"):
        with h5py.File(path, "a") as file:
            file.attrs["geometry"] = json.dumps({"spacing": [0.5, 0.5, 2.0]})
    return data


def test_millimetres_and_other_windows_have_files_and_columns_of_their_own(own_run, phantoms, tmp_path, capsys):
    run, data = own_run("LA"), with_spacing(phantoms("LA"), tmp_path)
    test_LA.main(["--run", str(run), "--device", "cpu"])
    kept = (run / "test_test_last.csv").read_bytes()
    args = ["--run", str(run), "--device", "cpu", "--data-dir", str(data)]
    capsys.readouterr()
    test_LA.main([*args, "--spacing", "mm"])
    assert "95HD (mm) ↓" in capsys.readouterr().out
    test_LA.main([*args, "--stride", "32", "32", "16", "--weights", "gaussian"])
    assert (run / "test_test_last.csv").read_bytes() == kept
    names = {"test_test_last": ("voxel", "16x16x16 uniform"), "test_test_last_mm": ("mm", "16x16x16 uniform"),
             "test_test_last_stride32x32x16_gaussian": ("voxel", "32x32x16 gaussian")}
    assert {path.stem for path in run.glob("test_*.csv")} == set(names)
    for name, (unit, windows) in names.items():
        [how] = {tuple(row[key] for key in ("list", "weights", "unit", "windows", "largest_component"))
                 for row in table(run / f"{name}.csv")}
        assert how == ("test", "last", unit, windows, "each")
    shutil.copy(run / "test_test_last_mm.csv", shutil.copytree(run, tmp_path / "mm") / "test_test_last.csv")
    with pytest.raises(SystemExit, match="2"):
        test_LA.main(["--compare", str(run), str(tmp_path / "mm")])
    assert "were not measured alike: unit of distances voxel and mm" in capsys.readouterr().err


def test_the_result_of_other_cases_is_not_replaced_unasked(own_run, phantoms, tmp_path, capsys):
    run, data = own_run("LA"), shutil.copytree(phantoms("LA"), tmp_path / "data")
    args = ["--run", str(run), "--device", "cpu", "--data-dir", str(data)]
    test_LA.main(args)
    kept = (run / "test_test_last.csv").read_bytes()
    (data / "test.list").write_text((data / "test.list").read_text(encoding="utf-8").split()[0], encoding="utf-8")
    capsys.readouterr()
    with pytest.raises(SystemExit, match="2"):
        test_LA.main(args)
    assert "is the result of 2 other cases, and these are 1; --force" in capsys.readouterr().err
    assert (run / "test_test_last.csv").read_bytes() == kept
    test_LA.main([*args, "--force"])
    shown = capsys.readouterr().out
    assert "last.pt on 1 test case;" not in shown and "last.pt on 1 test case" in shown and "±" not in shown


def test_predictions_of_other_weights_or_corrected_ones_are_not_replaced_unasked(own_run, capsys):
    run = own_run("ACDC")
    args = ["--run", str(run), "--device", "cpu", "--save-predictions"]
    test_ACDC.main(args)
    there = {path: path.read_bytes() for path in (run / "predictions").glob("*.nii")}
    before = {path: path.stat().st_mtime_ns for path in there}
    test_ACDC.main(args)                                    # the same again
    assert {path: path.stat().st_mtime_ns for path in there} == before
    first, *_ = there
    corrected = nibabel.load(first)
    nibabel.save(nibabel.Nifti1Image(np.array(corrected.dataobj), np.eye(4)), first)      # by another program
    mine = first.read_bytes()
    for more in ([], ["--checkpoint", "best"]):
        with pytest.raises(SystemExit, match="2"):
            test_ACDC.main([*args, *more])
        error = capsys.readouterr().err
        assert "was made with other weights or windows, from another scan or by something else; --force" in error
    assert first.read_bytes() == mine and not (run / "test_test_best.csv").exists()
    test_ACDC.main([*args, "--checkpoint", "best", "--force"])
    assert first.read_bytes() != mine


def test_a_folder_that_may_not_be_written_is_said_before_the_cases_are_read(own_run, capsys, monkeypatch):
    run = own_run("ACDC")
    monkeypatch.setattr(ACDC, "cases", lambda *_: pytest.fail("read"))
    monkeypatch.setattr(report.Path, "touch", lambda path: (_ for _ in ()).throw(PermissionError(13, "denied")))
    with pytest.raises(SystemExit, match="2"):
        test_ACDC.main(["--run", str(run), "--device", "cpu"])
    assert "test_test_last.csv: cannot be written (denied)" in capsys.readouterr().err


def test_words_of_the_table_are_explained_and_choices_are_marked(trained, capsys):
    run = trained("ACDC")
    for split, marked in (("test", False), ("val", True)):
        test_ACDC.main(["--run", str(run), "--split", split, "--device", "cpu"])
        shown = capsys.readouterr().out
        words = "THE WEIGHTS THAT SELF-TRAINING STARTED FROM WERE CHOSEN ON THESE VAL CASES"
        assert (words in shown) == marked
        for word in ("Bold: the view that counts", "fused: mean of the probabilities", "empty: results with"):
            assert word in shown
    one_stage = trained("ACDC", "--method", "supervised")
    test_ACDC.main(["--run", str(one_stage), "--split", "val", "--device", "cpu"])
    shown = capsys.readouterr().out
    assert "CHOSEN" not in shown and "fused" not in shown


def test_last_weights_of_a_run_selected_on_test_cases_are_marked(trained, capsys):
    run = trained("ACDC", "--select-on", "test")
    test_ACDC.main(["--run", str(run), "--device", "cpu"])
    assert "STARTED FROM WERE CHOSEN ON THESE TEST CASES" in capsys.readouterr().out


def test_classes_that_no_case_has_are_left_out_and_said(trained, phantoms, capsys):
    run = trained("LA", "--num-classes", "4", "--holdout-val", "1", "--labeled", "2")
    rows = test_LA.main(["--run", str(run), "--device", "cpu"])
    shown = capsys.readouterr().out
    absent = {label for label in (2, 3) if all(row[f"{view}_empty_pred"] for row in rows if row["class"] == label
                                               for view in ("fused", "subnet0", "subnet1"))}
    assert ("Left out of all means" in shown) == bool(absent)
    dice = [np.mean([row["dice"] for row in rows if row["class"] == label]) for label in {1, 2, 3} - absent]
    assert f"| **fused** | {100 * np.mean(dice):.2f}" in shown
