"""The prepare scripts, end to end on tiny challenge folders: what they write, refuse, skip and report."""
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import nibabel as nib
import nrrd
import numpy as np
import pytest
import SimpleITK as simpleitk

import prepare_ACDC
import prepare_BraTS
import prepare_folder
import prepare_LA
from imaging import cases, scan_files
from imaging import preparation as prepare
from imaging.cases import Case, one_case_each
from imaging.preprocess import Geometry, restore
from imaging.record import read_preprocessing
from runtime import files as files_module
from runtime.errors import InputError
from runtime.files import ROOT

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def run(main, *args):
    """Exit code of a script."""
    try:
        return main([str(arg) for arg in args])
    except SystemExit as stop:
        return stop.code


def read(path):
    """(image, label or None, geometry or None) of a prepared file."""
    with h5py.File(path) as file:
        assert set(file) <= {"image", "label"} and file["image"].dtype == np.float32
        assert "label" not in file or file["label"].dtype == np.uint8
        geometry = Geometry(**json.loads(file.attrs["geometry"])) if "geometry" in file.attrs else None
        return file["image"][()], file["label"][()] if "label" in file else None, geometry


def files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def nifti(path, array, affine=LPS):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)


def truncate(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def volume(shape, classes=2, seed=0):
    """int16 image in a dark frame and a label with all classes."""
    rng = np.random.default_rng(seed)
    image, label = np.zeros(shape, np.int16), np.zeros(shape, np.uint8)
    inner = tuple(slice(1, n - 1) for n in shape)
    image[inner] = rng.integers(10, 200, image[inner].shape)
    label[inner] = np.arange(image[inner].size).reshape(image[inner].shape) % classes
    return image, label


# ---- LA ----------------------------------------------------------------------------------------------------

LA_FOLDER = "2018LA_Seg_Training Set"


def la_case(folder, name, label=True, seed=0):
    header = {"space": "left-posterior-superior", "space directions": np.diag([0.6, 0.6, 1.2]),
              "space origin": [0, 0, 0]}
    image = np.random.default_rng(seed).integers(0, 200, (190, 180, 4)).astype(np.uint8)
    target = np.zeros(image.shape, np.uint8)
    target[60:120, 80:110, 1:3] = 255
    (folder / name).mkdir(parents=True)
    nrrd.write(str(folder / name / "lgemri.nrrd"), image, header)
    if label:
        nrrd.write(str(folder / name / "laendo.nrrd"), target, header)
    return image, target


@pytest.fixture
def la(tmp_path):
    la_case(tmp_path / "in", "CASE1")
    la_case(tmp_path / "in" / "deeper", "CASE2", seed=1)
    return tmp_path / "in", tmp_path / "out"


def test_la_end_to_end(la, capsys):
    source, target = la
    image, label = la_case(source, "CASE3", seed=2)
    assert run(prepare_LA.main, "--input", source, "--output", target, "--workers", 1) == 0
    assert files(target) == {f"{LA_FOLDER}/CASE{k}/mri_norm2.h5" for k in (1, 2, 3)} | {"preprocessing.json"}
    prepared, classes, geometry = read(target / LA_FOLDER / "CASE3" / "mri_norm2.h5")
    crop = tuple(slice(*side) for side in geometry.box)
    assert np.array_equal(classes, label[crop] == 255) and prepared.shape[2] == 4
    assert np.allclose(prepared, ((image - image.mean()) / image.std())[crop], atol=1e-5)
    assert np.array_equal(restore(classes, geometry), label == 255)
    out = capsys.readouterr().out
    assert "3 prepared, 0 skipped (finished before), 0 bad" in out and "crop label: around the ground" in out
    assert "none of the published LA cases are here" in out and "then: python code/train_LA.py" in out


def test_parallel_equals_serial_and_the_seed_decides(la, tmp_path):
    source, target = la
    for folder, *args in ((target, 2), (tmp_path / "serial", 1), (tmp_path / "other", 1, "--seed", 7)):
        assert run(prepare_LA.main, "--input", source, "--output", folder, "--workers", *args) == 0
    boxes = []
    for name in ("CASE1", "CASE2"):
        path = f"{LA_FOLDER}/{name}/mri_norm2.h5"
        one, two, other = (read(tmp_path / folder / path) for folder in ("out", "serial", "other"))
        assert np.array_equal(one[0], two[0]) and np.array_equal(one[1], two[1]) and one[2] == two[2]
        boxes += [one[2].box, other[2].box]
    assert len({str(box) for box in boxes}) == 4


def test_finished_cases_are_skipped_and_different_ones_need_force(la, capsys):
    source, target = la
    command = ["--input", source, "--output", target, "--workers", 1]
    assert run(prepare_LA.main, *command) == 0
    first = target / LA_FOLDER / "CASE1" / "mri_norm2.h5"
    before = first.stat().st_mtime_ns
    shutil.rmtree(target / LA_FOLDER / "CASE2")
    assert run(prepare_LA.main, *command) == 0
    assert "1 prepared, 1 skipped" in capsys.readouterr().out and first.stat().st_mtime_ns == before

    assert run(prepare_LA.main, *command, "--crop", "none") == 2       # other settings
    assert "crop was label, now none" in (err := capsys.readouterr().err) and "--force" in err
    assert first.stat().st_mtime_ns == before

    shutil.copy(source / "deeper" / "CASE2" / "lgemri.nrrd", source / "CASE1" / "lgemri.nrrd")  # other scan
    assert run(prepare_LA.main, *command) == 2
    assert "mri_norm2.h5: exists already" in capsys.readouterr().err and first.stat().st_mtime_ns == before
    assert run(prepare_LA.main, *command, "--crop", "none", "--force") == 0
    assert read(first)[0].shape == (190, 180, 4)

    (target / "preprocessing.json").unlink()    # as published: neither record nor attributes
    prepare.write_case(first, np.zeros((3, 3, 3)))
    assert run(prepare_LA.main, *command) == 2
    assert "CASE1: " in capsys.readouterr().err and read(first)[0].shape == (3, 3, 3)


def test_la_without_labels(la, capsys):
    source, target = la
    (source / "CASE1" / "laendo.nrrd").unlink()
    assert run(prepare_LA.main, "--input", source, "--output", target, "--workers", 1) == 2
    captured = capsys.readouterr()
    assert "laendo.nrrd: is missing" in captured.err and "--crop foreground" in captured.err
    assert "1 prepared" in captured.out
    for crop in ("none", "foreground"):
        folder = target / crop
        assert run(prepare_LA.main, "--input", source, "--output", folder, "--crop", crop) == 0
        assert read(folder / LA_FOLDER / "CASE1" / "mri_norm2.h5")[1] is None
        assert read(folder / LA_FOLDER / "CASE2" / "mri_norm2.h5")[1].sum() == 60 * 30 * 2
        assert "do not compare with the paper's" in capsys.readouterr().out


def test_bad_la_cases_are_named_and_the_others_done(la, capsys):
    source, target = la
    la_case(source, "SHORT")
    truncate(source / "SHORT" / "lgemri.nrrd")
    la_case(source, "EMPTY")
    nrrd.write(str(source / "EMPTY" / "laendo.nrrd"), np.zeros((190, 180, 4), np.uint8))
    la_case(source, "SEVEN")
    nrrd.write(str(source / "SEVEN" / "laendo.nrrd"), np.full((190, 180, 4), 7, np.uint8))
    la_case(source / "twice", "CASE2")
    assert run(prepare_LA.main, "--input", source, "--output", target, "--workers", 2) == 2
    captured = capsys.readouterr()
    assert "1 prepared, 0 skipped (finished before), 4 bad" in captured.out
    lines = captured.err.splitlines()
    assert len(lines) == 4 and all(line.startswith("bad case ") for line in lines)
    case2, empty, seven, short = lines
    assert "deeper/CASE2" in case2 and "twice/CASE2" in case2 and "rename one of them" in case2
    assert "laendo.nrrd: is empty" in empty and "leave the case out" in empty
    assert "laendo.nrrd: has the label value 7, expected only 0, 255" in seven
    assert "lgemri.nrrd: cannot be read" in short and "export it again" in short
    assert files(target) == {f"{LA_FOLDER}/CASE1/mri_norm2.h5", "preprocessing.json"}


# ---- ACDC --------------------------------------------------------------------------------------------------

SLICES = [line.split("_slice_") for line in (ROOT / "data/ACDC/train_slices.list").read_text(encoding="utf-8").split()]


def acdc_patient(folder, patient, frames=(1, 9), depth=None, seed=0):
    """A patient of the published lists with as many slices as they name."""
    volumes = {}
    for k, frame in enumerate(frames):
        name = f"{patient}_frame0{k + 1}"
        slices = depth or max((int(n) for case, n in SLICES if case == name), default=3)
        volumes[name] = image, label = volume((9, 11, slices + 2), 4, seed + k)
        image, label = image[..., 1:-1], label[..., 1:-1]
        volumes[name] = image, label
        for suffix, array in (("", image), ("_gt", label)):
            path = folder / patient / f"{patient}_frame{frame:02d}{suffix}.nii.gz"
            nifti(path, array, np.diag([1.5, 1.5, 9, 1]))
    (folder / patient / "Info.cfg").write_text(f"ED: {frames[0]}\nES: {frames[1]}\nGroup: DCM\nNbFrame: 30\n",
                                               encoding="utf-8")
    return volumes


def test_acdc_end_to_end(tmp_path, capsys):
    source, target = tmp_path / "in" / "training", tmp_path / "out"
    train = acdc_patient(source, "patient099", frames=(11, 4))
    val = acdc_patient(source, "patient028")
    nifti(source / "patient028" / "patient028_4d.nii.gz", np.zeros((3, 3, 3, 2), np.int16))
    assert run(prepare_ACDC.main, "--input", tmp_path / "in", "--output", target, "--workers", 1) == 0
    for name, (image, label) in (train | val).items():
        prepared, classes, geometry = read(target / f"data/{name}.h5")
        assert prepared.shape == image.shape[::-1] and np.array_equal(classes, label.T)
        assert prepared.min() == 0 and prepared.max() == 1
        assert np.allclose(prepared, image.T / image.max(), atol=1e-6)
        assert np.array_equal(restore(classes, geometry), label)
        for k in range(len(prepared)):
            path = target / f"data/slices/{name}_slice_{k + 1}.h5"
            assert path.exists() == (name in train)
            if name in train:
                one_slice, one_label, _ = read(path)
                assert np.array_equal(one_slice, prepared[k]) and np.array_equal(one_label, classes[k])
    listed = {f"{case}_slice_{k}.h5" for case, k in SLICES if case in train}
    assert {path.name for path in (target / "data/slices").iterdir()} == listed
    out = capsys.readouterr().out
    [said] = [line for line in out.splitlines() if line.startswith("train.list: 2 of the 140 published entries are")]
    assert said.endswith(f"; name those to use, one per line, in {target / 'train.list'}")
    assert f"{len(listed)} training slices" in out


def test_acdc_lists_are_copied_when_all_cases_are_there(tmp_path, monkeypatch, capsys):
    acdc_patient(tmp_path / "in", "patient099")
    published = tmp_path / "root" / "data" / "ACDC"
    published.mkdir(parents=True)
    slices = [f"{case}_slice_{k}" for case, k in SLICES if case.startswith("patient099")]
    for name, lines in (("train.list", ["patient099_frame01", "patient099_frame02"]), ("val.list", []),
                        ("test.list", []), ("train_slices.list", slices)):
        (published / name).write_text("\n".join(lines), encoding="utf-8")
    monkeypatch.setattr(cases, "ROOT", tmp_path / "root")
    monkeypatch.setattr(prepare_ACDC, "ROOT", tmp_path / "root")
    command = ["--input", tmp_path / "in", "--output", tmp_path / "out", "--workers", 1]
    assert run(prepare_ACDC.main, *command) == 0
    assert (tmp_path / "out/train_slices.list").read_text(encoding="utf-8") == "\n".join(slices)
    (tmp_path / "out/train.list").write_text("mine", encoding="utf-8")
    (tmp_path / "out/data/slices" / f"{slices[0]}.h5").unlink()
    assert run(prepare_ACDC.main, *command) == 2
    captured = capsys.readouterr()
    assert "train.list: the list in" in captured.out and "is kept" in captured.out
    assert f"1 listed slices of prepared volumes do not exist: {slices[0]}" in captured.err
    assert (tmp_path / "out/train.list").read_text(encoding="utf-8") == "mine"
    assert run(prepare_ACDC.main, *command, "--force") == 0
    assert (tmp_path / "out/train.list").read_text(encoding="utf-8") != "mine"


def test_bad_acdc_patients_are_named_and_the_others_done(tmp_path, capsys):
    source = tmp_path / "in"
    for patient in ("patient099", "patient101", "patient102", "patient103", "patient104"):
        acdc_patient(source, patient)
    (source / "patient101/patient101_frame09_gt.nii.gz").unlink()
    (source / "patient102/Info.cfg").unlink()
    (source / "patient103/Info.cfg").write_text("Group: DCM\n", encoding="utf-8")
    truncate(source / "patient104/patient104_frame01.nii.gz")
    assert run(prepare_ACDC.main, "--input", source, "--output", tmp_path / "out", "--workers", 1) == 2
    captured = capsys.readouterr()
    assert "4 prepared, 0 skipped (finished before), 4 bad" in captured.out
    missing, no_info, no_frames, short = captured.err.splitlines()
    assert "bad case patient101_frame02: " in missing and "_frame09_gt.nii.gz: is missing" in missing
    assert "patient102/Info.cfg: is missing" in no_info and "'ED: 1'" in no_frames
    assert "patient104_frame01.nii.gz: cannot be read" in short
    assert (tmp_path / "out/data/patient104_frame02.h5").exists()

    acdc_patient(tmp_path / "few", "patient099", depth=5)
    assert run(prepare_ACDC.main, "--input", tmp_path / "few", "--output", tmp_path / "few_out") == 2
    assert "patient099_frame01_slice_15" in capsys.readouterr().err


def empty_label(main, source):
    """A labelled case of each challenge whose label is empty."""
    if main is prepare_LA.main:
        image, target = la_case(source, "HEALTHY")
        nrrd.write(str(source / "HEALTHY" / "laendo.nrrd"), 0 * target)
    elif main is prepare_ACDC.main:
        acdc_patient(source, "patient099")
        nifti(source / "patient099" / "patient099_frame01_gt.nii.gz", np.zeros((9, 11, 15), np.uint8))
    else:
        image, target = brats_case(source, "healthy")
        nifti(source / "healthy" / "healthy_seg.nii.gz", 0 * target)


@pytest.mark.parametrize("main", [prepare_LA.main, prepare_ACDC.main, prepare_BraTS.main])
def test_empty_labels_are_taken_where_they_are_asked_for(main, tmp_path, capsys):
    source = tmp_path / "in"
    source.mkdir()
    empty_label(main, source)
    if main is prepare_ACDC.main:       # its slices must be as many as are published
        depth = nib.load(source / "patient099/patient099_frame01.nii.gz").shape
        nifti(source / "patient099" / "patient099_frame01_gt.nii.gz", np.zeros(depth, np.uint8))
    arguments = ["--input", source, "--output", tmp_path / "out", "--workers", 1]
    assert run(main, *arguments) == 2
    captured = capsys.readouterr()
    assert "is empty, all voxels are background" in captured.err and "--allow-empty" in captured.err
    assert run(main, *arguments, "--allow-empty") == 0
    assert not min((read(path)[1] for path in (tmp_path / "out").rglob("*.h5") if "slice" not in path.name),
                   key=np.sum).any()


@pytest.mark.parametrize("script", ["folder", "BraTS"])
def test_a_prediction_that_nobody_changed_is_no_label(script, tmp_path, capsys):
    """Until it is asked for, or saved by a program that people draw with (ITK's writer drops the mark)."""
    image, target = volume((14, 12, 10))
    scan = tmp_path / "images" / ("a.nii.gz" if script == "folder" else "a_flair.nii.gz")
    label = tmp_path / ("labels/a.nii.gz" if script == "folder" else "images/a_seg.nii.gz")
    nifti(scan, image)
    label.parent.mkdir(exist_ok=True)
    scan_files.save_on_grid(label, target, scan_files.read_scan_file(scan), "0123456789abcdef")
    main, arguments = (prepare_folder.main, ["--images", scan.parent, "--labels", label.parent]) if script == "folder" \
        else (prepare_BraTS.main, ["--input", scan.parent])
    arguments += ["--output", tmp_path / "out", "--workers", 1]
    assert run(main, *arguments) == 2
    error = capsys.readouterr().err
    assert f"{label.name}: is a label map of predict.py" in error and "--accept-predictions" in error
    assert run(main, *arguments, "--accept-predictions") == 0
    shutil.rmtree(tmp_path / "out")
    simpleitk.WriteImage(simpleitk.ReadImage(label), label)
    assert run(main, *arguments) == 0


# ---- BraTS -------------------------------------------------------------------------------------------------


def brats_case(folder, name, modalities=("flair",), background=0.0, suffix=".nii.gz", label=True, seed=0):
    image, target = volume((14, 12, 10), 5, seed)
    target[target == 3] = 0
    for k, modality in enumerate(modalities):
        scan = np.where(image > 0, image + k, background).astype(np.float32)
        nifti(folder / name / f"{name}_{modality}{suffix}", scan)
    if label:
        nifti(folder / name / f"{name}_seg{suffix}", target.astype(np.float32))
    return image, target


def test_brats_end_to_end(tmp_path, capsys):
    source, target = tmp_path / "in", tmp_path / "out"
    high, _ = brats_case(source / "HGG", "BraTS19_A_1")
    _, label = brats_case(source / "LGG", "BraTS19_B_1", background=-3.2, suffix=".nii")
    brats_case(source, "unlabelled", label=False)
    outside = np.zeros(high.shape, np.uint8)
    outside[0, 5, 5:8], outside[7, 5, 5] = 2, 1
    nifti(source / "HGG" / "BraTS19_A_1" / "BraTS19_A_1_seg.nii.gz", outside)
    assert run(prepare_BraTS.main, "--input", source, "--output", target, "--workers", 1, "--background", "mean") == 0
    prepared, classes, geometry = read(target / "data/BraTS19_B_1.h5")
    assert prepared.shape == (12, 10, 8) and np.array_equal(restore(classes, geometry), label > 0)
    assert abs(prepared.mean()) < 1e-5 and abs(prepared.std() - 1) < 1e-4
    prepared, classes, _ = read(target / "data/BraTS19_A_1.h5")
    assert prepared.shape == (13, 10, 8) and classes.sum() == 4 and not prepared[0].any()
    assert read(target / "data/unlabelled.h5")[1] is None
    out = capsys.readouterr().out
    assert "BraTS19_A_1: 3 label voxels lie outside the brain (kept)" in out
    assert "1 case without a _seg file and a label: unlabelled" in out
    assert "none of the published BraTS2019 cases are here" in out and "train.txt" in out
    capsys.readouterr()
    assert run(prepare_BraTS.main, "--input", source, "--output", target, "--workers", 1) == 2     # as published
    assert "background was mean, now own" in capsys.readouterr().err
    assert run(prepare_BraTS.main, "--input", source, "--output", target, "--workers", 1, "--force") == 0
    published = read(target / "data/BraTS19_A_1.h5")[0]
    assert np.array_equal(published[1:], prepared[1:]) and (published[0] < published[1:].min()).all()


@pytest.mark.parametrize(("name", "flair", "t1ce", "seg", "value"), [
    ("Brats18_2013_1_1", "_flair", "_t1ce", "_seg", 4), ("BraTS19_CBICA_AAB_1", "_flair", "_t1ce", "_seg", 4),
    ("BraTS20_Training_001", "_flair", "_t1ce", "_seg", 4), ("BraTS2021_00000", "_flair", "_t1ce", "_seg", 4),
    ("BraTS-GLI-00000-000", "-t2f", "-t1c", "-seg", 3), ("brats_2013_pat0001_1", "_FLAIR", "_T1ce", "_Seg", 3)])
def test_brats_of_every_year(name, flair, t1ce, seg, value, tmp_path):
    image, target = brats_case(tmp_path / "source", "x", ("flair", "t1ce", "t2"))
    target[target == 4] = value
    for end, array in ((flair, image), (t1ce, image + 1), ("_t2", image), (seg, target)):
        nifti(tmp_path / "in" / name / f"{name}{end}.nii.gz", array.astype(np.int16))
    assert run(prepare_BraTS.main, "--input", tmp_path / "in", "--output", tmp_path / "out", "--workers", 1,
               "--modalities", "flair,t1ce") == 0
    prepared, classes, geometry = read(tmp_path / f"out/data/{name}.h5")
    assert prepared.shape == (2, 12, 10, 8) and np.array_equal(restore(classes, geometry), target > 0)


def test_the_odd_label_of_brats_2020_is_found(tmp_path):
    image, target = brats_case(tmp_path / "in", "BraTS20_Training_355")
    folder = tmp_path / "in" / "BraTS20_Training_355"
    (folder / "BraTS20_Training_355_seg.nii.gz").rename(folder / "W39_1998.09.19_Segm.nii.gz")
    assert run(prepare_BraTS.main, "--input", tmp_path / "in", "--output", tmp_path / "out", "--workers", 1) == 0
    _, classes, geometry = read(tmp_path / "out/data/BraTS20_Training_355.h5")
    assert np.array_equal(restore(classes, geometry), target > 0)


def test_brats_modalities_are_channels(tmp_path, capsys):
    source = tmp_path / "in"
    brats_case(source, "all", ("flair", "t1", "t1ce", "t2"))
    brats_case(source, "some", ("flair", "t1", "t2"))
    brats_case(source, "twice", ("flair", "t1", "t1ce", "t2"))
    brats_case(source, "twice", ("t1",), suffix=".nii")
    brats_case(source, "moved", ("flair", "t1", "t1ce", "t2"))
    nifti(source / "moved/moved_t2.nii.gz", volume((14, 12, 10))[0], np.diag([2, 2, 2, 1.0]))
    assert run(prepare_BraTS.main, "--input", source, "--output", tmp_path / "out", "--workers", 1,
               "--modalities", "flair,t1,t1ce,t2") == 2
    captured = capsys.readouterr()
    assert read(tmp_path / "out/data/all.h5")[0].shape == (4, 12, 10, 8) and "--in-channels 4" in captured.out
    moved, some, twice = captured.err.splitlines()
    assert "moved_t2.nii.gz: its affine puts it" in moved
    assert "some_t1ce.nii.gz: is missing" in some and "leave t1ce out of --modalities" in some
    assert "twice_t1.nii and " in twice and "twice_t1.nii.gz are one case" in twice and "remove or rename one" in twice


# ---- anybody's scans ---------------------------------------------------------------------------------------


def folder_case(folder, name, classes=3, label=True, suffix=".nii.gz", affine=LPS, images="images",
                labels="labels"):
    image, target = volume((13, 11, 9), classes, seed=len(name))
    nifti(folder / images / f"{name}{suffix}", image, affine)
    if label:
        nifti(folder / labels / f"{name.removesuffix('_0000')}{suffix}", target, affine)
    return image, target


def correct(path):
    """A label map whose first half somebody has erased -> what it is now."""
    label = np.asarray(nib.load(path).dataobj).copy()
    label[:len(label) // 2] = 0
    nifti(path, label)
    return label


def prepare_mine(folder, *args):
    return run(prepare_folder.main, "--images", folder / "images", "--labels", folder / "labels",
               "--output", folder / "out", "--workers", 1, *args)


def test_folder_end_to_end(tmp_path, capsys):
    folder_case(tmp_path, "a", label=False)
    image, label = folder_case(tmp_path, "c", affine=np.diag([1.0, -1, 1, 1]))
    folder_case(tmp_path, "b", suffix=".nii")
    nrrd.write(str(tmp_path / "images/d.nrrd"), image)      # labels and scans may come in different formats
    nifti(tmp_path / "labels/d.nii", label)
    (tmp_path / "images" / "notes.txt").write_text("not a scan", encoding="utf-8")
    assert prepare_mine(tmp_path) == 0
    assert (tmp_path / "out/train.list").read_text(encoding="utf-8") == "b\nc\nd\na\n"
    prepared_files = {f"{name}/mri_norm2.h5" for name in "abcd"}
    assert files(tmp_path / "out") == prepared_files | {"train.list", "preprocessing.json", "lists.json", "plan.json",
                                                        "sources.json"}
    prepared, classes, geometry = read(tmp_path / "out/c/mri_norm2.h5")
    assert np.array_equal(classes, label[:, ::-1]) and np.array_equal(restore(classes, geometry), label)
    assert geometry.spacing == [1, 1, 1] and abs(prepared[prepared != 0].mean()) < 1e-5     # around it, 0
    assert read(tmp_path / "out/a/mri_norm2.h5")[1] is None
    out = capsys.readouterr().out
    assert "train.list: 3 labelled cases and 1 unlabelled" in out
    assert re.search(rf"next: python code/train_own.py (short )?--data-dir {tmp_path / 'out'}\n", out)


def test_folder_options(tmp_path, capsys):
    for name in ("a", "b", "c"):
        folder_case(tmp_path, name, affine=np.diag([2, 2, 4, 1.0]))
    assert prepare_mine(tmp_path, "--spacing", 1, 2, 2, "--normalise", "minmax", "--num-classes", 4,
                        "--holdout", 1) == 0
    image, label, _ = read(tmp_path / "out/a/mri_norm2.h5")
    assert image.shape == label.shape == (26, 11, 18) and image.max() <= 1 and image.min() == 0
    assert (tmp_path / "out/test.list").read_text(encoding="utf-8") == "c\n"
    assert (tmp_path / "out/train.list").read_text(encoding="utf-8") == "a\nb\n"
    out = capsys.readouterr().out
    assert f"--data-dir {tmp_path / 'out'} --method supervised" in out       # every case has a label
    assert prepare_mine(tmp_path, "--force", "--holdout", 3) == 2
    assert "one must be left to train on" in capsys.readouterr().err


def test_bad_folder_cases_are_named_and_the_others_done(tmp_path, capsys):
    for name in ("a", "b", "seven", "empty", "shape", "nan", "short", "twice"):
        folder_case(tmp_path, name)
    images, labels = tmp_path / "images", tmp_path / "labels"
    nifti(labels / "seven.nii.gz", np.where(volume((13, 11, 9))[1], 7, 0).astype(np.uint8))
    nifti(labels / "empty.nii.gz", np.zeros((13, 11, 9), np.uint8))
    nifti(labels / "shape.nii.gz", np.ones((13, 11, 8), np.uint8))
    nifti(labels / "lonely.nii.gz", np.ones((13, 11, 9), np.uint8))
    nifti(images / "nan.nii.gz", np.full((13, 11, 9), np.nan, np.float32))
    nifti(images / "series.nii.gz", np.zeros((13, 11, 9, 3), np.int16))
    nifti(images / "twice.nii", np.zeros((13, 11, 9), np.int16))
    truncate(images / "short.nii.gz")
    assert prepare_mine(tmp_path) == 2
    captured = capsys.readouterr()
    lines = {line.split()[2].rstrip(":"): line for line in captured.err.splitlines()}
    assert list(lines) == ["empty", "lonely", "nan", "series", "seven", "shape", "short", "twice"]
    for words in ("labels/empty.nii.gz: is empty", "labels/lonely.nii.gz: has no scan",
                  "images/nan.nii.gz: has 1287 NaN", "images/series.nii.gz: is 4D",
                  "labels/seven.nii.gz: has the label value 7, expected only 0, 1, 2",
                  "labels/shape.nii.gz: has shape (13, 11, 8)", "images/short.nii.gz: cannot be read",
                  "images/twice.nii and "):
        assert words in lines[words.split("/")[1].split(".")[0]]
    assert "--label-map" in lines["seven"] and "--allow-empty" in lines["empty"]
    assert (tmp_path / "out/train.list").read_text(encoding="utf-8") == "a\nb\n"

    nifti(images / "seven.nii.gz", volume((13, 11, 9))[0])
    assert prepare_mine(tmp_path, "--label-map", "7:1", "--allow-empty", "--force") == 2
    assert (tmp_path / "out/train.list").read_text(encoding="utf-8") == "a\nb\nempty\nseven\n"
    assert read(tmp_path / "out/seven/mri_norm2.h5")[1].max() == 1


def test_decathlon_folder(tmp_path, capsys):
    for name in ("la_003", "la_004"):
        folder_case(tmp_path, name, classes=2, images="imagesTr", labels="labelsTr")
    folder_case(tmp_path, "la_001", label=False, images="imagesTs")
    nifti(tmp_path / "imagesTr" / "._la_003.nii.gz", volume((5, 5, 5))[0])      # left by macOS
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"0": "background", "1": "left atrium"}}),
                                           encoding="utf-8")
    assert run(prepare_folder.main, "--images", tmp_path, "--output", tmp_path / "out", "--workers", 1) == 0
    assert (tmp_path / "out/train.list").read_text(encoding="utf-8") == "la_003\nla_004\n"
    assert "train.list: 2 labelled cases" in capsys.readouterr().out
    assert read_preprocessing(tmp_path / "out").num_classes == 2
    assert run(prepare_folder.main, "--dataset-json", tmp_path / "dataset.json", "--output", tmp_path / "out",
               "--workers", 1, "--test-images") == 0
    assert (tmp_path / "out/train.list").read_text(encoding="utf-8") == "la_003\nla_004\nla_001\n"
    assert "1 prepared, 2 skipped" in capsys.readouterr().out


def nnunet(folder, channels=2, **description):
    """Two labelled cases and an unlabelled one, each channel a file, and dataset.json."""
    for name in ("heart_1", "heart_2", "heart_3"):
        folder_case(folder, f"{name}_0000", images="imagesTr", labels="labelsTr", label=name != "heart_3")
        for channel in range(1, channels):
            nifti(folder / "imagesTr" / f"{name}_{channel:04d}.nii.gz", volume((13, 11, 9), seed=9)[0] * channel)
    labels = {"background": 0, "wall": 1, "pool": 2, "ignore": 3}
    (folder / "dataset.json").write_text(json.dumps({"labels": labels} | description), encoding="utf-8-sig")
    return ["--images", folder, "--output", folder / "out", "--workers", 1]


def test_nnunet_folder(tmp_path, capsys):
    """All channels that dataset.json names, in its order, and the byte order mark that some editors write."""
    command = nnunet(tmp_path, channels=2, channel_names={"0": "T1", "1": "T2"})
    assert run(prepare_folder.main, *command) == 0
    assert (tmp_path / "out/train.list").read_text(encoding="utf-8") == "heart_1\nheart_2\nheart_3\n"
    out = capsys.readouterr().out
    assert read_preprocessing(tmp_path / "out").num_classes == 3 and "channels: 0000 0001" in out
    image, _, _ = read(tmp_path / "out/heart_1/mri_norm2.h5")
    assert image.shape == (2, 13, 11, 9) and not np.array_equal(image[0], image[1])
    assert read_preprocessing(tmp_path / "out").modalities == ("0000", "0001")


def test_channels_are_chosen_and_ordered_by_hand(tmp_path, capsys):
    command = nnunet(tmp_path, channels=3, modality={"0": "T1", "1": "T2", "2": "FLAIR"})
    assert run(prepare_folder.main, *command, "--channels", "2", "0000", "--normalise", "zscore") == 0
    assert read_preprocessing(tmp_path / "out").modalities == ("0002", "0000")
    assert "3 files left aside, such as heart_1_0001.nii.gz" in capsys.readouterr().out
    third, first = read(tmp_path / "out/heart_1/mri_norm2.h5")[0]
    one = nib.load(tmp_path / "imagesTr/heart_1_0000.nii.gz").get_fdata()
    assert np.corrcoef(first.ravel(), turned_to_ras(one, LPS).ravel())[0, 1] > 0.999
    assert run(prepare_folder.main, *command, "--channels", "7") == 2
    assert "no file name ends in _0007; there are 0000 0001 0002" in capsys.readouterr().err


def turned_to_ras(array, affine):
    return nib.as_closest_canonical(nib.Nifti1Image(array, affine)).get_fdata()


def test_without_dataset_json_all_channels_that_are_there_are_taken(tmp_path, capsys):
    for name in ("a", "b", "c"):
        folder_case(tmp_path, f"{name}_0000")
        nifti(tmp_path / "images" / f"{name}_0001.nii.gz", volume((13, 11, 9), seed=9)[0], LPS)
    (tmp_path / "images/c_0001.nii.gz").unlink()
    assert prepare_mine(tmp_path) == 2
    captured = capsys.readouterr()
    assert "bad case c: " in captured.err and "c_0001.nii.gz: is missing" in captured.err
    assert read(tmp_path / "out/a/mri_norm2.h5")[0].shape[0] == 2


def test_channels_named_by_words(tmp_path):
    for channel in ("t1", "flair", "t2"):
        nifti(tmp_path / "images" / f"a_{channel}.nii.gz", volume((13, 11, 9), seed=len(channel))[0], LPS)
    nifti(tmp_path / "labels" / "a.nii.gz", volume((13, 11, 9))[1], LPS)
    assert prepare_mine(tmp_path, "--channels", "flair", "t1") == 0
    assert read_preprocessing(tmp_path / "out").modalities == ("flair", "t1")


def test_a_list_that_was_edited_is_kept_and_one_of_ours_grows(tmp_path, capsys):
    for name in ("a", "b", "c"):
        folder_case(tmp_path, name)
    train = tmp_path / "out/train.list"
    assert prepare_mine(tmp_path) == 0 and train.read_text(encoding="utf-8") == "a\nb\nc\n"
    folder_case(tmp_path, "d")
    assert prepare_mine(tmp_path) == 0 and train.read_text(encoding="utf-8") == "a\nb\nc\nd\n"
    train.write_text("c\na\n", encoding="utf-8")
    folder_case(tmp_path, "e")
    capsys.readouterr()
    assert prepare_mine(tmp_path) == 0 and train.read_text(encoding="utf-8") == "c\na\n"
    out = capsys.readouterr().out
    assert "train.list: the one in" in out and "--force replaces it" in out and "train.list: 2 labelled" in out
    assert prepare_mine(tmp_path, "--force") == 0 and train.read_text(encoding="utf-8") == "a\nb\nc\nd\ne\n"


def test_a_hold_out_stays_when_labels_and_scans_join(tmp_path):
    for name, labelled in (("b", True), ("c", True), ("d", False), ("z", False)):
        folder_case(tmp_path, name, label=labelled)
    train, test = tmp_path / "out/train.list", tmp_path / "out/test.list"

    def lists(*args):
        assert prepare_mine(tmp_path, *args) == 0
        return train.read_text(encoding="utf-8").split(), test.read_text(encoding="utf-8").split()
    assert lists("--holdout", 1) == (["b", "d", "z"], ["c"])
    folder_case(tmp_path, "z")                  # its label is drawn: it would be the last one
    folder_case(tmp_path, "a")
    assert lists("--holdout", 1) == lists() == (["a", "b", "z", "d"], ["c"])
    assert lists("--holdout", 2) == (["a", "b", "d"], ["c", "z"])
    correct(tmp_path / "labels/c.nii.gz")
    correct(tmp_path / "labels/a.nii.gz")
    assert lists("--holdout", 1) == (["a", "b", "d"], ["c", "z"])       # none moves back into training
    folder_case(tmp_path, "d")
    assert lists("--holdout", 1, "--force") == (["a", "b", "d"], ["c", "z"])


def test_a_test_case_that_is_bad_or_gone_leaves_the_list_and_comes_back_for_testing(tmp_path, capsys):
    for name in ("a", "b2", "c33", "d444", "e5555"):     # whose lengths make them different scans
        folder_case(tmp_path, name)
    train, test, val = (tmp_path / "out" / name for name in ("train.list", "test.list", "val.list"))

    def lists(*args, code=0):
        assert prepare_mine(tmp_path, *args) == code
        return [path.read_text(encoding="utf-8").split() if path.exists() else [] for path in (train, test)]
    assert lists("--holdout", 2) == [["a", "b2", "c33"], ["d444", "e5555"]]
    good = (tmp_path / "labels/d444.nii.gz").read_bytes()
    image, label = volume((13, 11, 9), 3)
    label[0, 0, 0] = 7
    nifti(tmp_path / "labels/d444.nii.gz", label)
    for kind in ("images", "labels"):
        (tmp_path / kind / "e5555.nii.gz").rename(tmp_path / f"{kind}_e5555.nii.gz")
    val.write_text("b2\ne5555\n", encoding="utf-8")
    capsys.readouterr()
    for _ in range(2):      # no other case takes their places
        assert lists("--holdout", 2, "--num-classes", 3, code=2) == [["a", "c33"], []]
    captured = capsys.readouterr()
    assert "test.list: 2 cases of before left out, bad now or not among these scans: d444, e5555" in captured.out
    assert "val.list: 1 case to be taken out by hand, bad now or not among these scans: e5555" in captured.out
    val.unlink()
    (tmp_path / "labels/d444.nii.gz").write_bytes(good)
    assert lists() == [["a", "b2", "c33"], ["d444"]]
    for kind in ("images", "labels"):
        (tmp_path / f"{kind}_e5555.nii.gz").rename(tmp_path / kind / "e5555.nii.gz")
    assert lists() == lists("--holdout", 1) == [["a", "b2", "c33"], ["d444", "e5555"]]


def test_a_test_case_whose_label_is_taken_back_waits_for_another_one(tmp_path, capsys):
    for name in ("a", "b2", "c33"):
        folder_case(tmp_path, name)
    train, test, val = (tmp_path / "out" / name for name in ("train.list", "test.list", "val.list"))
    assert prepare_mine(tmp_path, "--holdout", 1) == 0 and test.read_text(encoding="utf-8") == "c33\n"
    label = (tmp_path / "labels/c33.nii.gz").rename(tmp_path / "away.nii.gz")
    for _ in range(2):
        assert prepare_mine(tmp_path, "--force") == 0
        assert train.read_text(encoding="utf-8") == "a\nb2\nc33\n" and not test.exists()
    assert "test.list: 1 case without a label, left out until it has one: c33" in capsys.readouterr().out
    label.rename(tmp_path / "labels/c33.nii.gz")
    assert prepare_mine(tmp_path) == 0
    assert (train.read_text(encoding="utf-8"), test.read_text(encoding="utf-8")) == ("a\nb2\n", "c33\n")
    (tmp_path / "labels/c33.nii.gz").unlink()
    shutil.rmtree(tmp_path / "out/c33")
    for path in (test, val):        # by hand
        path.write_text("c33 \n", encoding="utf-8")
        assert prepare_mine(tmp_path) == 0
        assert f"{path.name}: 1 case without a label, to be taken out by hand: c33" in capsys.readouterr().out


def test_a_changed_label_is_prepared_again_and_said(tmp_path, capsys):
    for name in ("a", "b", "c"):
        folder_case(tmp_path, name)
    assert prepare_mine(tmp_path, "--holdout", 1) == 0
    before = (tmp_path / "out/test.list").read_bytes(), (tmp_path / "out/train.list").read_bytes()
    corrected = correct(tmp_path / "labels/c.nii.gz"), correct(tmp_path / "labels/a.nii.gz")
    capsys.readouterr()
    assert prepare_mine(tmp_path) == 0
    out = capsys.readouterr().out
    assert "2 prepared, 1 skipped" in out and "2 with another label than before, prepared again: a, c" in out
    for name, label in zip("ca", corrected, strict=True):
        assert np.count_nonzero(read(tmp_path / "out" / name / "mri_norm2.h5")[1]) == np.count_nonzero(label)
    assert before == ((tmp_path / "out/test.list").read_bytes(), (tmp_path / "out/train.list").read_bytes())
    assert prepare_mine(tmp_path) == 0 and "0 prepared, 3 skipped" in capsys.readouterr().out
    nifti(tmp_path / "images/b.nii.gz", volume((13, 11, 9), 9)[0])      # another scan is another case
    assert prepare_mine(tmp_path) == 2 and "b/mri_norm2.h5: exists already" in capsys.readouterr().err


def test_a_test_list_goes_where_no_hold_out_is_asked_for_and_the_users_own_stands(tmp_path):
    for name in ("a", "b", "c"):
        folder_case(tmp_path, name)
    train, test = tmp_path / "out/train.list", tmp_path / "out/test.list"
    assert prepare_mine(tmp_path, "--holdout", 1) == 0 and test.read_text(encoding="utf-8") == "c\n"
    assert prepare_mine(tmp_path, "--holdout", 0) == 0 and not test.exists()
    assert train.read_text(encoding="utf-8") == "a\nb\nc\n"
    test.write_text("a.h5\n", encoding="utf-8")
    assert prepare_mine(tmp_path) == 0
    assert test.read_bytes() == b"a.h5\n" and train.read_bytes() == b"b\nc\n"


def test_a_label_that_is_drawn_later_joins(tmp_path, capsys):
    folder_case(tmp_path, "a")
    _, label = folder_case(tmp_path, "b", label=False)
    assert prepare_mine(tmp_path) == 0 and read(tmp_path / "out/b/mri_norm2.h5")[1] is None
    nifti(tmp_path / "labels/b.nii.gz", label, LPS)
    capsys.readouterr()
    assert prepare_mine(tmp_path) == 0 and "1 prepared, 1 skipped" in capsys.readouterr().out
    assert read(tmp_path / "out/b/mri_norm2.h5")[1].any()
    assert (tmp_path / "out/train.list").read_text(encoding="utf-8") == "a\nb\n"


def test_a_scan_or_label_that_was_replaced_is_noticed_though_both_have_one_name(tmp_path, capsys):
    for name in ("a", "b"):
        folder_case(tmp_path, name)
    assert prepare_mine(tmp_path) == 0
    folder_case(tmp_path, "c")
    assert prepare_mine(tmp_path, "--holdout", 1) == 0
    nifti(tmp_path / "images/a.nii.gz", volume((13, 11, 9), seed=5)[0], LPS)
    folder_case(tmp_path, "d")
    for _ in range(2):
        assert prepare_mine(tmp_path, "--holdout", 1) == 2
        [case] = re.findall(r"bad case a: (\S+): exists already, .*; remove it to prepare", capsys.readouterr().err)
    Path(case).unlink()
    for more in ((), ("--force",)):
        assert prepare_mine(tmp_path, "--holdout", 1, *more) == 0
        assert (tmp_path / "out/test.list").read_text(encoding="utf-8") == "c\n"
        assert (tmp_path / "out/train.list").read_text(encoding="utf-8") == "a\nb\nd\n"


def test_without_a_labelled_case_no_list_is_written_and_nothing_advised(tmp_path, capsys):
    folder_case(tmp_path, "a")
    folder_case(tmp_path, "b", label=False)
    truncate(tmp_path / "images/a.nii.gz")
    assert prepare_mine(tmp_path, "--num-classes", 3) == 2
    captured = capsys.readouterr()
    assert "no case with a label is left" in captured.err and "next:" not in captured.out
    assert not (tmp_path / "out/train.list").exists()


def test_scans_of_different_voxel_size_are_resampled_to_the_median(tmp_path, capsys):
    for name, side in (("a", 1), ("b", 2), ("c", 2)):
        folder_case(tmp_path, name, affine=np.diag([side, 1, 1, 1.0]))
    assert prepare_mine(tmp_path) == 0 and "voxels resampled to 2 x 1 x 1 mm" in capsys.readouterr().out
    assert [read(tmp_path / f"out/{name}/mri_norm2.h5")[0].shape[0] for name in "abc"] == [6, 13, 13]
    folder_case(tmp_path, "d", affine=np.diag([3, 1, 1, 1.0]))
    folder_case(tmp_path, "e", affine=np.diag([3, 1, 1, 1.0]))
    folder_case(tmp_path, "f", affine=np.diag([3, 1, 1, 1.0]))
    assert prepare_mine(tmp_path) == 0 and "3 prepared, 3 skipped" in (out := capsys.readouterr().out)
    assert "voxels resampled to 2 x 1 x 1 mm" in out        # as those that are there, whatever the median is now
    assert prepare_mine(tmp_path, "--spacing", 1, 1, 1) == 2 and "another way" in capsys.readouterr().err


def test_suffixes_in_capitals(tmp_path):
    folder_case(tmp_path, "a", suffix=".NII.GZ")
    folder_case(tmp_path, "b", suffix=".Nii")
    assert prepare_mine(tmp_path) == 0 and (tmp_path / "out/train.list").read_text(encoding="utf-8") == "a\nb\n"


@pytest.mark.parametrize("name", [" a", "a ", "scan.h5", "a\u2028b", "caf\udce9"])
def test_names_that_training_would_not_find_are_refused_at_once(tmp_path, capsys, name):
    folder_case(tmp_path, "good")
    folder_case(tmp_path, "b")
    for folder in ("images", "labels"):
        (tmp_path / folder / "b.nii.gz").rename(tmp_path / folder / f"{name}.nii.gz")
    assert prepare_mine(tmp_path) == 2
    assert "cannot be a case name" in capsys.readouterr().err
    assert (tmp_path / "out/train.list").read_text(encoding="utf-8") == "good\n"


# ---- all of them -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("main, word", [
    (prepare_LA.main, "--crop"), (prepare_ACDC.main, "Info.cfg"), (prepare_BraTS.main, "--modalities"),
    (prepare_folder.main, "--label-map")])
def test_help_teaches(main, word, capsys):
    assert run(main, "--help") == 0
    text = capsys.readouterr().out
    assert word in text and "--force" in text and "--debug" in text and "python code/prepare_" in text


def die(case):
    """Work whose process the system kills at the second case."""
    if case.name == "b":
        os.kill(os.getpid(), signal.SIGKILL)
    return {"skipped": False}


def test_a_killed_worker_ends_the_work_and_condemns_no_case(tmp_path):
    cases = [Case(name, ()) for name in "abcdef"]
    with pytest.raises(InputError, match="a worker process was killed.*--workers 1"):
        list(prepare.in_parallel(die, cases, 2))


@pytest.mark.parametrize(("workers", "said"), [(1, False), (2, True)])
def test_what_does_not_fit_into_memory_says_so_and_advises_fewer_workers_where_there_are_several(workers, said):
    cases = [Case(name, ()) for name in "ab"]
    results = [result for _, result in prepare.in_parallel(too_large, cases, workers)]
    assert all(result.startswith("out of memory: ") and ("--workers 1" in result) == said for result in results)


def too_large(case):
    raise MemoryError


def test_a_folder_that_another_process_prepares_is_left_to_it(tmp_path, capsys):
    for name in ("a", "b"):
        folder_case(tmp_path, name)
    holder = subprocess.Popen([sys.executable, "-c", "import sys, time\nfrom runtime.locks import locked\n"
                               "with locked(sys.argv[1]):\n    print(1, flush=True)\n    time.sleep(60)",
                               str(tmp_path / "out")], cwd=ROOT / "code", stdout=subprocess.PIPE)
    with holder:
        holder.stdout.readline()
        assert prepare_mine(tmp_path) == 2
        holder.kill()
    error = capsys.readouterr().err
    assert f"out: process {holder.pid} on " in error and "--output" in error and files(tmp_path / "out") <= {".lock"}


def test_nothing_is_written_outside_the_output_folder(tmp_path):
    names = ["..", "../a", "a/b", "a\\b", "", ".hidden", "a\nb", "fine"]
    good, bad = one_case_each((name, tmp_path / "scan.nii") for name in names)
    assert list(good) == ["fine"] and set(bad) == set(names) - {"fine"}
    assert all("scan.nii" in line and "rename" in line for line in bad.values())


def test_a_kill_leaves_no_half_file(tmp_path, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(h5py.File, "create_dataset", stop)
    with pytest.raises(KeyboardInterrupt):
        prepare.write_case(tmp_path / "a.h5", np.zeros((2, 2, 2)))
    assert not list(tmp_path.iterdir())


def test_full_disk_and_our_own_mistakes_are_told_apart(la, monkeypatch, capsys):
    source, target = la
    for error, words in ((OSError(28, "No space left"), "cannot be written (No space left)"),
                         (KeyError("oops"), "KeyError: 'oops' (our mistake")):
        def fail(*args, error=error):
            raise error

        monkeypatch.setattr(files_module.os, "replace", fail)
        assert run(prepare_LA.main, "--input", source, "--output", target, "--workers", 1) == 2
        err = capsys.readouterr().err
        assert words in err and "error: no case could be prepared" in err
        assert ("Traceback" in err) == isinstance(error, KeyError) and not files(target)


def test_a_prepared_file_that_another_program_writes_is_not_taken_for_one_of_other_files(tmp_path, capsys):
    for name in ("a", "b"):
        folder_case(tmp_path, name)
    assert prepare_mine(tmp_path) == 0
    capsys.readouterr()
    before = (tmp_path / "out/train.list").read_text(encoding="utf-8")
    with open(tmp_path / "out/a/mri_norm2.h5", "rb") as busy:
        fcntl.flock(busy, fcntl.LOCK_EX)
        assert prepare_mine(tmp_path) == 2
    error = capsys.readouterr().err
    assert "another program has it open for writing" in error and "other files" not in error and "--force" not in error
    assert prepare_mine(tmp_path) == 0 and "0 prepared, 2 skipped" in capsys.readouterr().out
    assert (tmp_path / "out/train.list").read_text(encoding="utf-8") == before
