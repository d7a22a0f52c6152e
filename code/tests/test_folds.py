"""Cross-validation of own data: folds that never move, runs that go on, the pooled table, ensembles and the budget."""
import json
import shutil

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

import prepare_folder
import train_own
from dataloaders.folds import divided, fold_number, write_folds
from runtime.errors import InputError
from training import cross_validation, fit
from training.run_folder import read_content

pytestmark = pytest.mark.usefixtures("narrow", "no_curves")
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


def test_a_case_labelled_later_joins_a_fold(mine, tmp_path, monkeypatch):
    monkeypatch.setattr(cross_validation, "train_in_turn", lambda recipes: None)
    trained(mine, tmp_path / "folds", "--folds", "2")
    before = json.loads((mine / "data" / "folds.json").read_text(encoding="utf-8"))["cases"]
    write_case(mine, 6, True)
    assert prepare(mine) == 0
    trained(mine, tmp_path / "more", "--fold", "1/2")
    after = json.loads((mine / "data" / "folds.json").read_text(encoding="utf-8"))["cases"]
    assert after == before | {"c6": 2} and "c5" not in after


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
