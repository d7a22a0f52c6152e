"""Own data with planted failures: a trained network's results, and which of them are to be looked at first."""
import csv
import json
import re

import nibabel as nib
import numpy as np
import pytest

import predict
import prepare_folder
import reproduce
import train_own

TRAIN = ["--method", "cml", "--patch-size", "32", "32", "32", "--labeled-batch", "2", "--unlabeled-batch", "2",
         "--pre-steps", "120", "--self-steps", "20", "--augment", "paper", "--lr", "0.05", "--workers", "0",
         "--eval-every", "1000", "--device", "cpu"]
NEW = {"good0": {}, "good1": {}, "good2": {}, "empty": {"shown": False}, "scanner": {"contrast": -1},
       "voxels": {"sides": (1, 1, 2.5)}}
FOUND = {"empty": "organ 0 ml, labelled cases have", "scanner": "as far from training as its scans are",
         "voxels": "voxels of 1 x 1 x 2.5 mm, in training 1 x 1 x 1"}


def write_scan(folder, name, seed, sides=(1, 1, 1), shown=True, contrast=1, labelled=False):
    """A bright ball, brighter than what surrounds it, in a field of 40 mm."""
    rng = np.random.default_rng(seed)
    space = np.meshgrid(*(np.linspace(-1, 1, round(40 / side)) for side in sides), indexing="ij")
    ball = sum(((x - m) / r) ** 2 for x, m, r in zip(space, rng.uniform(-0.1, 0.1, 3), rng.uniform(0.55, 0.7, 3),
                                                     strict=True)) < 1
    image = 300 + contrast * (200 * (ball & shown) + rng.normal(0, 15, ball.shape))
    affine = np.diag([*sides, 1.0])
    nib.save(nib.Nifti1Image(image.astype(np.int16), affine), folder / "scans" / f"{name}.nii.gz")
    if labelled:
        nib.save(nib.Nifti1Image(ball.astype(np.uint8), affine), folder / "masks" / f"{name}.nii.gz")


@pytest.mark.slow
def test_planted_failures_of_a_trained_network_come_first(narrow, no_curves, tmp_path, capsys):
    for folder in ("old/scans", "old/masks", "new/scans"):
        (tmp_path / folder).mkdir(parents=True)
    for seed in range(8):
        write_scan(tmp_path / "old", f"scan{seed}", seed, labelled=seed < 6)
    for seed, (name, how) in enumerate(NEW.items(), 100):
        write_scan(tmp_path / "new", name, seed, **how)
    assert prepare_folder.main(["--images", str(tmp_path / "old/scans"), "--labels", str(tmp_path / "old/masks"),
                                "--output", str(tmp_path / "data"), "--class-names", "organ", "--holdout", "2",
                                "--workers", "1"]) == 0
    run = train_own.main(["mini", "--data-dir", str(tmp_path / "data"), *TRAIN, "--out", str(tmp_path / "run")])
    record = json.loads((run / "training_cases.json").read_text(encoding="utf-8"))
    assert record["unit"] == "ml" and len(record["volumes"]) == 4 and len(record["quantiles"]) == 6
    capsys.readouterr()
    assert predict.main(["--run", str(run), "--input", str(tmp_path / "new/scans"), "--output", str(tmp_path / "maps"),
                         "--device", "cpu", "--report"]) == 0
    told = capsys.readouterr().out
    with (tmp_path / "maps/predictions.csv").open(newline="", encoding="utf-8") as file:
        rows = {row["case"]: row for row in csv.DictReader(file)}
    assert list(rows) == sorted(rows, key=lambda name: int(rows[name]["look"])) and set(list(rows)[:3]) == set(FOUND)
    assert list(rows)[0] in ("empty", "scanner") and all(words in rows[name]["flags"] for name, words in FOUND.items())
    assert {row["flags"] for name, row in rows.items() if name.startswith("good")} == {""}
    assert re.findall("look at (.*?):", told) == list(rows)[:3] and "wrote" in told
    reproduce.main(["trust", str(run), "--device", "cpu"])
    assert "2 cases, Dice " in capsys.readouterr().out
