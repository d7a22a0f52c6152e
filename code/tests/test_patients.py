"""Several scans of one patient, own data: trained on together, or held out, tested, drawn and measured together."""
import csv
import json
import shutil
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

import label_next
import prepare_folder
import test_own as testing_own
import train_own
from dataloaders.brats import BraTS
from dataloaders.folds import divided, write_folds
from evaluation import pooled, tables
from evaluation.selection import drawn_for_testing
from imaging.own_lists import last_patients
from imaging.patients import Patients, told_by, told_by_standards
from runtime.errors import InputError
from training.run_folder import read_content

pytestmark = pytest.mark.usefixtures("shallow", "no_curves")
LABELLED = "p1_a", "p1_b", "p2_a", "p3_a", "p3_b", "p4_a"
UNLABELLED = "p4_b", "p5_a", "p5_b"
BY_NAME = ["--patients", r"p\d+"]
TINY = ["mini", "--patch-size", "32", "32", "--labeled-batch", "2", "--unlabeled-batch", "2", "--pre-steps", "1",
        "--self-steps", "1", "--workers", "0", "--device", "cpu"]


def write_case(home, name, labelled, number):
    rng, label = np.random.default_rng(number), np.zeros((34, 32, 4), np.uint8)
    label[6:14, 8:20, 1:-1] = 1
    image = 300 + 200 * (label > 0) + ndimage.gaussian_filter(rng.normal(0, 60, label.shape), 1)
    for folder, array in (("scans", image.astype(np.int16)), ("masks", label))[:1 + labelled]:
        (home / folder).mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(array, np.diag([1, 1, 6, 1])), home / folder / f"{name}.nii.gz")


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    home = tmp_path_factory.mktemp("patients")
    for number, name in enumerate([*LABELLED, *UNLABELLED]):
        write_case(home, name, name in LABELLED, number)
    return home


@pytest.fixture
def mine(scans, tmp_path):
    """A copy of them, to be prepared and changed."""
    return shutil.copytree(scans, tmp_path / "mine")


def prepare(home, *more):
    return prepare_folder.main(["--images", str(home / "scans"), "--labels", str(home / "masks"), "--output",
                                str(home / "data"), "--workers", "1", *more])


def listed(home, name):
    return (home / "data" / name).read_text(encoding="utf-8").split()


def refused(capsys, call, *args):
    with pytest.raises(SystemExit, match="2"):
        call(*args)
    return capsys.readouterr().err


def test_the_patient_is_what_the_pattern_finds_in_a_name():
    names = ["sub-07_ses-1", "sub-07_ses-2", "sub-12_ses-1", "phantom"]
    assert told_by(r"sub-\d+", names) == {names[0]: "sub-07", names[1]: "sub-07", names[2]: "sub-12"}
    assert told_by(r"sub-(\d+)_", names) == {names[0]: "07", names[1]: "07", names[2]: "12"}
    assert Patients(cases=told_by(r"sub-\d+", names)).of("phantom") == "phantom"


def test_names_of_known_standards_tell_the_patient():
    names = ["sub-01_ses-1_T1w", "sub-01_ses-2_T1w", "BraTS-GLI-00005-100", "BraTS-GLI-00005-101",
             "patient001_frame01", "patient001_frame12", "brats_tcia_pat118_0001", "brats_tcia_pat118_0202",
             "sub-1", "BraTS19_TCIA01_201_1", "p1_frame01"]
    assert [*told_by_standards(names).values()] == [
        "sub-01", "sub-01", "BraTS-GLI-00005", "BraTS-GLI-00005", "patient001", "patient001", "brats_tcia_pat118",
        "brats_tcia_pat118", *names[8:]]
    assert told_by_standards(["sub-01_T1w", "sub-02_T1w"]) == told_by_standards(["sub-01_a", "sub-01_b"]) == {}
    assert BraTS.patient_of("BraTS-GLI-00005-101") == "BraTS-GLI-00005"
    assert BraTS.patient_of("brats_2013_pat0003_1") == "brats_2013_pat0003"


def test_sessions_of_a_bids_subject_are_held_out_together(tmp_path, capsys):
    names = [f"sub-0{number}_ses-{session}_T1w" for number in (1, 2, 3) for session in (1, 2)]
    for number, name in enumerate(names):
        write_case(tmp_path, name, name != names[4], number)
    assert prepare(tmp_path, "--holdout", "1") == 0
    assert listed(tmp_path, "test.list") == names[5:] and listed(tmp_path, "train.list") == names[:4]
    assert "the 6 cases are of 3 patients" in capsys.readouterr().out


@pytest.mark.parametrize(("pattern", "words"), [("p(", "is no regular expression"), ("q", "finds no patient in the 3"),
                                                ("p", "makes all 3 cases, p1_a and others, one patient, p"),
                                                ("p*?", "finds no patient in the 3 names, such as p1_a")])
def test_a_pattern_that_tells_no_patients_apart_is_refused_before_anything_is_prepared(tmp_path, capsys, scans,
                                                                                       pattern, words):
    with pytest.raises(InputError, match="--patients") as error:
        told_by(pattern, ["p1_a", "p1_b", "p2_a"])
    assert words in str(error.value)
    told = refused(capsys, prepare_folder.main, ["--images", str(scans / "scans"), "--labels", str(scans / "masks"),
                                                 "--output", str(tmp_path / "data"), "--patients", pattern])
    assert f"--patients {pattern}: " in told and not list(tmp_path.glob("data/*/*.h5"))


@pytest.mark.parametrize(("count", "held"), [(0, []), (1, ["p4_a"]), (2, ["p3_a", "p3_b", "p4_a"]),
                                             (3, ["p3_a", "p3_b", "p4_a"]), (4, ["p2_a", "p3_a", "p3_b", "p4_a"])])
def test_a_hold_out_takes_whole_patients_from_the_end(count, held):
    names = ["p3_a", *LABELLED[:3], *LABELLED[4:]]          # p3's scans apart, p3_b and p4_a last
    assert sorted(last_patients(names, count, Patients(cases=told_by(r"p\d+", names)))) == held
    assert last_patients(names, count, Patients()) == names[len(names) - count:]


def test_no_patient_is_trained_on_and_tested(mine, capsys):
    assert prepare(mine, *BY_NAME, "--holdout", "1") == 0
    told = capsys.readouterr().out
    assert listed(mine, "test.list") == ["p4_a"] and listed(mine, "train.list") == [*LABELLED[:-1], "p5_a", "p5_b"]
    assert "1 case in no list, of patients that are tested or validated on: p4_b" in told
    assert "patients.json: the 9 cases are of 5 patients" in told
    write_case(mine, "p4_b", True, 6)               # now with a label; the pattern is known from before
    write_case(mine, "p6_a", True, 20)
    write_case(mine, "p6_b", False, 21)
    assert prepare(mine) == 0
    assert listed(mine, "test.list") == ["p4_a", "p4_b"]
    assert listed(mine, "train.list") == [*LABELLED[:-1], "p6_a", "p5_a", "p5_b", "p6_b"]
    (mine / "data" / "val.list").write_text("p1_a\n", encoding="utf-8")
    assert prepare(mine) == 0 and listed(mine, "train.list")[:3] == ["p2_a", "p3_a", "p3_b"]
    assert "p1_b" not in listed(mine, "test.list") and "such as" not in capsys.readouterr().err


def test_a_hold_out_of_all_patients_is_refused(mine, capsys):
    error = refused(capsys, prepare, mine, *BY_NAME, "--holdout", "5")
    assert "--holdout 5: there are 6 labelled cases, and one patient must be left to train on" in error
    assert not (mine / "data" / "train.list").exists()


def test_patients_that_were_written_by_hand_stay(mine, capsys):
    assert prepare(mine, *BY_NAME) == 0
    path = mine / "data" / "patients.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    assert record["cases"]["p3_b"] == "p3"
    record["cases"]["p5_a"] = "p1"
    path.write_text(json.dumps(record), encoding="utf-8")
    write_case(mine, "p5_c", False, 30)
    assert prepare(mine, "--holdout", "1") == prepare(mine) == 0
    cases = json.loads(path.read_text(encoding="utf-8"))["cases"]
    assert cases["p5_a"] == "p1" and cases["p5_c"] == "p5"
    write_case(mine, "P5_d", False, 31)
    for by_hand in ({}, {"P5_d": "p5"}):        # what the pattern does not find is told, and may be written there
        record["cases"] |= by_hand
        path.write_text(json.dumps(record), encoding="utf-8")
        assert prepare(mine) == 0
        told = r"--patients p\d+: finds no patient in 1 name, such as P5_d, of which" in capsys.readouterr().out
        assert told == (not by_hand)
    assert prepare(mine, "--force", *BY_NAME) == 0
    assert json.loads(path.read_text(encoding="utf-8"))["cases"]["p5_a"] == "p5"


def test_a_patients_scans_are_in_one_fold_and_none_is_trained_on_by_it(mine, capsys):
    assert prepare(mine, *BY_NAME) == 0
    data = mine / "data"
    numbers = divided(data, list(LABELLED), 2)
    assert numbers["p1_a"] == numbers["p1_b"] and numbers["p3_a"] == numbers["p3_b"]
    assert list(numbers.values()).count(1) == 3
    write_folds(data, numbers, 2)
    assert divided(data, [*LABELLED, "p4_b"], 2)["p4_b"] == numbers["p4_a"]
    with pytest.raises(InputError, match="has 6 labelled cases of 4 patients to train on, and each fold needs one pat"):
        divided(data, list(LABELLED), 5)
    home = train_own.main([*TINY, "--method", "cps", "--data-dir", str(data), "--folds", "2", "--out",
                           str(mine / "folds")])
    for fold in (1, 2):
        cases = read_content(home / f"fold{fold}").cases
        of = {role: {name.split("_")[0] for name in cases[role]} for role in ("labelled", "unlabelled")}
        tested = {name.split("_")[0] for name in LABELLED if numbers[name] == fold}
        assert not tested & (of["labelled"] | of["unlabelled"])
        assert of["labelled"] | of["unlabelled"] | tested == {"p1", "p2", "p3", "p4", "p5"}
    capsys.readouterr()
    testing_own.main(["--run", str(home), "--device", "cpu"])
    assert "bootstrap samples of patients with all their cases" in capsys.readouterr().out
    [path] = home.glob("test_test_last*.csv")
    with open(path, encoding="utf-8") as file:
        assert {row["case"]: row["patient"] for row in csv.DictReader(file)} == {
            name: name.split("_")[0] for name in LABELLED}


def test_folds_that_part_a_patient_are_refused(mine):
    assert prepare(mine, *BY_NAME) == 0
    record = {"folds": 2, "cases": {"p1_a": 1, "p1_b": 2}}
    (mine / "data" / "folds.json").write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(InputError, match=r"folds\.json: p1_b is in fold 2 and p1_a in fold 1, two scans of p1"):
        divided(mine / "data", list(LABELLED), 2)


def test_a_case_that_has_its_fold_does_not_join_another_one_under_a_new_name(mine, capsys):
    assert prepare(mine) == 0
    data = mine / "data"
    write_folds(data, divided(data, list(LABELLED), 2), 2)
    for folder in ("scans", "masks"):
        (mine / folder / "p2_a.nii.gz").rename(mine / folder / "second.nii.gz")
    error = refused(capsys, prepare, mine)
    assert "second: is the case p2_a under a new name, voxel by voxel, and would join another fold; name it" in error
    record = (data / "folds.json").read_text(encoding="utf-8")
    (data / "folds.json").write_text(record.replace("p2_a", "second"), encoding="utf-8")
    assert prepare(mine) == 0


@pytest.mark.parametrize("role", ["val", "test"])
def test_lists_by_hand_that_part_a_patient_are_refused(mine, capsys, role):
    assert prepare(mine, *BY_NAME) == 0
    (mine / "data" / f"{role}.list").write_text("p3_b\n", encoding="utf-8")
    (mine / "data" / "train.list").write_text("p1_a\np3_a\np5_a\n", encoding="utf-8")
    error = refused(capsys, train_own.main, [*TINY, "--data-dir", str(mine / "data"), "--out", str(mine / "run")])
    assert f"{role}.list: p3_b is a scan of p3, as p3_a of" in error and "train.list is by patients.json;" in error
    assert not (mine / "run").exists()


def test_a_run_is_not_tested_on_another_scan_of_a_patient_whose_label_it_learned(mine, capsys):
    assert prepare(mine, *BY_NAME, "--holdout", "1") == 0
    run = train_own.main([*TINY, "--method", "supervised", "--labeled", "2", "--data-dir", str(mine / "data"), "--out",
                          str(mine / "run")])
    assert list(read_content(run).cases["labelled"]) == ["p1_a", "p1_b"]
    (mine / "data" / "train.list").write_text("p2_a\np3_a\n", encoding="utf-8")
    write_case(mine, "p1_c", True, 40)
    (mine / "data" / "test.list").write_text("p1_c\n", encoding="utf-8")
    assert prepare(mine) == 0
    error = refused(capsys, testing_own.main, ["--run", str(run), "--device", "cpu"])
    assert "p1_c" in error and "trained on" in error
    trust = json.loads((run / "training_cases.json").read_text(encoding="utf-8"))
    assert trust["patients"] == {"p1_a": "p1", "p1_b": "p1"}


def test_patients_that_are_trained_on_are_not_drawn_for_testing():
    patients = Patients(cases=told_by(r"p\d+", [*LABELLED, *UNLABELLED, "p6_a", "p6_b"]))
    others = [*UNLABELLED, "p6_a", "p6_b"]
    tests, pool = drawn_for_testing(others, [], patients, LABELLED, 10, 3)
    assert len(tests) == 2 and not {name for name in tests if name.startswith("p4")}
    assert "p4_b" in pool and not {name[:2] for name in tests} & {name[:2] for name in pool}
    tests, pool = drawn_for_testing(["p4_b"], [], patients, LABELLED, 10, 3)
    assert (tests, pool) == ([], ["p4_b"])
    told = label_next.told_tests(tests, SimpleNamespace(count=10))
    assert told == "none of them is for testing, since all patients have a labelled case\n"


def test_means_are_resampled_and_compared_by_patients():
    dice = dict(zip(LABELLED, (0.9, 0.8, 0.5, 0.7, 0.6, 0.4), strict=True))
    whose = [name.split("_")[0] for name in LABELLED]
    found, values = pooled.dice_interval(list(dice.values()), whose), np.array(list(dice.values()))
    groups = [np.flatnonzero(np.array(whose) == one) for one in sorted(set(whose))]
    rng = np.random.default_rng(1)
    means = [100 * values[np.concatenate([groups[place] for place in rng.integers(4, size=4)])].mean()
             for _ in range(20_000)]
    assert found.mean == pytest.approx(65)
    assert [found.low, found.high] == pytest.approx(np.percentile(means, [2.5, 97.5]), abs=1)
    assert found.high - found.low > 1.2 * np.diff(pooled.dice_interval(values)[1:])[0]
    assert np.isnan(pooled.dice_interval([0.5, 0.7], ["p1", "p1"]).low)
    rows = [{"case": name, "patient": patient, "class": 1, "dice": value, "empty_pred": 0, "empty_ref": 0}
            for (name, value), patient in zip(dice.items(), whose, strict=True)]
    better = [row | {"dice": row["dice"] + 0.1} for row in rows]
    assert tables.paired(better, rows) == (pytest.approx(10), 0.125)            # of four patients, not six
    assert tables.paired(*([row | {"patient": ""} for row in some] for some in (better, rows)))[1] == 0.03125
