"""Right values on toys: paired organs as one class and as two, from scans through train_own.py to predict.py."""
import csv

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

import predict
import prepare_folder
import test_own as testing_own
import train_own
from networks import unet

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_curves", "quarter_width")]
SHAPE, SIDES = (48, 32, 4), (1, 1, 6)
TRAINED = ["--patch-size", "48", "32", "--labeled-batch", "4", "--unlabeled-batch", "4", "--pre-steps", "100",
           "--self-steps", "100", "--device", "cpu", "--eval-every", "1000", "--workers", "0"]


@pytest.fixture
def quarter_width(monkeypatch):
    monkeypatch.setattr(unet, "WIDTHS", (4, 8, 16, 32, 64))


def abdomen(number):
    """Two kidneys of one brightness, and a liver on the right that tells the sides apart -> image, 1 left, 2 right."""
    rng = np.random.default_rng(number)
    x, y, _ = np.meshgrid(*map(np.arange, SHAPE), indexing="ij")
    x, y = x - rng.integers(-2, 3), y - rng.integers(-2, 3)     # as a patient lies

    def ellipse(middle, radii):
        return ((x - middle[0]) / radii[0]) ** 2 + ((y - middle[1]) / radii[1]) ** 2 < 1
    left, right = (ellipse((middle, 11), rng.uniform((4, 5), (5.5, 6.5))) for middle in (11, 36))
    liver = ellipse((36, 23), (8, 4))
    image = 100 + 150 * (left | right) + 80 * liver + ndimage.gaussian_filter(rng.normal(0, 50, SHAPE), 0.8)
    return image.astype(np.int16), (left + 2 * right).astype(np.uint8)


def prepared(home, classes):
    """Three labelled scans, three without a label and two to test; classes: value -> class."""
    for number in range(8):
        image, label = abdomen(number)
        for folder, array in (("scans", image), ("masks", np.array(classes, np.uint8)[label]))[:2 if number < 5 else 1]:
            (home / folder).mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(array, np.diag([*SIDES, 1.0])), home / folder / f"p{number}.nii.gz")
    assert prepare_folder.main(["--images", str(home / "scans"), "--labels", str(home / "masks"), "--output",
                                str(home / "data"), "--holdout", "2", "--workers", "1"]) == 0


def dice(pred, ref):
    return 2 * (pred & ref).sum() / (pred.sum() + ref.sum())


def test_two_kidneys_in_one_class_both_come_back(tmp_path):
    prepared(tmp_path, (0, 1, 1))
    run = train_own.main(["mini", "--data-dir", str(tmp_path / "data"), *TRAINED, "--out", str(tmp_path / "run")])
    assert predict.main(["--run", str(run), "--input", str(tmp_path / "scans"), "--output", str(tmp_path / "maps"),
                         "--device", "cpu"]) == 0
    for number in (3, 4, 5, 6, 7):      # held out, or never labelled
        found = np.asarray(nib.load(tmp_path / "maps" / f"p{number}.nii.gz").dataobj) > 0
        label, half = abdomen(number)[1], np.arange(SHAPE[0])[:, None, None] < 24
        assert all(dice(found & side, label == value) > 0.9 for value, side in ((1, half), (2, ~half)))


def test_left_and_right_are_learned_as_well_as_without_flips(tmp_path):
    prepared(tmp_path, (0, 1, 2))
    means = {}
    for name, more in {"planned": [], "control": ["--flips", "--quarter-turns", "False"]}.items():
        run = train_own.main(["mini", "--data-dir", str(tmp_path / "data"), *TRAINED, *more, "--out",
                              str(tmp_path / name)])
        testing_own.main(["--run", str(run), "--device", "cpu"])
        with (run / "test_test_last.csv").open(newline="", encoding="utf-8") as file:
            means[name] = 100 * np.mean([float(row["dice"]) for row in csv.DictReader(file)])
    assert means["control"] > 90 and means["planned"] > means["control"] - 1
