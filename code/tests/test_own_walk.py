"""The whole way on synthetic CT stacks with known failures, by the commands that are printed: plan, folds, table,
ensemble, which results to look at, which scans to label next, corrections, and a second round.
"""
import csv
import json
from pathlib import Path

import nibabel as nib
import nrrd
import numpy as np
import pytest
from scipy import ndimage

from imaging.plan import read_plan
from networks import unet

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_curves")]
SHAPE, SIDES = (48, 36, 5), (1, 1, 5)
NAMES = "left", "right", "lesion"
TRAINED = ["--patch-size", "48", "32", "--labeled-batch", "4", "--unlabeled-batch", "2", "--pre-steps", "700",
           "--self-steps", "20", "--augment", "paper", "--lr", "0.05", "--eval-every", "1000", "--workers", "0",
           "--device", "cpu", "--folds", "2"]
NEW = {"good0": {}, "good1": {}, "good2": {}, "empty": {"organs": False}, "scanner": {"gain": 1.5, "shift": 250},
       "voxels": {"sides": (1, 1, 8)}, "lesions": {"lesions": 6}}


def stack(number, organs=True, lesions=2, gain=1, shift=0, sides=SIDES):
    """A CT stack: air, a body, a kidney on each side, a liver on the right that tells the sides apart, and small bright
    lesions -> image in Hounsfield units, label map, affine.
    """
    rng = np.random.default_rng(number)
    x, y, z = np.meshgrid(*map(np.arange, SHAPE), indexing="ij")
    x, y = x - rng.integers(-1, 2), y - rng.integers(-1, 2)     # as a patient lies

    def ellipse(middle, radii):
        return ((x - middle[0]) / radii[0]) ** 2 + ((y - middle[1]) / radii[1]) ** 2 < 1
    label, image = np.zeros(SHAPE, np.uint8), np.full(SHAPE, -1000.0)
    image[ellipse((24, 18), rng.uniform((21, 16), (23, 17)))] = 0
    image[ellipse((36, 23), rng.uniform((7, 4), (8, 5)))] = 200
    inner = (z > 0) & (z < SHAPE[2] - 1)
    for value, middle in ((1, 11), (2, 36)) if organs else ():
        label[ellipse((middle, 12), rng.uniform((4, 4.5), (5, 5.5))) & inner] = value
    for place in [(18, 27), (28, 9), (25, 29), (20, 8), (22, 21), (21, 14)][:lesions if organs else 0]:
        label[ellipse(place, rng.uniform((2, 2), (2.5, 2.5))) & inner] = 3
    image += np.array([0, 150, 150, 350])[label] + ndimage.gaussian_filter(rng.normal(0, 25, SHAPE), 0.8)
    image += rng.uniform(-10, 10)
    return (gain * image + shift).astype(np.int16), label, np.diag([*sides, 1.0])


def save(path, array, affine):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)


def write_cropped(path, label, affine):
    """As 3D Slicer saves: the box of what is drawn, one layer, segments with their names, in another order."""
    [box] = ndimage.find_objects((label > 0).astype(int))
    lps = np.diag([-1.0, -1, 1, 1]) @ affine
    header = {"space": "left-posterior-superior", "kinds": ["domain"] * 3, "encoding": "gzip",
              "space directions": lps[:3, :3].T,
              "space origin": lps[:3, :3] @ [side.start for side in box] + lps[:3, 3]}
    for place, name in enumerate(reversed(NAMES)):
        header |= {f"Segment{place}_ID": f"Segment_{place}", f"Segment{place}_Name": name,
                   f"Segment{place}_LabelValue": str(11 + NAMES.index(name)), f"Segment{place}_Layer": "0"}
    nrrd.write(str(path), np.asfortranarray(np.where(label[box] > 0, label[box] + 10, 0).astype(np.uint8)), header)


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def mean_dice(path):
    """Of the two kidneys."""
    return np.mean([float(row["dice"]) for row in rows_of(path) if row["name"] != "lesion"])


def listed(path):
    return path.read_text(encoding="utf-8").split()


@pytest.fixture
def stacks(tmp_path, monkeypatch):
    """Eleven stacks, six of them labelled, and seven new ones, four with planted failures, in the working folder."""
    for number in range(11):
        image, label, affine = stack(number)
        save(tmp_path / "scans" / f"p{number:02d}.nii.gz", image, affine)
        if number < 6:
            save(tmp_path / "masks" / f"p{number:02d}.nii.gz", label, affine)
    for number, (name, how) in enumerate(NEW.items(), 100):
        image, _, affine = stack(number, **how)
        save(tmp_path / "new_scans" / f"{name}.nii.gz", image, affine)
    monkeypatch.setattr(unet, "WIDTHS", (4, 8, 16, 32, 64))
    monkeypatch.chdir(tmp_path)


def test_from_stacks_to_a_second_round_by_the_printed_commands(way, stacks, tmp_path):
    scans = {path: path.read_bytes() for folder in ("scans", "new_scans") for path in Path(folder).iterdir()}
    way.go("prepare_folder", "--images", "scans", "--labels", "masks", "--output", "data", "--workers", 1,
           "--class-names", *NAMES)
    plan, _ = read_plan(Path("data/plan.json"))
    assert plan.slices == "z" and plan.normalise == "ct"                # an anisotropic CT stack
    assert 0 not in plan.flips and not plan.quarter_turns               # a mirrored pair of organs
    assert plan.keep_largest == plan.components == (1, 2)               # two lesions in one class

    way.on("train_own", *TRAINED, "--out", "first", preset=["mini"])
    folds = json.loads(Path("data/folds.json").read_text(encoding="utf-8"))["cases"]
    assert sorted(folds) == [f"p{number:02d}" for number in range(6)]
    told = way.on("test_own", "--device", "cpu")
    assert "out-of-fold cases of 2 folds" in told
    pooled = rows_of(Path("first/test_test_last_mm.csv"))
    assert {(row["case"], row["fold"]) for row in pooled} == {(case, f"fold{fold}") for case, fold in folds.items()}
    assert mean_dice(Path("first/test_test_last_mm.csv")) > 0.8

    told = way.on("predict", "--device", "cpu")
    rows = {}
    for row in rows_of(Path("maps/predictions.csv")):
        rows.setdefault(row["case"], []).append(row)
    planted = [name for name, how in NEW.items() if how]
    assert set(list(rows)[:len(planted)]) == set(planted)
    assert all((name in planted) == any(row["flags"] for row in own) for name, own in rows.items())

    told = way.on("label_next", "--device", "cpu")
    record = json.loads(Path("to_label/label_next.json").read_text(encoding="utf-8"))
    [test] = [name for name, case in record["cases"].items() if case["test"]]
    first, second, *others = sorted(record["cases"].keys() - {test})
    for name in record["cases"].keys() - {others[-1]}:                  # one proposal stays as it is
        _, label, affine = stack(int(name[1:]))
        if name == first:
            write_cropped(Path("to_label") / name / "Segmentation.seg.nrrd", label, affine)
        else:
            save(Path("to_label") / name / f"{name}_seg.nii.gz", label, affine)
    told = way.on("take_labels")
    assert f"4 labels in masks, 1 left as they are (nothing was drawn: {others[-1]}" in told
    for name in record["cases"].keys() - {others[-1]}:
        taken = nib.load(f"masks/{name}.nii.gz")
        assert np.array_equal(np.asarray(taken.dataobj), stack(int(name[1:]))[1])
        assert np.allclose(taken.affine, np.diag([*SIDES, 1]))

    told = way.on("prepare_folder", "--workers", 1)
    assert "4 prepared, 7 skipped" in told and "test.list: 1 labelled case" in told
    assert listed(Path("data/test.list")) == [test]
    assert sorted(listed(Path("data/train.list"))[:9]) == sorted([*folds, first, second, others[0]])
    way.on("train_own", *TRAINED, "--pre-steps", 1, "--self-steps", 1, "--lr", "1e-6", "--init-from", "first", "--out",
           "second", preset=["mini"])
    after = json.loads(Path("data/folds.json").read_text(encoding="utf-8"))["cases"]
    assert {name: after[name] for name in folds} == folds
    assert sorted(after) == sorted([*folds, first, second, others[0]])
    for number in (1, 2):
        config = json.loads(Path(f"second/fold{number}/config.json").read_text(encoding="utf-8"))
        assert Path(config["recipe"]["init_from"]) == tmp_path / "first" / f"fold{number}"
    way.on("test_own", "--device", "cpu")
    assert mean_dice(Path("second/test_test_last_mm.csv")) > 0.8       # two steps from weights that know them
    assert {path: path.read_bytes() for path in scans} == scans
