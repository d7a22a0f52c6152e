"""Every method on own data, volumes and slices: prepared, planned, trained, tested and used, at a tiny size."""
import csv
import json

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

import predict
import prepare_folder
import test_own as testing_own
import train_own
from methods import registry

pytestmark = pytest.mark.usefixtures("shallow", "no_curves")
TINY = ["--labeled-batch", "4", "--unlabeled-batch", "4", "--pre-steps", "1", "--self-steps", "1", "--workers", "0",
        "--device", "cpu"]
KINDS = {"volumes": ((36, 32, 28), (1, 1, 1), ["--patch-size", "32", "32", "16"]),
         "slices": ((36, 32, 5), (1, 1, 6), ["--patch-size", "32", "32"])}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """prepared(kind) -> a folder of scans, and of what prepare_folder makes of them: 3 labelled, 2 not, 1 to test."""
    made = {}

    def prepare(kind):
        if kind not in made:
            home, (shape, sides, _) = tmp_path_factory.mktemp(kind), KINDS[kind]
            for number in range(6):
                rng, label = np.random.default_rng(number), np.zeros(shape, np.uint8)
                label[6:14, 8:20, 1:-1], label[22:30, 8:20, 1:-1] = 1, 2
                image = 300 + 200 * (label > 0) + ndimage.gaussian_filter(rng.normal(0, 60, shape), 1)
                for folder, array in (("scans", image.astype(np.int16)), ("masks", label))[:2 if number < 4 else 1]:
                    (home / folder).mkdir(exist_ok=True)
                    nib.save(nib.Nifti1Image(array, np.diag([*sides, 1.0])), home / folder / f"c{number}.nii.gz")
            assert prepare_folder.main(["--images", str(home / "scans"), "--labels", str(home / "masks"), "--output",
                                        str(home / "data"), "--holdout", "1", "--workers", "1", "--class-names", "left",
                                        "right"]) == 0
            made[kind] = home
        return made[kind]
    return prepare


# all of them take minutes
CASES = [pytest.param(method, kind, marks=[] if (method, kind) == ("cml_plus", "slices") else
                      pytest.mark.slow) for kind in KINDS for method in registry.METHODS]


@pytest.mark.parametrize(("method", "kind"), CASES)
def test_it_is_trained_tested_and_used(prepared, tmp_path, capsys, method, kind):
    home, (shape, sides, patch) = prepared(kind), KINDS[kind]
    run = train_own.main(["mini", "--data-dir", str(home / "data"), "--method", method, *patch, *TINY, "--out",
                          str(tmp_path / "run")])
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    assert config["dataset"] == "own"
    assert config["plan"]["flips"].startswith("not along axis 0: it tells left and right")
    assert config["recipe"]["stride"] == [side // 2 for side in map(int, patch[1:])]
    rows = testing_own.main(["--run", str(run), "--device", "cpu"])
    assert {(row["case"], row["class"]) for row in rows} == {("c3", 1), ("c3", 2)}
    assert ", left |" in (shown := capsys.readouterr().out) and ", right |" in shown
    out = tmp_path / "maps"
    assert predict.main(["--run", str(run), "--input", str(home / "scans" / "c5.nii.gz"), "--output", str(out),
                         "--device", "cpu", "--overlay"]) == 0
    written = nib.load(out / "c5.nii.gz")
    assert written.shape == shape and np.allclose(written.header.get_zooms(), sides)
    assert set(np.unique(written.dataobj)) <= {0, 1, 2}


def test_a_schedule_fits_into_the_hours_and_goes_on_as_it_began(prepared, tmp_path, capsys):
    args = ["mini", "--data-dir", str(prepared("slices") / "data"), *KINDS["slices"][2], *TINY, "--pre-steps", "400",
            "--self-steps", "1600", "--out", str(tmp_path / "run"), "--hours", "0.0002", "--eval-every", "5000"]
    run = train_own.main(args)
    told = capsys.readouterr().out
    recipe = json.loads((run / "config.json").read_text(encoding="utf-8"))["recipe"]
    assert f"{recipe['pre_steps']} + {recipe['self_steps']} of 400 + 1600 steps" in told
    assert 1 <= recipe["pre_steps"] < 400 and recipe["pre_steps"] <= recipe["self_steps"] < 1600
    with (run / "log.csv").open(newline="", encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == recipe["pre_steps"] + recipe["self_steps"]
    assert train_own.main(args) == run and "this run is finished" in capsys.readouterr().out
