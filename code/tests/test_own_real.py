"""Own data, the whole way on real scans by the printed commands: LA and BraTS 2013, from $CML_SCANS.

CML_SCANS is a folder with LA/<case>/mri_norm2.h5 and BraTS2013_nifti/<case>/<case>_flair.nii.gz and _seg.nii.gz. The
networks are narrow and take few steps: what is tested is that real files go all the way, not how good a network is.
"""
import json
import os
import shutil
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from imaging.plan import read_plan

SCANS = Path(os.environ.get("CML_SCANS", "no such folder"))
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shallow", "no_curves"),
              pytest.mark.skipif(not SCANS.is_dir(), reason="needs real scans in the folder CML_SCANS")]
SIZE = 96, 96, 64       # of patches; windows do not overlap, since whole heads take minutes otherwise
FEW = ["--pre-steps", 2, "--self-steps", 2, "--labeled-batch", 2, "--unlabeled-batch", 2, "--workers", 0, "--device",
       "cpu", "--patch-size", *SIZE]


def once_around(way, prepare, folds, label_of):
    """Prepare, folds, table, ensemble, the next scan, its label, and the first fold of a second round."""
    way.go("prepare_folder", *prepare, "--output", "data", "--workers", 1)
    plan, _ = read_plan(Path("data/plan.json"))
    way.on("train_own", *FEW, "--folds", folds, "--out", "first", preset=["mini"])
    before = json.loads(Path("data/folds.json").read_text(encoding="utf-8"))["cases"]
    assert "out-of-fold cases" in way.on("test_own", "--device", "cpu", "--stride", *SIZE)
    way.on("predict", "--device", "cpu", "--stride", *SIZE)
    assert len(list(Path("maps").glob("*.nii.gz"))) == len(list(Path("new_scans").iterdir()))
    way.on("label_next", "--device", "cpu", "--count", 1)
    [name] = json.loads(Path("to_label/label_next.json").read_text(encoding="utf-8"))["cases"]
    shutil.copy(label_of(name), f"to_label/{name}/drawn.nii.gz")
    assert f"{name}: " in way.on("take_labels")
    assert f"{len(before) + 1} labelled cases" in way.on("prepare_folder", "--workers", 1)
    way.on("train_own", *FEW, "--fold", f"1/{folds}", "--init-from", "first", "--out", "second",
           preset=["mini"])
    after = json.loads(Path("data/folds.json").read_text(encoding="utf-8"))["cases"]
    assert before.items() <= after.items() and set(after) - set(before) == {name}
    return plan


def test_brats_in_two_channels(way, tmp_path, monkeypatch):
    """Four patients, a folder each with two channels and the label, which two of them lack."""
    monkeypatch.chdir(tmp_path)
    folders = sorted(path for path in (SCANS / "BraTS2013_nifti").iterdir() if path.is_dir())
    for folder in folders:
        shutil.copytree(folder, Path("scans") / folder.name, copy_function=shutil.copyfile)
        if not (other := Path("scans") / folder.name / f"{folder.name}_t1.nii.gz").exists():   # flair alone, blurred
            flair = nib.load(folder / f"{folder.name}_flair.nii.gz")
            blurred = ndimage.gaussian_filter(flair.get_fdata(dtype=np.float32), 1)
            nib.save(nib.Nifti1Image(np.where(flair.get_fdata() > 0, blurred, 0), flair.affine), other)
    for folder in folders[2:]:
        Path("scans", folder.name, f"{folder.name}_seg.nii.gz").unlink()
    shutil.copytree(Path("scans", folders[-1].name), Path("new_scans", folders[-1].name))
    plan = once_around(
        way, ["--images", "scans", "--labels", "scans", "--channels", "flair", "t1", "--class-names", "tumour",
              "--num-classes", 2, "--label-map", "2:1", "3:1", "4:1"], 2,
        lambda name: SCANS / "BraTS2013_nifti" / name / f"{name}_seg.nii.gz")
    assert plan.normalise == "zscore_brain" and plan.slices == "none"


def test_la_as_nifti(way, tmp_path, monkeypatch):
    """Ten scans of 0.625 mm, eight of them labelled, in four folds."""
    monkeypatch.chdir(tmp_path)
    affine = np.diag([-0.625, -0.625, 0.625, 1])
    for folder in ("scans", "masks", "all_masks", "new_scans"):
        Path(folder).mkdir()
    for number, path in enumerate(sorted((SCANS / "LA").glob("*/mri_norm2.h5"))[:10]):
        with h5py.File(path) as file:
            image, label = (nib.Nifti1Image(file[key][()], affine) for key in ("image", "label"))
        name = f"{path.parent.name}.nii.gz"
        nib.save(image, Path("scans", name))
        nib.save(label, Path("all_masks", name))
        if number < 8:
            shutil.copy(Path("all_masks", name), Path("masks", name))
        else:
            shutil.copy(Path("scans", name), Path("new_scans", name))
    plan = once_around(way, ["--images", "scans", "--labels", "masks", "--class-names", "atrium"], 4,
                       lambda name: Path("all_masks", f"{name}.nii.gz"))
    assert plan.normalise == "zscore" and plan.slices == "none" and plan.spacing is None
